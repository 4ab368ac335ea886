"""What iResNet's authors released: their networks and ResNets, and the names of the parameters in PyTorch."""

import re

from crunet.identifiers import SUFFIXES
from netkit import networks
from netkit.graph.naming import is_original
from netkit.published import IMAGENET_MEAN, IMAGENET_STD

NETWORKS = [
    name for name in networks.NETWORKS if is_original(name) and networks.entry('network', name).net_name == 'firesnet'
]
BN_EPS = 1e-5  # PyTorch's
ENDS = {'conv0': 'conv1', 'bn0': 'bn1', 'fc1': 'fc'}  # {our layer before the first stage or after the last: theirs}
SHORTCUT = {'shortcut': 'downsample.1', 'shortcut_bn': 'downsample.2'}  # downsample.0 is the max pooling
SHORTCUT_IN_RESNET = {'shortcut': 'downsample.0', 'shortcut_bn': 'downsample.1'}
END = re.compile(r'stage\d+_unit\d+_bn_gamma')  # of the units with which iResNet's stages end
PARAMETER = re.compile(r'(?:stage(\d+)_unit(\d+)_)?(.+?)_(' + '|'.join(SUFFIXES) + ')')


def names_for(expected):
    """Return {our name: [its name in the authors' state dicts]}; an empty list if it does not exist.

    In a unit, what precedes our `conv1` is their `bn0`, so that our `bn2` is their `bn1`. The BatchNorm after the
    addition of the last unit in a stage has the number of the unit's last convolution.
    """
    shortcut = SHORTCUT if any(map(END.fullmatch, expected)) else SHORTCUT_IN_RESNET
    return {name: _names(name, expected, shortcut) for name in expected}


def _names(name, expected, shortcut):
    stage, unit, layer, kind = PARAMETER.fullmatch(name).groups()
    if not stage:
        return [f'{ENDS[layer]}.{SUFFIXES[kind]}'] if layer in ENDS else []
    if layer == 'bn':
        layer = 'bn3' if f'stage{stage}_unit{unit}_conv3_weight' in expected else 'bn2'
    elif layer.startswith('bn'):
        layer = f'bn{int(layer[2:]) - 1}'
    return [f'layer{stage}.{int(unit) - 1}.{shortcut.get(layer, layer)}.{SUFFIXES[kind]}']


def settings_for(network):
    """Return the settings with which a network computes what the authors' does; their ResNet is the paper's."""
    origin = {} if network.startswith('resnet') else {'net_origin': 'release'}
    return {**origin, 'net_mean': IMAGENET_MEAN, 'net_std': IMAGENET_STD}
