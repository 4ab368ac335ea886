"""CRU-Net: residual networks whose units share their first two convolutions.

Chen, Jin, Kang, Feng, Yan: "Sharing Residual Units Through Collective Tensor Factorization To Improve Deep
Neural Networks", IJCAI 2018, arXiv 1703.02180. The face form (112x112, improved unit, PReLU, option E) was
first published in 2018 with LFW 0.99867.
"""

from typing import NamedTuple

import mxnet as mx

from face_blocks import (
    PRE_ACTIVATION,
    Conv,
    Layers,
    bottleneck,
    changes_shape,
    choose,
    head,
    is_release,
    is_sum,
    project,
    read_config,
    recompute,
    residual_unit,
    stem,
)

CARDINALITY = 32  # groups of the units that are not collective ("32x4d" in the paper)


class Stage(NamedTuple):
    """A row of the paper's table of architectures."""

    units: int
    num_filter: int  # width of the units' output
    width: int  # K, width of the units' inner convolutions
    sharing: int = 0  # units per sharing group; 0: ResNeXt units, which share nothing


# The paper's table of architectures: 56 is "32x4d @x14", 116 is "32x4d @x28x14".
STAGES = {
    56: (Stage(3, 256, 128), Stage(4, 512, 256), Stage(6, 1024, 640, sharing=6), Stage(3, 2048, 1024)),
    116: (Stage(3, 256, 128), Stage(6, 512, 352, sharing=6), Stage(18, 1024, 704, sharing=6), Stage(3, 2048, 1024)),
}


def resnext_unit(layers, data, stage, stride, name):
    """Build a bottleneck with a 32-group 3x3: any channels to stage.num_filter, the size divided by `stride`."""
    form = layers.settings.net_unit
    convs = bottleneck(stage.width, stage.num_filter, stride, CARDINALITY)
    shortcut = data
    if changes_shape(data, stage.num_filter, stride):
        shortcut = project(layers, data, Conv(stage.num_filter, stride=stride), form, name + '_shortcut')
    return residual_unit(layers, data, shortcut, convs, form, name)


def shared_weights(name):
    """Return the weights of the two convolutions that the units of the sharing group `name` share."""
    return mx.sym.Variable(name + '_conv1_weight'), mx.sym.Variable(name + '_conv2_weight')


def collective_unit(layers, data, stage, stride, shared, name):
    """Build a collective residual unit, C(1,K) - C(3,K, depthwise) - C(1,K) - C(1,num_filter).

    `shared` are the weights of the first two convolutions; the other two, every BN and every PReLU slope
    belong to the unit. A unit that changes the shape projects its input, so that it fits the shared weights,
    and uses the same projection, at the unit's stride, for the shortcut.
    """
    form = layers.settings.net_unit
    shortcut = data
    if changes_shape(data, stage.num_filter, stride):
        projection = Conv(stage.num_filter, weight=mx.sym.Variable(name + '_project_weight'))
        shortcut = project(layers, data, projection._replace(stride=stride), form, name + '_shortcut')
        data = project(layers, data, projection, form, name + '_project')
    convs = (
        Conv(stage.width, weight=shared[0]),
        Conv(stage.width, 3, stride, num_group=stage.width, weight=shared[1], joined=True),
        Conv(stage.width),
        Conv(stage.num_filter),
    )
    return residual_unit(layers, data, shortcut, convs, form, name)


def build(num_layers, **settings):
    """Return the symbol of a CRU-Net: `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size).

    `num_layers` is 56 or 116; `settings` are the fields of `face_blocks.Settings`, whose defaults are the
    face form. Raises SettingError for a value that is not defined.
    """
    stages = choose('num_layers', num_layers, STAGES)
    layers = Layers(**settings)
    is_release(layers, num_layers, released=())  # which raises an error for 'release'
    data, stride = stem(layers)
    for stage_number, stage in enumerate(stages, 1):
        stage = stage._replace(
            num_filter=layers.width(stage.num_filter),
            width=layers.width(stage.width, 1 if stage.sharing else CARDINALITY),
        )
        for unit in range(stage.units):
            name = 'stage%d_unit%d' % (stage_number, unit + 1)
            if not stage.sharing:
                data = resnext_unit(layers, data, stage, stride, name)
            else:
                if unit % stage.sharing == 0:
                    shared = shared_weights('stage%d_group%d' % (stage_number, unit // stage.sharing + 1))
                data = collective_unit(layers, data, stage, stride, shared, name)
            stride = 1
        stride = 2
    recompute(layers, data, kept=is_sum)
    return head(layers, data, open_end=layers.settings.net_unit == PRE_ACTIVATION)


def get_symbol():
    """Return the symbol that the host's config describes, by the convention of insightface."""
    return build(**read_config(build))
