"""The networks of gluoncv2: their names, and those of their parameters."""

import re

from netkit import networks
from netkit.errors import UserError
from netkit.published import IMAGENET_MEAN, IMAGENET_STD

# {network: name in gluoncv2}, patterns.
PEERS = ((r'cru(\d+)_imagenet', r'crunet\1'), (r'att(\d+)_imagenet', r'resattnet\1'))
NETWORKS = [name for name in networks.NETWORKS if any(re.fullmatch(ours, name) for ours, _ in PEERS)]  # that it has
BN_EPS = 1e-5
# Prefixes of parameters, ours and theirs. {a}, {b}, … are the numbers in ours, {a0}, … the same counted from 0.
PLACES = [
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r'conv0_', 'features.0.conv.conv.'),
        (r'bn0_', 'features.0.conv.bn.'),
        (r'bn1_', 'features.5.bn.'),
        (r'fc1_', 'output.1.'),
        (r'stage(\d)_group(\d+)_conv1_', 'features.{a}.{b0_group}.body.conv1.conv.'),
        (r'stage(\d)_group(\d+)_conv2_', 'features.{a}.{b0_group}.body.conv2.'),
        (r'stage(\d)_unit(\d+)_', 'features.{a}.{b0}.'),
        (r'stage(\d)_attention(\d+)_unit(\d+)_', 'features.{a}.{b}.init_blocks.blocks.{c0}.'),
        (r'stage(\d)_attention(\d+)_trunk_unit(\d+)_', 'features.{a}.{b}.hg.skip_seq.0.blocks.{c0}.'),
        (
            r'stage(\d)_attention(\d+)_mask_down(\d)_unit(\d+)_',
            'features.{a}.{b}.hg.down_seq.{c0}.res_blocks.blocks.{d0}.',
        ),
        (r'stage(\d)_attention(\d+)_mask_up(\d)_unit(\d+)_', 'features.{a}.{b}.hg.up_seq.{c0}.res_blocks.blocks.{d0}.'),
        (r'stage(\d)_attention(\d+)_mask_skip(\d)_', 'features.{a}.{b}.hg.skip_seq.{c}.skip1.'),
        (r'stage(\d)_attention(\d+)_mask_bn(\d)_', 'features.{a}.{b}.middle_block.conv{c}.bn.'),
        (r'stage(\d)_attention(\d+)_mask_conv(\d)_', 'features.{a}.{b}.middle_block.conv{c}.conv.'),
        (r'stage(\d)_attention(\d+)_close_', 'features.{a}.{b}.final_block.'),
    )
]
# The layers of a unit, ours and theirs.
LAYERS = [
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r'bn(\d)_', 'body.conv{a}.bn.'),
        (r'conv(\d)_', 'body.conv{a}.conv.'),
        (r'project_bn_', 'input_conv.bn.'),
        (r'project_', 'input_conv.conv.'),
        (r'shortcut_bn_', 'identity_conv.bn.'),
        (r'shortcut_', 'identity_conv.conv.'),
    )
]
SUFFIXES = {
    'weight': 'weight',
    'bias': 'bias',
    'gamma': 'gamma',
    'beta': 'beta',
    'moving_mean': 'running_mean',
    'moving_var': 'running_var',
}
SHARING = 6  # units in a sharing group; gluoncv2 numbers the group by its first unit


def _rename(table, name):
    """Return (their prefix, the rest of our name) by the first row of `table` that matches."""
    for ours, theirs in table:
        match = ours.match(name)
        if match:
            numbers = dict(zip('abcd', map(int, match.groups())))
            counted = {letter + '0': number - 1 for letter, number in numbers.items()}
            group = SHARING * (numbers.get('b', 1) - 1)
            return theirs.format(b0_group=group, **numbers, **counted), name[match.end() :]
    return '', name


def gluoncv2_name(name, attention):
    """Return the name of our parameter `name` in gluoncv2, None if it does not exist.

    `attention` tells a Residual Attention Network: the projection of its shortcut is a bare convolution.
    """
    place, rest = _rename(PLACES, name)
    layer, rest = _rename(LAYERS, rest)
    if attention and layer == 'identity_conv.conv.':
        layer = 'identity_conv.'
    return place + layer + SUFFIXES[rest] if place and rest in SUFFIXES else None


def copies(name, theirs):
    """Return the other names under which gluoncv2 stores our parameter `name`, `theirs` there, if it is shared."""
    if name.endswith('_project_weight'):
        return [theirs.replace('input_conv', 'identity_conv')]
    if '_group' in name:
        stage, first, layer = re.match(r'features\.(\d)\.(\d+)\.(.*)', theirs).groups()
        return [f'features.{stage}.{int(first) + number}.{layer}' for number in range(1, SHARING)]
    return []


def names_for(expected):
    """Return {our name: its names in gluoncv2, where a shared weight has several; none if it does not exist}."""
    attention = any('_attention' in name for name in expected)
    found = {}
    for name in expected:
        theirs = gluoncv2_name(name, attention)
        found[name] = [theirs, *copies(name, theirs)] if theirs else []
    return found


def peer_name(network):
    """Return the name of a network in gluoncv2; raises UserError if it does not exist."""
    for ours, theirs in PEERS:
        if re.fullmatch(ours, network):
            return re.sub(ours, theirs, network)
    raise UserError(f'gluoncv2 has no peer of {network}; it has cru56_imagenet, cru116_imagenet and att…_imagenet')


def settings_for(network):
    """Return the settings with which a network computes what gluoncv2's network does."""
    settings = {'net_mean': IMAGENET_MEAN, 'net_std': IMAGENET_STD}
    return dict(settings, net_mask_up='dense') if network.startswith('att') else settings
