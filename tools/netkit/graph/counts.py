"""Shapes, parameters and multiply-adds of a symbol, without running it."""

import collections

import numpy as np

from netkit.errors import UserError, refusals
from netkit.graph.naming import is_weight
from netkit.graph.nodes import Graph

LAYERS = ('Convolution', 'FullyConnected')


def shapes(symbol, image_shape, batch=1):
    """Return {name: shape} of all variables and operators' outputs for `batch` images of `image_shape`, (h, w, …)."""
    internals, (height, width) = symbol.get_internals(), image_shape[:2]
    with refusals(f'the network does not take images of {height}×{width}'):
        _, outputs, _ = internals.infer_shape(data=(batch, 3, height, width))
    if outputs is None:
        raise UserError('the shapes in the network do not follow from the size of its images')
    return dict(zip(internals.list_outputs(), outputs))


def types(symbol):
    """Return {name: dtype} of all variables and operators' outputs for images of float32."""
    internals = symbol.get_internals()
    return dict(zip(internals.list_outputs(), internals.infer_type(data=np.float32)[1]))


def count_parameters(symbol, image_shape):
    """Return the number of learnable parameters: weights, biases, gamma, beta; no moving statistics."""
    shape = shapes(symbol, image_shape)
    return sum(int(np.prod(shape[name])) for name in symbol.list_arguments() if name != 'data')


def learnt_weight(node):
    """Return the variable of a convolution's or fully connected layer's weight.

    None for other nodes, and for convolutions and layers that stand for a PReLU or a resizing.
    """
    if node.op not in LAYERS:
        return None
    weight, _ = node.inputs[1]
    while weight.inputs:  # computed from a variable, as merged groups are
        weight, _ = weight.inputs[0]
    return weight if is_weight(weight.name) else None


def layer_macs(node, weight, output):
    """Return the multiply-adds of a convolution or fully connected layer from the shapes of its weight and output."""
    positions = output[2:] if node.op == 'Convolution' else ()
    return int(np.prod(weight)) * int(np.prod(positions))


def count_copies(symbol, image_shape):
    """Return the number of parameters that sharing convolution weights saves."""
    shape = shapes(symbol, image_shape)
    weights = filter(None, map(learnt_weight, Graph.of(symbol).nodes()))
    uses = collections.Counter(weight.name for weight in weights)
    return sum((count - 1) * int(np.prod(shape[name])) for name, count in uses.items())


def count_macs(symbol, image_shape):
    """Return the multiply-adds of all convolutions and fully connected layers for one image."""
    shape = shapes(symbol, image_shape)
    layers = [(node, learnt_weight(node)) for node in Graph.of(symbol).nodes()]
    return sum(layer_macs(node, shape[weight.name], shape[node.name + '_output']) for node, weight in layers if weight)
