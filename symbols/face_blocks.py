"""What the networks share: settings, layers, stem, residual branch and embedding head.

The network modules beside this one (`fcrunet`, `fresattention`, `firesnet`) say only what is new about
their network; everything they have in common is here. Nothing in this folder reads a file or an
environment variable, and the host's config is read in one place, `read_config`.

Form and naming: in a unit, `bn2` and `relu2` stand before `conv2`, and the last `bn` stands after the last
convolution, so a parameter keeps its name whichever form (`net_unit`) the unit takes. As in the host, a
node called `relu…` is whatever `net_act` says; stem and head carry the host's names (`conv0`, `bn0`,
`relu0`, `bn1`, `pre_fc1`, `fc1`).
"""
import os
import re
import sys
from typing import NamedTuple, Optional, Tuple

import mxnet as mx

# Forms of a residual unit: the values of `net_unit`.
POST_ACTIVATION = 1  # Conv-BN-A-…-Conv-BN, A after the addition (ResNet, ResNeXt)
PRE_ACTIVATION = 2  # BN-A-Conv-…-BN-A-Conv (He et al. 2016, arXiv 1603.05027, figure 4e)
IMPROVED = 3  # BN-Conv-BN-A-…-Conv-BN (ArcFace, arXiv 1801.07698)

LEAKY_RELUS = ('prelu', 'elu', 'gelu', 'leaky', 'selu')  # what MXNet computes by its operator LeakyReLU
ACTIVATIONS = LEAKY_RELUS + ('relu', 'sigmoid', 'softrelu', 'softsign', 'tanh')
HEADS = ('E', 'FC', 'GAP', 'GDC', 'F', 'G', 'H', 'I', 'J', 'Z', 'C')
BN_EPS = 2e-5
DROPOUT = 0.4
VECTOR = 16  # float32 numbers in a register of AVX-512
SMALLEST_IMAGE = 32  # below it the attention modules run out of pixels to pool


class SettingError(ValueError):
    """A value that a setting does not have; the text names the setting, the value and the choices."""


class Settings(NamedTuple):
    """What every network can be told, under the names of insightface's config keys.

    The defaults are the face form: 112x112 input, 3x3/1 stem, improved unit, PReLU, option E.
    """
    emb_size: int = 512
    image_shape: Tuple[int, int, int] = (112, 112, 3)  # height, width, channels
    bn_mom: float = 0.9
    workspace: int = 256  # MiB that cuDNN may use for one convolution
    net_act: str = 'prelu'
    net_prelu: str = 'mul'  # PReLU by products, by convolutions ('conv', faster on a CPU) or MXNet's ('op', see `act`)
    net_resize: str = 'op'  # bilinear resizing: MXNet's operator, or by its matrices ('matrix', faster on a CPU)
    net_groups: str = 'merged'  # grouped convolutions: as they are ('op'), or 'merged' to a CPU vector's width
    net_unit: int = IMPROVED
    net_input: int = 1  # 0: the 7x7/2 stem, 1: the face stem, 2: the face stem behind a BN on the data
    net_output: str = 'E'
    net_mean: object = 127.5  # subtracted from raw RGB: a number, or one for each channel
    net_std: object = 128.0  # divided by after that, likewise
    net_se: int = 0
    net_multiplier: float = 1.0  # scales every width but the embedding's
    fp16: bool = False
    memonger: bool = False  # recompute feature maps in the backward pass: a quarter of the memory, some more time


class FeatureMap(NamedTuple):
    """A symbol of (batch, channels) + size, with what has to be known of its shape to build on it."""
    symbol: mx.sym.Symbol
    channels: int
    size: Tuple[int, int]  # height, width


class Conv(NamedTuple):
    """One convolution, without bias, padded so that stride 1 keeps the size."""
    num_filter: int
    kernel: int = 1
    stride: int = 1
    num_group: int = 1
    weight: Optional[mx.sym.Symbol] = None  # a variable that several convolutions share; None: its own
    joined: bool = False  # in a pre-activation unit nothing stands between it and the one before


