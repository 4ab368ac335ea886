"""Residual Attention Network and AttentionNeXt: residual stages whose features are weighted by learnt soft masks.

Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: "Residual Attention Network for Image Classification",
CVPR 2017, arXiv 1704.06904. The face network follows those of 2018: 112x112, improved unit, PReLU,
option E, and the "dense" reading of the mask's upsampling path. RELEASED lists the differences of released code.
"""

from typing import Dict, NamedTuple, Tuple

import mxnet as mx

from face_blocks import (
    Conv,
    Layers,
    bottleneck,
    changes_shape,
    close_unit,
    conv_chain,
    enter_branch,
    head,
    is_sum,
    project,
    recompute,
    stem,
)
from face_settings import IMPROVED, POST_ACTIVATION, PRE_ACTIVATION, choose, noted, read_config

NUM_FILTER = (256, 512, 1024, 2048)  # output width of the four stages
POOLINGS = (3, 2, 1)  # in a mask of stage 1, 2, 3: each ends at the size of stage 4
CLOSING_UNITS = 3  # units of stage 4, which has no attention


class Depth(NamedTuple):
    """The paper's hyper-parameters: attention modules of stage 1, 2, 3, and the units of a module."""

    modules: Tuple[int, int, int]
    p: int = 1  # units before the module splits into trunk and mask
    t: int = 2  # units of the trunk
    r: int = 1  # units between two resizings of the mask


DEPTHS = {
    56: Depth((1, 1, 1)),
    92: Depth((1, 2, 3)),
    128: Depth((2, 3, 4)),
    164: Depth((3, 4, 5)),
    200: Depth((4, 5, 6)),
    236: Depth((5, 6, 7)),
    452: Depth((5, 6, 7), p=2, t=4, r=3),
}
# {groups of the 3x3 convolution: output width / K}: bottlenecks, and the ResNeXt units of AttentionNeXt.
WIDTH_DIVISOR = {1: 4, 32: 2}


class Origin(NamedTuple):
    """A version of the network: the defaults are the paper's; released code differs in the fields."""

    settings: Dict[str, object] = {}  # in place of the defaults
    padded: bool = True  # the max poolings; else as Caffe has them
    pooled_stem: bool = True  # a 7x7/2 stem has max pooling
    stride_on_last: bool = False  # a unit's stride is its last 1x1 convolution's, not the 3x3's


# {(num_group, net_unit, whether it is the ImageNet classifier): {net_origin: Origin}}, of the depths RELEASED_DEPTHS.
RELEASED = {
    (1, IMPROVED, False): {
        'release': Origin({'net_bn_eps': 1e-3, 'net_se_bias': False}, stride_on_last=True),  # fresattnet.py of 2018
        'facexzoo': Origin(
            {'net_bn_eps': 1e-5, 'net_unit': PRE_ACTIVATION, 'net_act': 'relu', 'net_input': 0, 'net_output': 'K'},
            pooled_stem=False,
        ),
    },
    # The authors' own definitions, for Caffe.
    (1, PRE_ACTIVATION, True): {'release': Origin(padded=False)},
    (32, POST_ACTIVATION, True): {'release': Origin(padded=False)},
}
RELEASED_DEPTHS = (56, 92)


class Stage(NamedTuple):
    """Common properties of a stage's units, all bottlenecks."""

    num_filter: int  # width of the output
    width: int  # K, of the inner convolutions
    num_group: int  # of the 3x3 convolution
    origin: Origin


class Attention(NamedTuple):
    """Common properties of a stage's attention modules."""

    stage: Stage
    poolings: int  # in the mask
    depth: Depth
    up: str  # the reading of the mask's upsampling path, see `soft_mask`


def unit(layers, data, stage, name, stride=1):
    """Build a bottleneck unit: any channels to stage.num_filter, the size divided by `stride`.

    A unit that changes the shape has a projection as its shortcut. In a pre-activation unit the projection
    takes the output of the branch's first BN-A and has no BN of its own (the authors' definition).
    """
    form = layers.settings.net_unit
    convs = bottleneck(stage.width, stage.num_filter, stride, stage.num_group, stage.origin.stride_on_last)
    entry = enter_branch(layers, data, form, name)
    shortcut = data
    if changes_shape(data, stage.num_filter, stride):
        conv = Conv(stage.num_filter, stride=stride)
        if form == PRE_ACTIVATION:
            shortcut = layers.keep_consumer(layers.conv(entry, conv, name + '_shortcut'), name + '_shortcut')
        else:
            shortcut = project(layers, data, conv, form, name + '_shortcut')
    return close_unit(layers, entry, shortcut, convs, form, name)


def units(layers, data, stage, count, name):
    """Chain `count` units, named `name` + 1, 2, …"""
    for number in range(1, count + 1):
        data = unit(layers, data, stage, '%s%d' % (name, number))
    return data


