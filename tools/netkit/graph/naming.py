"""What names say: of network choices, and of the nodes of a network. All that the tools know of names is here.

A node's name tells its place: `stage3_unit4_conv2` is in the unit `stage3_unit4`, here and in insightface;
`stage2_attention1_mask_up1_unit1_bn1` is in an attention module.
"""
import re

IMAGENET = '_imagenet'  # suffix of the choice of a network's original form
EMBEDDING = 'fc1'  # node of the embedding, in insightface too
STEM_WEIGHT = 'conv0_weight'  # of the first convolution
STEM, HEAD = 'stem', 'head'  # units of their own
ATTENTION = re.compile(r'(stage\d+_attention\d+)_')
IN_ATTENTION = re.compile(r'((?:trunk_)?unit\d+|mask_(?:down|up)\d+_unit\d+|mask_skip\d+|close)_')
MASK = '_mask'  # suffix of an attention module's name: the nodes in it that are in none of its units
SOFT_MASK = '_mask_sigmoid'  # suffix of the node that computes a soft mask
UNIT = re.compile(r'(.*(?:unit|block)_?\d+)(?:_|$)')
BESIDE = ('shortcut', 'project', '_sc', '_se_')  # in names of layers of a unit that are not on its main branch


def is_original(network):
    """Tell whether a network choice is the original form of a network, for ImageNet."""
    return network.endswith(IMAGENET)


def original_form(network):
    """Return the network choice of the original form of `network`."""
    return network if is_original(network) else network + IMAGENET


def face_form(network):
    """Return the network choice of the face form of `network`."""
    return network[:-len(IMAGENET)] if is_original(network) else network


def unit_of(node):
    """Return the name of the unit that the name of a node puts it in, or None."""
    module = ATTENTION.match(node)
    if module:
        inside = IN_ATTENTION.match(node, module.end())
        return f'{module[1]}_{inside[1]}' if inside else module[1] + MASK
    unit = UNIT.match(node)
    return unit[1] if unit else None


def stage_of(unit):
    """Return the name of the stage that the name of a unit puts it in, or None."""
    if unit in (STEM, HEAD):
        return unit
    stage = re.search(r'stage_?\d+', unit)
    return stage[0] if stage else None


def short_unit(unit):
    """Return the name of a unit without its stage and attention module, in words."""
    return re.sub(r'^(.*_)?stage_?\d+_(attention\d+_)?(mask_)?', '', unit).replace('_', ' ')


def sharing_group(weight):
    """Return the name of the group of units that share the weight of this name."""
    return re.sub(r'_?(conv\d*)?_?weight$', '', weight)


def is_on_branch(layer):
    """Tell whether a layer of a unit is on its main branch, by its name."""
    return not any(word in layer for word in BESIDE)


def is_slope(parameter):
    """Tell whether a parameter is the slopes of a PReLU, which end in `gamma` as BatchNorm's do."""
    return parameter.endswith('gamma') and 'relu' in parameter
