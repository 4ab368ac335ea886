"""What to measure: NETWORK or NETWORK:SETTING=VALUE,…; for the report whole networks on a GPU, narrow ones on a CPU.

MXNet is imported with the first symbol: where PyTorch is measured it may be absent.
"""

import os
from typing import Any, Dict, NamedTuple

import config as host
from netkit.errors import UserError

REWRITTEN = 'rewritten'  # whether the symbol is rewritten for the CPU on which it is timed
# Words in place of settings: the network as insightface builds it, and by MXNet's own operators as in the papers.
WORDS = {'insightface': {REWRITTEN: False}, 'plain': {REWRITTEN: False, 'net_prelu': 'op', 'memonger': False}}
# Of the report.
SPEED, CORRECTNESS, FACES = ('cru116', 'att92', 'ires50'), ('cru56', 'att56', 'ires50'), 'cru56'
SMALL: Dict[str, Any] = {'net_multiplier': 0.25, 'image_shape': (48, 48, 3)}  # what a CPU computes
SMALL_BATCH, COMPARED_BATCH = 4, 8  # images of a training step: on a CPU; where it is compared with the CPU's
BATCHES = 1, 8, 64  # of inference
R100 = os.path.join('recognition', 'arcface_torch', 'backbones', 'iresnet.py')  # in a checkout of insightface


class Choice(NamedTuple):
    """A network, and the settings that differ from those that suit the device."""

    label: str
    network: str
    overrides: dict
    rewritten: bool = True

    def settings(self, device='gpu'):
        """Return the settings for `device`; those for a 'gpu', and of what is not rewritten, are insightface's."""
        from netkit.networks import settings_for, settings_of

        suited = settings_for(device) if self.rewritten else {}
        return settings_of(self.network, **{**suited, **self.overrides})

    def build(self, device='gpu', training=True, **changes):
        """Return (symbol, image_shape) as it is bound on `device`, with `changes` to the settings."""
        from netkit.graph.cpu_forms import for_cpu
        from netkit.networks import build

        settings = {**self.settings(device), **changes}
        symbol, image_shape = build(self.network, **settings), settings['image_shape']
        if device == 'cpu' and self.rewritten:
            symbol = for_cpu(symbol, image_shape, training)
        return symbol, image_shape

    @property
    def per_batch_size(self):
        """The default batch of the network."""
        return host.network[self.network]['per_batch_size']

    @property
    def image_shape(self):
        """(height, width, channels) of a face network's images."""
        return self.overrides.get('image_shape', (112, 112, 3))


def parse_choice(text):
    """Return the Choice that `text` describes; raises UserError for a network or setting that does not exist."""
    from netkit.networks import parse

    network, overrides = parse(text, WORDS)
    return Choice(text, network, overrides, overrides.pop(REWRITTEN, True))


def choice_of(name, is_gpu):
    """Return the Choice of a network that the report measures."""
    return Choice(name, name, {}) if is_gpu else Choice(f'{name}, a quarter as wide, 48×48', name, dict(SMALL))


def batch_of(name, is_gpu):
    """Return the images of a training step that the report measures: the network's, few on a CPU."""
    return host.network[name]['per_batch_size'] if is_gpu else SMALL_BATCH


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
