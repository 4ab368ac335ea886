"""The released networks in PyTorch, written for the tests from the tables in words: what our builders are held to.

Nothing here comes from the builders or the importer, and nothing from the released code except the parameters' names.

iResNet is a module; its `origin` says what the unit after a stage's start unit adds in the end: its input ('paper') or,
activated in place, that ('release'). CRU-Nets and attention networks are functions of (Weights, images): Weights makes
each parameter, under its released name, when it is first used.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from paper import IRESNET

GROUPS = {'iresgroup': (8, 16, 32, 64), 'iresgroupfix': (64, 64, 64, 64)}


class Unit(nn.Module):
    """A unit; `place` is 'start', 'first' (behind the start), 'middle', 'end', or 'first end'."""

    def __init__(self, inputs, convs, stride, place, origin):
        """`convs` are (kernel, filters, stride, groups) of the branch."""
        super().__init__()
        self.place, self.origin, self.count = place, origin, len(convs)
        outputs = convs[-1][1]
        if place in ('middle', 'end'):
            self.bn0 = nn.BatchNorm2d(inputs)
        channels = inputs
        for number, (kernel, filters, step, groups) in enumerate(convs, 1):
            conv = nn.Conv2d(channels, filters, kernel, step, kernel // 2, groups=groups, bias=False)
            setattr(self, f'conv{number}', conv)
            if number < len(convs) or place == 'start' or 'end' in place:
                setattr(self, f'bn{number}', nn.BatchNorm2d(filters))
            channels = filters
        if place == 'start':
            layers = [nn.MaxPool2d(3, stride, 1)]
            if inputs != outputs:
                layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.downsample = nn.Sequential(*layers)

    def forward(self, x):
        added = x
        if self.place == 'start':
            added = self.downsample(x)
        elif self.place.startswith('first'):
            x = torch.relu(x)
            added = x if self.origin == 'release' else added
        else:
            x = torch.relu(self.bn0(x))
        for number in range(1, self.count + 1):
            x = getattr(self, f'conv{number}')(x)
            if number < self.count:
                x = torch.relu(getattr(self, f'bn{number}')(x))
        last = getattr(self, f'bn{self.count}', None)
        if self.place == 'start':
            return last(x) + added
        return torch.relu(last(x + added)) if 'end' in self.place else x + added


class Network(nn.Module):
    """A network by its name, `ires18` … `iresgroupfix152`."""

    def __init__(self, name, origin):
        super().__init__()
        kind = name.rstrip('0123456789')
        depth = int(name[len(kind) :])
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(IRESNET[depth]):
            units = []
            for number in range(count):
                stride = 1 if number else 2
                out = 64 * 2**stage
                if depth < 50:
                    convs = [(3, out, stride, 1), (3, out, 1, 1)]
                elif kind == 'ires':
                    convs = [(1, out, 1, 1), (3, out, stride, 1), (1, 4 * out, 1, 1)]
                else:
                    convs = [(1, 4 * out, 1, 1), (3, 4 * out, stride, GROUPS[kind][stage]), (1, 2 * out, 1, 1)]
                places = ['start'] if number == 0 else ['first' if number == 1 else 'middle']
                if number == count - 1:
                    places = ['first end' if number == 1 else 'end']
                units.append(Unit(channels, convs, stride, places[0], origin))
                channels = convs[-1][1]
            setattr(self, f'layer{stage + 1}', nn.Sequential(*units))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x):
        """Return the outputs for images, (x/255 - mean)/std."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f'layer{stage + 1}')(x)
        return self.fc(x.mean((2, 3)))


def randomise(network, generator):
    """Make all weights and statistics of a module random, small enough that numbers do not grow."""

    def normal(shape, deviation):
        return torch.randn(shape, generator=generator) * deviation

    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith('num_batches_tracked'):
                tensor.fill_(1000)
            elif tensor.ndim > 1:
                tensor.copy_(normal(tensor.shape, tensor[0].numel() ** -0.5))
            elif key.endswith('running_var') or key.endswith('.weight'):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            else:
                tensor.copy_(normal(tensor.shape, 0.1))


