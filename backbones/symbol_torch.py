"""MXNet symbols as PyTorch modules: the face networks in insightface's `arcface_torch`, without MXNet.

A network is described once, by its builder in `symbols/`. Here the builder runs against a stand-in for `mx.sym` that
records operators (`record`), or a symbol's JSON is read (`read_json`); either gives a list of nodes, of which
`SymbolModule` makes layers, by their names, and the code that calls them. `identifiers.py` has the rule by which a
parameter of MXNet, `stage1_unit1_bn1_gamma`, gets its name in PyTorch, `stage1.unit1.bn1.weight`. Needs PyTorch 2.3 or
newer, and nothing else.
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import math
import operator
import os
import sys
import types
import warnings
from typing import Dict, List, NamedTuple, Tuple

import torch
from torch import fx, nn
from torch.nn import functional

try:
    from . import identifiers as names  # in insightface, a module of the package `backbones.crunet`
except ImportError:
    import identifiers as names  # here, a module of its own

HOST_MEAN = HOST_STD = 127.5  # arcface_torch hands over (x - 127.5) / 127.5
HALVES = torch.float16, torch.bfloat16  # of a trunk under autocast
HEAD_TYPE = 'float32'  # to which a symbol with a trunk in 16 bits is cast behind it


class Node(NamedTuple):
    """An operator or, with `op` 'null', a variable of a symbol. Attributes are texts, as in JSON."""

    op: str
    name: str
    attrs: Dict[str, str]
    inputs: List[Tuple[int, int]]  # (place in the list of nodes, output)


class Variable(str):
    """The name of a parameter or moving statistic, in the place of a value."""


class Layer(str):
    """The path of a layer, in the place of a function."""


class Value(str):
    """The name of what a step has computed, in the place of an argument."""


# ------------------------------------------------------------------------------------ the nodes of a symbol


def read_json(path):
    """Return the nodes of a symbol's JSON, whose names become identifiers.

    Raises ValueError for another file, and OSError.
    """
    try:
        with open(path, encoding='utf-8') as file:
            graph = json.load(file)
        nodes = [
            Node(
                str(node['op']),
                str(node['name']),
                {key: str(value) for key, value in (node.get('attrs') or node.get('param') or {}).items()},
                [(int(entry[0]), int(entry[1])) for entry in node['inputs']],
            )
            for node in graph['nodes']
        ]
        in_order = all(0 <= place < number for number, node in enumerate(nodes) for place, _ in node.inputs)
        (head,) = [int(entry[0]) for entry in graph['heads']]
    except OSError:
        raise
    except Exception as error:  # JSON of anything else
        raise ValueError(f'{path} is no symbol of one output that MXNet has written: {error!r}')
    if not in_order or not 0 <= head < len(nodes):
        raise ValueError(f'{path} is no symbol that MXNet has written: its nodes are not in order')
    if nodes[head].op == 'null':
        raise ValueError(f'{path} is no network: its output is a variable')
    given = [node.name for node in nodes]
    if len(set(given)) < len(given):
        raise ValueError(f'{path} has two nodes of one name')
    named = names.identifiers(given)  # torch.fx writes them into the code that it makes
    return [node._replace(name=named[node.name]) for node in nodes[: head + 1]]


class Recorded:
    """A symbol of the stand-in: an output of a node."""

    def __init__(self, op, name, attrs, inputs, output=0):
        self.op, self.name, self.attrs, self.inputs, self.output = op, name, attrs, inputs, output

    def __getitem__(self, output):
        """Return another output of the same node."""
        return _Output(self, output)

    def get_children(self):
        """Return the inputs; None for a variable, as MXNet has it."""
        return self.inputs or None

    def get_internals(self):
        """Return all nodes up to this one, each behind its inputs."""
        order, stack = {}, [(self, False)]
        while stack:
            node, is_done = stack.pop()
            if is_done:
                order[node] = None
            elif node not in order:
                stack.append((node, True))
                stack += [(entry.node, False) for entry in reversed(node.inputs)]
        return list(order)

    def _set_attr(self, **attrs):
        self.attrs.update(attrs)

    @property
    def node(self):
        """The node itself, of which this is an output."""
        return self


class _Output(NamedTuple):
    node: Recorded
    output: int


# Inputs of operators in the order of MXNet; those that a call leaves out are variables of their own.
INPUTS = {
    'Convolution': ('data', 'weight', 'bias'),
    'FullyConnected': ('data', 'weight', 'bias'),
    'BatchNorm': ('data', 'gamma', 'beta', 'moving_mean', 'moving_var'),
    'LeakyReLU': ('data', 'gamma'),
}
OPERATORS = {'reshape': 'Reshape', 'identity': '_copy'}  # names of functions that differ from their operators'


def recorder():
    """Return a module that can take the place of `mxnet` while a builder runs."""

    def operator(name):
        def call(*given, **settings):
            label, op = settings.pop('name'), OPERATORS.get(name, name)
            named = {key: settings.pop(key) for key in list(settings) if isinstance(settings[key], (Recorded, _Output))}
            attrs = {key: str(value) for key, value in settings.items()}
            wanted = INPUTS.get(op, ())
            if attrs.get('no_bias') == 'True' or op == 'LeakyReLU' and attrs['act_type'] != 'prelu':
                wanted = wanted[:-1]
            inputs = dict(zip(wanted, given)) if wanted else dict(enumerate(given))
            inputs.update(named)
            for key in wanted:
                if key not in inputs:
                    inputs[key] = Recorded('null', f'{label}_{key}', {}, [])
            order = wanted or list(inputs)
            return Recorded(op, label, attrs, [inputs[key] for key in order])

        return call

    def variable(name, shape=None, init=None):
        return Recorded('null', name, {'__shape__': str(tuple(shape))} if shape else {}, [])

    class Operators(types.ModuleType):
        prefix = ''

        def __getattr__(self, name):
            return operator(self.prefix + name)

    stand_in, sym = types.ModuleType('mxnet'), Operators('mxnet.sym')
    sym.Variable, sym._internal, sym.Symbol = variable, Operators('mxnet.sym._internal'), Recorded
    sym.contrib = Operators('mxnet.sym.contrib')
    sym.contrib.prefix = '_contrib_'
    stand_in.sym = stand_in.symbol = sym
    stand_in.init = types.SimpleNamespace(Constant=lambda value: value)
    return stand_in


@contextlib.contextmanager
def stood_in(folder):
    """Let the modules in `folder` be imported with the stand-in for MXNet; afterwards everything is as it was."""
    before = dict(sys.modules)
    own = {name[:-3] for name in os.listdir(folder) if name.endswith('.py')}
    try:
        for name in own:
            sys.modules.pop(name, None)
        sys.modules['mxnet'] = recorder()
        sys.path.insert(0, folder)
        yield
    finally:
        sys.path.remove(folder)
        for name in own | {'mxnet'}:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def record(folder, module, **settings):
    """Return the nodes of the network that the builder `module` in `folder` makes of its settings.

    Raises ValueError for settings that it does not accept.
    """
    with stood_in(os.path.abspath(folder)):
        return nodes_of(importlib.import_module(module).build(**settings))


def nodes_of(symbol):
    """Return the nodes of a Recorded symbol."""
    order = symbol.get_internals()
    place = {node: number for number, node in enumerate(order)}
    return [
        Node(node.op, node.name, node.attrs, [(place[entry.node], entry.output) for entry in node.inputs])
        for node in order
    ]


# ------------------------------------------------------------------------------------------ the operators


def pair(attrs, key, default):
    """Return an attribute like `(3, 3)` as a tuple of whole numbers."""
    text = attrs.get(key) or default
    return tuple(int(part) for part in text.strip('()[] ').split(',') if part.strip())


def is_set(attrs, key):
    """Tell whether a switch is on; MXNet writes True, true and 1."""
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
    """BatchNorm by its moving statistics, in training too; it is none that could be synchronised or averaged."""

    def __init__(self, channels, eps, _):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = (nn.Parameter(torch.empty(channels)) for _ in range(2))
        for name in ('running_mean', 'running_var'):
            self.register_buffer(name, torch.empty(channels))

    def reset_parameters(self):
        """Set what a BatchNorm begins with."""
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
    """Return the translation of an operator that takes its inputs and nothing else."""
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
IDENTITIES = ('_copy', 'identity', 'Cast')
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


# --------------------------------------------------------------------------------------------- the module


def checked(x):
    """Return images; raises TypeError for whole numbers, which would not be normalised."""
    if not x.is_floating_point():
        raise TypeError(f'images are (x - 127.5) / 127.5 with a fraction, not {x.dtype}; crunet.transform makes them')
    return x


fx.wrap('checked')  # a tracer does not look into it


class SymbolModule(nn.Module):
    """A face network from its nodes: images as arcface_torch hands them over, to embeddings.

    `fp16` computes the trunk under autocast, in float16 on a GPU (`trunk_type`), and the head in float32.
    `using_checkpoint` recomputes the maps between the ends of units in the backward pass; the nodes then have to be
    recorded with `memonger`, which says where these are. torch.compile takes no notice of it. `dropout` replaces the
    rate of Dropout if it is not None. `channels_last` is the layout of the maps and weights in memory, the faster one
    wherever it was measured (docs/cpu-speed.md, docs/gpu.md); by default it is chosen unless `is_narrow`.
    """

    def __init__(  # noqa: PLR0913
        self, nodes, image_shape=(112, 112), dropout=None, *, fp16=False, using_checkpoint=False, channels_last=None
    ):
        super().__init__()
        self.fp16, self.using_checkpoint, self.channels_last = fp16, using_checkpoint, channels_last
        self.trunk_type = None
        self.config = None  # {'network': …, 'settings': …} of crunet.create_model
        self._segments, self._runs, self.size = [], [], None  # there before a layer could take their names
        self._place, self._names = {}, {}  # {path of a layer: its place}; {MXNet's name of a parameter: its own}
        with torch.device('meta'):
            self.size = _Assembly(self, nodes, image_shape, dropout).run()
        own = set(self.state_dict())
        self._names = {name: to for name, to in self._names.items() if name not in own}
        self._compile()
        self.to_empty(device=torch.empty(0).device)  # the one that is asked for
        self._initialise()
        if channels_last is None:
            self.channels_last = not is_narrow(self)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Return the embeddings, (n, size) float32, of images, (n, 3, height, width), (x - 127.5) / 127.5."""
        x = checked(x)
        values = {'data': x.contiguous(memory_format=torch.channels_last) if self.channels_last else x}
        with self._autocast(x, is_on=True):
            self._run(range(len(self._segments) - 1), values)
        (head,) = self._segments[-1:]
        for name in head.inputs:
            if self.fp16 and values[name].dtype in HALVES:
                values[name] = values[name].float()
        with self._autocast(x, is_on=False):
            self._run([len(self._segments) - 1], values)
        (embedding,) = head.outputs
        return values[embedding]

    def save_pretrained(self, folder):
        """Write a network of `crunet.create_model` into a folder, as `config.json` and `model.safetensors`.

        The config has the size of the embedding, and the mean and standard deviation of pixels from 0 to 1 by which
        the input is made, besides network and settings. Wants the package safetensors. Raises ValueError.
        """
        from safetensors.torch import save_file

        if self.config is None:
            raise ValueError('the config wants a network by its name; make it with crunet.create_model')
        config = {**self.config, 'num_features': self.size, 'mean': [0.5] * 3, 'std': [0.5] * 3}
        weights, text = (os.path.join(folder, name) for name in (names.WEIGHTS, names.CONFIG))
        os.makedirs(folder, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, weights + '.new')
        with open(text + '.new', 'w', encoding='utf-8') as file:
            json.dump(config, file, indent=1)
        for path in (weights, text):
            os.replace(path + '.new', path)

    def _autocast(self, x, is_on):
        """Compute in the 16 bits that the device is made for, or `trunk_type`, or, off, in float32."""
        if not self.fp16:  # a graph without autocast can be exported
            return contextlib.nullcontext()
        of_device = torch.float16 if x.device.type == 'cuda' else torch.bfloat16
        return torch.autocast(x.device.type, self.trunk_type or of_device, enabled=is_on)

    def _run(self, numbers, values):
        is_again = self.using_checkpoint and self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling():  # it has its own ways, of which some move the moving statistics twice
            is_again = False
        for number in numbers:
            segment, run = self._segments[number], self._runs[number]
            given = [values[name] for name in segment.inputs]
            if is_again and segment.is_recomputed:
                parameters = [parameter for layer in self._layers(segment) for parameter in layer.parameters()]
                found = Recomputed.apply(self, number, *given, *parameters)
            else:
                found = run(self, *given)
            for name in segment.dead:
                values.pop(name, None)
            values.update(zip(segment.outputs, found))

    def _layers(self, segment):
        return [self.get_submodule(path) for path in segment.layers]

    @contextlib.contextmanager
    def standing_statistics(self, segment):
        """Leave the moving statistics of a segment as they are: the first pass has moved them."""
        norms = [layer for layer in self._layers(segment) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before):
                norm.momentum, norm.num_batches_tracked = momentum, count

    def named_modules(self, memo=None, prefix='', remove_duplicate=True):
        """Yield the modules in the order of the network, and so their parameters: an optimiser's state is in it."""
        start = len(prefix) + 1 if prefix else 0
        found = list(super().named_modules(memo, prefix, remove_duplicate))
        yield from sorted(found, key=lambda pair: self._place.get(pair[0][start:], -1))

    def own_name(self, name):
        """Return the name of a parameter or moving statistic here, by MXNet's or its own."""
        return self._names.get(name, name)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        """Take MXNet's names as well, which state dicts of earlier versions have."""
        for name, own in self._names.items():
            if prefix + name in state_dict:
                state_dict.setdefault(prefix + own, state_dict.pop(prefix + name))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self):
        """Return what pickle keeps: all but functions, which are made anew."""
        return {key: value for key, value in self.__dict__.items() if key != '_runs'}

    def __setstate__(self, state):
        """Restore what pickle has kept."""
        super().__setstate__(state)
        self._compile()

    def _compile(self):
        """Make the function of each segment of its code: run(module, *inputs) returns its outputs."""
        self._runs = []
        for segment in self._segments:
            known = {'torch': torch, 'operator': operator, '_operator': operator, 'inf': math.inf, 'nan': math.nan}
            exec(segment.code, known)
            self._runs.append(known['forward'])

    def _initialise(self):
        """Draw first values as insightface's MXNet trainers do.

        Weights: Xavier, gaussian, by the outputs, magnitude 2; slopes of PReLU 0.25; gamma 1, beta and biases 0.
        """
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    weight = layer.weight
                    weight.copy_(
                        torch.randn(weight.shape, device=weight.device)
                        * math.sqrt(2 / (len(weight) * weight[0, 0].numel()))
                    )
                    if layer.bias is not None:
                        layer.bias.zero_()
                elif isinstance(layer, nn.PReLU):
                    layer.weight.fill_(0.25)
                elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, StandingBatchNorm2d)):
                    layer.reset_parameters()


