"""Part `memory`: what the feature maps and gradients of a training step take, kept and recomputed."""

import torch

from netkit.gpu.networks import BATCH, IS_GPU, MEASURED, images, network, wait


def taken(module, batch):
    """Return MB that a step (forward, backward) takes at its peak, besides the weights and their gradients."""
    module.train()
    x = images(batch)
    for parameter in module.parameters():  # so that they are there before
        parameter.grad = torch.zeros_like(parameter)
    wait()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    module(x).square().sum().backward()
    wait()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(quick):
    """Yield (what, figure, unit)."""
    if not IS_GPU:
        yield 'memory', 'not measured: PyTorch counts it on GPUs only', ''
        return
    for name in MEASURED[:1] if quick else MEASURED:
        for label, options in (
            ('float32', {}),
            ('float32, recomputed', {'using_checkpoint': True}),
            ('16 bits', {'fp16': True}),
            ('16 bits, recomputed', {'fp16': True, 'using_checkpoint': True}),
        ):
            module = network(name, **options)
            taken(module, 2)  # cuDNN chooses and loads
            found = taken(module, BATCH)
            yield f'{name}, {label}: {BATCH} images', round(found), 'MB'
            yield f'{name}, {label}: an image', round(found / BATCH, 1), 'MB'
            del module
