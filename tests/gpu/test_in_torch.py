"""The parts in PyTorch and onnxruntime, on a CPU, and the whole program. Skipped without PyTorch.

What only a GPU has, its counters of memory among them, is stood in for: so the code for GPUs is run, and no more.
"""

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
from netkit import cuda  # noqa: E402
from netkit.errors import UserError  # noqa: E402
from netkit.gpu import sizes  # noqa: E402
from netkit.gpu.in_onnxruntime import inference as of_runtime, providers  # noqa: E402
from netkit.gpu.in_torch import card, correctness, device, faces, inference, memory, scaling, speed  # noqa: E402

NETWORK = 'cru56'
MODULES = card, correctness, device, faces, inference, memory, scaling, speed


def figures_of(cases, *of):
    """Return {(table, row): value} of the Figures of a case."""
    return {(figure.table, figure.row): figure.value for figure in cases(*of)}


@pytest.fixture
def short(monkeypatch):
    """One turn of one step."""
    monkeypatch.setattr('netkit.gpu.figures.SECONDS', 0.0)
    monkeypatch.setattr('netkit.gpu.figures.ROUNDS', 1)


class Card:
    """A card of 1,000 MB: a step takes 10 for each image, and nothing else takes any."""

    def __init__(self, monkeypatch):
        self.peak = 0
        properties = types.SimpleNamespace(name='NVIDIA Sham', major=9, minor=0, total_memory=1000 << 20)
        for name, value in {
            'synchronize': lambda *_: None,
            'empty_cache': lambda: None,
            'memory_allocated': lambda: 0,
            'reset_peak_memory_stats': lambda: setattr(self, 'peak', 0),
            'max_memory_allocated': lambda: self.peak,
            'mem_get_info': lambda: (1000 << 20, 1000 << 20),
            'get_device_name': lambda number: properties.name,
            'get_device_properties': lambda number: properties,
            'device_count': lambda: 1,
            'get_arch_list': lambda: ['sm_90'],
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda.nccl, 'version', lambda: (2, 21, 5))
        monkeypatch.setattr(memory, 'step', self.step)

    def step(self, module, batch):
        self.peak = batch * 10 << 20
        if batch > 100:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')


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
    for row, (tf32, is_half, half, again) in correctness.WAYS.items():
        monkeypatch.setitem(correctness.WAYS, row, (tf32, is_half, half and torch.bfloat16, again))
    return Card(monkeypatch)


# ------------------------------------------------------------------------------------------------ on a CPU


def test_a_step_is_the_same_recomputed_and_nearly_so_in_16_bits():
    found = figures_of(correctness.cases(True)[NETWORK])
    assert found[correctness.EMBEDDINGS, 'float32, recomputed'] < 1e-5
    assert found[correctness.GRADIENTS, 'float32, recomputed'] > 0.99999
    assert found[correctness.STATISTICS, 'float32, recomputed'] < 1e-5
    assert (
        1e-4 < found[correctness.EMBEDDINGS, 'bfloat16'] < 0.1
        and 0.9 < found[correctness.GRADIENTS, 'bfloat16'] < 0.9999
    )


def test_what_is_wrong_is_seen(monkeypatch):
    """Statistics that move twice, weights that are others, gradients that are multiplied."""
    real = correctness.network

    def other(name, on=device.DEVICE, **options):
        module = real(name, on, **options)
        if options.get('using_checkpoint'):
            module.register_forward_pre_hook(lambda module, _: setattr(module, 'momentum', 0.19))
            module.conv0_weight.register_hook(lambda gradient: -gradient * 1e3)
        return module

    monkeypatch.setattr(correctness, 'network', other)
    found = figures_of(correctness.compare, NETWORK, ['float32', 'float32, recomputed'])
    assert (
        found[correctness.STATISTICS, 'float32'] < 1e-5 and found[correctness.STATISTICS, 'float32, recomputed'] > 0.05
    )
    assert found[correctness.GRADIENTS, 'float32'] > 0.99999 > 0.5 > found[correctness.GRADIENTS, 'float32, recomputed']
    assert found[correctness.EMBEDDINGS, 'float32, recomputed'] < 1e-5


