"""The benchmark of deployed forms: what it times, what it compares, and what it says of the processor."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import benchmark_deployment
from helpers import NARROW, SMALL, TOOLS, markdown, settled
from netkit import checkpoints
from netkit.bench import engines
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
    pytest.importorskip('openvino')  # it wants Python 3.10


@pytest.mark.usefixtures('with_openvino')
def test_deployment_is_timed(run_tool):
    options = ['--per-batch-size', '2', '--repetitions', '1']
    code, out, err = run_tool(benchmark_deployment, 'cru56:' + SMALL, 'ires50:' + SMALL, *options)
    assert code == 0, err
    assert all(out.count(form) >= 2 for form in FORMS)
    assert f'cru56:{SMALL}, batch 2' in ' '.join(out.split()) and '61 of 61 layers in int8.' in out
    assert 'his processor ' in out


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
    code, out, err = run_tool(benchmark_deployment, *model, *options)
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
        found = {row['form']: row['smallest cosine'] for row in rows}
        assert found.pop(FORMS[-1]) == '–'
        assert [found.pop(form) for form in EXACT] == ['1.0000'] * len(EXACT)
        assert all(0.98 < float(cosine) <= 1 for cosine in found.values()), found
    assert plot.read_text().count('batch') >= 2


@pytest.mark.usefixtures('with_openvino')
@pytest.mark.parametrize(
    'options, words',
    [
        (['cru56', 'cru57'], "there is no network 'cru57'"),
        (['cru56:fp16=True,' + SMALL], 'MXNet does not compute this on a cpu'),
        (['--model', 'net,1'], '--model and --calibration belong together'),
        (['--calibration', 'faces'], '--model and --calibration belong together'),
        (['cru56', '--model', 'net,1', '--calibration', 'faces'], 'name CHOICEs or a --model'),
        (['cru56', '--per-batch-size', '1,x'], "'x' is not a whole number"),
    ],
)
def test_deployment_that_cannot_be_timed(run_tool, options, words):
    code, out, err = run_tool(benchmark_deployment, *options)
    assert code == 2 and out == '' and words in err and len(err.splitlines()) == 1, err


def test_deployment_without_openvino(run_tool, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setattr(engines, 'openvino_core', engines.openvino_core.__wrapped__)  # which may have one
    code, out, err = run_tool(benchmark_deployment, 'cru56:' + SMALL)
    assert code == 2 and out == '' and 'OpenVINO is not installed; install requirements-dev.txt' in err


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


def test_all_engines_take_as_many_threads_as_mxnet(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert engines.threads() == 3
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr(engines.os, 'cpu_count', lambda: 5)
    assert engines.threads() == 5


SIGNAL = """
import gc, os, signal, sys
sys.path.insert(0, {tools!r})
import benchmark_deployment

sys.argv = ['benchmark_deployment.py', {choice!r}, '--per-batch-size', '1', '--repetitions', '1']
benchmark_deployment.main()
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.usefixtures('with_openvino')
def test_a_signal_after_openvino_is_no_segmentation_fault():
    """As it is after several of its Cores were freed."""
    code = SIGNAL.format(tools=TOOLS, choice='cru56:' + SMALL)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
