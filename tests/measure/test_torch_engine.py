"""PyTorch and onnxruntime as they are measured, on a CPU, and the whole report. Skipped without PyTorch.

What only a GPU has, its counters of memory among them, is stood in for: so the code for GPUs is run, and no more.
"""

import contextlib
import json
import math
import os
import shlex
import subprocess
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import measure  # noqa: E402
from helpers import ROOT, SMALL, markdown  # noqa: E402
from netkit.errors import UserError  # noqa: E402
from netkit.measure import (  # noqa: E402
    agreement,
    choices,
    figures,
    onnx_engine,
    parts,
    side_by_side,
    timing,
    torch_engine as engine,
    torch_faces,
)
from netkit.measure.torch_engine import Network, Way  # noqa: E402

CHOICE = choices.choice_of('cru56', False)
QUICK = parts.Options(quick=True)


def figures_of(cases):
    """Return {(table, row): value} of Figures."""
    return {(figure.table, figure.row): figure.value for figure in cases}


@pytest.fixture
def short(monkeypatch):
    """One turn of one step."""
    monkeypatch.setattr(timing, 'SECONDS', 0)
    monkeypatch.setattr(timing, 'ROUNDS', 1)


class Card:
    """A GPU of 1,200 MB, of which 200 are taken."""

    def __init__(self, monkeypatch):
        self.peak = 0
        properties = types.SimpleNamespace(name='NVIDIA Sham', major=9, minor=0, total_memory=1000 << 20)
        for name, value in {
            'synchronize': lambda *_: None,
            'empty_cache': lambda: None,
            'memory_allocated': lambda: 200 << 20,
            'reset_peak_memory_stats': lambda: setattr(self, 'peak', 0),
            'max_memory_allocated': lambda: (200 << 20) + self.peak,
            'get_device_capability': lambda: (9, 0),
            'mem_get_info': lambda: (1000 << 20, 1000 << 20),
            'get_device_name': lambda number: properties.name,
            'get_device_properties': lambda number: properties,
            'device_count': lambda: 1,
            'get_arch_list': lambda: ['sm_90'],
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda.nccl, 'version', lambda: (2, 21, 5))


@pytest.fixture
def sham(monkeypatch, short):
    """The engine as if there were a GPU, with narrow networks; returns the Card."""
    monkeypatch.setattr(engine, 'IS_GPU', True)
    monkeypatch.setattr(engine, 'DEVICES', 1)
    monkeypatch.setattr(choices, 'choice_of', lambda name, is_gpu: CHOICE._replace(network=name))
    monkeypatch.setattr(choices, 'batch_of', lambda name, is_gpu: 2)
    # PyTorch has float16 on a CPU, but it takes a minute.
    for ways in (engine.WAYS, engine.COMPARED, engine.COMPILE):
        for row, way in ways.items():
            loose = way.bounds._replace(embeddings=0.2, cosine=0.8, statistics=0.3) if way.half else way.bounds
            monkeypatch.setitem(ways, row, way._replace(half=way.half and torch.bfloat16, bounds=loose))
    return Card(monkeypatch)


# ------------------------------------------------------------------------------------------------ on a CPU


def test_a_step_is_the_same_recomputed_and_nearly_so_in_16_bits():
    network = Network(CHOICE)
    found = figures_of(parts.correctness(engine, network, network.ways('correctness', True)))
    assert found[agreement.EMBEDDINGS, 'float32, checkpointing'] < 1e-5
    assert found[agreement.GRADIENTS, 'float32, checkpointing'] > 0.99999
    assert found[agreement.STATISTICS, 'float32, checkpointing'] < 1e-5
    assert 1e-4 < found[agreement.EMBEDDINGS, 'bfloat16'] < 0.1
    assert 0.9 < found[agreement.GRADIENTS, 'bfloat16'] < 0.9999


class Wrong(Network):
    """A network whose statistics move twice when it is recomputed, and whose gradients are multiplied then."""

    def make(self, last):
        module = super().make(last)
        norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        momentum = {False: norms[0].momentum, True: 0.19}

        def move(of, _):
            for norm in norms:
                norm.momentum = momentum[of.using_checkpoint]

        module.register_forward_pre_hook(move)
        module.conv0.weight.register_hook(lambda gradient: -gradient * 1e3 if module.using_checkpoint else gradient)
        return module


