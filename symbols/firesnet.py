"""iResNet, iResGroup and iResGroupFix: residual networks with a clean path for the signal.

Duta, Liu, Zhu, Shao: "Improved Residual Networks for Image and Video Recognition", 2020, arXiv 2004.04989. The
unit is this network's contribution, so the face network keeps it and changes only stem, activation and head;
`net_unit` does not apply. Two switches are the paper's ablation: without `net_staged` and `net_pooled` the network is
the baseline ResNet.
"""

from typing import Dict, NamedTuple, Tuple

from face_blocks import (
    Conv,
    Layers,
    add_branch,
    bottleneck,
    changes_shape,
    close_unit,
    enter_branch,
    head,
    project,
    recompute,
    stem,
)
from face_settings import POST_ACTIVATION, PRE_ACTIVATION, choose, noted, read_config

# Units of each stage (50 to 200: paper, table 1; the others, and the groups below: the authors' code).
UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    302: (4, 34, 58, 4),
    404: (4, 46, 80, 4),
    1001: (4, 155, 170, 4),
}


class Kind(NamedTuple):
    """The four stages of a kind of network."""

    num_filter: Tuple[int, ...]  # width of the units' output
    width: Tuple[int, ...]  # K, width of the units' inner convolutions; of a basic unit, its output's
    depths: Tuple[int, ...]
    num_group: Tuple[int, ...] = (1, 1, 1, 1)  # of the 3x3 convolutions
    is_basic: bool = False  # two 3x3 convolutions in place of a bottleneck


BASIC = Kind((64, 128, 256, 512), (64, 128, 256, 512), depths=(18, 34), is_basic=True)
BOTTLENECKS = Kind((256, 512, 1024, 2048), (64, 128, 256, 512), depths=(50, 101, 152, 200, 302, 404, 1001))
GROUPED = Kind((128, 256, 512, 1024), (256, 512, 1024, 2048), depths=(50, 101, 152))
# {num_group: kinds of network}
KINDS = {
    1: (BASIC, BOTTLENECKS),
    64: (GROUPED._replace(num_group=(64,) * 4),),  # iResGroupFix
    (8, 16, 32, 64): (GROUPED._replace(num_group=(8, 16, 32, 64)),),  # iResGroup
}


class Origin(NamedTuple):
    """A version of the network: the paper's, or the authors' code (one difference)."""

    settings: Dict[str, object] = {}  # in place of the defaults
    in_place: bool = False  # the activation after a start unit, see `middle_unit`


RELEASED = {'release': Origin(in_place=True)}


class Stage(NamedTuple):
    """Common properties of a stage's units."""

    num_filter: int  # of the output
    width: int  # K
    num_group: int
    is_basic: bool
    in_place: bool  # see Origin
    pooled: bool  # its shortcut, see `shortcut_of`

    def convs(self, stride=1):
        """Return the convolutions of a unit."""
        if self.is_basic:
            return Conv(self.num_filter, 3, stride), Conv(self.num_filter, 3)
        return bottleneck(self.width, self.num_filter, stride, self.num_group)


def shortcut_of(layers, data, stage, stride, name):
    """Build the shortcut of a unit that may change the shape: the identity, or a 1x1 projection.

    The improved shortcut (paper, section 3.2) halves the map by max pooling 3x3/2, which reads every position, before
    the projection; ResNet's strided 1x1 convolution skips 3 of 4.
    """
    if stage.pooled and stride == 2:
        data, stride = layers.pool(data, name + '_pool'), 1
    if not changes_shape(data, stage.num_filter, stride):
        return data
    return project(layers, data, Conv(stage.num_filter, stride=stride), POST_ACTIVATION, name)


def resnet_unit(layers, data, stage, stride, name):
    """Build a unit of the baseline ResNet: C-BN-A-…-C-BN plus shortcut, A after the addition."""
    shortcut = shortcut_of(layers, data, stage, stride, name + '_shortcut')
    return close_unit(layers, data, shortcut, stage.convs(stride), POST_ACTIVATION, name)


