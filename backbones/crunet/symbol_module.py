"""A network as a PyTorch module: layers of the nodes of a symbol, and the code that calls them.

`identifiers.py` converts MXNet's parameter names (`stage1_unit1_bn1_gamma`) to PyTorch's
(`stage1.unit1.bn1.weight`).
"""

import contextlib
import functools
import json
import math
import operator
import os
from typing import NamedTuple, Tuple

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from . import identifiers as names
from .layers import KNOWN_VALUES, LAYERS, SHARED, TRANSLATIONS, StandingBatchNorm2d, is_set, pair
from .nodes import IDENTITIES, INPUTS, source

HOST_MEAN = HOST_STD = 127.5  # arcface_torch hands over (x - 127.5) / 127.5
HALVES = torch.float16, torch.bfloat16  # of a trunk under autocast
HEAD_TYPE = 'float32'  # to which a symbol casts the output of a half-precision trunk


class Variable(str):
    """The name of a parameter or moving statistic, instead of a value."""


class Layer(str):
    """The path of a layer, instead of a function."""


class Value(str):
    """The name of what a step has computed, instead of an argument."""


def checked(x):
    """Return images; raises TypeError for integers, which would not be normalised."""
    if not x.is_floating_point():
        raise TypeError(f'images are (x - 127.5) / 127.5 with a fraction, not {x.dtype}; crunet.transform makes them')
    return x


fx.wrap('checked')  # a tracer does not look into it


