"""Part `inference`: milliseconds for a batch of images."""

import functools

import torch

from netkit.gpu.figures import Figure, in_turns, largest_that_fits
from netkit.gpu.in_torch.device import IS_GPU, fits, images, label, measured, tensor_float32, wait
from netkit.gpu.in_torch.speed import made, ways
from netkit.gpu.sizes import BATCHES

TABLE = 'inference, milliseconds for a batch'


class Inference:
    """An inference of a module; a call does one."""

    def __init__(self, module, way, batch):
        self.module, self.tf32 = module.eval(), way.tf32
        layout = torch.channels_last if way.last else torch.contiguous_format
        self.images = images(batch).contiguous(memory_format=layout)

    def __call__(self):
        with tensor_float32(self.tf32), torch.no_grad():
            return self.module(self.images)


def measure(name, batches, chosen):
    """Yield the Figures of a network."""
    modules = {row: made(name, way) for row, way in chosen.items()}
    for batch in batches:
        column, steps = f'{label(name)}, batch {batch}', {}
        for row, way in chosen.items():
            step = Inference(modules[row], way, batch)
            if largest_that_fits(batch, lambda size, step=step: fits(step)) == batch:
                steps[row] = step
            else:
                yield Figure(TABLE, row, column, 'does not fit')
        for row, seconds in in_turns(steps, wait, 2 if IS_GPU else 1).items():
            yield Figure(TABLE, row, column, round(1e3 * seconds, 2))


def cases(quick):
    """Return {case: function that yields Figures}."""
    chosen = {row: way for row, way in ways(quick).items() if not way.again}
    batches = BATCHES if IS_GPU else BATCHES[:2]
    return {name: functools.partial(measure, name, batches, chosen) for name in measured(quick)}
