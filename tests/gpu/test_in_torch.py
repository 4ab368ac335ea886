"""The parts in PyTorch and onnxruntime, on a CPU, and the whole program. Skipped without PyTorch.

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

import check_gpu  # noqa: E402
from helpers import ROOT, markdown  # noqa: E402
from netkit.errors import UserError  # noqa: E402
from netkit.gpu import (  # noqa: E402
    harness as figures,
    onnx_inference as of_runtime,
    onnx_providers as providers,
    sizes,
    torch_card as card,
    torch_correctness as correctness,
    torch_device as device,
    torch_faces as faces,
    torch_inference as inference,
    torch_memory as memory,
    torch_scaling as scaling,
    torch_speed as speed,
)

NETWORK = 'cru56'
MODULES = card, correctness, device, faces, inference, memory, scaling, speed


def figures_of(cases, *of):
    """Return {(table, row): value} of the Figures of a case."""
    return {(figure.table, figure.row): figure.value for figure in cases(*of)}


@pytest.fixture
def short(monkeypatch):
    """One turn of one step."""
    monkeypatch.setattr('netkit.gpu.harness.SECONDS', 0.0)
    monkeypatch.setattr('netkit.gpu.harness.ROUNDS', 1)


class Card:
    """A card of 1,200 MB, of which 200 are taken: a step takes 10 for each image."""

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
        self.monkeypatch = monkeypatch

    def takes_steps(self):
        """Have the steps of the part `memory` take memory, and nothing else."""

        def draw(step, batch):
            assert step.module.channels_last and step.sgd.state  # its momentum is there
            step.count = batch
            self.peak = batch * 10 << 20
            if batch > 100:
                raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')

        self.monkeypatch.setattr(memory.Training, 'draw', draw)
        self.monkeypatch.setattr(memory.Training, 'backward', lambda step: None)
        self.monkeypatch.setattr(memory, 'gradients', lambda module: 0)


@pytest.fixture
def sham(monkeypatch, short):
    """The modules as if there were a GPU, with narrow networks; returns the Card."""
    real = device.network
    for module in MODULES:
        for name, value in {
            'IS_GPU': True,
            'images': lambda count, on=None, side=None: torch.rand((count, 3, side or 48, side or 48)) * 2 - 1,
            'network': lambda name, on='cpu', **options: real(name, 'cpu', **{**sizes.SMALL, **options}),
            'default_batch': lambda name: 2,
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    # PyTorch has float16 on a CPU, but it takes a minute.
    for row, way in speed.WAYS.items():
        monkeypatch.setitem(speed.WAYS, row, way._replace(half=way.half and torch.bfloat16))
    for row, (way, bounds) in correctness.WAYS.items():
        bounds = bounds._replace(embeddings=0.2, cosine=0.8, statistics=0.3) if way.half else bounds
        monkeypatch.setitem(correctness.WAYS, row, (way._replace(half=way.half and torch.bfloat16), bounds))
    return Card(monkeypatch)


# ------------------------------------------------------------------------------------------------ on a CPU


def test_a_step_is_the_same_recomputed_and_nearly_so_in_16_bits():
    found = figures_of(correctness.cases(True)[NETWORK])
    assert found[figures.EMBEDDINGS, 'float32, recomputed'] < 1e-5
    assert found[figures.GRADIENTS, 'float32, recomputed'] > 0.99999
    assert found[figures.STATISTICS, 'float32, recomputed'] < 1e-5
    assert 1e-4 < found[figures.EMBEDDINGS, 'bfloat16'] < 0.1 and 0.9 < found[figures.GRADIENTS, 'bfloat16'] < 0.9999


def test_what_is_wrong_is_seen(monkeypatch):
    """Statistics that move twice, weights that are others, gradients that are multiplied."""
    real = correctness.made

    def other(name, last):
        module = real(name, last)
        momentum = {False: module.momentum, True: 0.19}
        module.register_forward_pre_hook(
            lambda module, _: setattr(module, 'momentum', momentum[module.using_checkpoint])
        )
        module.conv0_weight.register_hook(lambda gradient: -gradient * 1e3 if module.using_checkpoint else gradient)
        return module

    monkeypatch.setattr(correctness, 'made', other)
    rows = []
    with pytest.raises(UserError, match='^float32, recomputed: '):
        for row in correctness.compare(NETWORK, ['float32', 'float32, recomputed']):
            rows.append(row)
    beyond = {(row.table, row.row) for row in rows if row.note.startswith('NOT')}
    assert len(rows) == 6
    assert beyond == {(table, 'float32, recomputed') for table in (figures.GRADIENTS, figures.STATISTICS)}


def test_a_way_that_fails_stops_no_other(monkeypatch):
    real = correctness.take_way

    def take_way(module, way):
        if way.half:
            raise RuntimeError('CUDA error: no such thing')
        real(module, way)

    monkeypatch.setattr(correctness, 'take_way', take_way)
    rows = []
    with pytest.raises(UserError, match='^bfloat16: CUDA error: no such thing$'):
        for row in correctness.compare(NETWORK, ['bfloat16', 'float32, recomputed']):
            rows.append(row.row)
    assert rows == ['float32, recomputed'] * 3


def test_a_way_is_what_its_row_says(monkeypatch):
    """Layout, type, TF32 and recomputing, while the network is computed."""
    seen = []

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

    modules = {last: speed.made(NETWORK, last) for last in (False, True)}
    sgds = {last: speed.sgd_of(module) for last, module in modules.items()}
    for module in modules.values():
        module.register_forward_pre_hook(look)
    monkeypatch.setattr(torch, 'float16', torch.bfloat16)
    known = [*speed.WAYS.items(), *speed.ON_CPU.items()]
    known += [(f'{row}, channels last', way) for row, way in memory.WAYS.items()]
    for row, way in known:
        if way.half is not None:  # PyTorch has float16 on a CPU, but it takes a minute
            assert str(way.half).endswith(row.split(',')[0])
            way = way._replace(half=torch.bfloat16)
        step = speed.Training(modules[way.last], sgds[way.last], way)
        before = step.module.conv0_weight.clone()
        step.take(2)
        assert step.batch == 2 and step.images.is_contiguous(memory_format=torch.channels_last) == way.last
        assert step.module.training and not torch.equal(before, step.module.conv0_weight)
        assert seen[-1][:3] == (way.last, way.half or False, way.again) and seen[-1][3:] == (way.tf32, way.tf32)
        assert way.last == ('channels last' in row) and way.tf32 == (not row.startswith('float32'))
        assert way.again == ('recomputed' in row)
        once = inference.Inference(step.module, way._replace(again=False), 2)
        assert once().shape == (2, 256) and not step.module.training and seen[-1][1] == (way.half or False)


def test_the_momentum_is_there_from_the_first():
    """So that no batch is found to fit in its place; and the weights are nearly what they were."""
    module = speed.made(NETWORK, False)
    before = module.fc1_beta.clone(), module.conv0_weight.clone()
    sgd = speed.sgd_of(module)
    assert len(sgd.state) == sum(parameter.requires_grad for parameter in module.parameters())
    assert all(state['momentum_buffer'] is not None for state in sgd.state.values())
    assert torch.allclose(before[1], module.conv0_weight, atol=1e-6) and module.conv0_weight.grad is None


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
        assert not device.fits(fails)
    else:
        with pytest.raises(RuntimeError):
            device.fits(fails)
    assert device.fits(lambda: None)


def test_a_smaller_batch_is_noted(monkeypatch):
    """And the speed is that of as many images."""
    real = speed.Training.take

    def take(step, batch):
        if batch > (1 if step.way.last else 4):
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        real(step, batch)

    monkeypatch.setattr(speed.Training, 'take', take)
    monkeypatch.setattr(speed, 'in_turns', lambda steps, *_: [dict.fromkeys(steps, 0.5)])
    rows = {row.row: (row.value, row.note) for row in speed.cases(True)['cru116']()}
    assert rows == {'float32': (8, ''), 'float32, channels last': (2, 'batch 1')}

    def never(step, batch):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(speed.Training, 'take', never)
    assert [row.value for row in speed.cases(True)['cru116']()] == ['not one image fits'] * 2


def test_times_are_milliseconds(monkeypatch):
    monkeypatch.setattr(inference, 'in_turns', lambda steps, *_: [dict.fromkeys(steps, 0.25)])
    rows = list(inference.cases(True)['cru116']())
    assert {row.value for row in rows} == {250} and {row.column.rpartition(', ')[2] for row in rows} == {
        'batch 1',
        'batch 8',
    }


R100 = """
from torch import nn
def iresnet100(pretrained=False, **options):
    assert options == {'dropout': 0.0, 'fp16': options['fp16'], 'num_features': 512}
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 110 * 110, 8))
"""


def test_the_r100_of_a_checkout(short, tmp_path):
    """It is taken from the file, and sees faces of 112 pixels."""
    with pytest.raises(UserError, match='has no .*iresnet.py'):
        speed.host_module(str(tmp_path), speed.Way())
    path = tmp_path / sizes.R100
    path.parent.mkdir(parents=True)
    path.write_text(R100)
    rows = list(speed.cases(True, str(tmp_path))['r100']())
    assert [row.row for row in rows] == ['float32', 'float32, channels last'] and all(row.value > 0 for row in rows)
    assert {row.column for row in rows} == {'r100 of insightface, whole, 112×112'}


def test_a_file_in_onnxruntime_gives_what_pytorch_gives(short, monkeypatch):
    """Through tools/export.py, with the statistics of the module; and a provider that is not there is not measured."""
    monkeypatch.setattr(of_runtime, 'there', lambda: [*providers.ON_CPU, 'CUDAExecutionProvider'])
    monkeypatch.setattr(of_runtime, 'measured', lambda quick: [NETWORK])
    cases = of_runtime.cases(True, sys.executable)
    rows = [row for case in cases.values() for row in case()]
    assert list(cases) == [f'{NETWORK}, CPU', f'{NETWORK}, CUDA']
    (difference,) = [row for row in rows if row.table == of_runtime.DIFFERENCE]
    assert difference.row == 'CPU, float32' and 0 < difference.value < 1e-4
    times = {row.row: row.value for row in rows if row.table == of_runtime.TABLE}
    assert times.pop('CUDA, float32') == 'not measured: its libraries do not load' and times.pop('CPU, float32') > 0
    with pytest.raises(UserError, match='a Python that has MXNet; name it, --mxnet-python PYTHON'):
        of_runtime.cases(True)
    with pytest.raises(UserError, match='the ONNX file was not written: exit code 1'):
        of_runtime.Files('false').path(NETWORK, 'float32')


def test_the_file_is_written_with_the_libraries_of_mxnet(monkeypatch):
    """MXNet for CUDA does not start without them."""
    called = []

    def run(command, **_):
        called.append(command)
        return types.SimpleNamespace(returncode=2, stderr='export.py: no')

    monkeypatch.setattr(of_runtime.subprocess, 'run', run)
    with pytest.raises(UserError, match='was not written: export.py: no'):
        of_runtime.Files('/its/python').path(NETWORK, 'float16')
    words = [os.path.basename(word) for word in called[0]]
    assert words[:5] == ['python', 'gpu_env.py', '--', 'python', 'export.py'] and 'float16' in words


def test_rows_in_onnxruntime_say_whether_they_may_be_tf32(monkeypatch):
    monkeypatch.setattr(of_runtime, 'is_ampere', lambda: True)
    on_cuda, on_tensorrt = (of_runtime.ways_of(provider, False) for provider in providers.ON_GPU)
    assert on_cuda['float32'] == ('float32', {'use_tf32': '0'}) and on_cuda['TF32'] == ('float32', {})
    assert list(on_tensorrt) == ['TF32', 'float16'] and list(of_runtime.ways_of(providers.ON_GPU[0], True)) == [
        'float32',
        'TF32',
    ]


@pytest.mark.parametrize('fitting', [4, 2])
def test_the_share_of_the_gradients(monkeypatch, fitting):
    """Of a step of two seconds that takes one and a half without their sum, with what fits on one device."""
    asked = []

    def spawned(world, name, batch, folder):
        asked.append((world, batch))
        return (2.0, 1.5) if batch <= fitting else None

    monkeypatch.setattr(scaling, 'spawned', spawned)
    rows = [(row.table, row.row[0], row.value, row.note) for row in scaling.measure(NETWORK, 3)]
    note = '' if fitting == 4 else 'batch 2'
    speeds = [(scaling.SPEED, str(world), world * fitting / 2, note) for world in (1, 2, 3)]
    shares = [(scaling.SHARE, str(world), 25.0, note) for world in (2, 3)]
    assert sorted(rows) == sorted(speeds + shares) and asked[-1] == (2, fitting)  # after one and all
    monkeypatch.setattr(scaling, 'spawned', lambda *_: None)
    assert [row.value for row in scaling.measure(NETWORK, 3)] == ['not one image fits']


def test_a_step_alone_sums_nothing(monkeypatch):
    monkeypatch.setattr(scaling.distributed, 'barrier', lambda: None)
    inside, seen = [False], []

    class Module:
        @contextlib.contextmanager
        def no_sync(self):
            inside[0] = True
            yield
            inside[0] = False

    for is_summed in (True, False):
        scaling.seconds_of(lambda: seen.append(inside[0]), Module(), None, is_summed)
    assert seen == [False] * scaling.STEPS + [True] * scaling.STEPS


@pytest.mark.parametrize(
    'said, sentence',
    [('torch.OutOfMemoryError: CUDA out of memory', None), ('ValueError: no such network', 'no such network')],
)
def test_what_a_process_said_is_told(monkeypatch, tmp_path, said, sentence):
    """And not that it has said something; where it was memory, the caller is told."""

    def spawn(*_):
        raise scaling.multiprocessing.ProcessRaisedException(
            f'\n\n-- Process 0 terminated …\nTraceback …\n{said}\n', 0, 1
        )

    monkeypatch.setattr(scaling.multiprocessing, 'spawn', spawn)
    if sentence is None:
        assert scaling.spawned(2, NETWORK, 4, str(tmp_path)) is None
    else:
        with pytest.raises(RuntimeError, match=f'^ValueError: {sentence}$'):
            scaling.spawned(2, NETWORK, 4, str(tmp_path))


def test_two_processes_share_their_gradients():
    found = figures_of(scaling.measure, NETWORK, 2)
    assert found[scaling.SPEED, '1 × process on the CPU'] > 0 and found[scaling.SPEED, '2 × process on the CPU'] > 0
    assert found[scaling.SHARE, '2 × process on the CPU'] < 100


def test_a_run_that_fails_is_not_taken_up_by_the_cpu(tmp_path):
    """As onnxruntime would have it, with a word that nobody reads."""
    files = of_runtime.Files(sys.executable)
    found = providers.session(files.path(NETWORK, 'float32'), providers.ON_CPU[0])
    assert found._enable_fallback is False


def test_the_loss_is_that_of_arcface():
    """Of one class and a cosine that is known, in Python's own arithmetic."""
    embeddings, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    target, other = 64 * math.cos(math.acos(0.6) + 0.5), 64 * 0.8
    expected = math.log(1 + math.exp(other - target))
    assert float(faces.arcface(embeddings, weight, torch.tensor([0]))) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------ as if on a GPU


