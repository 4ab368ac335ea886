"""BatchNorms folded into the convolutions and fully connected layers next to them, for inference.

Parameters are dicts {name: float32 array}.
"""

import numpy as np

from netkit.graph.naming import EMBEDDING
from netkit.graph.nodes import Node


def fold(graph, parameters):
    """Fold every BatchNorm that can be folded exactly into the layers next to it; remove Dropout.

    A BatchNorm is folded into the convolution or fully connected layer that it reads, if nothing else reads that
    layer, or else into the layers that read it, if none of them pads: padded zeros come after the BatchNorm, and would
    have to be other values. A weight that several layers share is copied for each layer that changes it.

    Returns (graph, parameters, left), `left` being pairs (name of a BatchNorm that stayed, why).
    """
    graph, parameters, left = without_dropout(graph), dict(parameters), []
    readers = graph.readers()
    shared = {node for node in readers if node.op == 'null' and len(readers[node]) > 1}
    for norm in [node for node in graph.nodes() if node.op == 'BatchNorm']:
        before, after = norm.inputs[0][0], readers[norm]
        by_channel = norm.attr('axis', 1) == 1
        if by_channel and is_layer(before) and readers[before] == [norm]:
            give_own_weights(before, shared, parameters)
            scale_outputs(before, parameters, *affine(norm, parameters))
            if None in after:  # an output of the graph keeps its name
                before.name = norm.name
        elif by_channel and all(is_layer(node) and not is_padded(node) for node in after):
            for node in after:
                give_own_weights(node, shared, parameters)
                scale_inputs(node, parameters, *affine(norm, parameters))
        else:
            left.append((norm.name, reason(norm, before, after)))
            continue
        bypass(norm, graph, readers)
    kept = {node.name for node in graph.nodes() if node.op == 'null'}
    return graph, {name: array for name, array in parameters.items() if name in kept}, left


def without_dropout(graph):
    """Return the graph without Dropout, which does nothing in inference."""
    return graph.rewritten(lambda node: node.inputs[0] if node.op == 'Dropout' and node.name != EMBEDDING else None)


def is_layer(node):
    """Return whether a node is a convolution or fully connected layer with one filter per output channel."""
    if node is None or node.op not in ('Convolution', 'FullyConnected') or node.inputs[1][0].op != 'null':
        return False
    return node.attr('flatten', True) and node.attr('layout') in (None, 'None', 'NCHW')


def is_padded(layer):
    """Return whether a convolution pads its input."""
    return any(layer.attr('pad', ()))


def reason(norm, before, after):
    """Return why a BatchNorm that reads the node `before`, and which the nodes `after` read, stays."""
    if norm.attr('axis', 1) != 1:
        return f'over axis {norm.attr("axis")} instead of the channels'

    def described(node):
        if node is None:
            return 'the output'
        if is_layer(node):
            return 'a padded convolution' if is_padded(node) else node.op
        return node.attrs.get('act_type', node.op)

    front = 'the image' if before.op == 'null' else 'a layer that others read too' if is_layer(before) else before.op
    return f'behind {front}, in front of {" and ".join(sorted(set(map(described, after))))}'


def affine(norm, parameters):
    """Return (scale, shift), float64, (channels,) each, of a BatchNorm in inference."""
    gamma, beta, mean, variance = (parameters[source.name].astype(np.float64) for source, _ in norm.inputs[1:])
    if norm.attr('fix_gamma', True):
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(variance + norm.attr('eps', 1e-3))
    return scale, beta - mean * scale


def give_own_weights(layer, shared, parameters):
    """Give a layer a bias, if it has none, and copies of those of its parameters that are `shared`."""
    for place, kind in ((1, 'weight'), (2, 'bias')):
        has_one = place < len(layer.inputs)
        if has_one and layer.inputs[place][0] not in shared:
            continue
        variable = Node('null', f'{layer.name}_{kind}')
        while variable.name in parameters:
            variable.name += '_own'
        if has_one:
            parameters[variable.name] = parameters[layer.inputs[place][0].name]
            layer.inputs[place] = variable, 0
        else:
            parameters[variable.name] = np.zeros(layer.attr('num_filter') or layer.attr('num_hidden'), np.float32)
            layer.inputs.append((variable, 0))
            layer.attrs['no_bias'] = 'False'


def scale_outputs(layer, parameters, scale, shift):
    """Change a layer so that it computes scale · output + shift, per output channel."""
    weight, bias = (source.name for source, _ in layer.inputs[1:])
    parameters[weight] = as_rows(scale, parameters[weight]) * parameters[weight]
    parameters[bias] = scale * parameters[bias] + shift
    round_to_float32(parameters, weight, bias)


def scale_inputs(layer, parameters, scale, shift):
    """Change a layer so that it computes for x what it computed for scale · x + shift, per input channel."""
    weight, bias = (source.name for source, _ in layer.inputs[1:])
    groups = layer.attr('num_group', 1)
    # (groups, filters per group, channels per group, pixels of a kernel or of the flattened map)
    blocks = parameters[weight].reshape(groups, len(parameters[bias]) // groups, len(scale) // groups, -1)
    scale, shift = (array.reshape(groups, 1, -1, 1) for array in (scale, shift))
    parameters[bias] = parameters[bias] + (blocks * shift).sum(axis=(2, 3)).ravel()
    parameters[weight] = (blocks * scale).reshape(parameters[weight].shape)
    round_to_float32(parameters, weight, bias)


def as_rows(vector, like):
    """Return `vector` in the shape that multiplies the first axis of `like`."""
    return vector.reshape((-1,) + (1,) * (like.ndim - 1))


def round_to_float32(parameters, *names):
    """Round parameters, in place."""
    for name in names:
        parameters[name] = parameters[name].astype(np.float32)


def bypass(norm, graph, readers):
    """Let the readers of a BatchNorm read its input instead, and update `readers`."""

    def follow(entry):
        return norm.inputs[0] if entry[0] is norm else entry

    data, behind = norm.inputs[0][0], readers.pop(norm)
    for node in behind:
        if node is not None:
            node.inputs = list(map(follow, node.inputs))
    graph.outputs = list(map(follow, graph.outputs))
    readers[data] = [node for node in readers[data] if node is not norm] + behind
