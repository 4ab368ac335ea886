"""The meaning of the names of networks, nodes and parameters, in one place.

A node's name tells where it is: `stage3_unit4_conv2` is in the unit `stage3_unit4`, here and in insightface;
`stage2_attention1_mask_up1_unit1_bn1` is in an attention module.
"""

import re

IMAGENET = '_imagenet'  # suffix of the choice of a network's ImageNet variant
EMBEDDING = 'fc1'  # node of the embedding, in insightface too
STEM_WEIGHT = 'conv0_weight'  # of the first convolution
STEM, HEAD = 'stem', 'head'  # the units before the first stage and after the last
ATTENTION = re.compile(r'(stage\d+_attention\d+)_')
IN_ATTENTION = re.compile(r'((?:trunk_)?unit\d+|mask_(?:down|up)\d+_unit\d+|mask_skip\d+|close)_')
MASK = '_mask'  # suffix: the nodes of an attention module that are in none of its units
SOFT_MASK = '_mask_sigmoid'  # suffix of the node that computes a soft mask
UNIT = re.compile(r'(.*(?:unit|block)_?\d+)(?:_|$)')
MASK_LEVEL = re.compile(r'mask_down(\d+)_')
ADDS = '_plus'  # suffix of an addition
ADDS_DOWN, ADDS_TRUNK = '_plus_down', '_plus_trunk'  # those in a mask's upsampling path, in its 'dense' form
FIRST_UNIT, TRUNK, CLOSING = 'unit', 'trunk_unit', 'close'  # units of an attention module, except those of its mask
ATTENDS = '_attend'  # suffix of the multiplication by the mask
SHORTCUT_WORDS = ('shortcut', 'project', '_sc', '_se_')  # in the names of layers that are not on a unit's main branch


def is_original(network):
    """Return whether a network, with or without settings after its name, is the ImageNet variant of one."""
    return network.partition(':')[0].endswith(IMAGENET)


def original_form(network):
    """Return the network of the ImageNet variant of `network`."""
    return network if is_original(network) else network + IMAGENET


def face_form(network):
    """Return the network of the face variant of `network`."""
    return network[: -len(IMAGENET)] if is_original(network) else network


def unit_of(node):
    """Return the name of the unit of a node, from the node's name; None if it has none."""
    module = ATTENTION.match(node)
    if module:
        inside = IN_ATTENTION.match(node, module.end())
        return f'{module[1]}_{inside[1]}' if inside else module[1] + MASK
    unit = UNIT.match(node)
    return unit[1] if unit else None


def mask_units(way, level):
    """Return the prefix of the names, within an attention module, of the units of a mask's `way`, 'down' or 'up'."""
    return f'mask_{way}{level}_unit'


def mask_skip(level):
    """Return the name, within an attention module, of the unit of a mask's skip connection."""
    return f'mask_skip{level}'


def stage_of(unit):
    """Return the name of the stage of a unit, from the unit's name; None if it has none."""
    if unit in (STEM, HEAD):
        return unit
    stage = re.search(r'stage_?\d+', unit)
    return stage[0] if stage else None


def short_unit(unit):
    """Return the name of a unit without its stage and attention module, with spaces."""
    return re.sub(r'^(.*_)?stage_?\d+_(attention\d+_)?(mask_)?', '', unit).replace('_', ' ')


def sharing_group(weight):
    """Return the name of the group of units that share a weight, from the weight's name."""
    return re.sub(r'_?(conv\d*)?_?weight$', '', weight)


def is_on_branch(layer):
    """Return whether a layer of a unit is on its main branch, by its name."""
    return not any(word in layer for word in SHORTCUT_WORDS)


def in_stage(module):
    """Return the name of an attention module without its stage."""
    return module.partition('_')[2]


def is_weight(parameter):
    """Return whether a parameter is the weight of a convolution or fully connected layer."""
    return parameter.endswith('_weight')


def is_label(variable):
    """Return whether a variable is the label of a loss, and no parameter."""
    return variable.endswith('label')


def is_scale(parameter):
    """Return whether a parameter is a factor, one per channel: BatchNorm's gamma or PReLU's slopes."""
    return parameter.endswith('gamma')


def is_offset(parameter):
    """Return whether a parameter is added, one per channel: BatchNorm's beta or a bias."""
    return parameter.endswith(('beta', 'bias'))


def is_variance(statistic):
    """Return whether a moving statistic is a variance."""
    return statistic.endswith('var')


def is_slope(parameter):
    """Return whether a parameter is the slopes of a PReLU, whose names end in `gamma` as BatchNorm's do."""
    return is_scale(parameter) and 'relu' in parameter
