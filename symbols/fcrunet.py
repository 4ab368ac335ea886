"""CRU-Net: residual networks whose units share their first two convolutions.

Chen, Jin, Kang, Feng, Yan: "Sharing Residual Units Through Collective Tensor Factorization To Improve Deep
Neural Networks", IJCAI 2018, arXiv 1703.02180. The default face network is the one
described in 2018 (112x112, improved unit, PReLU, option E). The code released with LFW 0.99867 is
another network, `net_origin='release'`; RELEASED lists the differences.
"""

from typing import Dict, NamedTuple, Tuple

import mxnet as mx

from face_blocks import (
    Conv,
    Layers,
    bottleneck,
    changes_shape,
    close_unit,
    enter_branch,
    head,
    is_sum,
    project,
    recompute,
    stem,
)
from face_settings import IMPROVED, PRE_ACTIVATION, choose, noted, read_config

CARDINALITY = 32  # groups of the units that are not collective ("32x4d" in the paper)


class Unit(NamedTuple):
    """Differences of a released network's units from the described ones (the defaults)."""

    stride_on_last: bool = False  # the stride is the last 1x1 convolution's, not the 3x3's
    active_entry: bool = False  # in a collective unit BN-A precedes the first convolution, not BN alone
    own_shortcut: bool = False  # the projection of a collective unit's shortcut has a separate weight


class Stage(NamedTuple):
    """A row of the paper's table of architectures."""

    units: int
    num_filter: int  # width of the units' output
    width: int  # K, width of the units' inner convolutions
    sharing: int = 0  # units per sharing group; 0: ResNeXt units, which share nothing
    unit: Unit = Unit()


class Origin(NamedTuple):
    """A version of the network (`net_origin`): its stages, and the settings that replace the defaults."""

    stages: Dict[int, Tuple[Stage, ...]]
    settings: Dict[str, object] = {}


# The paper's table of architectures: 56 is "32x4d @x14", 116 is "32x4d @x28x14".
STAGES = {
    56: (Stage(3, 256, 128), Stage(4, 512, 256), Stage(6, 1024, 640, sharing=6), Stage(3, 2048, 1024)),
    116: (Stage(3, 256, 128), Stage(6, 512, 352, sharing=6), Stage(18, 1024, 704, sharing=6), Stage(3, 2048, 1024)),
}
# The 2018 face code: the paper's 116, a wider 56 with a second collective stage, all differences of Unit.
UNIT_OF_2018 = Unit(stride_on_last=True, active_entry=True, own_shortcut=True)
STAGES_OF_2018 = {
    depth: tuple(stage._replace(unit=UNIT_OF_2018) for stage in stages)
    for depth, stages in {
        56: (Stage(3, 256, 128), Stage(4, 512, 640, sharing=4), Stage(6, 1024, 1280, sharing=6), Stage(3, 2048, 1024)),
        116: STAGES[116],
    }.items()
}
# {(net_unit, whether it is the ImageNet classifier): {net_origin: Origin}}
RELEASED = {
    (IMPROVED, False): {'release': Origin(STAGES_OF_2018, {'net_bn_eps': 1e-3})},  # fcrunet.py of 2018
    (PRE_ACTIVATION, True): {'release': Origin(STAGES, {'net_bn_eps': 1e-3})},  # the paper's authors
}


def resnext_unit(layers, data, stage, stride, name):
    """Build a bottleneck with a 32-group 3x3: any channels to stage.num_filter, the size divided by `stride`."""
    form = layers.settings.net_unit
    convs = bottleneck(stage.width, stage.num_filter, stride, CARDINALITY, stage.unit.stride_on_last)
    shortcut = data
    if changes_shape(data, stage.num_filter, stride):
        shortcut = project(layers, data, Conv(stage.num_filter, stride=stride), form, name + '_shortcut')
    return close_unit(layers, enter_branch(layers, data, form, name), shortcut, convs, form, name)


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
        of_shortcut = Conv(stage.num_filter) if stage.unit.own_shortcut else projection
        shortcut = project(layers, data, of_shortcut._replace(stride=stride), form, name + '_shortcut')
        data = project(layers, data, projection, form, name + '_project')
    middle, last = (1, stride) if stage.unit.stride_on_last else (stride, 1)
    convs = (
        Conv(stage.width, weight=shared[0]),
        Conv(stage.width, 3, middle, num_group=stage.width, weight=shared[1], joined=True),
        Conv(stage.width),
        Conv(stage.num_filter, stride=last),
    )
    entry = enter_branch(layers, data, PRE_ACTIVATION if stage.unit.active_entry else form, name)
    return close_unit(layers, entry, shortcut, convs, form, name)


@noted
def build(num_layers, **settings):
    """Return the symbol of a CRU-Net: `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size).

    `num_layers` is 56 or 116; `settings` are the fields of `face_settings.Settings`, whose defaults are the
    face network as described, not as released (`net_origin`). Raises SettingError for a value that is not defined.
    """
    choose('num_layers', num_layers, STAGES)
    layers = Layers(**settings)
    released = RELEASED.get((layers.settings.net_unit, layers.is_classifier()), {})
    origin = layers.adopt(Origin(STAGES), released, {'num_layers': num_layers})
    data, stride = stem(layers)
    for stage_number, stage in enumerate(origin.stages[num_layers], 1):
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
    """Return the symbol that insightface's config describes (insightface's entry point)."""
    return build(**read_config(build))
