"""The graph that is deployed, in MXNet's own operators: cut at the embedding, without what only training needs."""

from netkit.errors import UserError
from netkit.graph.naming import EMBEDDING
from netkit.graph.nodes import Node

# Operators whose output is their input, perhaps in another float type.
PASSES_ON = ('_copy', 'BlockGrad', 'Cast', 'amp_cast')
# Operators from which MXNet infers the shapes of their parameters.
SHAPE_GIVERS = ('Convolution', 'FullyConnected', 'BatchNorm', 'LeakyReLU')
# Shapes of PReLU's factors, one per channel, in a product and as the kernels of a depthwise convolution.
FACTORS = {'broadcast_mul': (1, -1, 1, 1), 'Convolution': (-1, 1, 1, 1)}


def cut(symbol):
    """Return the part of a symbol that computes the embedding; raises UserError if it has none."""
    name = EMBEDDING + '_output'
    if symbol.get_internals().list_outputs().count(name) > 1:
        raise UserError(f'two nodes of the network are called {EMBEDDING}')
    if name not in symbol.get_internals().list_outputs():
        outputs = ', '.join(symbol.list_outputs())
        raise UserError(f'there is no {name} in the network, where it would be cut; its outputs are {outputs}')
    return symbol.get_internals()[name]


def in_float32(graph):
    """Return the graph with float32 in place of float16, as the reference in comparisons."""

    def rule(node):
        if node.attrs.get('dtype') == 'float16':
            node.attrs['dtype'] = 'float32'

    return graph.rewritten(rule)


def plain(graph):
    """Return the graph without what only training needs; it computes the same, with the same parameters.

    Removed are training attributes (`memonger`, initialisers, learning rates), identities and float16 casts. PReLU,
    bilinear resizing and grouped convolutions become MXNet's own operators, whichever form of `symbols/face_blocks.py`
    they were trained in.
    """

    def rule(node):
        node.attrs.pop('cudnn_off', None)
        if node.op in PASSES_ON and node.name != EMBEDDING:
            return node.inputs[0]
        return undo_prelu(node) or undo_resize(node) or undo_merging(node)

    graph = graph.rewritten(rule)
    for node, readers in graph.readers().items():
        kept = {key: value for key, value in node.attrs.items() if not key.startswith('__')}
        if node.op == 'null':  # MXNet copies the attributes of a layer to its variables
            knows_shape = all(reader is not None and reader.op in SHAPE_GIVERS for reader in readers)
            # PReLU has one slope per channel or, as in Gluon, one for all; only the given shape tells.
            is_given = not knows_shape or node.attr('__shape__') == (1,)
            kept = {key: node.attrs[key] for key in node.attrs if key == '__shape__' and is_given}
        node.attrs = kept
    return graph


def undo_prelu(node):
    """Return PReLU for x + (1 - gamma) max(-x, 0), by products or by convolutions; None for other nodes."""
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
    """Return the convolution that a node reads, if it only changes the sign; else None."""
    layer, factor = node.source((0, 'Convolution')), node.source((0, 'Convolution'), (1, '_full'))
    return layer if factor and factor.attr('value') == -1 and is_depthwise(layer) else None


def is_depthwise(layer):
    """Tell whether a convolution multiplies every channel by one number."""
    has_group_per_filter = layer.attr('num_group') == layer.attr('num_filter')
    return layer.attr('kernel') == (1, 1) and has_group_per_filter and layer.attr('no_bias')


def undo_resize(node):
    """Return BilinearResize2D for the two matrix products that stand for it; None for other nodes."""
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
    """Return the grouped convolution for one whose groups were merged; None for other nodes."""
    if node.op != 'Convolution':
        return None
    blocks = (1, 'Reshape'), (0, 'broadcast_mul')
    weight = node.source(*blocks, (0, 'Reshape'), (0, 'null'))
    own = node.source(*blocks, (1, 'Reshape'))
    is_identity = own and (own.source((0, 'diag'), (0, 'ones_like')) or own.source((0, '_eye')))  # older symbols
    if not weight or not is_identity:
        return None
    merged = own.attr('shape')[1]  # (1, merged, 1, merged, 1, 1)
    attrs = dict(node.attrs, num_group=str(node.attr('num_group', 1) * merged))
    return Node(node.op, node.name, attrs, [node.inputs[0], (weight, 0)] + node.inputs[2:]), 0
