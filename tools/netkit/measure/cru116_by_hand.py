"""cru116 for faces, written by hand as PyTorch modules: the reference for the module made from the symbol.

Independent of `symbols/`: from the paper's table (arXiv 1703.02180) and the description of the face variant.
"""

from torch import nn

# Units, output width, inner width and sharing of each stage; a sharing of 0 stands for ResNeXt units.
STAGES = (3, 256, 128, 0), (6, 512, 352, 6), (18, 1024, 704, 6), (3, 2048, 1024, 0)
GROUPS = 32
EPS, DROPOUT = 2e-5, 0.4
SCALE = 127.5 / 128  # from the images of arcface_torch, (x - 127.5) / 127.5, to those of the network


def norm(channels):
    """Return a BatchNorm."""
    return nn.BatchNorm2d(channels, eps=EPS)


def conv(inputs, outputs, kernel=1, stride=1, groups=1):
    """Return a convolution without bias that keeps the size, or divides it by `stride`."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Projection(nn.Module):
    """A 1x1 convolution and BatchNorm; two of them may share the convolution's weight."""

    def __init__(self, inputs, outputs, stride=1, shared=None):
        super().__init__()
        self.conv, self.bn = conv(inputs, outputs, stride=stride), norm(outputs)
        if shared is not None:
            self.conv.weight = shared.conv.weight

    def forward(self, x):
        return self.bn(self.conv(x))


class Unit(nn.Module):
    """An improved residual unit of the convolutions `convs`: BN - C - (BN - PReLU - C)… - BN, and the shortcut."""

    def __init__(self, inputs, convs, shortcut=None, project=None):
        super().__init__()
        self.bn1, self.shortcut, self.project = norm(inputs), shortcut, project
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(norm(layer.out_channels) for layer in convs)
        self.relus = nn.ModuleList(nn.PReLU(layer.out_channels) for layer in convs[:-1])

    def forward(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.bn1(x if self.project is None else self.project(x))
        for place, layer in enumerate(self.convs):
            x = self.bns[place](layer(x))
            if place < len(self.relus):
                x = self.relus[place](x)
        return x + shortcut


def resnext_unit(inputs, outputs, width, stride):
    """Return a ResNeXt unit."""
    convs = [conv(inputs, width), conv(width, width, 3, stride, GROUPS), conv(width, outputs)]
    return Unit(inputs, convs, Projection(inputs, outputs, stride) if stride > 1 or inputs != outputs else None)


def collective_unit(inputs, outputs, width, stride, shared):
    """Return a collective unit whose first two convolutions have the weights of `shared`, a unit or None."""
    shortcut = project = None
    if stride > 1 or inputs != outputs:
        project = Projection(inputs, outputs)
        shortcut = Projection(inputs, outputs, stride, project)
    convs = [conv(outputs, width), conv(width, width, 3, stride, width), conv(width, width), conv(width, outputs)]
    if shared is not None:
        for own, other in zip(convs[:2], shared.convs):
            own.weight = other.weight
    return Unit(outputs, convs, shortcut, project)


def stage(inputs, units, outputs, width, sharing):
    """Return a stage; its first unit halves the size."""
    found, shared = [], None
    for number in range(units):
        channels, stride = (inputs, 2) if number == 0 else (outputs, 1)
        if not sharing:
            found.append(resnext_unit(channels, outputs, width, stride))
            continue
        shared = shared if number % sharing else None
        found.append(collective_unit(channels, outputs, width, stride, shared))
        shared = shared or found[-1]
    return nn.Sequential(*found)


class Cru116(nn.Module):
    """cru116: (n, 3, 112, 112), (x - 127.5) / 127.5, to (n, emb_size); `multiplier` is its width."""

    def __init__(self, emb_size=256, multiplier=1.0, dropout=DROPOUT):
        super().__init__()
        channels = round(64 * multiplier)
        self.conv0, self.bn0, self.relu0 = conv(3, channels, 3), norm(channels), nn.PReLU(channels)
        stages = []
        for units, outputs, width, sharing in STAGES:
            unit = 1 if sharing else GROUPS
            outputs, width = round(outputs * multiplier), unit * round(width * multiplier / unit)
            stages.append(stage(channels, units, outputs, width, sharing))
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.bn1, self.dropout = norm(channels), nn.Dropout(dropout)
        self.fc, self.features = nn.Linear(channels * 7 * 7, emb_size), nn.BatchNorm1d(emb_size, eps=EPS)
        self.features.weight.requires_grad = False

    def forward(self, x):
        x = self.stages(self.relu0(self.bn0(self.conv0(x * SCALE))))
        return self.features(self.fc(self.dropout(self.bn1(x)).flatten(1)))
