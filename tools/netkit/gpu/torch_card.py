"""Part `card`: the cards and the libraries."""

import os
import platform

import torch

from netkit import cuda
from netkit.errors import UserError
from netkit.gpu.harness import MACHINE, Figure
from netkit.gpu.torch_device import IS_GPU, images, network, wait


def described():
    """Yield the Figures of the machine."""
    facts = {
        'Python': platform.python_version(),
        'PyTorch': torch.__version__,
        'CUDA, of PyTorch': torch.version.cuda or 'none',
        'CPU cores': os.cpu_count(),
    }
    if IS_GPU:
        facts['cuDNN'] = torch.backends.cudnn.version()
        facts['NCCL'] = '.'.join(map(str, torch.cuda.nccl.version()))
        facts['newest CUDA of the driver'] = cuda.driver_version('') or 'it does not say'
        facts['code for'] = ', '.join(torch.cuda.get_arch_list())
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        facts[f'card {number}'] = card.name
        facts[f'card {number}, compute capability'] = f'{card.major}.{card.minor}'
        facts[f'card {number}, memory MB'] = round(card.total_memory / 2**20)
    for what, value in facts.items():
        yield Figure(MACHINE, what, 'PyTorch', value)


def computing():
    """Yield whether a network computes at all; raises UserError where it does not."""
    try:
        network('cru56', net_multiplier=0.25)(images(2)).sum().backward()
        wait()
    except RuntimeError as error:  # no kernel image is available for execution on the device, …
        yield Figure(MACHINE, 'a network computes', 'PyTorch', f'no: {str(error).splitlines()[0]}')
        raise UserError(f'PyTorch does not compute on this card: {str(error).splitlines()[0]}')
    yield Figure(MACHINE, 'a network computes', 'PyTorch', 'yes')


def cases(_quick):
    """Return {case: function that yields Figures}."""
    return {'described': described, 'computing': computing}