def test_the_code_for_gpus_runs(sham, monkeypatch):
    assert device.where() == 'NVIDIA Sham' and providers.where() is None  # this onnxruntime is for a CPU
    facts = figures_of(card.described)
    assert facts['the machine', 'card 0'] == 'NVIDIA Sham' and facts['the machine', 'card 0, memory MB'] == 1000
    for module, row in ((correctness, 'TF32'), (speed, 'TF32'), (inference, 'float16, channels last')):
        cases = module.cases(True)
        assert row in {figure.row for figure in next(iter(cases.values()))()}
    assert list(scaling.cases(True)) == ['one']
    on_ampere, compared = speed.ways(False), set(correctness.cases(True)[NETWORK].args[1])
    assert on_ampere == speed.WAYS and compared == set(correctness.WAYS)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (7, 5))
    before, compared = speed.ways(False), set(correctness.cases(True)[NETWORK].args[1])
    assert not any('TF32' in row or 'bfloat16' in row for row in [*before, *compared])
    assert not any(way.tf32 for way in before.values() if way.half is None) and len(before) == 6
    assert 'TF32' not in of_runtime.ways_of(providers.ON_GPU[1], False)
    monkeypatch.setattr(torch, 'compile', lambda module, fullgraph, dynamic: module)
    rows = [figure.row for figure in speed.compiled_cases(True)['cru116']()]
    assert rows == [
        speed.COMPILED,
        speed.COMPILED,
        speed.COMPILED + ', compiled',
    ]  # uncompiled first, and again in turns


