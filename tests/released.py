"""iResNet in PyTorch, written for the tests from the tables in words: the expectation our builder is held to.

Nothing here comes from the builders, and nothing from the authors' code but the names of the parameters. `origin` says
what the unit behind a stage's start unit adds in the end: its input ('paper') or, as activated in place, that
('release').
"""

import torch
from torch import nn

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


def random_network(name, origin, seed=0):
    """Return a Network whose weights and statistics are all random, small enough that numbers do not grow."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, deviation):
        return torch.randn(shape, generator=generator) * deviation

    network = Network(name, origin)
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
    return network.eval()


def normalised(raw):
    """Return raw 0…255 RGB as these networks take it."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=raw.dtype)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=raw.dtype)
    return (raw / 255 - mean[:, None, None]) / deviation[:, None, None]
