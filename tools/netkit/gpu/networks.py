"""The networks as PyTorch modules, and where they are computed."""

import contextlib
import os

import symbol_torch
import torch

import config as host
from netkit import ROOT

SYMBOLS = os.path.join(ROOT, 'symbols')
IS_GPU = torch.cuda.is_available()
DEVICE = torch.device('cuda' if IS_GPU else 'cpu')
MEASURED = ('cru116', 'att92', 'ires50')  # one of each kind
BATCH = 80 if IS_GPU else 4  # images of a training step; 80 as in the published training
SMALL = {} if IS_GPU else {'net_multiplier': 0.25}  # a CPU computes narrow networks


def network(name, device=DEVICE, **options):
    """Return a network choice as a module on a device; `options` are those of `symbol_torch.choice`."""
    torch.manual_seed(0)
    return symbol_torch.choice(
        SYMBOLS, host.network[name], **{'dropout': 0.0, 'channels_last': False, **SMALL, **options}
    ).to(device)


def images(count, device=DEVICE):
    """Return random images as arcface_torch hands them over, in -1…1."""
    return torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(device)


def where():
    """Return where things are computed, for a title."""
    return f'on one {torch.cuda.get_device_name(0)}' if IS_GPU else 'on a CPU, not on a GPU'


def wait():
    """Return when everything is computed."""
    if IS_GPU:
        torch.cuda.synchronize()


@contextlib.contextmanager
def tensor_float32(is_on):
    """Compute float32 products with TF32's 10 bits, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
