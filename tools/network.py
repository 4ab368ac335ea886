"""From a network choice to its symbol, and what can be counted on a symbol without computing it."""
import importlib
import json

import project  # noqa: F401  puts symbols/ on the path
import numpy as np

import config as host


def build(config):
    """Return the embedding symbol that `config`, filled in by `generate_config`, describes.

    It goes the way the host goes: the builder module by its name, `get_symbol()` without arguments.
    """
    return importlib.import_module(config.net_name).get_symbol()


def choose(network, dataset=None, loss='arcface'):
    """Fill in the config for a network choice and return it; the data set is by default the one it was made for."""
    made_for = 'imagenet' if network.endswith('_imagenet') else 'synthetic'
    host.generate_config(network, dataset or made_for, loss)
    return host.config


def shapes(symbol, image_shape):
    """Return {name: shape} of all arguments and outputs of operators for one image of `image_shape`, (h, w, 3)."""
    internals = symbol.get_internals()
    _, outputs, _ = internals.infer_shape(data=(1, 3) + tuple(image_shape[:2]))
    return dict(zip(internals.list_outputs(), outputs))


def count_parameters(symbol, image_shape):
    """Return the number of learnt parameters: weights, biases, gamma, beta; not moving statistics."""
    shape = shapes(symbol, image_shape)
    return sum(int(np.prod(shape[name])) for name in symbol.list_arguments() if name != 'data')


def count_macs(symbol, image_shape):
    """Return the multiply-adds of all convolutions and fully connected layers for one image."""
    shape = shapes(symbol, image_shape)
    nodes = json.loads(symbol.tojson())['nodes']
    total = 0
    for node in nodes:
        if node['op'] in ('Convolution', 'FullyConnected'):
            weight = nodes[node['inputs'][1][0]]
            if weight['op'] != 'null':
                continue  # not learnt: a PReLU written as a convolution
            positions = shape[node['name'] + '_output'][2:]  # none for a fully connected layer
            total += int(np.prod(shape[weight['name']])) * int(np.prod(positions))
    return total
