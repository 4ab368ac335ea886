"""Parts `speed` and `compile`: images per second of training steps, of several ways to compute, in turns."""

import functools
import importlib.util
from typing import NamedTuple, Optional

import torch

from netkit.gpu.harness import Figure, Problems, in_turns, largest_that_fits, note_of
from netkit.gpu.sizes import measured, path_of_r100
from netkit.gpu.torch_device import (
    DEVICE,
    IS_GPU,
    default_batch,
    fits,
    images,
    is_ampere,
    label,
    network,
    tensor_float32,
    wait,
)


class Way(NamedTuple):
    """How to compute: TF32 for float32 products, the type of the trunk if not float32, layout, recomputed maps."""

    tf32: bool = True
    half: Optional[torch.dtype] = None
    last: bool = False
    again: bool = False


WAYS = {
    'float32': Way(tf32=False),
    'TF32': Way(),
    'TF32, channels last': Way(last=True),
    'float16': Way(half=torch.float16),
    'float16, channels last': Way(half=torch.float16, last=True),
    'bfloat16, channels last': Way(half=torch.bfloat16, last=True),
    'TF32, channels last, recomputed': Way(last=True, again=True),
    'float16, channels last, recomputed': Way(half=torch.float16, last=True, again=True),
}
# On cards before Ampere there is neither TF32 nor bfloat16.
BEFORE_AMPERE = {
    'float32': Way(tf32=False),
    'float32, channels last': Way(tf32=False, last=True),
    'float32, channels last, recomputed': Way(tf32=False, last=True, again=True),
    **{row: way for row, way in WAYS.items() if way.half is torch.float16},
}
# On a CPU there is no TF32, and 16 bits are bfloat16.
ON_CPU = {
    'float32': Way(tf32=False),
    'float32, channels last': Way(tf32=False, last=True),
    'float32, channels last, recomputed': Way(tf32=False, last=True, again=True),
    'bfloat16, channels last': Way(half=torch.bfloat16, last=True),
}
QUICK = 'float32', 'TF32', 'TF32, channels last', 'float16, channels last', 'float32, channels last'
OF_HOST = 'float32', 'TF32', 'TF32, channels last', 'float16', 'float16, channels last', 'float32, channels last'
COMPILED = 'float16, channels last'


def ways(quick):
    """Return {label: Way} for this device."""
    found = WAYS if is_ampere() else BEFORE_AMPERE if IS_GPU else ON_CPU
    return {row: way for row, way in found.items() if not quick or row in QUICK}


def made(name, last):
    """Return a network choice as a module in a layout, which can take every Way of that layout."""
    return network(name, using_checkpoint=True, channels_last=last)


def take_way(module, way):
    """Have a module compute in a Way from now on."""
    module.fp16, module.trunk_type, module.using_checkpoint = way.half is not None, way.half, way.again


def host_module(checkout, last):
    """Return insightface's r100, from a checkout, which is run; raises UserError where there is none."""
    spec = importlib.util.spec_from_file_location('insightface_iresnet', path_of_r100(checkout))
    code = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    module = code.iresnet100(False, dropout=0.0, fp16=False, num_features=512).to(DEVICE)
    return module.to(memory_format=torch.channels_last) if last else module


class Training:
    """A training step of a module in a Way, of `batch` images, with SGD and momentum; a call does one."""

    def __init__(self, module, sgd, way, side=None):
        self.module, self.sgd, self.way, self.side, self.batch = module, sgd, way, side, 0

    def take(self, batch):
        """Do the first step with so many images, in which whatever the next ones need is allocated and chosen."""
        self.sgd.zero_grad()  # of a step that did not fit
        self.draw(batch)
        self()
        self.batch = batch

    def draw(self, batch):
        """Put so many images onto the device."""
        layout = torch.channels_last if self.way.last else torch.contiguous_format
        self.images = images(batch, side=self.side).contiguous(memory_format=layout)

    def backward(self):
        """Do the forward and the backward pass, with a loss that stands in for a classifier."""
        take_way(self.module, self.way)
        with tensor_float32(self.way.tf32):
            self.module.train()(self.images).square().mean().backward()

    def __call__(self):
        self.backward()
        self.sgd.step()
        self.sgd.zero_grad()


def sgd_of(module):
    """Return SGD for a module, with its momentum in memory from the first."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(learnt, 1e-6, 0.9, weight_decay=5e-4)
    for parameter in learnt:
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    sgd.zero_grad()
    return sgd


def time_steps(steps, column, wanted):
    """Yield the Figures of {row: Training}, timed with `wanted` images each, or as many as fit."""
    torch.backends.cudnn.benchmark = True  # as arcface_torch has it
    table, fitting, problems = f'training, images per second, batch {wanted}', {}, Problems()
    for row, step in steps.items():
        with problems.caught(row):
            if largest_that_fits(wanted, functools.partial(fits, step.take)):
                fitting[row] = step
            else:
                yield Figure(table, row, column, 'not one image fits')
    for found in in_turns(fitting, wait, problems, 1):
        for row, seconds in found.items():
            batch = fitting[row].batch
            yield Figure(table, row, column, round(batch / seconds, 1), note_of(batch, wanted))
    problems.check()


def time_ways(make, column, wanted, chosen, side=None):
    """Yield the Figures of a network; `make(last)` returns its module in a layout, `chosen` are {row: Way}."""
    modules = {last: make(last) for last in sorted({way.last for way in chosen.values()})}
    sgds = {last: sgd_of(module) for last, module in modules.items()}
    steps = {row: Training(modules[way.last], sgds[way.last], way, side) for row, way in chosen.items()}
    yield from time_steps(steps, column, wanted)


def time_compiled(name):
    """Yield the Figures of a network, compiled and not, in turns."""
    if not IS_GPU:
        yield Figure(
            'compiled', 'all', label(name), 'not measured on a CPU: benchmark.py --engine torch --compile does'
        )
        return
    way, wanted, steps = WAYS[COMPILED], default_batch(name), {}
    for row in (COMPILED, f'{COMPILED}, compiled'):
        module = made(name, way.last)
        sgd = sgd_of(module)
        take_way(module, way)
        # One graph for one size or an error: else PyTorch goes on uncompiled, or for any size, without a word.
        compiled = module if row == COMPILED else torch.compile(module, fullgraph=True, dynamic=False)
        steps[row] = Training(compiled, sgd, way)
    # With what fits uncompiled, so that nothing is compiled twice; and its figure is there if compiling takes too long.
    batch = largest_that_fits(wanted, functools.partial(fits, steps[COMPILED].take))
    yield from time_steps({COMPILED: steps[COMPILED]}, label(name), batch)
    yield from time_steps(steps, label(name), batch)


def cases(quick, insightface=None):
    """Return {case: function that yields Figures}; with r100 of insightface from the checkout `insightface`."""
    found = {
        name: functools.partial(time_ways, functools.partial(made, name), label(name), default_batch(name), ways(quick))
        for name in measured(quick)
    }
    if insightface:
        of_host = {name: way for name, way in ways(quick).items() if name in OF_HOST}
        found['r100'] = functools.partial(
            time_ways,
            functools.partial(host_module, insightface),
            'r100 of insightface' if IS_GPU else 'r100 of insightface, whole, 112×112',
            default_batch('ires50'),
            of_host,
            112,
        )
    return found


def compiled_cases(quick):
    """Return {case: function that yields Figures} of the part `compile`."""
    return {name: functools.partial(time_compiled, name) for name in measured(True)}
