"""An ONNX file of anybody, made ready to be quantised."""

import onnx
from onnx import version_converter

from netkit.deploy.int8 import OPERATORS
from netkit.errors import UserError, reason
from netkit.onnx_session import open_session

OPSET = 13  # the first whose quantised weights have a scale for each filter


def ready(source, path):
    """Write the ONNX file `source` to `path`: BatchNorms folded by onnxruntime, opset 13 or later, all layers named.

    Raises UserError for a file without layers, and for one that cannot be converted.
    """
    model = onnx.load(source)
    if any(node.op_type == 'BatchNormalization' for node in model.graph.node):
        open_session(source, written_to=path)
        model = onnx.load(path)
    try:
        if next(of.version for of in model.opset_import if of.domain in ('', 'ai.onnx')) < OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx has many, for what it does not know
        raise UserError(f'onnx cannot convert {source} to opset {OPSET}: {reason(error)}')
    layers = [node for node in model.graph.node if node.op_type in OPERATORS]
    if not layers:
        raise UserError(f'{source} has no convolutions and no fully connected layers')
    if len({node.name for node in layers}) < len(layers) or not all(node.name for node in layers):
        for number, node in enumerate(layers):
            node.name = f'layer{number}_{node.name}'
    onnx.save(model, path)
