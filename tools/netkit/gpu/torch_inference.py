"""Part `inference`: milliseconds for a batch of images."""

import functools

import torch

from netkit.gpu.harness import Figure, Problems, in_turns
from netkit.gpu.sizes import BATCHES, measured
from netkit.gpu.torch_device import IS_GPU, fits, images, label, tensor_float32, wait
from netkit.gpu.torch_speed import made, take_way, ways

TABLE = 'inference, milliseconds for a batch that is on the device'


class Inference:
    """An inference of a module in a Way, of images that are on the device; a call does one."""

    def __init__(self, module, way, batch):
        self.module, self.way = module, way
        layout = torch.channels_last if way.last else torch.contiguous_format
        self.images = images(batch).contiguous(memory_format=layout)

    def __call__(self):
        take_way(self.module, self.way)
        with tensor_float32(self.way.tf32), torch.no_grad():
            return self.module.eval()(self.images)


def measure(name, batches, chosen):
    """Yield the Figures of a network."""
    modules = {last: made(name, last) for last in sorted({way.last for way in chosen.values()})}
    torch.backends.cudnn.benchmark = True
    problems = Problems()
    for batch in batches:
        column, steps = f'{label(name)}, batch {batch}', {}
        for row, way in chosen.items():
            with problems.caught(row):
                step = Inference(modules[way.last], way, batch)
                if fits(step):
                    steps[row] = step
                else:
                    yield Figure(TABLE, row, column, 'does not fit')
        for found in in_turns(steps, wait, problems, 2 if IS_GPU else 1):
            for row, seconds in found.items():
                yield Figure(TABLE, row, column, round(1e3 * seconds, 2))
    problems.check()


def cases(quick):
    """Return {case: function that yields Figures}."""
    chosen = {row: way for row, way in ways(quick).items() if not way.again}
    batches = BATCHES if IS_GPU else BATCHES[:2]
    return {name: functools.partial(measure, name, batches, chosen) for name in measured(quick)}
