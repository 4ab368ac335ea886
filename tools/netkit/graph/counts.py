"""Shapes, parameters and multiply-adds of a symbol, without computing it."""
import collections

import numpy as np

from netkit.errors import refusals
from netkit.graph.nodes import Graph

LAYERS = ('Convolution', 'FullyConnected')


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
