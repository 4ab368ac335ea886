"""Shared building blocks: layers, stem, residual branch and embedding head.

The network modules in this folder (`fcrunet`, `fresattention`, `firesnet`) contain only what is new about
their network; `face_settings` has the settings.

Naming: in a unit, `bn2` and `relu2` precede `conv2`, and the last `bn` follows the last convolution, so a
parameter has the same name in every form of the unit (`net_unit`). As in insightface, a node named `relu…` is
the activation that `net_act` selects; stem and head have insightface's names (`conv0`, `bn0`, `relu0`, `bn1`,
`pre_fc1`, `fc1`).
"""

from typing import NamedTuple, Optional, Tuple

import mxnet as mx

from face_settings import (
    BN_EPS,
    DROPOUT,
    HEADS,
    LEAKY_RELUS,
    POST_ACTIVATION,
    PRE_ACTIVATION,
    SettingError,
    Settings,
    checked,
    per_channel,
)


class FeatureMap(NamedTuple):
    """A symbol of shape (batch, channels) + size, with the part of its shape that the next layers need."""

    symbol: mx.sym.Symbol
    channels: int
    size: Tuple[int, int]  # height, width


class Conv(NamedTuple):
    """A convolution without bias, padded so that stride 1 keeps the size."""

    num_filter: int
    kernel: int = 1
    stride: int = 1
    num_group: int = 1
    weight: Optional[mx.sym.Symbol] = None  # a variable shared by several convolutions; None: its own
    joined: bool = False  # in a pre-activation unit, follows the previous convolution directly


# ------------------------------------------------------------------------------------------------ layers