def test_what_is_wrong_is_seen():
    """And an error of one way stops no other."""
    ways = {row: engine.COMPARED[row] for row in ('float32', 'float32, checkpointing')}
    rows = []
    with pytest.raises(UserError, match="^no way: 'str' object.*; float32, checkpointing: "):
        for row in parts.correctness(engine, Wrong(CHOICE), {'no way': 'of computing', **ways}):
            rows.append(row)
    beyond = {(row.table, row.row) for row in rows if row.note.startswith('NOT')}
    assert len(rows) == 6
    assert beyond == {(table, 'float32, checkpointing') for table in (agreement.GRADIENTS, agreement.STATISTICS)}


def test_a_way_is_what_its_row_says(monkeypatch):
    """Layout, type, TF32 and recomputing, while the network is computed."""
    seen, network = [], Network(CHOICE)

    def look(module, _):
        seen.append(
            (
                module.channels_last,
                module.fp16 and module.trunk_type,
                module.using_checkpoint,
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
            )
        )

    for last in (False, True):
        network.module(last).register_forward_pre_hook(look)
    known = [*engine.WAYS.items(), *engine.ON_CPU.items()]
    known += [(f'{row}, channels last', way) for row, way in engine.MEMORY.items()]
    for row, way in known:
        if way.half is not None:  # PyTorch has float16 on a CPU, but it takes a minute
            assert str(way.half).endswith(row.split(',')[0])
            way = way._replace(half=torch.bfloat16)
        step = network.step(way, 2)
        before = step.module.conv0.weight.clone()
        step()
        assert len(step.images) == 2 and step.images.is_contiguous(memory_format=torch.channels_last) == way.last
        assert step.module.training and not torch.equal(before, step.module.conv0.weight)
        assert seen[-1] == (way.last, way.half or False, way.again, way.tf32, way.tf32)
        assert way.last == ('channels last' in row) and way.tf32 == (not row.startswith('float32'))
        assert way.again == ('torch' if 'torch.utils' in row else 'checkpointing' in row)
        assert network.infer(way._replace(again=False), 2)().shape == (2, 256)
        assert not step.module.training and seen[-1][1] == (way.half or False)


def test_the_momentum_is_there_from_the_first():
    """So that no batch is found to fit in its place; and the weights are nearly what they were."""
    network = Network(CHOICE)
    module = network.module(False)
    before, sgd = module.conv0.weight.clone(), network.sgd(False)
    assert len(sgd.state) == sum(parameter.requires_grad for parameter in module.parameters())
    assert all(state['momentum_buffer'] is not None for state in sgd.state.values())
    assert torch.allclose(before, module.conv0.weight, atol=1e-6) and module.conv0.weight.grad is None


@pytest.mark.parametrize(
    'error, is_short',
    [
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'), True),
        (RuntimeError('CUDA error: out of memory'), True),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'), True),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), True),
        (RuntimeError('Unable to find an engine to execute this computation'), True),
        (RuntimeError('CUDA error: an illegal memory access was encountered'), False),
    ],
)
def test_memory_may_be_short_in_many_words(error, is_short):
    def fails():
        raise error

    if is_short:
        assert not engine.fits(fails)
    else:
        with pytest.raises(RuntimeError):
            engine.fits(fails)
    assert engine.fits(lambda: None)


R100 = """
from torch import nn
def iresnet100(pretrained=False, **options):
    assert options == {'dropout': 0.0, 'fp16': options['fp16'], 'num_features': 512}
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 110 * 110, 8))
"""


def test_the_r100_of_a_checkout(short, tmp_path):
    """It is taken from the file, and sees faces of 112 pixels."""
    asked = QUICK._replace(insightface=str(tmp_path))
    with pytest.raises(UserError, match='has no .*iresnet.py'):
        parts.cases_of('speed', 'torch', asked)
    path = tmp_path / choices.R100
    path.parent.mkdir(parents=True)
    path.write_text(R100)
    rows = list(parts.cases_of('speed', 'torch', asked)['r100']())
    assert [row.row for row in rows] == ['float32', 'float32, channels last'] and all(row.value > 0 for row in rows)
    assert {row.column for row in rows} == {'r100 of insightface, whole, 112×112'}
    assert 'checkpointing' not in str(engine.HostNetwork(str(path)).ways('speed', False))