class Recomputed(torch.autograd.Function):
    """A segment whose feature maps are computed again in the backward pass; until then only its inputs are kept.

    As torch.utils.checkpoint does, but without its hooks for every tensor that an operator keeps, which are most of the
    time of a small step (docs/memory.md). The segment's parameters are inputs, so that DDP sees their gradients.
    """

    @staticmethod
    def forward(ctx, module, number, *tensors):
        """Return the outputs of the segment `number` for its inputs and then its parameters."""
        ctx.module, ctx.segment, ctx.run = module, module._segments[number], module._runs[number]
        ctx.save_for_backward(*tensors)
        ctx.autocast = autocast_of(tensors[0].device.type)
        return ctx.run(module, *tensors[: len(ctx.segment.inputs)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        """Return the gradients of the inputs and of the parameters."""
        tensors, count = ctx.saved_tensors, len(ctx.segment.inputs)
        given = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[:count]]
        with torch.enable_grad(), ctx.module.standing_statistics(ctx.segment), torch.autocast(**ctx.autocast):
            found = ctx.run(ctx.module, *given)
        sources = [*given, *tensors[count:]]
        wanted = [tensor for tensor in sources if tensor.requires_grad]
        # An output that depends on nothing but what is frozen has no gradient.
        found, gradients = zip(*[pair for pair in zip(found, gradients) if pair[0].requires_grad])
        of_wanted = iter(torch.autograd.grad(found, wanted, gradients))
        return None, None, *(next(of_wanted) if tensor.requires_grad else None for tensor in sources)


def autocast_of(device):
    """Return the arguments of the torch.autocast that is in force on a type of device.

    Without its cache: casts of weights that were made without a graph must not be taken for others.
    """
    if device == 'cuda':
        state = torch.get_autocast_gpu_dtype(), torch.is_autocast_enabled()
    else:
        state = torch.get_autocast_cpu_dtype(), torch.is_autocast_cpu_enabled()
    return {'device_type': device, 'dtype': state[0], 'enabled': state[1], 'cache_enabled': False}


def is_narrow(module):
    """Tell whether a 1x1 convolution reads fewer than 16 channels.

    With a stride of 2 and in channels_last PyTorch's convolution for CPUs with AVX-512 then writes beyond its memory
    (found with 2.3.1, 2.4.1 and 2.14.1).
    """
    weights = [weight for weight in module.parameters() if weight.ndim == 4 and weight.shape[2:] == (1, 1)]
    return any(weight.shape[1] < 16 for weight in weights)


class Segment(NamedTuple):
    """A part of a network: the code that returns its outputs of its inputs; what is no longer read is dead then."""

    code: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    layers: Tuple[str, ...]  # their paths
    is_recomputed: bool
    dead: Tuple[str, ...] = ()


class _Assembly:
    """Makes the layers and the segments of a SymbolModule, on the device meta."""

    def __init__(self, module, nodes, image_shape, dropout):
        self.module, self.nodes, self.dropout = module, nodes, dropout
        self.on_meta = {'data': torch.empty((2, 3, *image_shape[:2]))}  # {name of a value: tensor}
        self.value = {}  # {(place, output): name of a value, or Variable}
        self.steps = []  # (name, function or Layer, arguments), the arguments being names of values and constants
        self.layers = {}  # {variables: Layer}

    def run(self):
        """Make them; return the size of the embedding. Raises ValueError for what is not known here."""
        if self.module.using_checkpoint and not any('__force_mirroring__' in node.attrs for node in self.nodes):
            raise ValueError('the symbol does not say which maps to compute again: it was not built with memonger')
        cut = self._trunk_end()
        bounds = []  # numbers of steps at which a segment ends
        for number, node in enumerate(self.nodes):
            if node.op == 'null':
                self.value[number, 0] = Value('data') if node.name == 'data' else Variable(node.name)
            else:
                try:
                    self._operator(number, node)
                except Exception as error:  # of whatever an attribute is that was not to be expected
                    what = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
                    raise ValueError(f'{node.name} ({node.op}): {what}')
                kept = '__force_mirroring__' not in node.attrs and self.module.using_checkpoint
                if number == cut or kept and number < cut:
                    bounds.append(len(self.steps))
        self._fold_input()
        last = self.value[len(self.nodes) - 1, 0]
        self.module._segments = self._cut(sorted(set(bounds) | {len(self.steps)}), last)
        return self.on_meta[last].shape[1]

    def _trunk_end(self):
        """Return the number of the last node of the trunk: the cast behind it, or what the last layer reads."""
        for number, node in enumerate(self.nodes):
            if node.op == 'Cast' and node.attrs.get('dtype') == HEAD_TYPE:
                return number
        layers = [node for node in self.nodes if node.op == 'FullyConnected'] or self.nodes
        return layers[-1].inputs[0][0]

    def _operator(self, number, node):
        if node.op in IDENTITIES:
            self.value[number, 0] = self.value[node.inputs[0]]
            return
        if node.op not in TRANSLATIONS and node.op not in LAYERS:
            raise ValueError(
                f'the operator {node.op} is not known here; in a symbol that tools/export.py writes, PReLU, resizing '
                'and grouped convolutions are plain'
            )
        for key, values in KNOWN_VALUES.get(node.op, {}).items():
            if node.attrs.get(key, values[0]) not in values:
                raise ValueError(f'{key}={node.attrs[key]} is not known here')
        inputs = [self.value[entry] for entry in node.inputs]
        if node.op in LAYERS:
            self.value[number, 0] = self._layer(node, *inputs)
            return
        if any(isinstance(value, Variable) for value in inputs):
            raise ValueError('it computes with a parameter')
        function, arguments = TRANSLATIONS[node.op](node.attrs, *inputs)
        name = self.value[number, 0] = self._step(node.name, function, arguments)
        if node.op == 'SliceChannel':
            for output in range(int(node.attrs['num_outputs'])):
                self.value[number, output] = self._step(f'{node.name}{output}', operator.getitem, (name, output))

    def _layer(self, node, x, *variables):
        """Add the step of a node that is a layer, and the layer, unless it is there; return the name of its value."""
        attrs = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
        if not isinstance(x, Value) or not all(isinstance(variable, Variable) for variable in variables):
            raise ValueError('what it reads is no parameter')
        if node.op == 'Dropout' and self.dropout is not None:
            attrs['p'] = str(self.dropout)
        if node.op == 'FullyConnected' and self.on_meta[x].ndim > 2:
            x = self._step(node.name + '_flat', torch.flatten, (x, 1))
        if node.op == 'BatchNorm' and is_set(attrs, 'use_global_stats') and self.on_meta[x].ndim == 2:
            raise ValueError('use_global_stats is not known here behind a fully connected layer')
        stride = ()
        if node.op == 'Convolution' and len(self._strides[self._source(node.inputs[1][0])]) > 1:
            stride = (pair(attrs, 'stride', '(1, 1)'),)
            attrs['stride'] = SHARED
        layer, path = LAYERS[node.op](attrs, self.on_meta[x]), self.layers.get(variables)
        if not variables or path is None:
            path = self.layers[variables] = self._new_layer(node, layer, variables)
        elif repr(self.module.get_submodule(path)) != repr(layer):
            raise ValueError('it shares parameters with another layer, which is different')
        return self._step(node.name, path, (x, *stride))

    @functools.cached_property
    def _strides(self):
        """The strides of the convolutions that read a weight, {place of the weight: strides}."""
        found = {}
        for node in self.nodes:
            if node.op == 'Convolution':
                found.setdefault(self._source(node.inputs[1][0]), set()).add(pair(node.attrs, 'stride', '(1, 1)'))
        return found

    def _source(self, place):
        """Return the place of what a node that only passes it on reads."""
        while self.nodes[place].op in IDENTITIES:
            place = self.nodes[place].inputs[0][0]
        return place

    def _new_layer(self, node, layer, variables):
        """Put a layer into the module under the name of its parameters, else its node's; return its Layer."""
        own = [names.SUFFIXES[key] for key in INPUTS.get(node.op, ())[1 : 1 + len(variables)]]
        tensors = dict([*layer.named_parameters(), *layer.named_buffers()])
        if not {*own} == {*tensors} - {'num_batches_tracked'}:
            raise ValueError('it has not the inputs of its kind')
        theirs = list(map(names.torch_name, variables))
        paths = {name.rpartition('.')[0] for name in theirs}
        is_plain = all(name.endswith(f'.{end}') for name, end in zip(theirs, own))
        path = Layer(paths.pop() if len(paths) == 1 and is_plain else names.layer_path(node.name))
        while not self._is_free(path):  # as where a node is called `forward`
            path = Layer(path + '_')
        *within, where = path.split('.')
        parent = self.module
        for name in within:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent._modules[name]
        parent.add_module(where, layer)
        self.module._place[str(path)] = len(self.module._place)
        for variable, name, end in zip(variables, theirs, own):
            for other in {str(variable), name} - {f'{path}.{end}'}:
                self.module._names[other] = f'{path}.{end}'
        return path

    def _is_free(self, path):
        """Tell whether a layer can have a path: no attribute of the modules around it has a part of its name."""
        parent, parts = self.module, path.split('.')
        for name in parts[:-1]:
            if name not in parent._modules:
                return not hasattr(parent, name) and not any(hasattr(nn.Module(), part) for part in parts[1:])
            parent = parent._modules[name]
        return not hasattr(parent, parts[-1])

    def _tensor(self, value):
        if isinstance(value, Value):
            return self.on_meta[value]
        return tuple(map(self._tensor, value)) if isinstance(value, tuple) else value

    def _step(self, name, function, arguments):
        name = Value(name)
        self.steps.append((name, function, arguments))
        run = self.module.get_submodule(function) if isinstance(function, Layer) else function
        with torch.no_grad():
            self.on_meta[name] = run(*map(self._tensor, arguments))
        return name

    def _fold_input(self):
        """Fold the host's normalisation and the network's into one multiplication, or an addition besides."""
        if len(self.steps) < 2:
            raise ValueError('that is no network: it has no layers')
        (first, subtract, given), (second, multiply, then) = self.steps[:2]
        if (subtract, given[0], multiply, then[0]) == (torch.sub, 'data', torch.mul, first):
            mean, scale = given[1], then[1]
            self.steps[0] = first, torch.mul, (Value('data'), HOST_STD * scale)
            offset = (HOST_MEAN - mean) * scale
            self.steps[1] = second, torch.add if offset else _same, (first, offset)
            return
        data, scaled, raw = map(Value, ('data', 'data_scaled', 'data_raw'))
        renamed = [
            (name, function, tuple(raw if isinstance(value, Value) and value == data else value for value in arguments))
            for name, function, arguments in self.steps
        ]
        self.steps[:] = [(scaled, torch.mul, (data, HOST_STD)), (raw, torch.add, (scaled, HOST_MEAN)), *renamed]

    def _cut(self, bounds, last):
        """Return the Segments that end at `bounds`; the value `last` is the output of the whole."""
        read_by = {}  # {value: number of the last step that reads it}
        for number, (_, _, arguments) in enumerate(self.steps):
            for value in values_in(arguments):
                read_by[value] = number
        segments, start = [], 0
        for end in bounds:
            if end == start:
                continue
            steps = self.steps[start:end]
            made = {name for name, _, _ in steps}
            read = dict.fromkeys(value for _, _, arguments in steps for value in values_in(arguments))
            # Plain texts, which torch.compile takes for constants.
            inputs = tuple(str(value) for value in read if value not in made)
            outputs = tuple(str(name) for name, _, _ in steps if read_by.get(name, -1) >= end or name == last)
            dead = tuple(value for value in inputs if read_by[value] < end)
            layers = tuple(dict.fromkeys(str(function) for _, function, _ in steps if isinstance(function, Layer)))
            segments.append(Segment(self._code(steps, inputs, outputs), inputs, outputs, layers, len(steps) > 1, dead))
            start = end
        return segments

    def _code(self, steps, inputs, outputs):
        """Return the code of a function of (module, *inputs) that takes the steps, written out by torch.fx."""
        graph = fx.Graph()
        made = {name: graph.placeholder(f'v{number}') for number, name in enumerate(inputs)}

        def given(value):
            if isinstance(value, tuple):
                return tuple(map(given, value))
            return made[value] if isinstance(value, Value) else value

        for name, function, arguments in steps:
            if function is _same:
                made[name] = made[arguments[0]]
            elif isinstance(function, Layer):
                made[name] = graph.call_module(str(function), given(arguments))
            else:
                made[name] = graph.call_function(function, given(arguments))
        graph.output(tuple(made[name] for name in outputs))
        return graph.python_code('self').src


def values_in(arguments):
    """Yield the names of values in some arguments."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from values_in(argument)
        elif isinstance(argument, Value):
            yield argument


def _same(x, _):
    return x


# --------------------------------------------------------------------------------------- network choices

# MXNet's operators, of which PyTorch has the counterparts; the other forms are for MXNet's sake.
FORMS = {'net_prelu': 'op', 'fp16': False}
OPTIONS = 'dropout', 'fp16', 'using_checkpoint', 'channels_last'  # of SymbolModule


def choice(folder, row, **changes):
    """Return the SymbolModule of a row of the table of network choices.

    `folder` is that of the builders, `changes` are the options of `SymbolModule` and settings of the builder. Raises
    ValueError for settings that it does not accept.
    """
    options = {key: changes.pop(key) for key in OPTIONS if key in changes}
    with stood_in(os.path.abspath(folder)):
        module = importlib.import_module(row['net_name'])
        names = sys.modules['face_settings'].setting_names(module.build)
        settings = {key: value for key, value in row.items() if key in names}
        settings.update(FORMS, memonger=options.get('using_checkpoint', False), **changes)
        nodes = nodes_of(module.build(**settings))
    shape = settings.get('image_shape', (112, 112, 3))
    return SymbolModule(nodes, shape[:2], **options)


def _beside(*names):
    """Return the first of some paths, relative to this file, that exists."""
    here = os.path.dirname(os.path.abspath(__file__))
    return next(path for path in (os.path.join(here, *name) for name in names) if os.path.exists(path))


def _loaded(name, folder):
    """Return the module `name`, which stands in this folder, or in `folder` within it or next to it."""
    path = _beside((name + '.py',), (folder, name + '.py'), (os.pardir, folder, name + '.py'))
    spec = importlib.util.spec_from_file_location('crunet_' + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks():
    """Return the table of networks, {name: row}."""
    return _loaded('networks', 'config').NETWORKS


def parsed(text):
    """Return (name, {setting: value}) of `NAME` or `NAME:SETTING=VALUE,…`; raises ValueError."""
    name, settings = split(text)
    found = _loaded('face_settings', 'symbols').parse_settings(settings)
    for key, value in found.items():
        if value is None:
            raise ValueError(f'{key!r} is not SETTING=VALUE, in {text!r}')
    return name, found


def split(text):
    """Return (name, settings) of `NAME:SETTINGS`; a name that is a path may have colons."""
    start = text.find('.json:') + len('.json') if '.json:' in text else 0
    name, _, settings = text[start:].partition(':') if not text.endswith('.json') else (text[start:], '', '')
    return text[:start] + name, settings


def is_known(name):
    """Tell whether `get_model` knows a network: a choice or a symbol's JSON, with or without settings."""
    name, _ = split(name)
    return name.endswith('.json') or name in networks()


def get_model(name, num_features=512, fp16=False, **_):
    """Return a face network by the convention of arcface_torch's `backbones`.

    `name` is a network choice, `cru116`, or the path of a symbol's JSON, either with settings if need be, as in
    `cru116:net_multiplier=0.25,dropout=0.0,memonger=True`. A choice takes the settings of its builder, and both take

    - `dropout`: the host passes 0.0 to every backbone, so that is no wish; the recipe's 0.4 counts unless set here;
    - `memonger`: whether feature maps are computed again in the backward pass, False by default;
    - `channels_last`: the layout of the feature maps, by default True unless the network is narrower than a quarter;
    - `pretrained`: the path of a state dict to start from, as the host's model.pt.

    A JSON, and `emb_size` in the name, count more than `num_features`. Raises ValueError, naming what there is.
    """
    network, settings = parsed(name)
    weights = settings.pop('pretrained', None)
    if 'fp16' in settings:
        raise ValueError('fp16 is no setting of a name; config.fp16 says it')
    if not network.endswith('.json'):
        settings = {'emb_size': num_features, **settings}
    module = made(network, {'fp16': fp16, **settings}, [key for key in networks() if not key.endswith('_imagenet')])
    if module.size != num_features:
        warnings.warn(f'{name} has embeddings of {module.size} numbers, not {num_features}', stacklevel=2)
    if weights is not None:
        load_weights(module, weights)
    return module


def made(network, settings, known=None):
    """Return the SymbolModule of a network choice, one of `known` if not None, or of a symbol's JSON.

    `settings` are those of the builder, and `dropout`, `memonger`, `channels_last` and `fp16`. Raises ValueError.
    """
    settings = dict(settings)
    options = {
        'dropout': rate(settings.pop('dropout', None)),
        'fp16': switch('fp16', settings.pop('fp16', False)),
        'using_checkpoint': switch('memonger', settings.pop('memonger', False)),
        'channels_last': switch('channels_last', settings.pop('channels_last', None)),
    }
    for key in ('using_checkpoint', 'folder', 'row', 'self'):
        if key in settings:
            raise ValueError(f'{key} is no setting of a name')
    if network.endswith('.json'):
        if settings:
            raise ValueError(f'{", ".join(settings)}: what {network} says cannot be changed')
        try:
            return SymbolModule(read_json(network), **options)
        except OSError as error:
            raise ValueError(f'cannot read {network}: {error.strerror}')
    known = networks() if known is None else known
    if network not in known:
        raise ValueError(f'there is no network {network!r}; choose from {", ".join(known)}')
    folder = _beside(('face_blocks.py',), ('symbols', 'face_blocks.py'), (os.pardir, 'symbols', 'face_blocks.py'))
    return choice(os.path.dirname(folder), networks()[network], **options, **settings)


def switch(key, value):
    """Return a setting that is True, False or None; raises ValueError for others, as the word no."""
    if value is not None and value not in (True, False):
        raise ValueError(f'{key}={value} is neither True nor False')
    return value if value is None else bool(value)


def rate(value):
    """Return a rate of Dropout or None; raises ValueError for anything else."""
    if value is not None and (isinstance(value, (str, bool, tuple)) or not 0 <= value < 1):
        raise ValueError(f'dropout={value} is no number of at least 0 and below 1')
    return value


def load_weights(module, path):
    """Give a module the weights of a state dict, or of the one that a trainer's checkpoint has; raises ValueError."""
    try:
        state = {module.own_name(name): value for name, value in unwrapped(read_state(path)).items()}
        shapes = {name: tuple(value.shape) for name, value in state.items() if not is_count(name)}
    except OSError as error:
        raise ValueError(f'cannot read {path}: {error.strerror or error}')
    except Exception as error:  # torch.load has many for files that are none
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(f'{path} is no state dict, or has other things beside; tools/convert.py reads more: {why}')
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items() if not is_count(name)}
    for name in [*wanted, *shapes]:
        if shapes.get(name) != wanted.get(name):
            raise ValueError(
                f'{path} has not the weights of this network: {name} has the shape {shapes.get(name)} there and '
                f'{wanted.get(name)} here'
            )
    module.load_state_dict(state, strict=True)


def is_count(name):
    """Tell whether a tensor of a state dict counts batches, which older ones do not, and BatchNorm can do without."""
    return name.endswith('num_batches_tracked')


def read_state(path):
    """Return what a file of weights holds, without executing anything in it."""
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location='cpu', weights_only=True)


def unwrapped(state):
    """Return the state dict in what a trainer saved, without what is in front of all names."""
    state = names.state_in(state, torch.is_tensor)
    owners = names.owners_of(state)
    if len(owners) != 1:
        return state
    return {name[len(owners[0]) :]: value for name, value in state.items() if name.startswith(owners[0])}


def functions():
    """Return {name: function} of the face networks, by the convention of arcface_torch before May 2021.

    A function takes `pretrained`, which has to be False there, and what `get_model` takes.
    """

    def named(name):
        return lambda pretrained=False, **options: get_model(name, **options)

    return {name: named(name) for name in networks() if not name.endswith('_imagenet')}
