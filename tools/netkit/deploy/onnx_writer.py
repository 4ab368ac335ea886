"""A deployed graph as an ONNX model, opset 13, as onnxruntime, OpenCV and the insightface package take it.

MXNet's own exporter is silently wrong in five places with these networks: it stamps the opset of the installed onnx
package, leaves PReLU's slopes in a shape that does not broadcast, forgets that FullyConnected flattens, exports a gamma
that the network does not use, and lists parameters as inputs.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netkit.deploy.normalising import normalisation
from netkit.deploy.onnx_operators import CONVERTERS
from netkit.errors import UserError
from netkit.graph.counts import shapes
from netkit.graph.naming import EMBEDDING

OPSET, IR_VERSION = 13, 7  # both came with onnx 1.8
NORMALISING = 2  # nodes, the first
HALF_MAX = float(np.finfo(np.float16).max)
NEARLY_ONE, NEARLY_NOTHING = 1 + float(np.finfo(np.float32).eps), 1e-30  # of 0…255 in float32


def convert(graph, parameters, image_shape, batch=None):
    """Return the ONNX model of a graph: `data`, (batch, 3, height, width) of raw 0…255 RGB, to `fc1`, both float32.

    `batch` None leaves the number of images open. Raises UserError for an operator that is not in CONVERTERS, or one
    with an attribute that ONNX does not have.
    """
    writer = Writer(graph, parameters, image_shape)
    written = writer.normalise(normalisation(graph, parameters))
    for node in graph.nodes():
        if node.op != 'null' and node not in written:
            if node.op not in CONVERTERS:
                raise UserError(
                    f'{node.name} is a {node.op}, an operator that is not known here; --onnx cannot write it'
                )
            writer.names[node] = CONVERTERS[node.op](writer, node)
    images = batch or 'batch'
    size = writer.shape(graph.outputs[0])[1:]
    described = helper.make_graph(
        writer.nodes,
        'embedding',
        [helper.make_tensor_value_info('data', TensorProto.FLOAT, [images, 3] + list(image_shape[:2]))],
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [images] + list(size))],
        [numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
    )
    model = helper.make_model(
        described,
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=IR_VERSION,
        producer_name='tools/export.py',
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def in_half_precision(model):
    """Return an ONNX model with float16 after its normalisation; `data` and `fc1` stay float32.

    Raises UserError for larger weights.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    first, others = graph.node[:NORMALISING], graph.node[NORMALISING:]
    stay = {name for node in others if node.op_type == 'Resize' for name in node.input[1:]}
    stay |= {name for node in first for name in node.input}
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or constant.name in stay:
            continue
        if np.abs(values).max(initial=0) > HALF_MAX:
            raise UserError(
                f'{constant.name} holds {np.abs(values).max():g}, and float16 ends at {HALF_MAX:g}; leave '
                '--precision at float32'
            )
        constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), constant.name))
    (normalised,) = first[-1].output
    for node in others:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name in (normalised, EMBEDDING):
                    names[place] = name + '_float16'
    graph.node.insert(
        NORMALISING,
        helper.make_node('Cast', [normalised], [normalised + '_float16'], 'Cast_data', to=TensorProto.FLOAT16),
    )
    graph.node.append(
        helper.make_node('Cast', [EMBEDDING + '_float16'], [EMBEDDING], 'Cast_' + EMBEDDING, to=TensorProto.FLOAT)
    )
    onnx.checker.check_model(half, full_check=True)
    return half


class Writer:
    """Collects ONNX nodes and constants; knows the ONNX names and the shapes of MXNet's nodes."""

    def __init__(self, graph, parameters, image_shape):
        self.parameters = parameters
        self.nodes, self.constants, self.names = [], {}, {}
        symbol = graph.symbol()
        # An axis whose length differs between the two is the batch.
        self._shapes, self._others = (shapes(symbol, image_shape, batch) for batch in (2, 3))

    def emit(self, op, inputs, name, **attributes):
        """Add an ONNX node; return the name of its output, which is its own name."""
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name, values, kind=np.float32):
        """Add an array; return its name."""
        self.constants[name] = np.ascontiguousarray(values, kind)
        return name

    def read(self, node, place=0):
        """Return the name of an input of `node`; a parameter is added."""
        source, output = node.inputs[place]
        if source.name in self.constants:
            return source.name
        if source in self.names:
            name = self.names[source]
            return name[output] if isinstance(name, list) else name
        return self.constant(source.name, self.parameters[source.name])

    def array(self, node, place):
        """Return (name, values) of an input of `node` that has to be a parameter."""
        source = node.inputs[place][0]
        if source.name not in self.parameters:
            raise UserError(
                f'{node.name}, a {node.op}, reads {source.name}, which is computed and no parameter; '
                '--onnx cannot write it'
            )
        return source.name, self.parameters[source.name]

    def shape(self, entry):
        """Return the shape of a pair (node, output) for two images."""
        return self._shapes[self._key(entry)]

    def open_shape(self, entry):
        """Return the shape of a pair (node, output) with -1 where it depends on the number of images."""
        pairs = zip(self.shape(entry), self._others[self._key(entry)])
        return [one if one == other else -1 for one, other in pairs]

    @staticmethod
    def _key(entry):
        node, output = entry
        if node.op == 'null':
            return node.name
        return f'{node.name}_output{output if node.attr("num_outputs", 1) > 1 else ""}'

    def normalise(self, found):
        """Write a Normalisation as a multiplication and a subtraction; return the nodes for which they stand.

        insightface's client looks among the first eight nodes for one named Sub… or _minus… and one named Mul… or
        _mul…. Unless both are there, it computes (x - 127.5) / 127.5 itself. onnxsim folds a multiplication into the
        convolution that reads it, so the subtraction is the last; and it removes numbers without effect, so there are
        none. The shift without effect is upwards, because 0 may be the argument of a root.
        """
        scale = np.full(3, NEARLY_ONE) if (found.scale == 1).all() else found.scale
        shift = np.full(3, -NEARLY_NOTHING) if (found.shift == 0).all() else -found.shift
        if len(set(scale)) == len(set(shift)) == 1:
            scale, shift = scale[0], shift[0]
        else:
            scale, shift = scale.reshape(1, 3, 1, 1), shift.reshape(1, 3, 1, 1)
        scaled = self.emit('Mul', ['data', self.constant('data_scale', scale)], 'Mul_data')
        self.names[found.node] = self.emit('Sub', [scaled, self.constant('data_shift', shift)], 'Sub_data')
        return found.within
