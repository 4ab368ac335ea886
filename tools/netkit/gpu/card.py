"""Part `card`: the card and the libraries."""

import os
import platform

import torch

from netkit.gpu.networks import IS_GPU


def measure(quick):
    """Yield (what, figure, unit)."""
    yield 'Python', platform.python_version(), ''
    yield 'PyTorch', torch.__version__, ''
    yield 'CPU cores', os.cpu_count(), ''
    if IS_GPU:
        card = torch.cuda.get_device_properties(0)
        yield 'card', card.name, ''
        yield 'memory', round(card.total_memory / 2**20), 'MiB'
        yield 'compute capability', f'{card.major}.{card.minor}', ''
        yield 'CUDA, of PyTorch', torch.version.cuda, ''
        yield 'cuDNN', torch.backends.cudnn.version(), ''
        yield 'cards', torch.cuda.device_count(), ''
