"""Parts `speed` and `compile`: images per second of training steps, of several ways to compute, in turns."""

import functools
import importlib.util
from typing import NamedTuple, Optional

import torch

from netkit.gpu.figures import Figure, in_turns, largest_that_fits, note_of
from netkit.gpu.in_torch.device import (
    IS_GPU,
    default_batch,
    fits,
    images,
    label,
    measured,
    network,
    tensor_float32,
    wait,
)
from netkit.gpu.sizes import path_of_r100


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
# On a CPU there is no TF32, and 16 bits are bfloat16.
ON_CPU = {
    'float32': Way(),
    'float32, channels last': Way(last=True),
    'float32, channels last, recomputed': Way(last=True, again=True),
    'bfloat16, channels last': Way(half=torch.bfloat16, last=True),
}
QUICK = 'float32', 'TF32', 'TF32, channels last', 'float16, channels last', 'float32, channels last'
OF_HOST = 'float32', 'TF32', 'TF32, channels last', 'float16', 'float16, channels last', 'float32, channels last'
COMPILED = 'float16, channels last'


def ways(quick):
    """Return {label: Way} for this device."""
    return {name: way for name, way in (WAYS if IS_GPU else ON_CPU).items() if not quick or name in QUICK}


def made(name, way):
    """Return a network choice as a module, to be computed in a `way`."""
    module = network(name, fp16=way.half is not None, using_checkpoint=way.again, channels_last=way.last)
    module.trunk_type = way.half
    return module


def host_module(checkout, way):
    """Return insightface's r100, from a checkout, which is run; raises UserError where there is none."""
    spec = importlib.util.spec_from_file_location('insightface_iresnet', path_of_r100(checkout))
    code = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    module = code.iresnet100(False, dropout=0.0, fp16=way.half is not None, num_features=512)
    module = module.to('cuda' if IS_GPU else 'cpu')
    return module.to(memory_format=torch.channels_last) if way.last else module


class Training:
    """A training step of a module with SGD, of `batch` images; a call does one."""

    def __init__(self, module, way, side=None):
        self.module, self.way, self.side, self.batch = module.train(), way, side, 0
        learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.sgd = torch.optim.SGD(learnt, 1e-6, 0.9, weight_decay=5e-4)

    def take(self, batch):
        """Do the first step with so many images, in which whatever the next ones need is allocated and chosen."""
        layout = torch.channels_last if self.way.last else torch.contiguous_format
        self.images = images(batch, side=self.side).contiguous(memory_format=layout)
        self.sgd.zero_grad()  # of a step that did not fit
        self()
        self.batch = batch

    def __call__(self):
        with tensor_float32(self.way.tf32):
            self.module(self.images).square().mean().backward()
            self.sgd.step()
            self.sgd.zero_grad()


def time_steps(steps, column, wanted):
    """Yield the Figures of {row: Training}, timed with `wanted` images each, or as many as fit."""
    table = f'training, images per second, batch {wanted}'
    for row, step in list(steps.items()):
        if not largest_that_fits(wanted, functools.partial(fits, step.take)):
            del steps[row]
            yield Figure(table, row, column, 'not one image fits')
    for row, seconds in in_turns(steps, wait, 1).items():
        step, speed = steps[row], round(steps[row].batch / seconds, 1)
        yield Figure(table, row, column, speed, note_of(step.batch, wanted))


def time_ways(make, column, wanted, chosen, side=None):
    """Yield the Figures of a network; `make(way)` returns its module, `chosen` are {row: Way}."""
    # All ways are there at once, which takes memory for their weights and momenta, but for the maps of one at a time.
    yield from time_steps({row: Training(make(way), way, side) for row, way in chosen.items()}, column, wanted)


def time_compiled(name):
    """Yield the Figures of a network, compiled and not, in turns."""
    if not IS_GPU:
        yield Figure(
            'compiled', 'all', label(name), 'not measured on a CPU: benchmark.py --engine torch --compile does'
        )
        return
    way = WAYS[COMPILED]
    # One graph or an error: else PyTorch goes on uncompiled without a word.
    modules = {COMPILED: made(name, way), f'{COMPILED}, compiled': torch.compile(made(name, way), fullgraph=True)}
    steps = {row: Training(module, way) for row, module in modules.items()}
    yield from time_steps(steps, label(name), default_batch(name))


def cases(quick, checkout=None):
    """Return {case: function that yields Figures}; with r100 of insightface if `checkout` is a folder of it."""
    found = {
        name: functools.partial(time_ways, functools.partial(made, name), label(name), default_batch(name), ways(quick))
        for name in measured(quick)
    }
    if checkout:
        of_host = {name: way for name, way in ways(quick).items() if name in OF_HOST}
        found['r100'] = functools.partial(
            time_ways,
            functools.partial(host_module, checkout),
            'r100 of insightface' + ', whole, 112×112' * (not IS_GPU),
            default_batch('ires50'),
            of_host,
            112,
        )
    return found


def compiled_cases(quick):
    """Return {case: function that yields Figures} of the part `compile`."""
    return {name: functools.partial(time_compiled, name) for name in measured(True)}