def test_a_file_in_onnxruntime_gives_what_pytorch_gives(short, monkeypatch):
    """Through tools/export.py, with the statistics of the module; a missing provider is not measured."""
    monkeypatch.setattr(onnx_engine, 'providers', lambda: (onnx_engine.CPU, onnx_engine.CUDA))
    monkeypatch.setattr(choices, 'SPEED', ['cru56'])
    cases = parts.cases_of('inference', 'onnxruntime', QUICK._replace(mxnet_python=sys.executable))
    rows = [row for case in cases.values() for row in case()]
    assert list(cases) == ['cru56, CPU', 'cru56, CUDA']
    (difference,) = [row for row in rows if row.table == onnx_engine.DIFFERENCE]
    assert difference.row == 'CPU, float32' and 0 < difference.value < 1e-4
    times = {row.row: row.value for row in rows if row.table != onnx_engine.DIFFERENCE}
    assert times.pop('CUDA, float32') == 'not measured: its libraries do not load' and times.pop('CPU, float32') > 0
    with pytest.raises(UserError, match='a Python that has MXNet; name it, --mxnet-python PYTHON'):
        parts.cases_of('inference', 'onnxruntime', QUICK)
    with pytest.raises(UserError, match='the ONNX file was not written: exit code 1'):
        onnx_engine.Files('false').path('cru56', 'float32')


def test_the_file_is_written_with_the_libraries_of_mxnet(monkeypatch):
    """MXNet for CUDA does not start without them."""
    called = []

    def run(command, **_):
        called.append(command)
        return types.SimpleNamespace(returncode=2, stderr='export.py: no')

    monkeypatch.setattr(onnx_engine.subprocess, 'run', run)
    with pytest.raises(UserError, match='was not written: export.py: no'):
        onnx_engine.Files('/its/python').path('cru56', 'float16')
    words = [os.path.basename(word) for word in called[0]]
    assert words[:6] == ['python', 'measure.py', 'libraries', '--', 'python', 'export.py'] and 'float16' in words


def test_rows_in_onnxruntime_say_whether_they_may_be_tf32(monkeypatch):
    monkeypatch.setattr(engine, 'is_ampere', lambda: True)
    on_cuda, on_tensorrt = (
        onnx_engine.Network('cru56', provider, None).ways('inference', False)
        for provider in (onnx_engine.CUDA, onnx_engine.TENSORRT)
    )
    assert on_cuda['CUDA, float32'] == ('float32', (('use_tf32', '0'),)) and on_cuda['CUDA, TF32'] == ('float32', ())
    assert list(on_tensorrt) == ['Tensorrt, TF32', 'Tensorrt, float16'] and len(on_cuda) == 3


def test_a_step_alone_sums_nothing(monkeypatch):
    monkeypatch.setattr(engine.distributed, 'barrier', lambda: None)
    inside, seen = [False], []

    class Module:
        @contextlib.contextmanager
        def no_sync(self):
            inside[0] = True
            yield
            inside[0] = False

    for is_summed in (True, False):
        engine.shared_seconds(lambda: seen.append(inside[0]), Module(), is_summed)
    assert seen == [False] * engine.SCALED_STEPS + [True] * engine.SCALED_STEPS


@pytest.mark.parametrize(
    'said, sentence',
    [('torch.OutOfMemoryError: CUDA out of memory', None), ('ValueError: no such network', 'no such network')],
)
def test_what_a_process_said_is_told(monkeypatch, said, sentence):
    """And not that it has said something; where it was memory, the caller gets False."""

    def spawn(*_):
        raise engine.multiprocessing.ProcessRaisedException(
            f'\n\n-- Process 0 terminated …\nTraceback …\n{said}\n', 0, 1
        )

    monkeypatch.setattr(engine.multiprocessing, 'spawn', spawn)
    with pytest.raises(RuntimeError, match=f'^ValueError: {sentence}$') if sentence else contextlib.nullcontext():
        assert engine.scaled('cru56', 2, 4, None) is None


