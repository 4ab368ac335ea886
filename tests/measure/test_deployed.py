"""The benchmark of deployed forms: what it times, what it compares, and what it says of the processor."""

import re
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import measure
from helpers import NARROW, SMALL, TOOLS, markdown, settled, unmasked
from netkit import checkpoints
from netkit.deploy.compare import Different
from netkit.deploy.exporting import save_onnx
from netkit.deploy.plain import plain
from netkit.graph.nodes import Graph
from netkit.measure import deployed, runtimes as engines
from netkit.measure.choices import parse_choice
from netkit.networks import build

FORMS = [
    'MXNet, as it is trained',
    'MXNet, folded',
    'onnxruntime',
    'onnxruntime, int8',
    'OpenVINO',
    'OpenVINO, bfloat16',
    'OpenVINO, int8',
    'MXNet, convolutions and FCs alone',
]
EXACT = [FORMS[place] for place in (0, 1, 2, 4)]


@pytest.fixture
def with_openvino():
    pytest.importorskip('openvino')  # it needs Python 3.10


@unmasked
@pytest.mark.usefixtures('with_openvino')
def test_deployment_is_timed(run_tool):
    options = ['--per-batch-size', '2', '--repetitions', '1']
    code, out, err = run_tool(measure, 'deployment', 'cru56:' + SMALL, 'ires50:' + SMALL, *options)
    assert code == 0, err
    assert all(out.count(form) >= 2 for form in FORMS)
    assert f'cru56:{SMALL}, batch 2' in ' '.join(out.split()) and '61 of 61 layers in int8.' in out
    assert 'his processor ' in out


@unmasked
@pytest.mark.usefixtures('with_openvino')
def test_the_deployment_of_a_checkpoint_is_timed_and_compared(run_tool, tmp_path):
    """Weights and faces are the checkpoint's: cosines tell what the forms keep, in each batch."""
    symbol, random = build('cru56', **dict(NARROW, image_shape=(112, 112, 3))), np.random.RandomState(0)
    checkpoints.save(str(tmp_path / 'net'), 1, symbol, settled(symbol, (4, 3, 112, 112)))
    for number in range(16):
        Image.fromarray(random.randint(0, 256, (112, 112, 3), np.uint8)).save(str(tmp_path / f'{number}.png'))
    plot = tmp_path / 'times.svg'
    options = ['--per-batch-size', '1,3', '--repetitions', '1', '--markdown', '--plot', str(plot)]
    model = ['--model', str(tmp_path / 'net') + ',1', '--calibration', str(tmp_path)]
    code, out, err = run_tool(measure, 'deployment', *model, *options)
    assert code == 0, err
    tables = list(markdown(out))
    assert len(tables) == 2
    for rows in tables:
        assert [row['form'] for row in rows] == FORMS
        assert rows[0]['ratio'] == rows[2]['to onnxruntime'] == '1.00×'
        for row in rows:
            for column, first in (('ratio', rows[0]), ('to onnxruntime', rows[2])):
                expected = float(first['ms/image']) / float(row['ms/image'])
                assert float(row[column][:-1]) == pytest.approx(expected, rel=0.06, abs=0.01)
        found = {row['form']: row['minimum cosine'] for row in rows}
        assert found.pop(FORMS[-1]) == '–'
        assert [found.pop(form) for form in EXACT] == ['1.0000'] * len(EXACT)
        assert 0.98 < float(found.pop('OpenVINO, bfloat16')) <= 1
        assert len(found) == 2 and all(0.98 < float(cosine) < 0.9999 for cosine in found.values()), found
    width, height = re.search(r'<svg [^>]*width="([\d.]+)pt" height="([\d.]+)pt"', plot.read_text()).groups()
    assert float(width) > 2 * float(height)  # a panel for each batch, side by side


@pytest.mark.usefixtures('with_openvino')
@pytest.mark.parametrize(
    'options, words',
    [
        (['cru56', 'cru57'], "there is no network 'cru57'"),
        (['cru56:fp16=True,' + SMALL], 'MXNet does not compute float16 on a CPU'),
        (['--model', 'net,1'], '--model and --calibration belong together'),
        (['--calibration', 'faces'], '--model and --calibration belong together'),
        (['cru56', '--model', 'net,1', '--calibration', 'faces'], 'name CHOICEs or a --model'),
        (['cru56', '--per-batch-size', '1,x'], "'x' is not an integer"),
    ],
)
def test_deployment_that_cannot_be_timed(run_tool, options, words):
    code, out, err = run_tool(measure, 'deployment', *options)
    assert code == 2 and out == '' and words in err and len(err.splitlines()) == 1, err


