"""The networks as the papers print them, counted by hand: the expectation the builders are held to.

Nothing here comes from the builders. A network is walked layer by layer from the figures of
the papers; the walk adds up parameters and multiply-adds and keeps, for every residual branch, the
sequence of its layers ("bn", "act", "C3x704/2g704": kernel x filters / stride g groups).
"""

from collections import Counter


class Walk:
    """Adds up what a network has. `act_parameters` is 1 for PReLU, 0 for ReLU."""

    def __init__(self, size, act_parameters):
        self.size, self.act_parameters = size, act_parameters
        self.parameters = self.macs = 0
        self.branches = {}
        self.uses = Counter()  # of every shared weight
        self.last = 0  # channels before the head

    def layers(self, channels, size, sequence, name=None):
        """Walk `sequence` from a map of (channels, size); return the map behind it."""
        texts = []
        for item in sequence:
            if item == 'bn':
                self.parameters += 2 * channels
            elif item == 'act':
                self.parameters += channels * self.act_parameters
            else:
                kernel, filters, stride, groups, shared = item + (1, 1, None)[len(item) - 2 :]
                size = (size - 1) // stride + 1
                weights = kernel * kernel * (channels // groups) * filters
                self.macs += weights * size * size
                if shared is None or not self.uses[shared]:
                    self.parameters += weights
                if shared:
                    self.uses[shared] += 1
                item = f'C{kernel}x{filters}/{stride}g{groups}'
                channels = filters
            texts.append(item)
        if name:
            assert name not in self.branches
            self.branches[name] = texts
        return channels, size

    def fc(self, inputs, outputs):
        self.parameters += (inputs + 1) * outputs
        self.macs += inputs * outputs


def with_norms(convs, form):
    """Put BN and activations around convolutions; 'pre', 'post' or 'improved'."""
    sequence = []
    for number, conv in enumerate(convs):
        if form == 'improved':
            sequence += (['bn'] if number == 0 else ['bn', 'act']) + [conv]
        elif form == 'pre':
            sequence += ['bn', 'act', conv]
        else:
            sequence += [conv, 'bn'] + (['act'] if number < len(convs) - 1 else [])
    return sequence + ['bn'] if form == 'improved' else sequence


def start(walk, face, max_pool=True):
    """Stem; returns channels, size and the stride of stage 1."""
    channels, size = walk.layers(3, walk.size, [(3, 64) if face else (7, 64, 2), 'bn', 'act'])
    if face or not max_pool:
        return channels, size, 2
    return channels, (size + 1) // 2, 1


def finish(walk, channels, size, outputs, face, closing):
    """Option E, or the ImageNet classifier behind `closing` layers."""
    walk.last = channels
    if face:
        walk.layers(channels, size, ['bn'])
        walk.fc(channels * size * size, outputs)
        walk.parameters += 2 * outputs  # gamma, fixed but an argument, and beta
    else:
        walk.layers(channels, size, closing)
        walk.fc(channels, outputs)
    return walk


def crunet(depth, outputs, size, face, origin='paper'):
    """`origin` 'release' changes the face networks alone: the five points in which the code of 2018 differs."""
    walk = Walk(size, face)
    form = 'improved' if face else 'pre'
    of_2018 = face and origin == 'release'
    channels, size, stride = start(walk, face)
    # units, K, out, units in a sharing group
    table = {
        56: [(3, 128, 256, 0), (4, 256, 512, 0), (6, 640, 1024, 6), (3, 1024, 2048, 0)],
        116: [(3, 128, 256, 0), (6, 352, 512, 6), (18, 704, 1024, 6), (3, 1024, 2048, 0)],
    }[depth]
    if of_2018 and depth == 56:
        table = [(3, 128, 256, 0), (4, 640, 512, 4), (6, 1280, 1024, 6), (3, 1024, 2048, 0)]
    for stage, (units, width, out, sharing) in enumerate(table, 1):
        for unit in range(1, units + 1):
            name = f'stage{stage}_unit{unit}'
            if not sharing:
                if unit == 1:
                    walk.layers(channels, size, [(1, out, stride), 'bn'] if face else ['bn', 'act', (1, out, stride)])
                convs = [(1, width), (3, width, stride, 32), (1, out)]
                if of_2018:
                    convs = [(1, width), (3, width, 1, 32), (1, out, stride)]
                channels, size = walk.layers(channels, size, with_norms(convs, form), name)
            else:
                if unit == 1:
                    projection = None if of_2018 else name + '_project_weight'
                    for step in (stride, 1):
                        conv = (1, out, step, 1, projection)
                        after = walk.layers(channels, size, [conv, 'bn'] if face else ['bn', 'act', conv])
                    channels = after[0]
                group = f'stage{stage}_group{(unit - 1) // sharing + 1}'
                convs = [
                    (1, width, 1, 1, group + '_conv1_weight'),
                    (3, width, 1 if of_2018 else stride, width, group + '_conv2_weight'),
                    (1, width),
                    (1, out, stride if of_2018 else 1),
                ]
                sequence = with_norms(convs, form)
                if of_2018:
                    sequence.insert(1, 'act')  # in front of the first shared convolution
                if not face:  # nothing between the two shared convolutions
                    sequence = ['bn', 'act', convs[0], convs[1]] + with_norms(convs[2:], form)
                channels, size = walk.layers(channels, size, sequence, name)
            stride = 1
        stride = 2
    return finish(walk, channels, size, outputs, face, ['bn', 'act'])


# Depth: attention modules of stages 1, 2, 3 and the paper's p, t, r.
ATTENTION = {
    56: ((1, 1, 1), 1, 2, 1),
    92: ((1, 2, 3), 1, 2, 1),
    128: ((2, 3, 4), 1, 2, 1),
    164: ((3, 4, 5), 1, 2, 1),
    200: ((4, 5, 6), 1, 2, 1),
    236: ((5, 6, 7), 1, 2, 1),
    452: ((5, 6, 7), 2, 4, 3),
}


def attention(depth, outputs, size, face, origin='paper', divisor=4, groups=1, original_form='pre'):  # noqa: PLR0913
    """`origin` 'release' moves a stride in the face networks, 'facexzoo' is those of FaceX-Zoo."""
    walk = Walk(size, face and origin != 'facexzoo')
    form = 'improved' if face and origin != 'facexzoo' else original_form
    stride_on_last = face and origin == 'release'
    if origin == 'facexzoo':
        channels, size = walk.layers(3, size, [(7, 64, 2), 'bn', 'act'])
        stride = 1
    else:
        channels, size, stride = start(walk, face)

    def unit(channels, size, out, stride, name):
        if (channels, stride) != (out, 1):
            # The pre-activation shortcut has no BN and takes the branch's own activation.
            walk.layers(channels, size, [(1, out, stride)] if form == 'pre' else [(1, out, stride), 'bn'])
        middle, last = (1, stride) if stride_on_last else (stride, 1)
        convs = [(1, out // divisor), (3, out // divisor, middle, groups), (1, out, last)]
        map_ = walk.layers(channels, size, with_norms(convs, form), name)
        if form == 'post':
            walk.layers(*map_, ['act'])
        return map_

    table, p, t, r = ATTENTION[depth]
    for stage, modules in enumerate(table, 1):
        out = 128 * 2**stage
        channels, size = unit(channels, size, out, stride, f'stage{stage}_unit1')
        stride = 2
        for module in range(1, modules + 1):
            name = f'stage{stage}_attention{module}_'
            parts = [f'unit{i}' for i in range(1, p + 1)] + [f'trunk_unit{i}' for i in range(1, t + 1)] + ['close']
            for part in parts:
                unit(channels, size, out, 1, name + part)
            sizes = [size]
            for _ in range(4 - stage):
                sizes.append((sizes[-1] + 1) // 2)
            for level, level_size in enumerate(sizes[1:], 1):
                for i in range(1, r + 1):
                    unit(channels, level_size, out, 1, name + f'mask_down{level}_unit{i}')
                    unit(channels, level_size, out, 1, name + f'mask_up{level}_unit{i}')
                if level < len(sizes) - 1:
                    unit(channels, level_size, out, 1, name + f'mask_skip{level}')
            walk.layers(channels, size, ([] if form == 'post' else ['bn', 'act']) + [(1, out), 'bn', 'act', (1, out)])
    for number in (1, 2, 3):
        channels, size = unit(channels, size, 2048, 2 if number == 1 else 1, f'stage4_unit{number}')
    if origin == 'facexzoo':  # FC without bias, BN
        walk.last = channels
        inputs = channels * size * size
        walk.parameters += (inputs + 2) * outputs
        walk.macs += inputs * outputs
        return walk
    return finish(walk, channels, size, outputs, face, ['bn', 'act'] if form == 'pre' else [])


def attention_next(depth, outputs, size, face, origin='paper'):
    return attention(depth, outputs, size, face, origin, divisor=2, groups=32, original_form='post')


IRESNET = {
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


def iresnet(depth, outputs, size, face, origin='paper', groups=None):  # noqa: PLR0913
    """Released code has the same counts. `groups`, of each stage, are those of iResGroup; basic units in 18 and 34."""
    walk = Walk(size, face)
    channels, size, stride = start(walk, face, max_pool=False)
    for stage, units in enumerate(IRESNET[depth], 1):
        for unit in range(1, units + 1):
            stride = 2 if unit == 1 else 1
            if groups:
                out, width = 64 * 2**stage, 128 * 2**stage
                convs = [(1, width), (3, width, stride, groups[stage - 1]), (1, out)]
            elif depth < 50:
                out = 32 * 2**stage
                convs = [(3, out, stride), (3, out)]
            else:
                out = 128 * 2**stage
                convs = [(1, out // 4), (3, out // 4, stride), (1, out)]
            if unit == 1:
                if out != channels:
                    walk.layers(channels, (size + 1) // 2, [(1, out), 'bn'])  # behind the max pooling
                sequence = with_norms(convs, 'post')
            else:
                sequence = with_norms(convs, 'pre')[1 if unit == 2 else 0 :]
            channels, size = walk.layers(channels, size, sequence, f'stage{stage}_unit{unit}')
        walk.layers(channels, size, ['bn', 'act'])
    return finish(walk, channels, size, outputs, face, [])


def iresgroup(depth, outputs, size, face, origin='paper'):
    return iresnet(depth, outputs, size, face, origin, (8, 16, 32, 64))


def iresgroupfix(depth, outputs, size, face, origin='paper'):
    return iresnet(depth, outputs, size, face, origin, (64, 64, 64, 64))


def resnet(depth, outputs, size, face, origin='paper'):
    """ResNet with the stride on the 3x3 convolution; with the stem's max pooling."""
    walk = Walk(size, face)
    channels, size, stride = start(walk, face)
    for stage, units in enumerate(IRESNET[depth], 1):
        out = 128 * 2**stage
        for unit in range(1, units + 1):
            if unit == 1:
                walk.layers(channels, size, [(1, out, stride), 'bn'])
            convs = [(1, out // 4), (3, out // 4, stride), (1, out)]
            channels, size = walk.layers(channels, size, with_norms(convs, 'post'), f'stage{stage}_unit{unit}')
            walk.layers(channels, size, ['act'])
            stride = 1
        stride = 2
    return finish(walk, channels, size, outputs, face, [])


FAMILIES = {
    'cru': crunet,
    'att': attention,
    'attnext': attention_next,
    'ires': iresnet,
    'iresgroup': iresgroup,
    'iresgroupfix': iresgroupfix,
    'resnet': resnet,
}


def walk(network, outputs, size):
    """Walk a network by its name, `cru116` or `cru116:net_origin=release`.

    `outputs` are embedding size or classes, `size` is the image's side.
    """
    network, _, origin = network.partition(':net_origin=')
    name, _, form = network.partition('_')
    family = name.rstrip('0123456789')
    return FAMILIES[family](int(name[len(family) :]), outputs, size, form != 'imagenet', origin or 'paper')