class SymbolModule(nn.Module):
    """A face network from its nodes: images as arcface_torch hands them over, to embeddings.

    `fp16` computes the trunk under autocast, in float16 on a GPU (`trunk_type`), and the head in float32.
    `using_checkpoint` recomputes the maps between the ends of units in the backward pass: True by `Recomputed`, 'torch'
    by torch.utils.checkpoint. Both require nodes recorded with `memonger`, which marks these ends. torch.compile
    ignores True. `dropout` replaces the rate of Dropout if it is not None. `channels_last` is the layout of
    maps and weights in memory, the faster one wherever it was measured (docs/cpu-speed.md, docs/gpu.md). By default it
    is chosen unless `is_narrow`. `ends` are numbers of nodes; `self.ends` has (number of the segment that ends there,
    name and shape of the value) of each.
    """

    def __init__(  # noqa: PLR0913
        self,
        nodes,
        image_shape=(112, 112, 3),
        dropout=None,
        *,
        fp16=False,
        using_checkpoint=False,
        channels_last=None,
        ends=(),
    ):
        super().__init__()
        self.fp16, self.using_checkpoint, self.channels_last = fp16, using_checkpoint, channels_last
        self.trunk_type = None
        self.config = None  # {'network': …, 'settings': …} of crunet.create_model
        self._segments, self._runs, self.size, self.ends = (
            [],
            [],
            None,
            [],
        )  # there before a layer could take their names
        self._place, self._names = {}, {}  # {path of a layer: its place}; {MXNet's name of a parameter: its own}
        with torch.device('meta'):
            self.size = _Assembly(self, nodes, image_shape, dropout).run(ends)
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
        values = {'data': self._given(x)}
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

    def _given(self, x):
        x = checked(x)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def save_pretrained(self, folder):
        """Write a network of `crunet.create_model` into a folder, as `config.json` and `model.safetensors`.

        The config has the network, the settings, the embedding size, and the mean and standard deviation that
        normalise pixels from 0 to 1. Needs the package safetensors. Raises ValueError.
        """
        from safetensors.torch import save_file

        if self.config is None:
            raise ValueError('the config needs a network by its name; make it with crunet.create_model')
        config = {**self.config, 'num_features': self.size, 'mean': [0.5] * 3, 'std': [0.5] * 3}
        weights, text = (os.path.join(folder, name) for name in (names.WEIGHTS, names.CONFIG))
        os.makedirs(folder, exist_ok=True)
        written = json.dumps(config, indent=1)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, weights + '.new')
        with open(text + '.new', 'w', encoding='utf-8') as file:
            file.write(written)
        for path in (weights, text):
            os.replace(path + '.new', path)

    def _autocast(self, x, is_on):
        """Compute in the half precision that the device is made for, or `trunk_type`, or, off, in float32."""
        if not self.fp16:  # a graph without autocast can be exported
            return contextlib.nullcontext()
        of_device = torch.float16 if x.device.type == 'cuda' else torch.bfloat16
        return torch.autocast(x.device.type, self.trunk_type or of_device, enabled=is_on)

    def _run(self, numbers, values):
        is_again = self.using_checkpoint and self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling() and self.using_checkpoint != 'torch':  # it cannot look into Recomputed
            is_again = False
        for number in numbers:
            segment, run = self._segments[number], self._runs[number]
            given = [values[name] for name in segment.inputs]
            if is_again and segment.is_recomputed:
                found = self._recomputed(number, given)
            else:
                found = run(self, *given)
            for name in segment.dead:
                values.pop(name, None)
            values.update(zip(segment.outputs, found))

    def _recomputed(self, number, given):
        """Return the outputs of a segment; the backward pass recomputes its maps."""
        segment = self._segments[number]
        if self.using_checkpoint != 'torch':
            parameters = [parameter for layer in self._layers(segment) for parameter in layer.parameters()]
            # FSDP2 gives a layer other parameters while it is called than it has here, where they are in shards; the
            # layers of DataParallel's replicas have tensors instead.
            is_whole = not getattr(self, '_is_replica', False)
            if is_whole and not any(hasattr(parameter, 'full_tensor') for parameter in parameters):
                return Recomputed.apply(self, number, *given, *parameters)
        options = {'use_reentrant': False, 'preserve_rng_state': False}
        if not torch.compiler.is_compiling():  # which itself moves the statistics once, and takes no contexts
            options['context_fn'] = functools.partial(self._contexts, segment)
        return checkpoint(self._runs[number], self, *given, **options)

    def _contexts(self, segment):
        """Return the contexts in which torch.utils.checkpoint computes a segment, and computes it again."""
        return contextlib.nullcontext(), Standing(self._norms(segment))

    def _layers(self, segment):
        return [self.get_submodule(path) for path in segment.layers]

    def _norms(self, segment):
        return [layer for layer in self._layers(segment) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]

    def named_modules(self, memo=None, prefix='', remove_duplicate=True):
        """Yield the modules, and so their parameters, in network order, which an optimiser's state uses."""
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
        """Return the state to pickle: all but functions, which are rebuilt."""
        return {key: value for key, value in self.__dict__.items() if key != '_runs'}

    def __setstate__(self, state):
        """Restore the pickled state."""
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