def test_deployment_without_openvino(run_tool, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setattr(engines, 'openvino_core', engines.openvino_core.__wrapped__)  # which may have one
    code, out, err = run_tool(measure, 'deployment', 'cru56:' + SMALL)
    assert code == 2 and out == '' and 'OpenVINO is not installed; install the extra dev' in ' '.join(err.split())


@pytest.mark.parametrize(
    'text, words',
    [
        ('flags\t\t: fpu avx512_vnni avx512_bf16 sse\n', 'This processor has avx512_bf16, avx512_vnni.'),
        (
            'flags\t\t: fpu avx2\n',
            'no instructions for int8 (amx_int8, asimddp, avx512_vnni, avx_vnni, i8mm) and bfloat',
        ),
        ('flags\t\t: fpu avx_vnni\n', 'This processor has no instructions for bfloat16 (amx_bf16, avx512_bf16, bf16):'),
        ('Features\t: fp asimd asimddp bf16 i8mm\n', 'This processor has asimddp, bf16, i8mm.'),
        (None, 'is not known here'),
    ],
)
def test_what_the_processor_has_for_int8_and_bfloat16(text, words, tmp_path, monkeypatch):
    path = tmp_path / 'cpuinfo'
    monkeypatch.setattr(engines, 'CPU_INFO', str(path))
    if text:
        path.write_text('processor\t: 0\n' + text)
    assert words in engines.note()


class FakeStep:
    """A step whose embeddings are known."""

    def __init__(self, rows):
        self.rows, self.given = np.asarray(rows, np.float32), []

    def run(self, images):
        self.given.append(images.shape)
        return self.rows[images[:, 0, 0, 0].astype(int)]


def test_times_are_for_one_image_and_cosines_the_smallest(monkeypatch):
    exact, other = FakeStep(np.eye(5)), FakeStep(np.eye(5) + 0.1 * np.tri(5, k=-1))
    monkeypatch.setattr(deployed.Deployed, 'forms', lambda self, batch: {'first': exact, 'onnxruntime': other})
    times = {'first': [4.0, 8.0, 6.0], 'onnxruntime': [2.0, 2.0, 3.0]}
    monkeypatch.setattr(deployed, 'in_turns', lambda *_: [times])
    files = deployed.Deployed.__new__(deployed.Deployed)
    faces = np.arange(5).reshape(5, 1, 1, 1)
    files.subject = deployed.Subject('x', None, (1, 1, 3), {}, (faces, faces))
    first, second = files.measure(2, 3)
    assert exact.given == [(2, 1, 1, 1)] * 3
    assert (first.median, first.ratio, first.to_runtime, first.cosine) == (3, 1, pytest.approx(1 / 3), 1)
    assert (second.median, second.ratio, second.to_runtime) == (1, 3, 1)
    assert second.cosine == pytest.approx(1 / np.sqrt(1.04))
    assert deployed.texts_of(second)[1:] == ('1000.0', '1000…1500', '1.00', '3.00×', '1.00×', '0.9806')


def test_all_engines_take_as_many_threads_as_mxnet(monkeypatch, tmp_path):
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    symbol, path, data = build('cru56', **NARROW), str(tmp_path / 'net.onnx'), np.zeros((2, 3, 48, 48), np.float32)
    save_onnx(path, plain(Graph.of(symbol)), settled(symbol, (4, 3, 48, 48)), (48, 48, 3), None, 'float32')
    assert engines.OnnxRuntime(path, data).session.get_session_options().intra_op_num_threads == 3
    core = mock.Mock()
    monkeypatch.setattr(engines, 'openvino_core', lambda: core)
    engines.OpenVINO(path, data, 'bf16')
    (model, device, options), _ = core.compile_model.call_args
    model.reshape.assert_called_once_with({'data': [2, 3, 48, 48]})
    assert (device, options['INFERENCE_NUM_THREADS'], options['INFERENCE_PRECISION_HINT']) == ('CPU', 3, 'bf16')
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr(engines.os, 'cpu_count', lambda: 5)
    assert engines.threads() == 5


SIGNAL = """
import gc, os, signal, sys
sys.path.insert(0, {tools!r})
from netkit.project import find_builders; find_builders()
import measure

sys.argv = ['measure.py', 'deployment', {choice!r}, '--per-batch-size', '1', '--repetitions', '1']
measure.main()
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
signal.raise_signal(signal.SIGTERM)
"""


@unmasked
@pytest.mark.usefixtures('with_openvino')
def test_a_signal_after_openvino_is_no_segmentation_fault():
    """As it is after several of its Cores were freed."""
    code = SIGNAL.format(tools=TOOLS, choice='cru56:' + SMALL)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr


@pytest.mark.usefixtures('with_openvino')
def test_a_network_that_int8_does_not_keep(run_tool, monkeypatch):
    """Random weights need not keep anything, a checkpoint's what tools/export.py promises by default."""
    promises = []

    def fails(path, scratch, promise):
        promises.append(promise)
        raise Different('x in int8 does not keep a minimum cosine of 0.99')

    monkeypatch.setattr(deployed, 'quantise', fails)
    code, out, err = run_tool(measure, 'deployment', 'cru56:' + SMALL)
    assert (code, out, promises[0].min_cosine) == (1, '', -1)
    symbol, shape = parse_choice('cru56:' + SMALL).build()
    faces = np.zeros((2, 3, 64, 64), np.uint8)
    with tempfile.TemporaryDirectory() as scratch, pytest.raises(Different):
        deployed.Deployed(deployed.Subject('x', symbol, shape, None, (faces, faces)), scratch)
    assert promises[1].min_cosine == 0.99 and promises[1].held_out is faces
    assert err == 'measure.py: x in int8 does not keep a minimum cosine of 0.99\n'