def test_two_processes_share_their_gradients():
    summed, alone = engine.scaled('cru56', 2, 2, None)
    assert summed > 0 < alone


def test_a_run_that_fails_is_not_taken_up_by_the_cpu():
    """As onnxruntime writes them, with a key that no code reads."""
    network = onnx_engine.Network('cru56', onnx_engine.CPU, onnx_engine.Files(sys.executable))
    assert network.session(('float32', ()))._enable_fallback is False


def test_the_loss_is_that_of_arcface():
    """Of one class and a cosine that is known, in Python's own arithmetic."""
    embeddings, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    target, other = 64 * math.cos(math.acos(0.6) + 0.5), 64 * 0.8
    expected = math.log(1 + math.exp(other - target))
    assert float(torch_faces.arcface(embeddings, weight, torch.tensor([0]))) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------ as if on a GPU


def test_the_code_for_gpus_runs(sham, monkeypatch):
    assert engine.where() == 'NVIDIA Sham' and onnx_engine.where() is None  # this onnxruntime is for a CPU
    assert engine.facts()['GPU 0'] == 'NVIDIA Sham' and engine.facts()['GPU 0, memory MB'] == 1000
    for part, row in (('correctness', 'TF32'), ('speed', 'TF32'), ('inference', 'float16, channels last')):
        (case, *_) = parts.cases_of(part, 'torch', QUICK).values()
        assert row in {figure.row for figure in case()}
    assert list(parts.cases_of('scaling', 'torch', QUICK)) == ['one']
    assert engine.ways('speed', False) == engine.WAYS and engine.ways('correctness', False) == engine.COMPARED
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (7, 5))
    before, compared = engine.ways('speed', False), engine.ways('correctness', False)
    assert not any('TF32' in row or 'bfloat16' in row for row in [*before, *compared])
    assert not any(way.tf32 for way in before.values() if way.half is None) and len(before) == 7
    assert 'TF32' not in str(onnx_engine.Network('cru56', onnx_engine.TENSORRT, None).ways('inference', False))
    compiled = []
    monkeypatch.setattr(torch, 'compile', lambda module, fullgraph, dynamic: compiled.append(module) or module)
    rows = [figure.row for figure in parts.cases_of('compile', 'torch', QUICK)['cru116']()]
    first, second = engine.COMPILE
    assert rows == [first, first, second] and len(compiled) == 1  # uncompiled first, and again alternately


def test_memory_is_what_pytorch_counts_beside_the_gradients(sham, monkeypatch):
    network = Network(CHOICE)

    def backward(step):
        assert all(parameter.grad is not None for parameter in step.module.parameters() if parameter.requires_grad)
        assert step.module.channels_last and network.sgd(True).state  # its momentum is there
        sham.peak = len(step.images) * 10 << 20
        if len(step.images) > 4:
            raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')

    monkeypatch.setattr(engine.Backward, 'backward', backward)
    way = Way(tf32=False, last=True)
    assert [network.peak(way, batch) for batch in (1, 4, 5)] == [10, 40, None]
    learnt = [parameter for parameter in network.module(True).parameters() if parameter.requires_grad]
    assert network.room() == 1000 - sum(parameter.nbytes for parameter in learnt) / 2**20


