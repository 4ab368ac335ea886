"""The layers and functions of PyTorch that are MXNet's operators."""

import torch
from torch import nn
from torch.nn import functional


def pair(attrs, key, default):
    """Return an attribute like `(3, 3)` as a tuple of integers."""
    text = attrs.get(key) or default
    return tuple(int(part) for part in text.strip('()[] ').split(',') if part.strip())


def is_set(attrs, key):
    """Return whether a switch is on; MXNet writes True, true and 1."""
    return attrs.get(key, 'False') in ('True', 'true', '1')


class SharedConv2d(nn.Conv2d):
    """A convolution whose weight is used with several strides, each of them an argument."""

    def forward(self, x, stride=(1, 1)):
        """Return the maps."""
        return functional.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def _convolution(attrs, x):
    kind, stride = (SharedConv2d, 1) if attrs.get('stride') == SHARED else (nn.Conv2d, pair(attrs, 'stride', '(1, 1)'))
    padding, dilation = pair(attrs, 'pad', '(0, 0)'), pair(attrs, 'dilate', '(1, 1)')
    if int(attrs['num_filter']) < 1:
        raise ValueError('it has no filters')
    filters, kernel, has_bias = int(attrs['num_filter']), pair(attrs, 'kernel', ''), not is_set(attrs, 'no_bias')
    return kind(x.shape[1], filters, kernel, stride, padding, dilation, int(attrs.get('num_group', 1)), has_bias)


class StandingBatchNorm2d(nn.Module):
    """BatchNorm by its moving statistics, in training too; SyncBatchNorm does not apply to it."""

    def __init__(self, channels, eps, _):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = (nn.Parameter(torch.empty(channels)) for _ in range(2))
        for name in ('running_mean', 'running_var'):
            self.register_buffer(name, torch.empty(channels))

    def reset_parameters(self):
        """Set a BatchNorm's initial values."""
        for tensor, value in ((self.weight, 1), (self.bias, 0), (self.running_mean, 0), (self.running_var, 1)):
            nn.init.constant_(tensor, value)

    def forward(self, x):
        """Return the normalised maps."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def _batch_norm(attrs, x):
    kind = nn.BatchNorm1d if x.ndim == 2 else nn.BatchNorm2d
    if is_set(attrs, 'use_global_stats'):
        kind = StandingBatchNorm2d
    layer = kind(x.shape[1], float(attrs.get('eps', 1e-3)), round(1 - float(attrs.get('momentum', 0.9)), 12))
    layer.weight.requires_grad_(not is_set(dict({'fix_gamma': 'True'}, **attrs), 'fix_gamma'))
    return layer


def _fully_connected(attrs, x):
    return nn.Linear(x.shape[1], int(attrs['num_hidden']), not is_set(attrs, 'no_bias'))


def _pooling(attrs, x):
    if is_set(attrs, 'global_pool'):
        if attrs.get('pool_type', 'max') != 'avg':
            raise ValueError('global max pooling')
        return nn.AdaptiveAvgPool2d(1)
    kernel, stride, padding = (
        pair(attrs, key, d) for key, d in (('kernel', ''), ('stride', '(1, 1)'), ('pad', '(0, 0)'))
    )
    upwards = attrs.get('pooling_convention', 'valid') == 'full'
    if attrs.get('pool_type', 'max') == 'max':
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=upwards)
    include_padding = attrs.get('count_include_pad', 'True') in ('True', 'true', '1', 'None')
    return nn.AvgPool2d(kernel, stride, padding, upwards, include_padding)


def _leaky_relu(attrs, x):
    slope = float(attrs.get('slope', 0.25))
    kinds = {
        'prelu': lambda: nn.PReLU(x.shape[1]),
        'leaky': lambda: nn.LeakyReLU(slope),
        'elu': lambda: nn.ELU(slope),
        'selu': nn.SELU,
        'gelu': nn.GELU,
    }
    return kinds[attrs.get('act_type', 'leaky')]()


def _resize(attrs, x):
    size = int(attrs['height']), int(attrs['width'])
    return nn.Upsample(size, mode='bilinear', align_corners=True)


ACTIVATIONS = {
    'relu': nn.ReLU,
    'sigmoid': nn.Sigmoid,
    'tanh': nn.Tanh,
    'softrelu': nn.Softplus,
    'softsign': nn.Softsign,
}
# {MXNet's operator: function of (attributes, input) that returns the layer}; the input is on meta, for its shape.
LAYERS = {
    'Convolution': _convolution,
    'BatchNorm': _batch_norm,
    'FullyConnected': _fully_connected,
    'Pooling': _pooling,
    'LeakyReLU': _leaky_relu,
    'Activation': lambda attrs, x: ACTIVATIONS[attrs['act_type']](),
    '_contrib_BilinearResize2D': _resize,
    'Dropout': lambda attrs, x: nn.Dropout(float(attrs.get('p', 0.5))),
}


def scalar(function):
    """Return the translation of an operator with a number."""
    return lambda attrs, x: (function, (x, float(attrs['scalar'])))


def plain(function):
    """Return the translation of an operator that takes only inputs."""
    return lambda attrs, *inputs: (function, inputs)


# {MXNet's operator: translation}; a translation takes (attributes, *inputs) and returns (function, arguments).
TRANSLATIONS = {
    'Flatten': lambda attrs, x: (torch.flatten, (x, 1)),
    'Concat': lambda attrs, *inputs: (torch.cat, (inputs, int(attrs.get('dim', 1)))),
    'SliceChannel': lambda attrs, x: (torch.chunk, (x, int(attrs['num_outputs']), int(attrs.get('axis', 1)))),
    'negative': plain(torch.neg),
    'elemwise_add': plain(torch.add),
    '_Plus': plain(torch.add),
    'elemwise_mul': plain(torch.mul),
    'broadcast_mul': plain(torch.mul),
    '_plus_scalar': scalar(torch.add),
    '_PlusScalar': scalar(torch.add),
    '_minus_scalar': scalar(torch.sub),
    '_MinusScalar': scalar(torch.sub),
    '_mul_scalar': scalar(torch.mul),
    '_MulScalar': scalar(torch.mul),
    'BlockGrad': plain(torch.detach),
}
SHARED = 'shared'  # in place of a stride: each call has its own
# {operator: {attribute: the values that the translation knows, the default first}}
KNOWN_VALUES = {
    'Convolution': {'layout': ('None', 'NCHW')},
    'Pooling': {'layout': ('None', 'NCHW'), 'pool_type': ('max', 'avg')},
    'BatchNorm': {'axis': ('1',), 'output_mean_var': ('False', 'false', '0')},
    'FullyConnected': {'flatten': ('True', 'true', '1')},
    'SliceChannel': {'squeeze_axis': ('False', 'false', '0')},
    'Dropout': {'mode': ('training',), 'axes': ('()', '[]')},
    '_contrib_BilinearResize2D': {'align_corners': ('True', 'true', '1'), 'mode': ('size',)},
}