# ---------------------------------------------------------------------------------------------- settings

def read_config(*family_keys):
    """Return, as a dict, those settings and `family_keys` that the host's config defines.

    The host's `config` module lies one folder up or beside the trainer. It is imported when a symbol is
    asked for, not when this module is, because `generate_config` fills it in between. A key that an old
    host does not have keeps its default.
    """
    try:
        from config import config
    except ImportError:
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
        from config import config
    keys = ('num_layers',) + Settings._fields + family_keys
    return {key: config[key] for key in keys if key in config}


def choose(key, value, choices):
    """Return the entry of `choices` for `value`.

    Raises SettingError, naming key, value and choices, if there is none. `choices` is a dict, or a sequence
    of which `value` itself is returned.
    """
    # 1.0 and True equal 1 and would pass for it; the type has to fit as well.
    if not any(value == choice and isinstance(value, type(choice)) for choice in choices):
        raise SettingError('%s=%r is not known; choose from %s' % (key, value, ', '.join(map(repr, choices))))
    return choices[value] if isinstance(choices, dict) else value


def checked(settings):
    """Return `settings` if every value is legal; else raise SettingError naming key, value and choices."""
    def require(key, legal, wanted):
        value = getattr(settings, key)
        try:
            is_legal = legal(value)
        except (TypeError, ValueError):
            is_legal = False
        if not is_legal:
            raise SettingError('%s=%r is not legal; it must be %s' % (key, value, wanted))

    choose('net_act', settings.net_act, ACTIVATIONS)
    choose('net_prelu', settings.net_prelu, ('mul', 'conv', 'op'))
    choose('net_resize', settings.net_resize, ('op', 'matrix'))
    choose('net_groups', settings.net_groups, ('op', 'merged'))
    choose('net_unit', settings.net_unit, (POST_ACTIVATION, PRE_ACTIVATION, IMPROVED))
    choose('net_input', settings.net_input, (0, 1, 2))
    choose('net_output', settings.net_output, HEADS)
    # Configs write switches as 0/1 or as False/True; both are meant.
    for switch in ('net_se', 'fp16', 'memonger'):
        choose(switch, getattr(settings, switch), (0, 1, False, True))
    require('emb_size', lambda n: n == int(n) and n > 0, 'a whole number above 0')
    require('workspace', lambda n: n == int(n) and n > 0, 'a whole number of MiB above 0')
    require('bn_mom', lambda m: 0 <= m < 1, 'at least 0 and below 1')
    require('net_multiplier', lambda m: 0 < m < 100, 'above 0 (and below 100)')
    require('net_mean', lambda mean: all(abs(part) < 1e6 for part in per_channel(mean)), 'a number or three')
    require('net_std', lambda std: all(0 < part < 1e6 for part in per_channel(std)), 'a number above 0 or three')
    require('image_shape',
            lambda s: len(s) == 3 and all(n == int(n) for n in s) and min(s[:2]) >= SMALLEST_IMAGE and s[2] == 3,
            '(height, width, 3) with height and width of at least %d' % SMALLEST_IMAGE)
    return settings


# ------------------------------------------------------------------------------------------------ layers