def random_network(name, origin, seed=0):
    """Return a Network whose weights and statistics are all random."""
    network = Network(name, origin)
    randomise(network, torch.Generator().manual_seed(seed))
    return network.eval()


def as_for_imagenet(raw):
    """Return raw 0…255 RGB as these networks take it."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=raw.dtype)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=raw.dtype)
    return (raw / 255 - mean[:, None, None]) / deviation[:, None, None]


# ------------------------------------------------------------------------- CRU-Nets and attention networks

MXNET = {
    'weight': '_weight',
    'bias': '_bias',
    'scale': '_gamma',
    'shift': '_beta',
    'mean': '_moving_mean',
    'variance': '_moving_var',
}
PYTORCH = {
    'bias': '.bias',
    'weight': '.weight',
    'scale': '.weight',
    'shift': '.bias',
    'mean': '.running_mean',
    'variance': '.running_var',
}


class Weights:
    """Random parameters and moving statistics under their released names, and the layers that use them."""

    def __init__(self, suffixes, eps, multiplier=1.0, dtype=torch.float32, seed=0):
        self.suffixes, self.eps, self.multiplier, self.dtype = suffixes, eps, multiplier, dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors, self.is_training = {}, False
        self.moved = {}  # moving statistics after the step in training, of MXNet's momentum 0.9 and biased variance

    def make(self, name, shape, draw):
        """Return the parameter `name`, made if it is new."""
        if name not in self.tensors:
            tensor = draw(torch.rand(shape, generator=self.generator, dtype=torch.float64))
            self.tensors[name] = tensor.to(self.dtype).requires_grad_()
        assert self.tensors[name].shape == torch.Size(shape), name
        return self.tensors[name]

    def width(self, width, groups=1):
        """Return a width of the network, scaled."""
        return groups * max(1, round(width * self.multiplier / groups))

    def conv(self, name, x, out, kernel=1, stride=1, groups=1, weight=None):
        """Convolve without bias; `weight` is the whole name of a weight that is not the layer's own."""
        shape = out, x.shape[1] // groups, kernel, kernel
        deviation = (12 / math.prod(shape[1:])) ** 0.5
        tensor = self.make(weight or name + self.suffixes['weight'], shape, lambda drawn: (drawn - 0.5) * deviation)
        return functional.conv2d(x, tensor, None, stride, kernel // 2, 1, groups)

    def bn(self, name, x, eps=None, fixed=False):
        """BatchNorm over the channels; `fixed` has a scale of 1."""
        channels, axes = x.shape[1], [axis for axis in range(x.ndim) if axis != 1]
        mean, variance, scale, shift = (
            self.make(name + self.suffixes[key], (channels,), draw)
            for key, draw in (
                ('mean', lambda drawn: 0.2 * (drawn - 0.5)),
                ('variance', lambda drawn: 0.5 + drawn),
                ('scale', torch.ones_like if fixed else lambda drawn: 0.5 + drawn),
                ('shift', lambda drawn: 0.2 * (drawn - 0.5)),
            )
        )
        if self.is_training:
            old = mean, variance
            mean, variance = x.mean(axes), x.var(axes, unbiased=False)
            for key, before, now in zip(('mean', 'variance'), old, (mean, variance)):
                self.moved[name + self.suffixes[key]] = (0.9 * before + 0.1 * now).detach().numpy()
        shape = (1, channels) + (1,) * (x.ndim - 2)
        x = (x - mean.reshape(shape)) / (variance.reshape(shape) + (eps or self.eps)).sqrt()
        return x * scale.reshape(shape) + shift.reshape(shape)

    def prelu(self, name, x):
        """PReLU with a slope per channel."""
        slope = self.make(name + self.suffixes['scale'], (x.shape[1],), lambda drawn: 0.1 + 0.3 * drawn)
        return functional.prelu(x, slope)

    def linear(self, name, x, out, has_bias=True):
        """Fully connected layer over the flattened map."""
        x = x.flatten(1)
        deviation = (12 / x.shape[1]) ** 0.5
        shape = out, x.shape[1]
        weight = self.make(name + self.suffixes['weight'], shape, lambda drawn: (drawn - 0.5) * deviation)
        bias = self.make(name + self.suffixes['bias'], (out,), lambda drawn: 0.2 * (drawn - 0.5)) if has_bias else None
        return functional.linear(x, weight, bias)

    def arrays(self):
        """Return {name: array}."""
        return {name: tensor.detach().numpy() for name, tensor in self.tensors.items()}


def normalised(x):
    """Return raw RGB as the networks of 2018 and FaceX-Zoo take it."""
    return (x - 127.5) * 0.0078125


def option_e(w, x, size):
    """BN, (dropout,) FC, BN with a scale of 1: eps 2e-5."""
    x = w.linear('pre_fc1', w.bn('bn1', x, eps=2e-5), size)
    return w.bn('fc1', x, eps=2e-5, fixed=True)


# --------------------------------------------------------------------------------------------------- CRU-Net

# units, K, out, units that share (0: 32 groups instead)
CRU_FACE = {
    56: [(3, 128, 256, 0), (4, 640, 512, 4), (6, 1280, 1024, 6), (3, 1024, 2048, 0)],
    116: [(3, 128, 256, 0), (6, 352, 512, 6), (18, 704, 1024, 6), (3, 1024, 2048, 0)],
}
CRU_ORIGINAL = {**CRU_FACE, 56: [(3, 128, 256, 0), (4, 256, 512, 0), (6, 640, 1024, 6), (3, 1024, 2048, 0)]}


def cru_face(w, x, depth, size):
    """fcrunet.py of 2018: the strides stand on the last convolutions, and BN-PReLU precedes the first shared one."""
    x = w.prelu('conv1-bn1_prelu', w.bn('conv1-bn1_batchnorm', w.conv('conv1_conv2d', normalised(x), w.width(64), 3)))
    for stage, (units, width, out, sharing) in enumerate(CRU_FACE[depth], 2):
        width, out = w.width(width, 1 if sharing else 32), w.width(out)
        for unit in range(1, units + 1):
            name, stride, shortcut = f'conv{stage}_x_{unit}_', 2 if unit == 1 else 1, x
            if unit == 1:
                step = '(s/key)' if sharing else '(s/2)'
                shortcut = w.conv(f'{name}c1x1-w{step}_conv2d', x, out, 1, 2)
                shortcut = w.bn(f'{name}bn-c1x1-w{step}_batchnorm', shortcut)
            if unit == 1 and sharing:
                x = w.bn(f'{name}bn-c1x1-w(s/1)_batchnorm', w.conv(f'{name}c1x1-w(s/1)_conv2d', x, out))

            def layer(place, x, *conv, act=True, weight=None, name=name):
                x = w.bn(f'{name}{place}_batchnorm', x)
                x = w.prelu(f'{name}{place}_prelu', x) if act else x
                return w.conv(f'{name}{place}_conv2d', x, *conv, weight=weight)

            if sharing:
                group = f'conv{stage}_x_' + (f'{(unit - 1) // 6 + 1}_' if stage == 4 else '')
                x = layer('c1x1-a', x, width, weight=group + '1x1_bases[dim3]_weight')
                x = layer('c3x3-b(1)', x, width, 3, 1, width, weight=group + '3x3_bases[dim21]_weight')
                x = layer('c1x1-b', x, width)
            else:
                x = layer('c1x1-a', x, width, act=False)
                x = layer('c3x3-b', x, width, 3, 1, 32)
            x = layer('c1x1-c', x, out, 1, stride)
            x = w.bn(f'{name}bn-c1x1-c_batchnorm', x) + shortcut
    return option_e(w, x, size)


def cru_original(w, x, depth, size):
    """The authors' ImageNet networks: pre-activation, one weight for both projections of a collective unit."""
    mean = torch.tensor([124.0, 117.0, 104.0], dtype=x.dtype)[:, None, None]
    x = w.conv('conv1_x_1__conv', (x - mean) * 0.0167, w.width(64), 7, 2)
    x = functional.max_pool2d(torch.relu(w.bn('conv1_x_1__relu-sp__bn', x)), 3, 2, 1)
    for stage, (units, width, out, sharing) in enumerate(CRU_ORIGINAL[depth], 2):
        width, out = w.width(width, 1 if sharing else 32), w.width(out)
        for unit in range(1, units + 1):
            name, stride, shortcut = f'conv{stage}_x__{unit}_', 2 if unit == 1 and stage > 2 else 1, x
            shared = name + 'c1x1-w_weight'
            if unit == 1:
                step = '(s/key)' if sharing else f'(s/{stride})'
                activated = torch.relu(w.bn(f'{name}c1x1-w{step}__bn__bn', x))
                shortcut = w.conv('', activated, out, 1, stride, weight=shared)
            if unit == 1 and sharing:
                x = w.conv('', torch.relu(w.bn(f'{name}c1x1-w(s/1)__bn__bn', x)), out, weight=shared)

            def layer(place, x, *conv, weight=None, name=name):
                x = torch.relu(w.bn(f'{name}{place}__bn__bn', x))
                return w.conv(f'{name}{place}__conv', x, *conv, weight=weight)

            if sharing:
                groups = units // sharing
                group = f'conv{stage}_x__' + (f'({(unit - 1) // 6 + 1})' if groups > 1 else 'x') + '_'
                x = layer('c1x1-a', x, width, weight=group + '1x1_bases[dim3]_weight')
                x = w.conv('', x, width, 3, stride, width, weight=group + '3x3_bases[dim21]_weight')
                x = layer('c1x1-b(2)', x, width)
            else:
                x = layer('c3x3-b', layer('c1x1-a', x, width), width, 3, stride, 32)
            x = layer('c1x1-c', x, out) + shortcut
    x = torch.relu(w.bn('conv5_x_x__relu-sp__bn', x)).mean((2, 3))
    return w.linear('fc6', x, size)


# ------------------------------------------------------------------------------------------------- attention

MODULES = {56: (1, 1, 1), 92: (1, 2, 3)}


def resized(x, like):
    """Resize a map bilinearly with aligned corners, by weights that are rounded to float32, as in MXNet."""

    def matrix(before, after):
        place = np.float32((before - 1) / max(1, after - 1)) * np.arange(after, dtype=np.float32)
        low = np.minimum(place.astype(int), before - 1)
        found = np.zeros((after, before))
        found[range(after), low] += np.float32(1) - (place - low)
        found[range(after), np.minimum(low + 1, before - 1)] += place - low
        return torch.from_numpy(found).to(x.dtype)

    rows, columns = (matrix(x.shape[axis], like.shape[axis]) for axis in (2, 3))
    return rows @ x @ columns.T


def attend(unit, x, names, last):
    """An attention module of 1, 2 or 3 levels, in the reading that adds the way down and the trunk to the way up.

    `unit(name, x)` computes a unit; `names` are first, trunk (two), down (a list), up (a list, the lowest first), skip
    (a list), close; `last(x)` computes the two convolutions in the end of the mask.
    """
    x = unit(names['first'], x)
    trunk = unit(names['trunk'][1], unit(names['trunk'][0], x))
    maps = []
    for name in names['down']:
        x = unit(name, functional.max_pool2d(x, 3, 2, 1))
        maps.append(x)
    skips = [unit(name, map_) for name, map_ in zip(names['skip'], maps)]
    x = unit(names['up'][0], x)
    for name, map_, skip in zip(names['up'][1:], maps[-2::-1], skips[::-1]):
        x = unit(name, resized(x, map_) + map_ + skip)
    mask = torch.sigmoid(last(resized(x, trunk) + trunk))
    return unit(names['close'], (1 + mask) * trunk)


# Parts of the names of a mask's units, down and then up, in the modules of stages 1, 2 and 3.
IN_2018 = {
    1: (['sm_rb_1', 'sm_rb_2', 'sm_rb_3_1'], ['sm_rb_3_2', 'sm_rb_4', 'sm_rb_5'], ['sk_cn_rb_1', 'sk_cn_rb_2']),
    2: (['sm_rb_1', 'sm_rb_2_1'], ['sm_rb_2_2', 'sm_rb_3'], ['sk_cn_rb_1']),
    3: (['sm_rb_1_1'], ['sm_rb_1_2'], []),
}
IN_PYTORCH = {
    'bias': '.bias',
    1: (
        ['softmax1_blocks', 'softmax2_blocks', 'softmax3_blocks.0'],
        ['softmax3_blocks.1', 'softmax4_blocks', 'softmax5_blocks'],
        ['skip1_connection_residual_block', 'skip2_connection_residual_block'],
        'softmax6_blocks',
    ),
    2: (
        ['softmax1_blocks', 'softmax2_blocks.0'],
        ['softmax2_blocks.1', 'softmax3_blocks'],
        ['skip1_connection_residual_block'],
        'softmax4_blocks',
    ),
    3: (['softmax1_blocks.0'], ['softmax1_blocks.1'], [], 'softmax2_blocks'),
}


def att_face(w, x, depth, size, has_se=True):
    """fresattnet.py of 2018, with squeeze-and-excitation unless it was switched off."""

    def unit(name, x, out=None, stride=1):
        out = out or x.shape[1]
        width, shortcut = out // 4, x
        if out != x.shape[1] or stride > 1:
            shortcut = w.bn(name + '_bn_sc_batchnorm', w.conv(name + '_conv1sc_conv2d', x, out, 1, stride))
        x = w.conv(name + '_c1x1_a_conv2d', w.bn(name + '_c1x1_batchnorm', x), width)
        x = w.prelu(name + '_c3x3_prelu', w.bn(name + '_c3x3_batchnorm', x))
        x = w.conv(name + '_c3x3_conv2d', x, width, 3)
        x = w.prelu(name + '_c1x1_b_prelu', w.bn(name + '_c1x1_b_batchnorm', x))
        x = w.bn(name + '_bn_c1x1_b_batchnorm', w.conv(name + '_c1x1_b_conv2d', x, out, 1, stride))
        if has_se:
            gate = w.conv(name + '_se_1_conv2d', x.mean((2, 3), keepdim=True), out // 16)
            gate = w.conv(name + '_se_2_conv2d', w.prelu(name + '_se_prelu', gate), out)
            x = x * torch.sigmoid(gate)
        return x + shortcut

    x = w.bn('RA_conv1_bn1_batchnorm', w.conv('RA_conv1_conv2d', normalised(x), w.width(64), 3))
    x = w.prelu('RA_conv1_bn1_prelu', x)
    for stage, count in enumerate(MODULES[depth], 1):
        x = unit(f'RAN_R_unit{stage}', x, w.width(128 * 2**stage), 2)
        for module in range(1, count + 1):
            name = f'RAN_AM_s{stage}_unit{module}_'
            down, up, skip = ([name + part for part in parts] for parts in IN_2018[stage])
            close = name + ('RB_last' if stage == 1 else 'rb_last')
            trunk = [name + 'tk_rb_1', name + 'tk_rb_2']
            names = dict(first=name + 'rb_first', trunk=trunk, down=down, up=up, skip=skip, close=close)

            def last(x, name=name):
                for which in 'ab':
                    part = f'{name}sm_c1x1_{which}_'
                    x = w.prelu(part + 'prelu', w.bn(part + 'batchnorm', x))
                    x = w.conv(part + 'conv2d', x, x.shape[1])
                return x

            x = attend(unit, x, names, last)
    for number in (1, 2, 3):
        x = unit(f'RAN_R_unit4_{number}', x, w.width(2048), 2 if number == 1 else 1)
    return option_e(w, x, size)


def in_pytorch(w, x, depth, unit_name, module_name):
    """The trunk of tengshaofeng's network: `unit_name`, `module_name` are functions of (stage, number)."""

    def unit(name, x, out=None, stride=1):
        out = out or x.shape[1]
        entry = torch.relu(w.bn(name + '.bn1', x))
        unused = w.conv(name + '.conv4', entry, out, 1, stride)  # every block has it
        shortcut = unused if out != x.shape[1] or stride > 1 else x
        y = torch.relu(w.bn(name + '.bn2', w.conv(name + '.conv1', entry, out // 4)))
        y = torch.relu(w.bn(name + '.bn3', w.conv(name + '.conv2', y, out // 4, 3, stride)))
        return w.conv(name + '.conv3', y, out) + shortcut

    for stage, count in enumerate(MODULES[depth], 1):
        x = unit(unit_name(stage, 1), x, w.width(128 * 2**stage), 1 if stage == 1 else 2)
        for module in range(1, count + 1):
            name = module_name(stage, module) + '.'
            *parts, end = IN_PYTORCH[stage]
            down, up, skip = ([name + part for part in some] for some in parts)
            trunk = [name + 'trunk_branches.0', name + 'trunk_branches.1']
            first, close = name + 'first_residual_blocks', name + 'last_blocks'
            names = dict(first=first, trunk=trunk, down=down, up=up, skip=skip, close=close)

            def last(x, end=name + end):
                x = w.conv(f'{end}.2', torch.relu(w.bn(f'{end}.0', x)), x.shape[1])
                return w.conv(f'{end}.5', torch.relu(w.bn(f'{end}.3', x)), x.shape[1])

            x = attend(unit, x, names, last)
    for number in (1, 2, 3):
        x = unit(unit_name(4, number), x, w.width(2048), 2 if number == 1 else 1)
    return x


def tengshaofeng(w, x, depth, size):
    """tengshaofeng's network for ImageNet."""
    x = torch.relu(w.bn('conv1.1', w.conv('conv1.0', as_for_imagenet(x), w.width(64), 7, 2)))
    x = functional.max_pool2d(x, 3, 2, 1)
    units = {(1, 1): 1, (2, 1): 2, (3, 1): 3, (4, 1): 4, (4, 2): 5, (4, 3): 6}
    x = in_pytorch(
        w,
        x,
        depth,
        lambda *place: f'residual_block{units[place]}',
        lambda stage, number: f'attention_module{stage}' + ('' if number == 1 else f'_{number}'),
    )
    return w.linear('fc', torch.relu(w.bn('mpool2.0', x)).mean((2, 3)), size)


def facexzoo(w, x, depth, size):
    """FaceX-Zoo's network for faces, which takes BGR."""
    x = torch.relu(w.bn('conv1.1', w.conv('conv1.0', normalised(x).flip(1), w.width(64), 7, 2)))
    order = []
    for stage, count in enumerate(MODULES[depth], 1):
        order += [('unit', stage, 1)] + [('module', stage, number) for number in range(1, count + 1)]
    order += [('unit', 4, number) for number in (1, 2, 3)]
    places = {place: f'attention_body.{number}' for number, place in enumerate(order)}
    x = in_pytorch(w, x, depth, lambda *place: places[('unit', *place)], lambda *place: places[('module', *place)])
    return w.bn('output_layer.2', w.linear('output_layer.1', x, size, has_bias=False))


def images(side, count=2, dtype=np.float32):
    """Return raw RGB images."""
    return np.random.RandomState(0).randint(0, 256, (count, 3, side, side)).astype(dtype)