class Layers:
    """The layers of a network, with the settings that apply to all of them.

    A layer method takes a FeatureMap and a `name`, and returns a FeatureMap. Every node is named: MXNet would
    number unnamed operators with a per-process counter, so building the same network twice would give
    different JSONs.
    """

    def __init__(self, **settings):
        unknown = sorted(set(settings) - set(Settings._fields))
        if unknown:
            raise SettingError(
                '%s is not a setting; choose from %s' % (', '.join(unknown), ', '.join(Settings._fields))
            )
        self.settings = checked(Settings(**settings))

    def is_classifier(self):
        """Return whether the network ends in the papers' ImageNet classifier."""
        return self.settings.net_output == 'C'

    def adopt(self, paper, released, network):
        """Return the Origin that `net_origin` chooses, `paper` or one of `released`, {net_origin: Origin}.

        The Origin's settings replace settings that are at their default. (insightface's config names every setting,
        so an explicit default looks the same.) Raises SettingError if no such network was released; the message
        lists `network`, the network's own settings.
        """
        settings, origins = self.settings, {'paper': paper, **released}
        if settings.net_origin not in origins:
            named = ', '.join('%s=%r' % item for item in network.items())
            raise SettingError(
                'net_origin=%r is not known with %s, net_unit=%r, net_output=%r: no such network was released; choose '
                'from %s'
                % (settings.net_origin, named, settings.net_unit, settings.net_output, ', '.join(map(repr, origins)))
            )
        origin = origins[settings.net_origin]
        defaults = Settings()._asdict()
        own = {key: value for key, value in origin.settings.items() if getattr(settings, key) == defaults[key]}
        self.settings = settings._replace(**own)
        return origin

    def width(self, width, num_group=1):
        """Return `width` times `net_multiplier`, rounded to a multiple of `num_group`, at least one each."""
        return num_group * max(1, round(width * self.settings.net_multiplier / num_group))

    def conv(self, data, conv, name):
        """Apply a Conv."""
        symbol = mx.sym.Convolution(
            data=data.symbol,
            num_filter=conv.num_filter,
            kernel=(conv.kernel,) * 2,
            stride=(conv.stride,) * 2,
            pad=(conv.kernel // 2,) * 2,
            num_group=conv.num_group,
            no_bias=True,
            workspace=self.settings.workspace,
            name=name,
            **({} if conv.weight is None else {'weight': conv.weight}),
        )
        return FeatureMap(symbol, conv.num_filter, halved(data.size) if conv.stride == 2 else data.size)

    def keep_consumer(self, data, name):
        """Insert an identity after the convolution `name` when `memonger` is on.

        If only a stored sum or mask reads the output, recomputation leaves the convolution without a consumer,
        and MXNet's own convolution (used without oneDNN and cuDNN) fails. The identity costs nothing.
        """
        if not self.settings.memonger:
            return data
        return data._replace(symbol=mx.sym.identity(data.symbol, name=name + '_read'))

    def norm(self, data, name, fix_gamma=False, eps=None):
        """BatchNorm; `eps` is by default `net_bn_eps`."""
        # cuDNN's BatchNorm updates the moving statistics in the forward pass, so twice where that is recomputed;
        # MXNet's own updates them in the backward pass.
        once = {'cudnn_off': True} if self.settings.memonger else {}
        eps = eps or self.settings.net_bn_eps or BN_EPS
        symbol = mx.sym.BatchNorm(
            data=data.symbol, fix_gamma=fix_gamma, eps=eps, momentum=self.settings.bn_mom, name=name, **once
        )
        return data._replace(symbol=symbol)

    def act(self, data, name):
        """Apply the activation `net_act`.

        With `net_prelu` 'op', PReLU is MXNet's operator. Wherever its backward pass works in place (by its source,
        nearly everywhere on a GPU) the gradient of the slopes is too small by the factor gamma, so from their
        initial 0.25 they learn at a quarter of the speed. 'mul' has the true gradient (docs/prelu.md).
        """
        if self.settings.net_act == 'prelu' and self.settings.net_prelu != 'op':
            return self._prelu(data, name)
        operator = mx.sym.LeakyReLU if self.settings.net_act in LEAKY_RELUS else mx.sym.Activation
        return data._replace(symbol=operator(data=data.symbol, act_type=self.settings.net_act, name=name))

    def _prelu(self, data, name):
        """PReLU as x + (1 - gamma) max(-x, 0): the same function of the same parameter as MXNet's operator."""
        gamma = mx.sym.Variable(name + '_gamma', shape=(data.channels,), init=mx.init.Constant(0.25))
        bend = mx.sym._internal._rminus_scalar(gamma, scalar=1.0, name=name + '_gamma_minus')
        bend = mx.sym.reshape(bend, shape=(1, -1, 1, 1), name=name + '_factor')
        # On a GPU MXNet fuses these two. ReLU's gradient needs only its output, stored by the product anyway.
        negative = mx.sym.negative(data.symbol, name=name + '_minus')
        negative = mx.sym.Activation(negative, act_type='relu', name=name + '_negative')
        product = mx.sym.broadcast_mul(negative, bend, name=name + '_bend')
        return data._replace(symbol=mx.sym.elemwise_add(data.symbol, product, name=name))

    def norm_act(self, data, bn_name, act_name):
        """BatchNorm, then activation."""
        return self.act(self.norm(data, bn_name), act_name)

    def sigmoid(self, data, name):
        """Sigmoid."""
        return data._replace(symbol=mx.sym.Activation(data=data.symbol, act_type='sigmoid', name=name))

    def pool(self, data, name, padded=True):
        """Apply 3x3 max pooling, stride 2, `padded` by 1 or as in Caffe, with windows that begin in the corner."""
        size = halved(data.size) if padded else tuple(side // 2 for side in data.size)
        if not padded and min(data.size) < 3:
            raise SettingError(
                "image_shape=%r is too small for the max poolings of net_origin='release'"
                % (tuple(self.settings.image_shape),)
            )
        convention = {} if padded else {'pooling_convention': 'full'}
        symbol = mx.sym.Pooling(
            data=data.symbol,
            kernel=(3, 3),
            stride=(2, 2),
            pad=(int(padded),) * 2,
            pool_type='max',
            name=name,
            **convention,
        )
        return data._replace(symbol=symbol, size=size)

    def global_pool(self, data, name):
        """Global average pooling."""
        # MXNet requires a kernel, though it does not use it.
        symbol = mx.sym.Pooling(data=data.symbol, global_pool=True, kernel=(7, 7), pool_type='avg', name=name)
        return data._replace(symbol=symbol, size=(1, 1))

    def resize(self, data, size, name):
        """Bilinear resizing to `size`, (height, width), with aligned corners."""
        symbol = mx.sym.contrib.BilinearResize2D(data=data.symbol, height=size[0], width=size[1], name=name)
        return data._replace(symbol=symbol, size=size)

    def add(self, left, right, name):
        """Add two maps of the same shape."""
        return left._replace(symbol=mx.sym.elemwise_add(left.symbol, right.symbol, name=name))

    def squeeze_excite(self, data, name):
        """Squeeze-and-Excitation (arXiv 1709.01507), reduction 16, with biases as in insightface (`net_se_bias`)."""

        def linear(gate, num_filter, name):
            symbol = mx.sym.Convolution(
                data=gate.symbol,
                num_filter=num_filter,
                kernel=(1, 1),
                workspace=self.settings.workspace,
                name=name,
                **({} if self.settings.net_se_bias else {'no_bias': True}),
            )
            return FeatureMap(symbol, num_filter, gate.size)

        gate = self.global_pool(data, name + '_se_pool1')
        gate = linear(gate, max(1, data.channels // 16), name + '_se_conv1')
        gate = linear(self.act(gate, name + '_se_relu1'), data.channels, name + '_se_conv2')
        gate = self.sigmoid(gate, name + '_se_sigmoid')
        return data._replace(symbol=mx.sym.broadcast_mul(data.symbol, gate.symbol, name=name + '_se_scale'))


def halved(size):
    """Return the (height, width) of the output of a layer of stride 2."""
    return tuple((side + 1) // 2 for side in size)


# ---------------------------------------------------------------------------------------- residual units


def bottleneck(width, num_filter, stride, num_group=1, stride_on_last=False):
    """Return the convolutions of a bottleneck, C(1,width) - C(3,width,stride,num_group) - C(1,num_filter).

    With `stride_on_last` the last 1x1 has the stride: same function in inference, other statistics in training.
    """
    middle, last = (1, stride) if stride_on_last else (stride, 1)
    return Conv(width), Conv(width, 3, middle, num_group), Conv(num_filter, stride=last)


def enter_branch(layers, data, form, name):
    """Apply the layers that precede the first convolution in a unit of this `form`."""
    if form == POST_ACTIVATION:
        return data
    data = layers.norm(data, name + '_bn1')
    return layers.act(data, name + '_relu1') if form == PRE_ACTIVATION else data


def conv_chain(layers, data, convs, form, name):
    """Chain the convolutions `convs`, with the BN and activations that `form` has between and after them."""
    for number, conv in enumerate(convs, 1):
        if number > 1 and not (conv.joined and form == PRE_ACTIVATION):
            data = layers.norm_act(data, '%s_bn%d' % (name, number), '%s_relu%d' % (name, number))
        data = layers.conv(data, conv, '%s_conv%d' % (name, number))
    if form == PRE_ACTIVATION:
        return layers.keep_consumer(data, '%s_conv%d' % (name, len(convs)))
    return layers.norm(data, '%s_bn%d' % (name, len(convs) + 1))


def add_branch(layers, entry, shortcut, convs, form, name):
    """Chain `convs`, beginning at `entry` (see `enter_branch`), and add `shortcut`, a map of the output's shape."""
    branch = conv_chain(layers, entry, convs, form, name)
    if layers.settings.net_se:
        branch = layers.squeeze_excite(branch, name)
    return layers.add(branch, shortcut, name + '_plus')


def is_sum(name):
    """Return whether a node is the addition at the end of a unit, by its name."""
    return name.endswith('_plus')


def close_unit(layers, entry, shortcut, convs, form, name):
    """Add branch and shortcut (see `add_branch`), and in a post-activation unit activate the sum."""
    data = add_branch(layers, entry, shortcut, convs, form, name)
    return layers.act(data, name + '_relu') if form == POST_ACTIVATION else data


def project(layers, data, conv, form, name):
    """Project a unit's input by a 1x1 convolution: Conv-BN, in a pre-activation unit BN-A-Conv."""
    if form == PRE_ACTIVATION:
        return layers.keep_consumer(layers.conv(layers.norm_act(data, name + '_bn', name + '_relu'), conv, name), name)
    return layers.norm(layers.conv(data, conv, name), name + '_bn')


def changes_shape(data, num_filter, stride):
    """Return whether a unit changes the shape, so that its shortcut cannot be the identity."""
    return stride != 1 or data.channels != num_filter


# ------------------------------------------------------------------------------------------ the two ends


def normalise(layers, data):
    """Normalise raw 0…255 RGB: (x - net_mean) / net_std, about -1…1; with `net_input` 2, by a BN of the data.

    From the names of these two nodes, insightface's client detects that a network normalises its input, and
    does not normalise again. With one mean and deviation per channel (ImageNet weights of other
    packages) the channels are split: MXNet's image.normalize crashes in the backward pass.
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


def stem(layers, max_pool=True, padded=True):
    """Build the layers before the first stage; return their FeatureMap and the stride of the first stage.

    The face stem, C(3,64)-BN-A, keeps the image's size, and the first stage has stride 2. The ImageNet stem
    (`net_input` 0), C(7,64,2)-BN-A, halves it, and so does `max_pool`, `padded` or not (see `Layers.pool`); then the
    first stage has stride 1.
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
        return layers.pool(data, 'pool0', padded), 1
    return data, 2


def recompute(layers, trunk, kept):
    """With `memonger`, recompute the trunk's feature maps in the backward pass, except the `kept` ones.

    `kept(name)` returns whether the output of the operator `name` stays in memory. Cheapest to store are outputs
    of operators whose gradient needs none of their inputs (sums, sigmoids): storing one stores its gradient's
    inputs too. Each network stores the set with least planned memory (benchmarks/NOTES.md).

    The idea is Chen et al. 2016, arXiv 1604.06174. In MXNet the attribute alone does this, regardless of
    environment variables.
    """
    if not layers.settings.memonger:
        return
    for node in trunk.symbol.get_internals():
        is_variable = node.get_children() is None
        if not is_variable and not kept(node.name):
            node._set_attr(__force_mirroring__='True')


def _depthwise(layers, data):
    """A depthwise convolution over the whole map, and BN."""
    symbol = mx.sym.Convolution(
        data=data.symbol,
        num_filter=data.channels,
        num_group=data.channels,
        kernel=data.size,
        no_bias=True,
        workspace=layers.settings.workspace,
        name='conv_6dw7_7_conv2d',
    )
    return layers.norm(FeatureMap(symbol, data.channels, (1, 1)), 'conv_6dw7_7_batchnorm', eps=BN_EPS)


def _dropout(layers, data):
    return data._replace(symbol=mx.sym.Dropout(data.symbol, p=DROPOUT, name='dropout0'))


HEAD_LAYERS = {
    'bn': lambda layers, data: layers.norm(data, 'bn1', eps=BN_EPS),
    'act': lambda layers, data: layers.act(data, 'relu1'),
    'pool': lambda layers, data: layers.global_pool(data, 'pool1'),
    'depthwise': _depthwise,
    'dropout': _dropout,
}


def head(layers, data, open_end):
    """Build the head `net_output` on the last map of the trunk: the embedding, (batch, emb_size), a symbol named `fc1`.

    `open_end` says that the last unit ended without BN and activation; the classifier then begins with them.
    """
    settings = layers.settings
    form = HEADS[settings.net_output]
    if settings.fp16:
        data = data._replace(symbol=mx.sym.Cast(data.symbol, dtype='float32', name='to_float32'))
    if open_end and settings.net_output == 'C':
        data = layers.norm_act(data, 'bn1', 'relu1')
    for layer in form.before:
        data = HEAD_LAYERS[layer](layers, data)
    if not form.has_fc:
        return mx.sym.Flatten(data.symbol, name='fc1')
    # FullyConnected flattens by itself; insightface's FLOP counter expects it to take the 4-D map.
    symbol = mx.sym.FullyConnected(
        data=data.symbol,
        num_hidden=int(settings.emb_size),
        name='pre_fc1' if form.has_bn else 'fc1',
        **({} if form.has_bias else {'no_bias': True}),
    )
    if not form.has_bn:
        return symbol
    return mx.sym.BatchNorm(
        data=symbol, fix_gamma=form.fix_gamma, eps=form.bn_eps, momentum=settings.bn_mom, name='fc1'
    )
