"""The networks as PyTorch modules, and where they are computed."""

import contextlib
import functools
import os

import symbol_torch
import torch

import config as host
from netkit.gpu import sizes
from netkit.gpu.sizes import SMALL
from netkit.project import ROOT

SYMBOLS = os.path.join(ROOT, 'symbols')
IS_GPU = torch.cuda.is_available()
SHORT = ('out of memory', '_alloc_failed', 'unable to find an engine')  # in messages on memory
DEVICE = torch.device('cuda' if IS_GPU else 'cpu')
# Of a network's name: images of a training step, and what it is called in a table.
default_batch, label = (functools.partial(of, is_gpu=IS_GPU) for of in (sizes.default_batch, sizes.label))


def where():
    """Return the name of the card, None for a CPU."""
    return torch.cuda.get_device_name(0) if IS_GPU else None


def network(name, device=DEVICE, **options):
    """Return a network choice as a module on a device; `options` are those of `symbol_torch.choice`."""
    torch.manual_seed(0)
    small = {} if IS_GPU else SMALL
    return symbol_torch.choice(
        SYMBOLS, host.network[name], **{'dropout': 0.0, 'channels_last': False, **small, **options}
    ).to(device)


def images(count, device=DEVICE, side=None):
    """Return random images as arcface_torch hands them over, in -1…1, of `side` pixels or as the networks want them."""
    side = side or (112 if IS_GPU else SMALL['image_shape'][0])
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)


def wait():
    """Return when everything is computed."""
    if IS_GPU:
        torch.cuda.synchronize()


def is_ampere():
    """Tell whether there is a GPU that has TF32 and bfloat16: Ampere or later."""
    return IS_GPU and torch.cuda.get_device_capability()[0] >= 8


def has_bfloat16():
    """Tell whether the device computes bfloat16 itself; a CPU does, if slowly."""
    return not IS_GPU or is_ampere()


def is_of_memory(error):
    """Tell whether an error says that memory is short, in one of the ways of PyTorch, CUDA, cuDNN and cuBLAS."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(mark in str(error).lower() for mark in SHORT)


def fits(function, *arguments):
    """Call a function; tell whether the memory of the card was enough for it."""
    is_enough = True
    try:
        function(*arguments)
        wait()
    except RuntimeError as error:
        if not is_of_memory(error):
            raise
        is_enough = False
    if IS_GPU:  # once nothing holds the maps any more
        torch.cuda.empty_cache()
    return is_enough


@contextlib.contextmanager
def tensor_float32(is_on):
    """Compute float32 products with TF32's 10 bits, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