class Standing:
    """A reusable context that freezes the moving statistics of BatchNorms: the first pass updated them."""

    def __init__(self, norms):
        self.norms = norms

    def __enter__(self):
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_):
        for norm, (momentum, count) in zip(self.norms, self.before):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Recomputed(torch.autograd.Function):
    """A gradient-checkpointed segment: stores only its inputs, recomputes feature maps in the backward pass.

    Like torch.utils.checkpoint, but without a hook for every tensor that an operator stores; the hooks take most of
    a small step's time (docs/memory.md). The segment's parameters are inputs, so that DDP sees their gradients. It has
    no second derivative, which a gradient penalty needs.
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
        with torch.enable_grad(), Standing(ctx.module._norms(ctx.segment)), torch.autocast(**ctx.autocast):
            found = ctx.run(ctx.module, *given)
        sources = [*given, *tensors[count:]]
        wanted = [tensor for tensor in sources if tensor.requires_grad]
        # An output that depends only on frozen tensors has no gradient.
        found, gradients = zip(*[pair for pair in zip(found, gradients) if pair[0].requires_grad])
        of_wanted = iter(torch.autograd.grad(found, wanted, gradients))
        return None, None, *(next(of_wanted) if tensor.requires_grad else None for tensor in sources)


def autocast_of(device):
    """Return the arguments of the active torch.autocast for a device type.

    Its cache is off: weight casts made without a graph must not be reused with one.
    """
    if device == 'cuda':
        state = torch.get_autocast_gpu_dtype(), torch.is_autocast_enabled()
    else:
        state = torch.get_autocast_cpu_dtype(), torch.is_autocast_cpu_enabled()
    return {'device_type': device, 'dtype': state[0], 'enabled': state[1], 'cache_enabled': False}


def is_narrow(module):
    """Return whether a 1x1 convolution reads fewer than 16 channels.

    With a stride of 2 and in channels_last PyTorch's convolution for CPUs with AVX-512 then writes beyond its memory
    (found with 2.3.1, 2.4.1 and 2.14.1).
    """
    weights = [weight for weight in module.parameters() if weight.ndim == 4 and weight.shape[2:] == (1, 1)]
    return any(weight.shape[1] < 16 for weight in weights)


class Segment(NamedTuple):
    """A part of a network: code that maps inputs to outputs; the `dead` inputs are not read afterwards."""

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
        channels = image_shape[2] if len(image_shape) > 2 else 3
        self.on_meta = {'data': torch.empty((2, channels, *image_shape[:2]))}  # {name of a value: tensor}
        self.value = {}  # {(place, output): name of a value, or Variable}
        self.steps = []  # (name, function or Layer, arguments), the arguments being names of values and constants
        self.layers = {}  # {variables: Layer}

    def run(self, ends):
        """Make layers and segments; return the embedding size. Raises ValueError if unsupported."""
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
                except Exception as error:  # from an attribute with an unexpected value
                    what = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
                    raise ValueError(f'{node.name} ({node.op}): {what}')
                kept = '__force_mirroring__' not in node.attrs and self.module.using_checkpoint
                if number == cut or number in ends or kept and number < cut:
                    bounds.append(len(self.steps))
        self._fold_input()
        last = self.value[len(self.nodes) - 1, 0]
        self.module._segments = self._cut(sorted(set(bounds) | {len(self.steps)}), last)
        self.module.ends = self._places_of([self.value[number, 0] for number in ends])
        return self.on_meta[last].shape[1]

    def _places_of(self, values):
        """Return (number of the segment that has it as an output, name, shape) of each of some values."""
        number_of = {name: number for number, segment in enumerate(self.module._segments) for name in segment.outputs}
        return [(number_of[value], str(value), tuple(self.on_meta[value].shape)) for value in values]

    def _trunk_end(self):
        """Return the number of the last node of the trunk: the cast after it, or the last layer's input."""
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
        """Add the step of a layer node, and the layer if it is new; return the name of the step's value."""
        attrs = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
        if not isinstance(x, Value) or not all(isinstance(variable, Variable) for variable in variables):
            raise ValueError('what it reads is not a parameter')
        if node.op == 'Dropout' and self.dropout is not None:
            attrs['p'] = str(self.dropout)
        if node.op == 'FullyConnected' and self.on_meta[x].ndim > 2:
            x = self._step(node.name + '_flat', torch.flatten, (x, 1))
        if node.op == 'BatchNorm' and is_set(attrs, 'use_global_stats') and self.on_meta[x].ndim == 2:
            raise ValueError('use_global_stats is not known here behind a fully connected layer')
        stride = ()
        if node.op == 'Convolution' and len(self._strides[source(self.nodes, node.inputs[1][0])]) > 1:
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
                found.setdefault(source(self.nodes, node.inputs[1][0]), set()).add(pair(node.attrs, 'stride', '(1, 1)'))
        return found

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
        """Return whether a layer path is free: no part of it is an attribute of the modules around it."""
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
        """Fold insightface's normalisation and the network's into one multiplication, or an addition besides."""
        if len(self.steps) < 2:
            raise ValueError('that is not a network: it has no layers')
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