def start_unit(layers, data, stage, stride, name):
    """Build the first unit of a stage: C-BN-A-…-C-BN plus its shortcut, nothing after the addition."""
    shortcut = shortcut_of(layers, data, stage, stride, name + '_shortcut')
    return add_branch(layers, data, shortcut, stage.convs(stride), POST_ACTIVATION, name)


def middle_unit(layers, data, stage, name, after_start=False):
    """Build a pre-activation unit; the one `after_start` omits its first BN, since the start unit ended with one.

    In that unit the released code differs from the paper: the activation works in place, so the unit adds the
    activated input.
    """
    entry = layers.act(data, name + '_relu1') if after_start else enter_branch(layers, data, PRE_ACTIVATION, name)
    added = entry if after_start and stage.in_place else data
    return add_branch(layers, entry, added, stage.convs(), PRE_ACTIVATION, name)


def end_unit(layers, data, stage, name, after_start=False):
    """Build the last unit of a stage: a middle unit with BN-A after the addition."""
    data = middle_unit(layers, data, stage, name, after_start)
    return layers.norm_act(data, name + '_bn', name + '_relu')


def kind_of(num_layers, num_group):
    """Return the Kind of network; raises SettingError for one that is not defined."""
    kinds = choose('num_group', num_group, KINDS)
    return choose('num_layers', num_layers, {depth: kind for kind in kinds for depth in kind.depths})


def kept_sums(units, name):
    """Return the names of the sums that stay in memory with `memonger`, in a stage with `units` units.

    A long stage stores only some: the fewer it stores, the more it recomputes at once. One sum every sqrt(units) / 2
    units had the least planned memory, or nearly (benchmarks/NOTES.md).
    """
    step = max(1, round(units**0.5 / 2))
    return [name % unit + '_plus' for unit in range(1, units + 1, step)]


def staged_units(layers, data, stage, stride, units, name):
    """Chain the units of a stage, whose start, middle and end differ (paper, section 3.1)."""
    data = start_unit(layers, data, stage, stride, name % 1)
    for unit in range(2, units):
        data = middle_unit(layers, data, stage, name % unit, after_start=unit == 2)
    return end_unit(layers, data, stage, name % units, after_start=units == 2)


def resnet_units(layers, data, stage, stride, units, name):
    """Chain the units of a stage of ResNet, which are all alike."""
    for unit in range(1, units + 1):
        data = resnet_unit(layers, data, stage, stride if unit == 1 else 1, name % unit)
    return data


@noted
def build(num_layers, num_group=1, net_staged=True, net_pooled=True, **settings):
    """Return the symbol of an iResNet: `data`, (batch, 3, h, w) raw 0…255 RGB, to `fc1`, (batch, emb_size).

    `num_layers` is a key of UNITS; `num_group` is 1, 64 for iResGroupFix or, by stage, (8, 16, 32, 64) for iResGroup.
    `net_staged` gives a stage's units three roles; `net_pooled` gives strided units the improved shortcut. ResNet
    has neither. `settings` are the fields of `face_settings.Settings`, whose defaults are the face network. Raises
    SettingError for a value that is not defined.
    """
    kind = kind_of(num_layers, num_group)
    for key, value in (('net_staged', net_staged), ('net_pooled', net_pooled)):
        choose(key, value, (0, 1, False, True))
    layers = Layers(**settings)
    released = RELEASED if net_staged else {}  # for ResNet, the authors' code matches the paper
    origin = layers.adopt(Origin(), released, {'num_layers': num_layers, 'num_group': num_group})
    chain = staged_units if net_staged else resnet_units
    data, stride = stem(layers, max_pool=not net_pooled)
    kept = set()
    for number, units in enumerate(UNITS[num_layers]):
        groups = kind.num_group[number]
        num_filter, width = layers.width(kind.num_filter[number]), layers.width(kind.width[number], groups)
        stage = Stage(num_filter, width, groups, kind.is_basic, origin.in_place, bool(net_pooled))
        name = 'stage%d_unit' % (number + 1) + '%d'
        data = chain(layers, data, stage, stride, units, name)
        stride = 2
        kept.update(kept_sums(units, name))
    recompute(layers, data, kept=kept.__contains__)
    return head(layers, data, open_end=False)


def get_symbol():
    """Return the symbol that insightface's config describes (insightface's entry point)."""
    return build(**read_config(build))
