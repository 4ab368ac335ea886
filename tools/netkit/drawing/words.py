"""Layers, shapes and numbers in a few words."""

from netkit.graph.naming import is_on_branch, short_unit

SIGNS = {
    'elemwise_add': '+',
    '_Plus': '+',
    'broadcast_add': '+',
    'elemwise_mul': '×',
    '_Mul': '×',
    'broadcast_mul': '×',
}
WORDS = dict(SIGNS, BatchNorm='BN', prelu='PReLU', relu='ReLU', FullyConnected='FC')
SCALARS = {'_plus_scalar': '+', '_minus_scalar': '−', '_mul_scalar': '×'}


def size_text(shape):
    """Return a shape as text: 512×28×28, channels first."""
    return '×'.join(map(str, shape))


def number_text(number):
    """Return a number of parameters as short text: 1.2 M."""
    if number < 1e3:
        return str(number)
    return f'{number / 1e6:.1f} M' if number >= 1e6 else f'{number / 1e3:.0f} k'


def stride_of(node):
    """Return the stride of a convolution or pooling."""
    return max(node.attr('stride') or (1,))


def node_text(node):
    """Return what an operator does, in a few words."""
    kind = node.attr('act_type') or node.attr('pool_type') or node.op.strip('_')
    kernel = '×'.join(map(str, node.attr('kernel') or ()))
    stride = f', /{stride_of(node)}' if stride_of(node) > 1 else ''
    if node.op == 'Convolution':
        filters, groups = node.attr('num_filter'), node.attr('num_group', 1)
        grouping = '' if groups == 1 else ', depthwise' if groups == filters else f', {groups} groups'
        return f'{kernel}, {filters}{grouping}{stride}'
    if node.op == 'Pooling':
        return f'global {kind} pool' if node.attr('global_pool', False) else f'{kind} pool {kernel}{stride}'
    if node.op == 'FullyConnected':
        return f'FC, {node.attr("num_hidden")}'
    if node.op in SCALARS:
        return f'{SCALARS[node.op]} {node.attr("scalar"):g}'
    return WORDS.get(node.op) or WORDS.get(kind, kind)


def conv_text(node):
    """Return the text of a convolution without its stride, the same for all units of a stage."""
    return node_text(node).replace(', /2', '')


def unit_text(unit):
    """Return the convolutions on a unit's main branch, one per line."""
    convs = [node for node in unit.nodes if node.op == 'Convolution' and is_on_branch(node.name)]
    return '\n'.join(map(conv_text, convs))


def halves(unit):
    """Return whether a unit halves the map."""
    return any(stride_of(node) == 2 for node in unit.nodes if node.op in ('Convolution', 'Pooling'))


def short(unit):
    """Return the text of a unit's box."""
    return short_unit(unit.name) + (', /2' if halves(unit) else '')
