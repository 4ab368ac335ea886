"""BatchNorms folded into the convolutions and fully connected layers beside them, for inference.

Parameters are dicts {name: float32 array}.
"""
import numpy as np

from netkit.graph.naming import EMBEDDING
from netkit.graph.nodes import Node


def fold(graph, parameters):
    """Take every BatchNorm that can go exactly into the convolution or fully connected layer beside it; Dropout goes.

    A BatchNorm goes into the layer in front of it if nobody else reads that layer, or into the layers behind it
    if none of them pads: padding stands for zeros behind the BatchNorm, and would have to become something else.
    A weight that several layers share is copied for each of them that changes it.

    Returns (graph, parameters, left), `left` being pairs (name of a BatchNorm that stayed, why).
    """
    graph = graph.rewritten(lambda node: node.inputs[0] if node.op == 'Dropout' and node.name != EMBEDDING else None)
    parameters, left = dict(parameters), []
    readers = graph.readers()
    shared = {node for node in readers if node.op == 'null' and len(readers[node]) > 1}
    for norm in [node for node in graph.nodes() if node.op == 'BatchNorm']:
        data, behind = norm.inputs[0][0], readers[norm]
        if norm.attr('axis', 1) == 1 and is_layer(data) and readers[data] == [norm]:
            give_own_weights(data, shared, parameters)
            scale_outputs(data, parameters, *affine(norm, parameters))
            if None in behind:  # the output keeps its name
                data.name = norm.name
        elif norm.attr('axis', 1) == 1 and all(is_layer(node) and not is_padded(node) for node in behind):
            for node in behind:
                give_own_weights(node, shared, parameters)
                scale_inputs(node, parameters, *affine(norm, parameters))
        else:
            left.append((norm.name, reason(norm, data, behind)))
            continue
        bypass(norm, graph, readers)
    kept = {node.name for node in graph.nodes() if node.op == 'null'}
    return graph, {name: array for name, array in parameters.items() if name in kept}, left


def without_dropout(graph):
    """Return the graph without Dropout, which does nothing in inference."""
    return graph.rewritten(lambda node: node.inputs[0] if node.op == 'Dropout' and node.name != EMBEDDING else None)


def is_layer(node):
    """Tell whether a node is a convolution or fully connected layer with one filter for each channel it puts out."""
    if node is None or node.op not in ('Convolution', 'FullyConnected') or node.inputs[1][0].op != 'null':
        return False
    return node.attr('flatten', True) and node.attr('layout') in (None, 'None', 'NCHW')


def is_padded(layer):
    return any(layer.attr('pad', ()))


def reason(norm, data, behind):
    """Say why a BatchNorm between the node `data` and the nodes `behind` it stays."""
    if norm.attr('axis', 1) != 1:
        return 'over axis {} instead of the channels'.format(norm.attr('axis'))

    def described(node):
        if node is None:
            return 'the output'
        if is_layer(node):
            return 'a padded convolution' if is_padded(node) else node.op
        return node.attrs.get('act_type', node.op)

    front = 'the image' if data.op == 'null' else 'a layer that others read too' if is_layer(data) else data.op
    return 'behind {}, in front of {}'.format(front, ' and '.join(sorted(set(map(described, behind)))))


def affine(norm, parameters):
    """Return (scale, shift), float64, one for each channel: what a BatchNorm does in inference."""
    gamma, beta, mean, variance = (parameters[source.name].astype(np.float64) for source, _ in norm.inputs[1:])
    if norm.attr('fix_gamma', True):
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(variance + norm.attr('eps', 1e-3))
    return scale, beta - mean * scale


def give_own_weights(layer, shared, parameters):
    """Make sure that a layer has a bias, and copy for it those of its parameters that are `shared`."""
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
    """Change a layer so that it computes scale * what it did + shift, channel by channel."""
    weight, bias = (source.name for source, _ in layer.inputs[1:])
    parameters[weight] = as_rows(scale, parameters[weight]) * parameters[weight]
    parameters[bias] = scale * parameters[bias] + shift
    round_to_float32(parameters, weight, bias)


def scale_inputs(layer, parameters, scale, shift):
    """Change a layer so that it computes of x what it did of scale * x + shift, channel by channel."""
    weight, bias = (source.name for source, _ in layer.inputs[1:])
    groups = layer.attr('num_group', 1)
    # Filters of a group x channels of a group x what is left, be it a kernel or the pixels of a flattened map.
    blocks = parameters[weight].reshape(groups, len(parameters[bias]) // groups, len(scale) // groups, -1)
    scale, shift = (array.reshape(groups, 1, -1, 1) for array in (scale, shift))
    parameters[bias] = parameters[bias] + (blocks * shift).sum(axis=(2, 3)).ravel()
    parameters[weight] = (blocks * scale).reshape(parameters[weight].shape)
    round_to_float32(parameters, weight, bias)


def as_rows(vector, like):
    """Return `vector` in the shape that multiplies the first axis of `like`."""
    return vector.reshape((-1,) + (1,) * (like.ndim - 1))


def round_to_float32(parameters, *names):
    for name in names:
        parameters[name] = parameters[name].astype(np.float32)


def bypass(norm, graph, readers):
    """Let those who read a BatchNorm read what it read, and keep `readers` up to date."""
    def follow(entry):
        return norm.inputs[0] if entry[0] is norm else entry

    data, behind = norm.inputs[0][0], readers.pop(norm)
    for node in behind:
        if node is not None:
            node.inputs = list(map(follow, node.inputs))
    graph.outputs = list(map(follow, graph.outputs))
    readers[data] = [node for node in readers[data] if node is not norm] + behind
