"""iResNet: residual networks with a clean path for the signal.

Duta, Liu, Zhu, Shao: "Improved Residual Networks for Image and Video Recognition", 2020, arXiv 2004.04989. The
unit is this network's contribution, so the face form keeps it and changes only stem, activation and head;
`net_unit` does not apply.
"""

from face_blocks import (
    POST_ACTIVATION,
    PRE_ACTIVATION,
    Conv,
    Layers,
    add_branch,
    bottleneck,
    choose,
    enter_branch,
    head,
    is_sum,
    project,
    read_config,
    recompute,
    stem,
)

NUM_FILTER = (256, 512, 1024, 2048)  # output width of the four stages; K is a quarter of it

# Units of each stage (paper, table 1).
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def start_unit(layers, data, convs, name):
    """Build the first unit of a stage: C-BN-A-C-BN-A-C-BN plus the improved shortcut, nothing after the addition.

    The improved shortcut (paper, section 3.2) halves the map by max pooling 3x3/2, which sees every position,
    before the 1x1 projection; a strided 1x1 convolution would skip three of four.
    """
    shortcut = layers.pool(data, name + '_shortcut_pool')
    shortcut = project(layers, shortcut, Conv(convs[-1].num_filter), POST_ACTIVATION, name + '_shortcut')
    return add_branch(layers, data, shortcut, convs, POST_ACTIVATION, name)


def middle_unit(layers, data, convs, name, after_start=False):
    """Build a pre-activation unit; the one `after_start` omits its first BN, since the start unit ended with one."""
    entry = layers.act(data, name + '_relu1') if after_start else enter_branch(layers, data, PRE_ACTIVATION, name)
    return add_branch(layers, entry, data, convs, PRE_ACTIVATION, name)


def end_unit(layers, data, convs, name):
    """Build the last unit of a stage: a middle unit with BN-A after the addition."""
    return layers.norm_act(middle_unit(layers, data, convs, name), name + '_bn', name + '_relu')


def build(num_layers, **settings):
    """Return the symbol of an iResNet: `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size).

    `num_layers` is a key of UNITS; `settings` are the fields of `face_blocks.Settings`, whose defaults are
    the face form. Raises SettingError for a value that is not defined.
    """
    stages = choose('num_layers', num_layers, UNITS)
    layers = Layers(**settings)
    data, stride = stem(layers, max_pool=False)
    for stage, (units, num_filter) in enumerate(zip(stages, NUM_FILTER), 1):
        name = 'stage%d_unit' % stage + '%d'
        width, num_filter = layers.width(num_filter // 4), layers.width(num_filter)
        data = start_unit(layers, data, bottleneck(width, num_filter, stride), name % 1)
        convs = bottleneck(width, num_filter, 1)
        for unit in range(2, units):
            data = middle_unit(layers, data, convs, name % unit, after_start=unit == 2)
        data = end_unit(layers, data, convs, name % units)
    recompute(layers, data, kept=is_sum)
    return head(layers, data, open_end=False)


def get_symbol():
    """Return the symbol that the host's config describes, by the convention of insightface."""
    return build(**read_config(build))
