"""The graph that is deployed, in MXNet's own operators: cut at the embedding, without what only training needs."""

from face_settings import NOTE
from netkit.errors import UserError
from netkit.graph.cpu_forms import undo
from netkit.graph.naming import EMBEDDING

# Operators whose output is their input, perhaps in another float type.
PASSES_ON = ('_copy', 'BlockGrad', 'Cast', 'amp_cast')
# Operators from which MXNet infers the shapes of their parameters.
SHAPE_GIVERS = ('Convolution', 'FullyConnected', 'BatchNorm', 'LeakyReLU')


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

    Removed are training attributes (`memonger`, initialisers, learning rates), identities and float16 casts; PReLU and
    whatever `cpu_forms` wrote become MXNet's own operators. The note that says which network it is stays.
    """

    def rule(node):
        node.attrs.pop('cudnn_off', None)
        if node.op in PASSES_ON and node.name != EMBEDDING:
            return node.inputs[0]
        return undo(node)

    graph = graph.rewritten(rule)
    for node, readers in graph.readers().items():
        kept = {key: value for key, value in node.attrs.items() if not key.startswith('__') or key == NOTE}
        if node.op == 'null':  # MXNet copies the attributes of a layer to its variables
            knows_shape = all(reader is not None and reader.op in SHAPE_GIVERS for reader in readers)
            # PReLU has one slope per channel or, as in Gluon, one for all; only the given shape tells.
            is_given = not knows_shape or node.attr('__shape__') == (1,)
            kept = {key: node.attrs[key] for key in node.attrs if key == '__shape__' and is_given}
        node.attrs = kept
    return graph
