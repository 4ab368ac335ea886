"""Part `memory`: what a training step takes besides the weights, and the largest batch that fits."""

import functools

import torch

from netkit.gpu.figures import Figure, largest_batch, largest_that_fits, note_of
from netkit.gpu.in_torch.device import DEVICE, IS_GPU, default_batch, fits, images, label, measured, network, wait

TAKEN = 'MB for the feature maps of a training step and their gradients, besides weights and gradients'
LARGEST = 'largest batch that fits, with SGD and momentum'
WAYS = {
    'float32': {},
    'float32, recomputed': {'using_checkpoint': True},
    'float16': {'fp16': True},
    'float16, recomputed': {'fp16': True, 'using_checkpoint': True},
}


def step(module, batch):
    """Do a training step, with a loss that stands in for a classifier."""
    module(images(batch)).square().mean().backward()


def taken(module, batch):
    """Return the MB (2^20 bytes) that a step takes at its peak, besides the weights and their gradients."""
    torch.cuda.empty_cache()
    wait()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(module, batch)
    wait()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def free():
    """Return the MB that are free on the card, or kept by PyTorch for further use."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 2**20


def measure(name, ways):
    """Yield the Figures of a network."""
    wanted = default_batch(name)
    for way in ways:
        module = network(name, channels_last=True, **WAYS[way]).train()
        for parameter in module.parameters():  # so that the gradients are there before
            parameter.grad = torch.zeros_like(parameter)
        momentum = [torch.zeros_like(parameter) for parameter in module.parameters()]
        column = f'{label(name)}, batch {wanted}'
        batch = largest_that_fits(wanted, functools.partial(fits, step, module))  # cuDNN chooses and loads, too
        if not batch:
            yield Figure(TAKEN, way, column, 'not one image fits')
            continue
        found = {size: taken(module, size) for size in (max(batch // 2, 1), batch)}
        yield Figure(TAKEN, way, column, round(found[batch]), note_of(batch, wanted))
        if len(found) > 1:
            room = free()
            yield Figure(LARGEST, way, label(name), largest_batch(found, room, functools.partial(fits, step, module)))
        del module, momentum


def not_measured():
    """Yield that there is nothing to measure."""
    yield Figure(TAKEN, 'all', 'all', 'not measured: PyTorch counts it on GPUs only')


def cases(quick):
    """Return {case: function that yields Figures}."""
    if not IS_GPU:
        return {str(DEVICE): not_measured}
    ways = tuple(WAYS)[:2] if quick else tuple(WAYS)
    return {name: functools.partial(measure, name, ways) for name in measured(quick)}
