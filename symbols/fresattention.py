"""Residual Attention Network and AttentionNeXt: residual stages whose features are weighted by learnt soft masks.

Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: "Residual Attention Network for Image Classification",
CVPR 2017, arXiv 1704.06904. The face form follows the face networks of 2018: 112x112, improved unit, PReLU,
option E, and the "dense" reading of the mask's way up.
"""

from typing import NamedTuple, Tuple

import mxnet as mx

from face_blocks import (
    POST_ACTIVATION,
    PRE_ACTIVATION,
    Conv,
    Layers,
    bottleneck,
    changes_shape,
    choose,
    close_unit,
    conv_chain,
    enter_branch,
    head,
    is_release,
    is_sum,
    project,
    read_config,
    recompute,
    stem,
)

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
# Of which the authors released a definition, for Caffe: its max poolings have no padding.
RELEASED = (56, 92)
# {groups of the 3x3 convolution: output width / K}: bottlenecks, and the ResNeXt units of AttentionNeXt.
WIDTH_DIVISOR = {1: 4, 32: 2}


class Widths(NamedTuple):
    """The widths of a stage's units, all bottlenecks."""

    num_filter: int  # of the output
    width: int  # K, of the inner convolutions
    num_group: int  # of the 3x3 convolution


class Attention(NamedTuple):
    """What the attention modules of a stage have in common."""

    widths: Widths
    poolings: int  # in the mask
    padded: bool  # its poolings
    depth: Depth
    up: str  # the reading of the mask's way up, see `soft_mask`


def unit(layers, data, widths, name, stride=1):
    """Build a bottleneck unit: any channels to widths.num_filter, the size divided by `stride`.

    A unit that changes the shape has a projection as its shortcut. In a pre-activation unit the projection
    takes the output of the branch's first BN-A and has no BN of its own (the authors' definition).
    """
    form = layers.settings.net_unit
    convs = bottleneck(widths.width, widths.num_filter, stride, widths.num_group)
    entry = enter_branch(layers, data, form, name)
    shortcut = data
    if changes_shape(data, widths.num_filter, stride):
        conv = Conv(widths.num_filter, stride=stride)
        if form == PRE_ACTIVATION:
            shortcut = layers.keep_consumer(layers.conv(entry, conv, name + '_shortcut'), name + '_shortcut')
        else:
            shortcut = project(layers, data, conv, form, name + '_shortcut')
    return close_unit(layers, entry, shortcut, convs, form, name)


def units(layers, data, widths, count, name):
    """Chain `count` units, named `name` + 1, 2, …"""
    for number in range(1, count + 1):
        data = unit(layers, data, widths, '%s%d' % (name, number))
    return data


def soft_mask(layers, data, trunk, attention, name):
    """Build a soft mask, values in 0…1, of the shape of `data` (paper, figure 2).

    Down: several times max pooling and r units. Up, per level: r units, resize to the level above, add its
    skip connection (one unit on that level's output). There are two published readings of the way `up`:
    'paper' is this; 'dense' also adds the level's output itself and, at the top, the map `trunk`.
    """
    widths, count, levels = attention.widths, attention.depth.r, [data]
    for level in range(1, attention.poolings + 1):
        data = layers.pool(data, '%s_down%d_pool' % (name, level), attention.padded)
        data = units(layers, data, widths, count, '%s_down%d_unit' % (name, level))
        levels.append(data)
    for level in range(attention.poolings, 0, -1):
        level_name = '%s_up%d' % (name, level)
        if level < attention.poolings:
            skip = unit(layers, levels[level], widths, '%s_skip%d' % (name, level))
            data = layers.add(data, skip, level_name + '_plus_skip')
            if attention.up == 'dense':
                data = layers.add(data, levels[level], level_name + '_plus_down')
        data = units(layers, data, widths, count, level_name + '_unit')
        data = layers.resize(data, levels[level - 1].size, level_name + '_resize')
    if attention.up == 'dense':
        data = layers.add(data, trunk, name + '_plus_trunk')

    # Two 1x1 convolutions, each after BN-A; post-activation units have activated the input already.
    if layers.settings.net_unit != POST_ACTIVATION:
        data = enter_branch(layers, data, PRE_ACTIVATION, name)
    data = conv_chain(layers, data, (Conv(widths.num_filter),) * 2, PRE_ACTIVATION, name)
    return layers.sigmoid(data, name + '_sigmoid')


def attention_module(layers, data, attention, name):
    """Build an attention module: p units, (1 + mask) x trunk, one unit; it keeps the shape (paper, section 3)."""
    data = units(layers, data, attention.widths, attention.depth.p, name + '_unit')
    trunk = units(layers, data, attention.widths, attention.depth.t, name + '_trunk_unit')
    mask = soft_mask(layers, data, trunk, attention, name + '_mask')
    weight = mx.sym._internal._plus_scalar(mask.symbol, scalar=1.0, name=name + '_weight')
    data = trunk._replace(symbol=mx.sym.elemwise_mul(weight, trunk.symbol, name=name + '_attend'))
    return unit(layers, data, attention.widths, name + '_close')


def is_kept(name):
    """Tell which outputs stay in memory with `memonger`: sums of units, and masks.

    Not the sums on the mask's way down, nor of the trunk's first unit: these units are recomputed in pairs.
    """
    return (is_sum(name) or name.endswith('_mask_sigmoid')) and not ('_mask_down' in name or '_trunk_unit1_' in name)


def build(num_layers, num_group=1, net_mask_up='dense', **settings):
    """Return the symbol of a Residual Attention Network.

    `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size). The masks are resized to sizes that
    follow from `image_shape`, so h and w are fixed.

    `num_layers` is a key of DEPTHS; `num_group` is 1, or 32 for AttentionNeXt; `net_mask_up` is 'dense' or
    'paper' (see `soft_mask`); `settings` are the fields of `face_blocks.Settings`, whose defaults are the
    face form. Raises SettingError for a value that is not defined.
    """
    depth = choose('num_layers', num_layers, DEPTHS)
    divisor = choose('num_group', num_group, WIDTH_DIVISOR)
    up = choose('net_mask_up', net_mask_up, ('dense', 'paper'))
    layers = Layers(**settings)
    padded = not is_release(layers, num_layers, RELEASED)
    data, stride = stem(layers, padded=padded)
    for stage, num_filter in enumerate(NUM_FILTER, 1):
        widths = Widths(layers.width(num_filter), layers.width(num_filter // divisor, num_group), num_group)
        data = unit(layers, data, widths, 'stage%d_unit1' % stage, stride)
        stride = 2
        if stage <= len(POOLINGS):
            attention = Attention(widths, POOLINGS[stage - 1], padded, depth, up)
            for module in range(1, depth.modules[stage - 1] + 1):
                data = attention_module(layers, data, attention, 'stage%d_attention%d' % (stage, module))
    for number in range(2, CLOSING_UNITS + 1):
        data = unit(layers, data, widths, 'stage%d_unit%d' % (stage, number))
    recompute(layers, data, kept=is_kept)
    return head(layers, data, open_end=layers.settings.net_unit == PRE_ACTIVATION)


def get_symbol():
    """Return the symbol that the host's config describes, by the convention of insightface."""
    return build(**read_config(build))