def test_a_way_is_what_its_row_says(short):
    """Layout, type and recomputing of the module, and of the images."""
    for row, way in {**speed.WAYS, **speed.ON_CPU}.items():
        module = speed.made(NETWORK, way)
        assert module.channels_last == ('channels last' in row) and module.using_checkpoint == ('recomputed' in row)
        assert module.fp16 == ('float16' in row) and str(module.trunk_type).endswith(row.split(',')[0]) == module.fp16
        assert way.tf32 == (row != 'float32') or row in speed.ON_CPU
    step = speed.Training(speed.made(NETWORK, speed.WAYS['TF32, channels last']), speed.WAYS['TF32, channels last'])
    before = step.module.fc1_beta.clone(), step.module.conv0_weight.clone()
    step.take(2)
    assert step.batch == 2 and step.images.is_contiguous(memory_format=torch.channels_last) and step.module.training
    assert not torch.equal(before[1], step.module.conv0_weight)
    once = inference.Inference(step.module, speed.WAYS['float32'], 2)
    assert once().shape == (2, 256) and not step.module.training


def test_a_smaller_batch_is_noted(short, monkeypatch):
    real = speed.Training.take

    def take(step, batch):
        if batch > (1 if step.way.last else 4):
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        real(step, batch)

    monkeypatch.setattr(speed.Training, 'take', take)
    rows = {row.row: row for row in speed.cases(True)['cru116']()}
    assert rows['float32'].note == '' and rows['float32, channels last'].note == 'batch 1'
    monkeypatch.setattr(speed.Training, 'take', lambda *_: take(types.SimpleNamespace(way=speed.Way()), 5))
    assert [row.value for row in speed.cases(True)['cru116']()] == ['not one image fits'] * 2


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
    with pytest.raises(UserError, match='the ONNX file was not written: exit code 1'):
        of_runtime.Files('false').path(NETWORK, 'float32')


def test_two_processes_share_their_gradients():
    found = figures_of(scaling.measure, NETWORK, 2)
    assert found[scaling.SPEED, '1 × process on the CPU'] > 0 and found[scaling.SPEED, '2 × process on the CPU'] > 0
    assert found[scaling.SHARE, '2 × process on the CPU'] < 100


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
    monkeypatch.setattr(torch, 'compile', lambda module, fullgraph: module)
    rows = [figure.row for figure in speed.compiled_cases(True)['cru116']()]
    assert rows == [speed.COMPILED, speed.COMPILED + ', compiled']


@pytest.mark.parametrize('batch, taken, note', [(80, 800, ''), (160, 800, 'batch 80')])
def test_memory_is_what_pytorch_counts(sham, monkeypatch, batch, taken, note):
    monkeypatch.setattr(memory, 'default_batch', lambda name: batch)
    rows = list(memory.cases(True)['cru116']())
    assert [(row.value, row.note) for row in rows if row.table == memory.TAKEN] == [(taken, note)] * 2
    assert [row.value for row in rows if row.table == memory.LARGEST] == [96, 96]  # 100 would fit


def test_a_card_that_pytorch_has_no_code_for(sham, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError('CUDA error: no kernel image is available for execution on the device\nCompile with …')

    monkeypatch.setattr(card, 'network', fails)
    with pytest.raises(UserError, match='no kernel image is available for execution on the device$'):
        list(card.computing())


def test_the_code_in_pytorch_is_what_pytorch_says():
    """What `cuda.kernels` reads in a library against the flags that it was compiled with."""
    path = os.path.join(os.path.dirname(torch.__file__), 'lib', 'libtorch_cuda.so')
    if not os.path.exists(path):
        pytest.skip('this PyTorch is for a CPU')
    flags = torch._C._cuda_getArchFlags().split()
    expected = {(cuda.MACHINE_CODE, divmod(int(flag[3:]), 10)) for flag in flags if flag.startswith('sm_')}
    expected |= {(cuda.PTX, divmod(int(flag[8:]), 10)) for flag in flags if flag.startswith('compute_')}
    assert cuda.kernels(path) == expected


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
        figure = next(
            each
            for each in parts['correctness', engine]['figures']
            if each['table'].startswith('a training step: cosine')
        )
        again = subprocess.run(shlex.split(figure['command']), cwd=ROOT, capture_output=True, text=True, check=True)
        (rows,) = [rows for rows in markdown(again.stdout) if float(rows[0][figure['column']]) > 0.9]
        values = {row['']: float(row[figure['column']]) for row in rows}
        assert values[figure['row']] == pytest.approx(figure['value'], abs=1e-5)
    assert np.isclose(parts['plan', 'mxnet']['figures'][0]['value'], 28660, rtol=0.01)  # docs/memory.md