def test_a_card_that_pytorch_has_no_code_for(sham, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError('CUDA error: no kernel image is available for execution on the device\nCompile with …')

    monkeypatch.setattr(engine, 'module_of', fails)
    with pytest.raises(UserError, match='no kernel image is available for execution on the device$'):
        list(parts.cases_of('card', 'torch', QUICK)['computing']())


# --------------------------------------------------------------------------------------- the whole report


def test_the_report(run_tool, tmp_path):
    """Of all engines; each figure again by the command next to it."""
    only = [word for part in ('correctness', 'plan', 'memory') for word in ('--only', part)]
    code, out, _ = run_tool(measure, 'gpu', '--quick', *only, '--output', str(tmp_path))
    assert code == 0 and '# Measured on a CPU, not on a GPU' in out
    assert sorted(os.listdir(tmp_path)) == ['report.json', 'report.md']  # nothing to draw
    report = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))
    found = {(part['part'], part['engine']): part for part in report['parts']}
    assert {part for part, _ in found} == {'card', 'correctness', 'plan', 'memory'}
    assert {of for _, of in found} == {'torch', 'onnxruntime', 'mxnet'}
    for part in report['parts']:
        assert part['problems'] == [] and part['device'] == 'CPU' and part['figures'], part
    for of in ('torch', 'mxnet'):
        figure = next(each for each in found['correctness', of]['figures'] if each['table'] == agreement.GRADIENTS)
        again = subprocess.run(shlex.split(figure['command']), cwd=ROOT, capture_output=True, text=True, check=True)
        tables = [
            {row['']: row[figure['column']].partition(' (')[0] for row in rows} for rows in markdown(again.stdout)
        ]
        assert figures.text_of(figure['value']) in [table[figure['row']] for table in tables]
    assert np.isclose(found['plan', 'mxnet']['figures'][0]['value'], 28660, rtol=0.01)  # docs/memory.md


# ------------------------------------------------------------------------- next to MXNet, on a CPU, side by side

SIDE_BY_SIDE = ['--engine', 'torch', '--per-batch-size', '2', '--repetitions', '1', '--markdown']


def test_the_same_networks_in_turns(run_tool):
    narrow = SMALL.replace('0.1', '0.25')  # narrower ones PyTorch cannot compute in channels_last
    code, out, _ = run_tool(measure, 'networks', f'cru56:memonger=True,net_prelu=mul,{narrow}', *SIDE_BY_SIDE)
    assert code == 0
    for rows in markdown(out):
        labels = [row['choice'].split(', ', 1)[-1] for row in rows]
        assert [label for label in labels if label.startswith('PyTorch')] == list(side_by_side.TORCH_WAYS)
        assert all(float(row['ms/image']) > 0 for row in rows)


def test_the_one_written_by_hand(run_tool):
    by_hand = [*SIDE_BY_SIDE, '--peer', 'by_hand']
    code, out, _ = run_tool(
        measure, 'networks', 'cru116:net_multiplier=0.25,emb_size=16', *by_hand, '--only', 'inference'
    )
    assert code == 0 and 'PyTorch, by hand' in out
    narrow = 'cru116:net_multiplier=0.1', 'a net_multiplier of quarters'
    for network, words in (('cru56', 'only cru116 is written by hand'), ('cru116_imagenet', 'only cru116'), narrow):
        code, _, err = run_tool(measure, 'networks', network, *by_hand)
        assert code == 2 and words in err
    code, _, err = run_tool(measure, 'networks', 'cru116_imagenet', *SIDE_BY_SIDE)
    assert code == 2 and 'is for face networks' in err


@pytest.mark.parametrize('training', [False, True])
def test_a_step_does_what_its_row_says(training):
    """In the precision and layout of its label, with gradients where it trains, recomputed where the choice is."""
    choice = choices.parse_choice('cru56:net_multiplier=0.25,memonger=True')
    steps = side_by_side.torch_steps(choice, side_by_side.How(2, 1, engine='torch'), training)
    for label, (half, last) in side_by_side.TORCH_WAYS.items():
        step = steps[f'{choice.label}, {label}']
        step.module.zero_grad()
        step()
        module = step.module
        assert (module.fp16, module.channels_last, module.using_checkpoint) == (half, last, True), label
        assert step.images.is_contiguous(memory_format=torch.channels_last) == last
        assert module.training == training and (module.conv0.weight.grad is not None) == training


def test_narrow_networks(run_tool):
    """They are left out in the layout in which PyTorch writes beyond its memory."""
    code, out, _ = run_tool(measure, 'networks', 'cru56:net_multiplier=0.125', *SIDE_BY_SIDE, '--only', 'inference')
    assert code == 0 and 'PyTorch, bfloat16' in out and 'channels last' not in out
