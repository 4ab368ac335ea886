"""Prepare any ONNX file for quantisation: fold constants and BatchNorms, convert to opset 13, name all layers."""

import os

import onnx
from onnx import version_converter

from netkit.deploy.int8 import OPERATORS
from netkit.errors import UserError, reason
from netkit.onnx_session import open_session

OPSET = 13  # the first whose quantised weights have a scale for each filter


def ready(source, path):
    """Write the ONNX file `source` to `path`, as the module says.

    Raises UserError for a file without layers, one that is quantised, and one that cannot be converted.
    """
    model = onnx.load(source)
    if any('Quantize' in node.op_type or node.op_type.startswith('QLinear') for node in model.graph.node):
        raise UserError(f'{source} is quantised already; take the file that it was made from')
    if not is_plain(model.graph):
        model = folded(model, path)
    try:
        if next(of.version for of in model.opset_import if of.domain in ('', 'ai.onnx')) < OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx has many, for what it does not know
        raise UserError(f'onnx cannot convert {source} to opset {OPSET}: {reason(error)}')
    layers = layers_of(model.graph)
    if not layers:
        raise UserError(f'{source} has no convolutions and no fully connected layers')
    if not is_plain(model.graph, norms=False):
        raise UserError(f'{source} computes the weights of a layer, and only constant weights can be quantised')
    if len({node.name for node in layers}) < len(layers) or not all(node.name for node in layers):
        for number, node in enumerate(layers):
            node.name = f'layer{number}_{node.name}'
    onnx.save(model, path)


def layers_of(graph):
    """Return the nodes that can be quantised."""
    return [node for node in graph.node if node.op_type in OPERATORS]


def is_plain(graph, norms=True):
    """Return whether the layers have their weights as initializers, and with `norms` whether no BatchNorm is there."""
    constants = {array.name for array in graph.initializer}
    has_norms = norms and any(node.op_type == 'BatchNormalization' for node in graph.node)
    return not has_norms and all(set(node.input[1:]) - {''} <= constants for node in layers_of(graph))


def folded(model, path):
    """Return a model with its constants and BatchNorms folded by onnxruntime, by way of files next to `path`."""
    whole, fewer = path + '.whole', path + '.fewer'
    onnx.save(model, whole)  # in one file, whatever it was
    open_session(whole, written_to=fewer)
    model = onnx.load(fewer)
    os.remove(whole)
    os.remove(fewer)
    return model