class Layers:
    """The layers that networks are made of, with the settings that are the same for all of them.

    Every method takes a FeatureMap and a `name`, and returns a FeatureMap. Every node is named: an unnamed
    operator would get a name from a counter of the whole process, and the same network built twice would
    differ in its JSON.
    """

    def __init__(self, **settings):
        unknown = sorted(set(settings) - set(Settings._fields))
        if unknown:
            raise SettingError('%s is not a setting; choose from %s' % (', '.join(unknown), ', '.join(Settings._fields)))
        self.settings = checked(Settings(**settings))
        self._trunk_type = 'float16' if self.settings.fp16 else 'float32'

    def width(self, width, num_group=1):
        """Return `width` times `net_multiplier`, rounded to a multiple of `num_group`, at least one each."""
        return num_group * max(1, round(width * self.settings.net_multiplier / num_group))

    def conv(self, data, conv, name):
        """Apply the convolution that `conv` describes."""
        weight, num_group = conv.weight, conv.num_group
        merged = self._mergeable(conv.num_filter, num_group) if self.settings.net_groups == 'merged' else 1
        if merged > 1:
            weight = self._merge_groups(conv, merged, name)
            num_group //= merged
        symbol = mx.sym.Convolution(
            data=data.symbol, num_filter=conv.num_filter, kernel=(conv.kernel,) * 2, stride=(conv.stride,) * 2,
            pad=(conv.kernel // 2,) * 2, num_group=num_group, no_bias=True,
            workspace=self.settings.workspace, name=name, **({} if weight is None else {'weight': weight}))
        return FeatureMap(symbol, conv.num_filter, halved(data.size) if conv.stride == 2 else data.size)

    def read(self, data, name):
        """Stand between the convolution `name` and the sum or mask that takes its output.

        With `memonger` the sum is kept and the convolution computed again for nobody, which MXNet's own
        convolution, at work where neither oneDNN nor cuDNN is, refuses. An identity for a reader costs nothing.
        """
        if not self.settings.memonger:
            return data
        return data._replace(symbol=mx.sym.identity(data.symbol, name=name + '_read'))

    @staticmethod
    def _mergeable(num_filter, num_group):
        """Return how many groups make one that fills a vector; 1 for dense and for depthwise convolutions."""
        channels = num_filter // num_group
        if num_group == 1 or channels == 1:
            return 1
        return next(count for count in range(1, num_group + 1)
                    if num_group % count == 0 and (channels * count >= VECTOR or count == num_group))

    def _merge_groups(self, conv, count, name):
        """Return the weight of `conv` for a convolution whose groups are `count` of its own, zero between them.

        oneDNN gives a convolution of 2 to 8 channels per group a memory layout in which the BatchNorms on
        both its sides are up to twenty times slower; 16 channels, a vector of AVX-512, are its common case.
        The multiplications by zero cost next to nothing (benchmarks/NOTES.md).
        """
        channels, taps = conv.num_filter // conv.num_group, conv.kernel ** 2
        weight = conv.weight
        if weight is None:
            weight = mx.sym.Variable(name + '_weight', shape=(conv.num_filter, channels) + (conv.kernel,) * 2)
        weight = mx.sym.reshape(weight, shape=(conv.num_group // count, count, channels, 1, channels, taps),
                                name=name + '_groups')
        own = mx.sym._internal._eye(N=count, dtype=self._trunk_type, name=name + '_eye')
        own = mx.sym.reshape(own, shape=(1, count, 1, count, 1, 1), name=name + '_own')
        weight = mx.sym.broadcast_mul(weight, own, name=name + '_blocks')
        return mx.sym.reshape(weight, shape=(conv.num_filter, channels * count) + (conv.kernel,) * 2,
                              name=name + '_merged')

    def norm(self, data, name, fix_gamma=False):
        """Normalise each channel over the batch."""
        # cuDNN's BatchNorm updates the moving statistics in the forward pass, so twice where that is run again;
        # MXNet's own updates them in the backward pass.
        once = {'cudnn_off': True} if self.settings.memonger else {}
        return data._replace(symbol=mx.sym.BatchNorm(
            data=data.symbol, fix_gamma=fix_gamma, eps=BN_EPS, momentum=self.settings.bn_mom, name=name, **once))

    def act(self, data, name):
        """Apply the activation that `net_act` names.

        With `net_prelu` 'op', PReLU is MXNet's operator, which gives the slopes gamma times their true gradient
        wherever its backward pass works in place (nearly everywhere on a GPU, if the source tells true): from their
        0.25 they learn at a quarter of their speed. 'mul' and 'conv' give the true one (docs/prelu.md).
        """
        if self.settings.net_act == 'prelu' and self.settings.net_prelu != 'op':
            return self._prelu(data, name)
        operator = mx.sym.LeakyReLU if self.settings.net_act in LEAKY_RELUS else mx.sym.Activation
        return data._replace(symbol=operator(data=data.symbol, act_type=self.settings.net_act, name=name))

    def _prelu(self, data, name):
        """PReLU as x + (1 - gamma) max(-x, 0): the same function of the same parameter as MXNet's operator."""
        gamma = mx.sym.Variable(name + '_gamma', shape=(data.channels,), init=mx.init.Constant(0.25))
        bend = mx.sym._internal._rminus_scalar(gamma, scalar=1.0, name=name + '_gamma_minus')
        multiply = self._bend_by_convolutions if self.settings.net_prelu == 'conv' else self._bend_by_products
        return self.add(data, multiply(data, bend, name), name)

    @staticmethod
    def _bend_by_products(data, bend, name):
        """Return max(-x, 0) times `bend`, (channels,), by pointwise operators; on a GPU MXNet fuses the first two.

        ReLU's gradient needs its output, not its input, and the product keeps that anyway.
        """
        bend = mx.sym.reshape(bend, shape=(1, -1, 1, 1), name=name + '_factor')
        negative = mx.sym.Activation(mx.sym.negative(data.symbol, name=name + '_minus'), act_type='relu',
                                     name=name + '_negative')
        return data._replace(symbol=mx.sym.broadcast_mul(negative, bend, name=name + '_bend'))

    def _bend_by_convolutions(self, data, bend, name):
        """Return the same with both products, by -1 and by `bend`, as depthwise 1x1 convolutions.

        oneDNN does not have PReLU: on a CPU the operator's backward pass was half of a training step, and by products
        the step is no faster (benchmarks/NOTES.md). Every operator here is oneDNN's, so that no map changes its memory
        layout on the way; in inference the convolutions take the ReLU and the sum in.
        """
        def scale(symbol, weight, name):
            return mx.sym.Convolution(data=symbol, weight=weight, no_bias=True, kernel=(1, 1),
                                      num_filter=data.channels, num_group=data.channels,
                                      workspace=self.settings.workspace, name=name)

        kernel = mx.sym.reshape(bend, shape=(-1, 1, 1, 1), name=name + '_kernel')
        minus_one = mx.sym._internal._full(shape=(data.channels, 1, 1, 1), value=-1.0, dtype=self._trunk_type,
                                           name=name + '_minus_one')
        negative = scale(data.symbol, minus_one, name + '_minus')
        negative = mx.sym.Activation(negative, act_type='relu', name=name + '_negative')
        return self.read(data._replace(symbol=scale(negative, kernel, name + '_bend')), name + '_bend')

    def norm_act(self, data, bn_name, act_name):
        """Normalise, then activate."""
        return self.act(self.norm(data, bn_name), act_name)

    def sigmoid(self, data, name):
        """Squash to 0…1."""
        return data._replace(symbol=mx.sym.Activation(data=data.symbol, act_type='sigmoid', name=name))

    def pool(self, data, name):
        """Max pooling 3x3, stride 2."""
        symbol = mx.sym.Pooling(data=data.symbol, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='max', name=name)
        return data._replace(symbol=symbol, size=halved(data.size))

    def global_pool(self, data, name):
        """Average over the whole map."""
        # MXNet wants a kernel even where it does not use it.
        symbol = mx.sym.Pooling(data=data.symbol, global_pool=True, kernel=(7, 7), pool_type='avg', name=name)
        return data._replace(symbol=symbol, size=(1, 1))

    def resize(self, data, size, name):
        """Resize bilinearly to `size`, (height, width), corners aligned."""
        if self.settings.net_resize == 'matrix':
            return self._resize_by_matrices(data, size, name)
        symbol = mx.sym.contrib.BilinearResize2D(data=data.symbol, height=size[0], width=size[1], name=name)
        return data._replace(symbol=symbol, size=size)

    def _resize_by_matrices(self, data, size, name):
        """Resize the last axis by a matrix product, swap the axes, and do both once more.

        The same function as MXNet's operator, whose backward pass was 40 % of a training step of att92 on a
        CPU (benchmarks/NOTES.md).
        """
        symbol = data.symbol
        for axis, before, after in (('width', data.size[1], size[1]), ('height', data.size[0], size[0])):
            node = '%s_%s' % (name, axis)
            symbol = mx.sym.FullyConnected(symbol, weight=self._interpolation(before, after, node), num_hidden=after,
                                           no_bias=True, flatten=False, name=node)
            symbol = mx.sym.transpose(symbol, axes=(0, 1, 3, 2), name=name if axis == 'height' else node + '_swap')
        return data._replace(symbol=symbol, size=size)

    def _interpolation(self, before, after, name):
        """Return the matrix, (after, before), that interpolates linearly between `before` values, ends aligned."""
        step = (before - 1) / (after - 1) if after > 1 else 0.0
        source = mx.sym._internal._arange(start=0, stop=after, name=name + '_target')
        source = mx.sym._internal._mul_scalar(source, scalar=step, name=name + '_source')
        source = mx.sym.reshape(source, shape=(after, 1), name=name + '_source_column')
        known = mx.sym._internal._arange(start=0, stop=before, name=name + '_known')
        known = mx.sym.reshape(known, shape=(1, before), name=name + '_known_row')
        distance = mx.sym.abs(mx.sym.broadcast_sub(source, known, name=name + '_offset'), name=name + '_distance')
        matrix = mx.sym.relu(mx.sym._internal._rminus_scalar(distance, scalar=1.0, name=name + '_nearness'),
                             name=name + '_matrix')
        return mx.sym.Cast(matrix, dtype='float16', name=name + '_cast') if self.settings.fp16 else matrix

    def add(self, left, right, name):
        """Add two maps of one shape."""
        return left._replace(symbol=mx.sym.elemwise_add(left.symbol, right.symbol, name=name))

    def squeeze_excite(self, data, name):
        """Scale each channel by a gate in 0…1 worked out from all of them.

        Squeeze-and-Excitation (arXiv 1709.01507), reduction 16, with biases, as in the host.
        """
        def linear(gate, num_filter, name):
            symbol = mx.sym.Convolution(data=gate.symbol, num_filter=num_filter, kernel=(1, 1),
                                        workspace=self.settings.workspace, name=name)
            return FeatureMap(symbol, num_filter, gate.size)

        gate = self.global_pool(data, name + '_se_pool1')
        gate = linear(gate, max(1, data.channels // 16), name + '_se_conv1')
        gate = linear(self.act(gate, name + '_se_relu1'), data.channels, name + '_se_conv2')
        gate = self.sigmoid(gate, name + '_se_sigmoid')
        return data._replace(symbol=mx.sym.broadcast_mul(data.symbol, gate.symbol, name=name + '_se_scale'))


def halved(size):
    """Return the (height, width) that any layer of stride 2 leaves of `size`."""
    return tuple((side + 1) // 2 for side in size)


# ---------------------------------------------------------------------------------------- residual units

def bottleneck(width, num_filter, stride, num_group=1):
    """Return the convolutions of a bottleneck, C(1,width) - C(3,width,stride,num_group) - C(1,num_filter)."""
    return Conv(width), Conv(width, 3, stride, num_group), Conv(num_filter)


def enter_branch(layers, data, form, name):
    """Apply what stands before the first convolution of a unit of this `form`."""
    if form == POST_ACTIVATION:
        return data
    data = layers.norm(data, name + '_bn1')
    return layers.act(data, name + '_relu1') if form == PRE_ACTIVATION else data


def conv_chain(layers, data, convs, form, name):
    """Chain the convolutions `convs`, with the BN and activations that `form` puts between and behind them."""
    for number, conv in enumerate(convs, 1):
        if number > 1 and not (conv.joined and form == PRE_ACTIVATION):
            data = layers.norm_act(data, '%s_bn%d' % (name, number), '%s_relu%d' % (name, number))
        data = layers.conv(data, conv, '%s_conv%d' % (name, number))
    if form == PRE_ACTIVATION:
        return layers.read(data, '%s_conv%d' % (name, len(convs)))
    return layers.norm(data, '%s_bn%d' % (name, len(convs) + 1))


def add_branch(layers, entry, shortcut, convs, form, name):
    """Chain `convs` from `entry`, the output of `enter_branch`, and add `shortcut`, a map of the output's shape."""
    branch = conv_chain(layers, entry, convs, form, name)
    if layers.settings.net_se:
        branch = layers.squeeze_excite(branch, name)
    return layers.add(branch, shortcut, name + '_plus')


def close_unit(layers, entry, shortcut, convs, form, name):
    """Add branch and shortcut (see `add_branch`) and end the unit as its `form` does."""
    data = add_branch(layers, entry, shortcut, convs, form, name)
    return layers.act(data, name + '_relu') if form == POST_ACTIVATION else data


def residual_unit(layers, data, shortcut, convs, form, name):
    """Build a unit from its input, its shortcut and the convolutions of its branch."""
    return close_unit(layers, enter_branch(layers, data, form, name), shortcut, convs, form, name)


def project(layers, data, conv, form, name):
    """Change the shape of a unit's input by a 1x1 convolution: Conv-BN, in a pre-activation unit BN-A-Conv."""
    if form == PRE_ACTIVATION:
        return layers.read(layers.conv(layers.norm_act(data, name + '_bn', name + '_relu'), conv, name), name)
    return layers.norm(layers.conv(data, conv, name), name + '_bn')


def changes_shape(data, num_filter, stride):
    """Tell whether a unit with this output cannot have the identity as its shortcut."""
    return stride != 1 or data.channels != num_filter


# ------------------------------------------------------------------------------------------ the two ends

def normalise(layers, data):
    """Bring raw 0…255 RGB to (x - net_mean) / net_std, about -1…1, or, with `net_input` 2, by a BN on the data.

    The two nodes have the names that mark a self-normalising network for the deployment client of
    insightface, which would otherwise normalise a second time. With a mean and deviation for each channel
    (ImageNet weights of other packages) the channels are taken apart: MXNet's image.normalize crashes in
    the backward pass.
    """
    settings = layers.settings
    if settings.net_input == 2:
        return layers.norm(data, 'bn_data', fix_gamma=True)

    def shift_and_scale(symbol, mean, std, number):
        symbol = mx.sym._internal._minus_scalar(symbol, scalar=mean, name='_minusscalar%d' % number)
        return mx.sym._internal._mul_scalar(symbol, scalar=1 / std, name='_mulscalar%d' % number)

    means, stds = per_channel(settings.net_mean), per_channel(settings.net_std)
    if len(set(means)) == len(set(stds)) == 1:
        return data._replace(symbol=shift_and_scale(data.symbol, means[0], stds[0], 0))
    channels = mx.sym.SliceChannel(data.symbol, num_outputs=3, axis=1, name='channels')
    channels = [shift_and_scale(channels[i], means[i], stds[i], i) for i in range(3)]
    return data._replace(symbol=mx.sym.Concat(*channels, dim=1, name='normalised'))


def per_channel(value):
    """Return (r, g, b) for one number or three; raises TypeError or ValueError for anything else."""
    red, green, blue = (value,) * 3 if isinstance(value, (int, float)) else value
    return float(red), float(green), float(blue)


def stem(layers, max_pool=True):
    """Build what stands before the first stage; return its map and the stride of the first stage.

    The face stem, C(3,64)-BN-A, keeps the image's size, and the first stage halves it. The ImageNet stem
    (`net_input` 0) halves it by C(7,64,2)-BN-A and once more by `max_pool`, in place of the first stage.
    """
    settings = layers.settings
    data = FeatureMap(mx.sym.Variable('data'), 3, tuple(settings.image_shape[:2]))
    data = normalise(layers, data)
    if settings.fp16:
        data = data._replace(symbol=mx.sym.Cast(data.symbol, dtype='float16', name='to_float16'))
    imagenet = settings.net_input == 0
    conv = Conv(layers.width(64), 7, 2) if imagenet else Conv(layers.width(64), 3)
    data = layers.norm_act(layers.conv(data, conv, 'conv0'), 'bn0', 'relu0')
    if imagenet and max_pool:
        return layers.pool(data, 'pool0'), 1
    return data, 2


def recompute(trunk):
    """Make the backward pass compute the trunk's feature maps again, but for those that are cheapest to keep.

    Kept are the sums at the end of the units and the masks of attention modules: operators whose gradient
    needs none of their inputs, for whatever is kept keeps the inputs of its gradient as well. In an attention
    module, fewer: some of its units go in pairs. What planned least was found by trying (benchmarks/NOTES.md).

    The idea is Chen et al. 2016, arXiv 1604.06174. In MXNet the attribute alone does it, whatever the
    environment says.
    """
    for node in trunk.get_internals():
        is_variable = node.get_children() is None
        kept = node.name.endswith(('_plus', '_mask_sigmoid')) and not re.search(r'_mask_down|_trunk_unit1_', node.name)
        if not is_variable and not kept:
            node._set_attr(__force_mirroring__='True')


def head(layers, data, open_end):
    """Build the embedding, (batch, emb_size), as a symbol named `fc1`, from the last map of the trunk.

    `net_output` chooses, with the host's node names:

    E     BN - Dropout - FC - BN with gamma 1 (ArcFace, arXiv 1801.07698)
    FC, I BN - FC - BN              J   FC - BN
    F     BN - Dropout - FC         G   BN - FC         H   FC
    GAP   BN - A - global pool - FC - BN
    GDC   depthwise convolution over the whole map - BN - FC - BN (MobileFaceNet, arXiv 1804.07573)
    Z     BN - Dropout; the embedding is the map itself, so emb_size has to be channels x height x width
    C     the papers' ImageNet classifier: global pool - FC; emb_size is the number of classes. With
          `open_end` (the last unit ended without BN and activation) they come first.
    """
    settings = layers.settings
    output = settings.net_output
    if settings.memonger:
        recompute(data.symbol)
    if settings.fp16:
        data = data._replace(symbol=mx.sym.Cast(data.symbol, dtype='float32', name='to_float32'))

    if output == 'GAP' or (output == 'C' and open_end):
        data = layers.norm_act(data, 'bn1', 'relu1')
    elif output in ('E', 'F', 'Z', 'FC', 'G', 'I'):
        data = layers.norm(data, 'bn1')
    if output in ('GAP', 'C'):
        data = layers.global_pool(data, 'pool1')
    if output == 'GDC':
        symbol = mx.sym.Convolution(data=data.symbol, num_filter=data.channels, num_group=data.channels,
                                    kernel=data.size, no_bias=True, workspace=settings.workspace,
                                    name='conv_6dw7_7_conv2d')
        data = layers.norm(FeatureMap(symbol, data.channels, (1, 1)), 'conv_6dw7_7_batchnorm')
    symbol = data.symbol
    if output in ('E', 'F', 'Z'):
        symbol = mx.sym.Dropout(symbol, p=DROPOUT, name='dropout0')
    if output == 'Z':
        return mx.sym.Flatten(symbol, name='fc1')

    # FullyConnected flattens by itself; the host's FLOP counter wants to see it take the 4-D map.
    fc_is_last = output in ('F', 'G', 'H', 'C')
    symbol = mx.sym.FullyConnected(data=symbol, num_hidden=int(settings.emb_size),
                                   name='fc1' if fc_is_last else 'pre_fc1')
    if fc_is_last:
        return symbol
    return mx.sym.BatchNorm(data=symbol, fix_gamma=True, eps=BN_EPS, momentum=settings.bn_mom, name='fc1')