def soft_mask(layers, data, trunk, attention, name):
    """Build a soft mask, values in 0…1, of the shape of `data` (paper, figure 2).

    Down, repeated: max pooling and r units. Up, per level: r units, resize to the level above, add its
    skip connection (one unit on that level's output). The path `up` has two published readings:
    'paper' is this; 'dense' also adds the level's output itself and, at the top, the map `trunk`.
    """
    stage, count, levels = attention.stage, attention.depth.r, [data]
    for level in range(1, attention.poolings + 1):
        data = layers.pool(data, '%s_down%d_pool' % (name, level), stage.origin.padded)
        data = units(layers, data, stage, count, '%s_down%d_unit' % (name, level))
        levels.append(data)
    for level in range(attention.poolings, 0, -1):
        level_name = '%s_up%d' % (name, level)
        if level < attention.poolings:
            skip = unit(layers, levels[level], stage, '%s_skip%d' % (name, level))
            data = layers.add(data, skip, level_name + '_plus_skip')
            if attention.up == 'dense':
                data = layers.add(data, levels[level], level_name + '_plus_down')
        data = units(layers, data, stage, count, level_name + '_unit')
        data = layers.resize(data, levels[level - 1].size, level_name + '_resize')
    if attention.up == 'dense':
        data = layers.add(data, trunk, name + '_plus_trunk')

    # Two 1x1 convolutions, each after BN-A; post-activation units have activated the input already.
    if layers.settings.net_unit != POST_ACTIVATION:
        data = enter_branch(layers, data, PRE_ACTIVATION, name)
    data = conv_chain(layers, data, (Conv(stage.num_filter),) * 2, PRE_ACTIVATION, name)
    return layers.sigmoid(data, name + '_sigmoid')


def attention_module(layers, data, attention, name):
    """Build an attention module: p units, (1 + mask) x trunk, one unit; it keeps the shape (paper, section 3)."""
    data = units(layers, data, attention.stage, attention.depth.p, name + '_unit')
    trunk = units(layers, data, attention.stage, attention.depth.t, name + '_trunk_unit')
    mask = soft_mask(layers, data, trunk, attention, name + '_mask')
    weight = mx.sym._internal._plus_scalar(mask.symbol, scalar=1.0, name=name + '_weight')
    data = trunk._replace(symbol=mx.sym.elemwise_mul(weight, trunk.symbol, name=name + '_attend'))
    return unit(layers, data, attention.stage, name + '_close')


def is_kept(name):
    """Return whether the output `name` stays in memory with `memonger`: sums of units, and masks.

    Except sums of the mask's downsampling path and the trunk's first unit: these units are recomputed in pairs.
    """
    return (is_sum(name) or name.endswith('_mask_sigmoid')) and not ('_mask_down' in name or '_trunk_unit1_' in name)


@noted
def build(num_layers, num_group=1, net_mask_up='dense', **settings):
    """Return the symbol of a Residual Attention Network.

    `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size). The masks are resized to sizes that
    follow from `image_shape`, so h and w are fixed.

    `num_layers` is a key of DEPTHS; `num_group` is 1, or 32 for AttentionNeXt; `net_mask_up` is 'dense' or
    'paper' (see `soft_mask`); `settings` are the fields of `face_settings.Settings`, whose defaults are the
    face network that was described in 2018; see RELEASED for other origins. Raises SettingError for a value that is not
    defined.
    """
    depth = choose('num_layers', num_layers, DEPTHS)
    divisor = choose('num_group', num_group, WIDTH_DIVISOR)
    up = choose('net_mask_up', net_mask_up, ('dense', 'paper'))
    layers = Layers(**settings)
    kind = num_group, layers.settings.net_unit, layers.is_classifier()
    released = RELEASED.get(kind, {}) if num_layers in RELEASED_DEPTHS else {}
    origin = layers.adopt(Origin(), released, {'num_layers': num_layers, 'num_group': num_group})
    data, _ = stem(layers, origin.pooled_stem, origin.padded)
    stride = 1 if layers.settings.net_input == 0 else 2
    for number, num_filter in enumerate(NUM_FILTER, 1):
        stage = Stage(layers.width(num_filter), layers.width(num_filter // divisor, num_group), num_group, origin)
        data = unit(layers, data, stage, 'stage%d_unit1' % number, stride)
        stride = 2
        if number <= len(POOLINGS):
            attention = Attention(stage, POOLINGS[number - 1], depth, up)
            for module in range(1, depth.modules[number - 1] + 1):
                data = attention_module(layers, data, attention, 'stage%d_attention%d' % (number, module))
    for closing in range(2, CLOSING_UNITS + 1):
        data = unit(layers, data, stage, 'stage%d_unit%d' % (number, closing))
    recompute(layers, data, kept=is_kept)
    return head(layers, data, open_end=layers.settings.net_unit == PRE_ACTIVATION)


def get_symbol():
    """Return the symbol that insightface's config describes (insightface's entry point)."""
    return build(**read_config(build))
