"""What is measured, and how large: whole networks on a GPU, narrow ones on a CPU."""

import os
from typing import Any, Dict

import config as host
from netkit.errors import UserError

MEASURED = ('cru116', 'att92', 'ires50')  # speed and memory: one of each family
COMPARED = ('cru56', 'att56', 'ires50')  # correctness
COMPARED_BATCH = 8
SMALL: Dict[str, Any] = {'net_multiplier': 0.25, 'image_shape': (48, 48, 3)}  # what a CPU computes
SMALL_BATCH = 4
BATCHES = 1, 8, 64  # of inference
FACES = 'cru56'
R100 = os.path.join('recognition', 'arcface_torch', 'backbones', 'iresnet.py')  # in a checkout of insightface


def batch_of(name):
    """Return the default batch of a network choice."""
    return host.network[name]['per_batch_size']


def default_batch(name, is_gpu):
    """Return the images of a training step: those of the network choice, few on a CPU."""
    return batch_of(name) if is_gpu else SMALL_BATCH


def label(name, is_gpu):
    """Return the name of a network for a table, with its size where it is not the whole."""
    return name if is_gpu else f'{name}, a quarter as wide, 48×48'


def measured(quick):
    """Return the networks of which speed and memory are measured."""
    return MEASURED[:1] if quick else MEASURED


def path_of_r100(checkout):
    """Return the path of insightface's PyTorch iResNets in a checkout; raises UserError where there are none."""
    path = os.path.join(checkout, R100)
    if not os.path.isfile(path):
        raise UserError(f'{checkout} has no {R100}; name a checkout of insightface of 2021 or later')
    return path


def counts(devices):
    """Return the numbers of devices to measure: 1, all, and as far as the time is enough 2, 4, …"""
    return list(
        dict.fromkeys([1, devices, *(2**power for power in range(1, devices.bit_length()) if 2**power < devices)])
    )
