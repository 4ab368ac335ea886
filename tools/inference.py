"""From the graph that was trained to the graph that is deployed: cut, plain, BatchNorms folded.

`cut` ends the graph at the embedding, `plain` undoes what only training wants, `fold` takes the BatchNorms into
their neighbours. Parameters are dicts {name: float32 array}.
"""
import numpy as np

from graph import Node
from project import UserError

EMBEDDING = 'fc1'  # what insightface calls the node of the embedding
# Operators that hand their input on as it is, or in another float type.
PASSES_ON = ('_copy', 'BlockGrad', 'Cast', 'amp_cast')
# Operators that know the shapes of their parameters.
SHAPE_GIVERS = ('Convolution', 'FullyConnected', 'BatchNorm', 'LeakyReLU')


def cut(symbol):
    """Return the part of a symbol that computes the embedding; raises UserError if it has none."""
    name = EMBEDDING + '_output'
    if symbol.get_internals().list_outputs().count(name) > 1:
        raise UserError('two nodes of the network are called %s' % EMBEDDING)
    if name not in symbol.get_internals().list_outputs():
        raise UserError('there is no %s in the network, where it would be cut; its outputs are %s'
                        % (name, ', '.join(symbol.list_outputs())))
    return symbol.get_internals()[name]


def in_float32(graph):
    """Return the graph with float32 in place of float16: what it is meant to compute, to compare with."""
    def rule(node):
        if node.attrs.get('dtype') == 'float16':
            node.attrs['dtype'] = 'float32'
    return graph.rewritten(rule)


# ------------------------------------------------------------------------------------------------- plain

def plain(graph):
    """Return the graph without what only training wants; it computes the same, with the same parameters.

    Out go training attributes (`memonger`, initialisers, learning rates), identities and float16 casts; PReLU,
    bilinear resizing and grouped convolutions become MXNet's own operators again, whichever form of
    `symbols/face_blocks.py` they were trained in.
    """
    def rule(node):
        node.attrs.pop('cudnn_off', None)
        if node.op in PASSES_ON and node.name != EMBEDDING:
            return node.inputs[0]
        return undo_prelu(node) or undo_resize(node) or undo_merging(node)

    graph = graph.rewritten(rule)
    for node, readers in graph.readers().items():
        kept = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
        if node.op == 'null':  # MXNet leaves the attributes of a layer on its variables, too
            knows_shape = all(reader is not None and reader.op in SHAPE_GIVERS for reader in readers)
            # PReLU takes a slope for each channel, or, as in Gluon, one for all; only a given shape can say so.
            is_given = not knows_shape or node.attr('__shape__') == (1,)
            kept = {key: node.attrs[key] for key in node.attrs if key == '__shape__' and is_given}
        node.attrs = kept
    return graph


# The shape of the slopes' factors, one for each channel, in a product and as the kernels of a depthwise convolution.
FACTORS = {'broadcast_mul': (1, -1, 1, 1), 'Convolution': (-1, 1, 1, 1)}


def undo_prelu(node):
    """Return PReLU for x + (1 - gamma) max(-x, 0) by products or by convolutions, or None for another node."""
    if node.op != 'elemwise_add':
        return None
    bend = 'broadcast_mul' if node.source((1, 'broadcast_mul')) else 'Convolution'
    product = node.source((1, bend))
    factor, negative = product and product.source((1, 'Reshape')), product and product.source((0, 'Activation'))
    difference = factor and factor.source((0, '_rminus_scalar'))
    if not difference or not negative or bend == 'Convolution' and not is_depthwise(product):
        return None
    if factor.attr('shape') != FACTORS[bend] or difference.attr('scalar') != 1 or negative.attrs['act_type'] != 'relu':
        return None
    gamma, minus = difference.source((0, 'null')), negative.source((0, 'negative')) or by_minus_one(negative)
    if not gamma or not minus or minus.inputs[0] != node.inputs[0]:
        return None
    return Node('LeakyReLU', node.name, {'act_type': 'prelu'}, [node.inputs[0], (gamma, 0)]), 0


def by_minus_one(node):
    """Return the convolution in front of a node if it only changes the sign, or None."""
    layer, factor = node.source((0, 'Convolution')), node.source((0, 'Convolution'), (1, '_full'))
    return layer if factor and factor.attr('value') == -1 and is_depthwise(layer) else None


def is_depthwise(layer):
    """Tell whether a convolution multiplies every channel by a number of its own."""
    return layer.attr('kernel') == (1, 1) and layer.attr('num_group') == layer.attr('num_filter') and layer.attr('no_bias')


def undo_resize(node):
    """Return BilinearResize2D for the two matrix products that stand for it, or None for another node."""
    if node.op != 'transpose':
        return None
    height = node.source((0, 'FullyConnected'))
    width = node.source((0, 'FullyConnected'), (0, 'transpose'), (0, 'FullyConnected'))
    matrix = (1, 'relu'), (0, '_rminus_scalar'), (0, 'abs'), (0, 'broadcast_sub'), (1, 'Reshape'), (0, '_arange')
    if not width or not width.source(*matrix) or not height.source(*matrix):
        return None
    size = {'height': height.attrs['num_hidden'], 'width': width.attrs['num_hidden']}
    return Node('_contrib_BilinearResize2D', node.name, size, [width.inputs[0]]), 0


def undo_merging(node):
    """Return the grouped convolution for one whose groups were merged, or None for another node."""
    if node.op != 'Convolution':
        return None
    blocks = (1, 'Reshape'), (0, 'broadcast_mul')
    weight = node.source(*blocks, (0, 'Reshape'), (0, 'null'))
    own = node.source(*blocks, (1, 'Reshape'), (0, '_eye'))
    if not weight or not own:
        return None
    attrs = dict(node.attrs, num_group=str(node.attr('num_group', 1) * own.attr('N')))
    return Node(node.op, node.name, attrs, [node.inputs[0], (weight, 0)] + node.inputs[2:]), 0


# -------------------------------------------------------------------------------------------------- fold

def without_dropout(graph):
    """Return the graph without Dropout, which does nothing in inference."""
    return graph.rewritten(lambda node: node.inputs[0] if node.op == 'Dropout' and node.name != EMBEDDING else None)


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
        return 'over axis %s instead of the channels' % norm.attr('axis')

    def described(node):
        if node is None:
            return 'the output'
        if is_layer(node):
            return 'a padded convolution' if is_padded(node) else node.op
        return node.attrs.get('act_type', node.op)

    front = 'the image' if data.op == 'null' else 'a layer that others read too' if is_layer(data) else data.op
    return 'behind %s, in front of %s' % (front, ' and '.join(sorted(set(map(described, behind)))))


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
        variable = Node('null', '%s_%s' % (layer.name, kind))
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
