"""Part `memory`: what a training step takes besides the weights, and the largest batch that fits."""

import functools

import torch

from netkit.gpu.harness import not_measured
from netkit.gpu.peaks import Memory, figures_of
from netkit.gpu.sizes import measured
from netkit.gpu.torch_device import IS_GPU, default_batch, fits, label, wait
from netkit.gpu.torch_speed import Training, Way, made, sgd_of

TAKEN = 'MB for the feature maps of a training step and their gradients, besides weights, gradients and momentum'
LARGEST = 'largest batch that was found to fit, and its MB, likewise'
WAYS = {
    'float32': Way(tf32=False, last=True),
    'float32, recomputed': Way(tf32=False, last=True, again=True),
    'float16': Way(half=torch.float16, last=True),
    'float16, recomputed': Way(half=torch.float16, last=True, again=True),
}


def taken(step, batch):
    """Return the MB (2^20 bytes) that a step's forward and backward pass take at their peak, besides the gradients."""
    step.images = None
    for parameter in step.module.parameters():  # the gradients are to be there before
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    torch.cuda.empty_cache()
    wait()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step.draw(batch)
    step.backward()
    wait()
    step.sgd.zero_grad()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def gradients(module):
    """Return the MB of the gradients of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad) / 2**20


def free():
    """Return the MB that are free on the card, or kept by PyTorch for further use."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 2**20


def measure(name, ways):
    """Yield the Figures of a network."""
    module = made(name, True)
    sgd = sgd_of(module)

    def trier(way):
        step = Training(module, sgd, WAYS[way])

        def peak(batch):
            found = []
            return found[0] if fits(lambda: found.append(taken(step, batch))) else None

        return peak

    memory = Memory(trier, lambda: free() - gradients(module), TAKEN, LARGEST)
    yield from figures_of(memory, label(name), ways, default_batch(name))


def cases(quick):
    """Return {case: function that yields Figures}."""
    if not IS_GPU:
        return not_measured('cpu', TAKEN, 'PyTorch counts it on GPUs only')
    ways = tuple(WAYS)[:2] if quick else tuple(WAYS)
    return {name: functools.partial(measure, name, ways) for name in measured(quick)}