@pytest.mark.parametrize('batch, taken, note', [(80, 800, ''), (160, 800, 'batch 80')])
def test_memory_is_what_pytorch_counts(sham, monkeypatch, batch, taken, note):
    sham.takes_steps()
    monkeypatch.setattr(memory, 'default_batch', lambda name: batch)
    rows = list(memory.cases(True)['cru116']())
    assert [(row.value, row.note) for row in rows if row.table == memory.TAKEN] == [(taken, note)] * 2
    # 100 would fit
    assert [(row.value, row.note) for row in rows if row.table == memory.LARGEST] == [(96, '960 MB')] * 2


def test_a_card_that_pytorch_has_no_code_for(sham, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError('CUDA error: no kernel image is available for execution on the device\nCompile with …')

    monkeypatch.setattr(card, 'network', fails)
    with pytest.raises(UserError, match='no kernel image is available for execution on the device$'):
        list(card.computing())


# --------------------------------------------------------------------------------------- the whole program


def test_the_report(run_tool, tmp_path):
    """Of all engines; each figure again by the command beside it."""
    code, out, _ = run_tool(
        check_gpu, '--quick', '--only', 'correctness', '--only', 'plan', '--only', 'memory', '--output', str(tmp_path)
    )
    assert code == 0 and '# Measured on a CPU, not on a GPU' in out
    assert sorted(os.listdir(tmp_path)) == ['report.json', 'report.md']  # nothing to draw
    report = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))
    parts = {(part['part'], part['engine']): part for part in report['parts']}
    assert {part for part, _ in parts} == {'card', 'correctness', 'plan', 'memory'}
    assert {engine for _, engine in parts} == {'torch', 'onnxruntime', 'mxnet'}
    for part in report['parts']:
        assert part['problems'] == [] and part['device'] == 'CPU' and part['figures'], part
    for engine in ('torch', 'mxnet'):
        figure = next(each for each in parts['correctness', engine]['figures'] if each['table'] == figures.GRADIENTS)
        again = subprocess.run(shlex.split(figure['command']), cwd=ROOT, capture_output=True, text=True, check=True)
        tables = [
            {row['']: row[figure['column']].partition(' (')[0] for row in rows} for rows in markdown(again.stdout)
        ]
        assert figures.text_of(figure['value']) in [table[figure['row']] for table in tables]
    assert np.isclose(parts['plan', 'mxnet']['figures'][0]['value'], 28660, rtol=0.01)  # docs/memory.md
