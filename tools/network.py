"""From a network choice to its symbol, and what can be counted on a symbol without computing it."""
import collections
import importlib
import math
import re

from project import UserError, memory

import mxnet as mx
import numpy as np

import config as host
from face_blocks import SettingError
from graph import Graph, refusals

LAYERS = ('Convolution', 'FullyConnected')


def build(config):
    """Return the embedding symbol that `config`, filled in by `generate_config`, describes.

    It goes the way the host goes: the builder module by its name, `get_symbol()` without arguments. Raises UserError
    for a setting that nobody defined.
    """
    try:
        return importlib.import_module(config.net_name).get_symbol()
    except SettingError as error:
        raise UserError(error)


def choose(network, dataset=None, loss='arcface'):
    """Fill in the config for a network choice and return it; the data set is by default the one it was made for.

    Raises UserError, naming the choices, for what is none.
    """
    made_for = 'imagenet' if network.endswith('_imagenet') else 'synthetic'
    try:
        host.generate_config(network, dataset or made_for, loss)
    except host.UnknownChoice as error:
        raise UserError(error)
    return host.config


def suit(config, device):
    """Set the forms of the layers that suit `device`, 'cpu' or 'gpu'; what is computed stays the same.

    On a CPU memory is no reason to compute anything twice, and PReLU and bilinear resizing are slow otherwise
    (benchmarks/NOTES.md).
    """
    if device == 'cpu':
        config.update(net_prelu='conv', net_resize='matrix', memonger=False)


def shapes(symbol, image_shape, batch=1):
    """Return {name: shape} of all arguments and outputs of operators for `batch` images of `image_shape`, (h, w, …)."""
    internals = symbol.get_internals()
    with refusals('the network does not take images of %d×%d' % tuple(image_shape[:2])):
        _, outputs, _ = internals.infer_shape(data=(batch, 3) + tuple(image_shape[:2]))
    return dict(zip(internals.list_outputs(), outputs))


def types(symbol):
    """Return {name: type} of all arguments and outputs of operators for images of float32."""
    internals = symbol.get_internals()
    return dict(zip(internals.list_outputs(), internals.infer_type(data=np.float32)[1]))


def initializer():
    """Return how the weights of a network start, here as in the host."""
    return mx.init.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2)


def count_parameters(symbol, image_shape):
    """Return the number of learnt parameters: weights, biases, gamma, beta; not moving statistics."""
    shape = shapes(symbol, image_shape)
    return sum(int(np.prod(shape[name])) for name in symbol.list_arguments() if name != 'data')


def learnt_weight(node):
    """Return the variable behind the weight of a node, or None.

    None for anything but a convolution or a fully connected layer, and for a PReLU or a resizing that is
    written as one.
    """
    if node.op not in LAYERS:
        return None
    weight, _ = node.inputs[1]
    while weight.inputs:  # made of another one, as merged groups are
        weight, _ = weight.inputs[0]
    return weight if weight.name.endswith('_weight') else None


def layer_macs(node, weight, output):
    """Return the multiply-adds of a convolution or fully connected layer from the shapes of its weight and output."""
    positions = output[2:] if node.op == 'Convolution' else ()
    return int(np.prod(weight)) * int(np.prod(positions))


def count_copies(symbol, image_shape):
    """Return how many parameters more there would be if no convolution shared its weight with another."""
    shape = shapes(symbol, image_shape)
    weights = filter(None, map(learnt_weight, Graph.of(symbol).nodes()))
    uses = collections.Counter(weight.name for weight in weights)
    return sum((count - 1) * int(np.prod(shape[name])) for name, count in uses.items())


def count_macs(symbol, image_shape):
    """Return the multiply-adds of all convolutions and fully connected layers for one image."""
    shape = shapes(symbol, image_shape)
    layers = [(node, learnt_weight(node)) for node in Graph.of(symbol).nodes()]
    return sum(layer_macs(node, shape[weight.name], shape[node.name + '_output']) for node, weight in layers if weight)


def check_room(wanted, sentence):
    """Raise UserError, with a sentence that says who wants it, where this machine has not so many bytes of memory.

    Better than what the system does then: it ends what it likes.
    """
    there = memory()
    if there and wanted > there:
        raise UserError('%s about %.3g GB, and this machine has %.3g' % (sentence, wanted / 2 ** 30, there / 2 ** 30))


def planned_memory(symbol, batch, image_shape, training=True):
    """Return the MB (2^20 bytes) that MXNet plans for feature maps and their gradients, for `batch` images."""
    return plan(symbol, {'data': ((batch, 3) + tuple(image_shape[:2]), np.float32)}, training)


def plan(symbol, inputs, training=True):
    """Return the MB (2^20 bytes) that MXNet plans for a symbol with these `inputs`, {name: (shape, type)}.

    It is what an executor allocates besides inputs, parameters and their gradients; the same on every device but
    for a convolution's workspace. MXNet counts four bytes for a number of float16, too. Nothing is computed.
    """
    with refusals('MXNet cannot plan the memory'):
        shapes, _, statistics_shapes = symbol.infer_shape(**{name: shape for name, (shape, _) in inputs.items()})
        if max(map(math.prod, shapes + statistics_shapes)) >= 2 ** 31:
            raise UserError('for images that large a layer has more than 2^31 weights, which MXNet does not take')
        types, _, statistics_types = symbol.infer_type(**{name: type_ for name, (_, type_) in inputs.items()})

        def empty_arrays(shapes, types):  # they take no real memory; simple_bind would fill gigabytes with zeros
            return [mx.nd.empty(shape, dtype=type_) for shape, type_ in zip(shapes, types)]

        names = symbol.list_arguments()
        gradients = dict(zip(names, empty_arrays(shapes, types)))
        gradients.pop('data', None)  # nobody wants that of the images
        executor = symbol.bind(mx.cpu(), dict(zip(names, empty_arrays(shapes, types))), gradients if training else None,
                               'write' if training else 'null', empty_arrays(statistics_shapes, statistics_types))
        return float(re.search(r'Total ([\d.]+) MB allocated', executor.debug_str()).group(1))
