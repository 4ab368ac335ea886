"""Replace MXNet operators that are slow on a CPU by fast ones: the same function of the same parameters.

`for_cpu` rewrites a symbol before it is bound on a CPU; nothing rewritten is saved. `undo` is its inverse, for symbols
that earlier versions of this project saved in these forms. Times are in benchmarks/NOTES.md.
"""

import numpy as np

from netkit.graph.counts import shapes, types
from netkit.graph.nodes import Graph, Node

VECTOR = 16  # float32 numbers in a register of AVX-512
MIRRORED = '__force_mirroring__'  # the attribute by which MXNet recomputes an output in the backward pass (`memonger`)
# Shapes of PReLU's factors, one per channel, in a product and as the kernels of a depthwise convolution.
FACTORS = {'broadcast_mul': (1, -1, 1, 1), 'Convolution': (-1, 1, 1, 1)}


def for_cpu(symbol, image_shape, training=False):
    """Return a symbol for images of `image_shape`, (height, width, channels), in the forms that are fast on a CPU.

    Rewritten are PReLU, bilinear resizing and convolutions in groups of a few channels. For `training`, MXNet's own
    PReLU stays, because its gradient differs (docs/prelu.md). Raises UserError if the network takes no such images.
    """
    shape = shapes(symbol, image_shape)
    dtype_of = {name: np.dtype(type_).name for name, type_ in types(symbol).items()}

    def rule(node):
        name = output_name(*node.inputs[0]) if node.inputs else None
        if len(shape.get(name, ())) != 4:
            return None
        prelu = undo_prelu(node) or (None if training else node)
        if prelu and prelu.op == 'LeakyReLU' and prelu.attrs.get('act_type') == 'prelu':
            has_slope_per_channel = shape.get(output_name(*prelu.inputs[1])) == shape[name][1:2]
            return bend(prelu, node, shape[name][1], dtype_of[name]) if has_slope_per_channel else None
        if node.op == '_contrib_BilinearResize2D' and set(node.attrs) - {MIRRORED} == {'height', 'width'}:
            return resize_by_matrices(node, shape[name][2:], dtype_of[name])
        return merge_groups(node, shape[output_name(*node.inputs[1])]) if is_mergeable(node) else None

    return Graph.of(symbol).rewritten(rule).symbol()


def undo(node):
    """Return (node, 0) with MXNet's own operator for one that `for_cpu` wrote, or PReLU by products; else None."""
    prelu = undo_prelu(node)
    return (prelu, 0) if prelu else undo_resize(node) or undo_merging(node)


def output_name(node, output):
    """Return the name of a node's output in `shapes` and `types`."""
    return node.name if node.op == 'null' else f'{node.name}_output{output or ""}'


def operators(replaced):
    """Return a function that makes the operators which replace a node, recomputed if it was."""
    mark = {MIRRORED: replaced.attrs[MIRRORED]} if MIRRORED in replaced.attrs else {}

    def make(op, suffix, inputs, **attrs):
        texts = {key: str(value) for key, value in attrs.items()}
        return Node(op, replaced.name + suffix, {**texts, **(mark if inputs else {})}, inputs), 0

    return make


# ------------------------------------------------------------------------------------------------- PReLU


def bend(prelu, replaced, channels, dtype):
    """Return PReLU as x + (1 - gamma) max(-x, 0), with both products (-1 and 1 - gamma) as depthwise convolutions.

    MXNet's oneDNN has no PReLU: the backward pass of the operator took half of a training step, and products are no
    faster. All these operators are oneDNN's, so no map changes its memory layout, and in inference the convolutions
    absorb the ReLU and the sum.
    """
    (data, gamma), make = prelu.inputs, operators(replaced)
    gamma[0].attrs.setdefault('__shape__', f'({channels},)')  # which MXNet does not infer through a Reshape
    layer = {'num_filter': channels, 'num_group': channels, 'kernel': (1, 1), 'no_bias': True}
    factor = make('_rminus_scalar', '_gamma_minus', [gamma], scalar=1.0)
    kernel = make('Reshape', '_kernel', [factor], shape=FACTORS['Convolution'])
    minus_one = make('_full', '_minus_one', [], shape=(channels, 1, 1, 1), value=-1.0, dtype=dtype)
    negative = make('Convolution', '_minus', [data, minus_one], **layer)
    negative = make('Activation', '_negative', [negative], act_type='relu')
    product = make('Convolution', '_bend', [negative, kernel], **layer)
    if MIRRORED in replaced.attrs:
        # A recomputed convolution must have a consumer that is recomputed too (`Layers.keep_consumer`).
        product = make('_copy', '_bend_read', [product])
    return make('elemwise_add', '', [data, product])


def undo_prelu(node):
    """Return a PReLU for x + (1 - gamma) max(-x, 0), by products or by convolutions; None for other nodes."""
    if node.op != 'elemwise_add' or len(node.inputs) != 2:
        return None
    kind = 'broadcast_mul' if node.source((1, 'broadcast_mul')) else 'Convolution'
    product = node.source((1, kind))
    factor, negative = product and product.source((1, 'Reshape')), product and product.source((0, 'Activation'))
    difference = factor and factor.source((0, '_rminus_scalar'))
    if not difference or not negative or kind == 'Convolution' and not is_depthwise(product):
        return None
    if factor.attr('shape') != FACTORS[kind] or difference.attr('scalar') != 1 or negative.attrs['act_type'] != 'relu':
        return None
    gamma, minus = difference.source((0, 'null')), negative.source((0, 'negative')) or by_minus_one(negative)
    if not gamma or not minus or minus.inputs[0] != node.inputs[0]:
        return None
    return Node('LeakyReLU', node.name, {'act_type': 'prelu'}, [node.inputs[0], (gamma, 0)])


def by_minus_one(node):
    """Return the convolution that a node reads, if it only changes the sign; else None."""
    layer, factor = node.source((0, 'Convolution')), node.source((0, 'Convolution'), (1, '_full'))
    return layer if factor and factor.attr('value') == -1 and is_depthwise(layer) else None


def is_depthwise(layer):
    """Return whether a convolution multiplies every channel by one number."""
    has_group_per_filter = layer.attr('num_group') == layer.attr('num_filter')
    return layer.attr('kernel') == (1, 1) and has_group_per_filter and layer.attr('no_bias')


# ---------------------------------------------------------------------------------------------- resizing


def resize_by_matrices(node, size, dtype):
    """Return bilinear resizing from `size` by two matrix products along the last axis, with a transposition after each.

    The backward pass of MXNet's operator took 40 % of a training step of att92.
    """
    make, symbol = operators(node), node.inputs[0]
    for axis, before, end in (('width', size[1], '_width_swap'), ('height', size[0], '')):
        after = node.attr(axis)
        matrix = interpolation(make, before, after, '_' + axis, dtype)
        symbol = make('FullyConnected', '_' + axis, [symbol, matrix], num_hidden=after, no_bias=True, flatten=False)
        symbol = make('transpose', end, [symbol], axes=(0, 1, 3, 2))
    return symbol


def interpolation(make, before, after, suffix, dtype):
    """Return the matrix, (after, before), of linear interpolation with aligned ends."""
    step = (before - 1) / (after - 1) if after > 1 else 0.0
    source = make('_arange', suffix + '_target', [], start=0, stop=after)
    source = make('_mul_scalar', suffix + '_source', [source], scalar=step)
    source = make('Reshape', suffix + '_source_column', [source], shape=(after, 1))
    known = make('_arange', suffix + '_known', [], start=0, stop=before)
    known = make('Reshape', suffix + '_known_row', [known], shape=(1, before))
    distance = make('abs', suffix + '_distance', [make('broadcast_sub', suffix + '_offset', [source, known])])
    nearness = make('_rminus_scalar', suffix + '_nearness', [distance], scalar=1.0)
    matrix = make('relu', suffix + '_matrix', [nearness])
    return matrix if dtype == 'float32' else make('Cast', suffix + '_cast', [matrix], dtype=dtype)


def undo_resize(node):
    """Return BilinearResize2D for the two matrix products that stand for it; None for other nodes."""
    if node.op != 'transpose':
        return None
    height = node.source((0, 'FullyConnected'))
    width = node.source((0, 'FullyConnected'), (0, 'transpose'), (0, 'FullyConnected'))
    if not width or not is_interpolation(width) or not is_interpolation(height):
        return None
    size = {'height': height.attrs['num_hidden'], 'width': width.attrs['num_hidden']}
    return Node('_contrib_BilinearResize2D', node.name, size, [width.inputs[0]]), 0


def is_interpolation(layer):
    """Return whether the weight of a fully connected layer is an interpolation matrix."""
    matrix = (1, 'relu'), (0, '_rminus_scalar'), (0, 'abs'), (0, 'broadcast_sub'), (1, 'Reshape'), (0, '_arange')
    return layer.source(*matrix) is not None


# ------------------------------------------------------------------------------------------------ groups


def is_mergeable(node):
    """Return whether a node is a grouped convolution in two dimensions, neither dense nor depthwise."""
    if node.op != 'Convolution' or len(node.attr('kernel', ())) != 2 or node.inputs[1][0].op != 'null':
        return False
    return 1 < node.attr('num_group', 1) < node.attr('num_filter')


def merge_groups(node, shape):
    """Return a convolution with as many groups merged into one as fill a vector, block-diagonal with zeros elsewhere.

    `shape` is that of its weight. With 2 to 8 channels per group oneDNN chooses a memory layout in which the BatchNorms
    around the convolution are up to twenty times slower; 16 channels, a vector of AVX-512, are its common case. The
    multiplications by zero cost next to nothing.
    """
    make, (weight, _), num_group = operators(node), node.inputs[1], node.attr('num_group')
    (filters, channels), kernel = shape[:2], shape[2:]
    count = next(
        n for n in range(1, num_group + 1) if num_group % n == 0 and (channels * n >= VECTOR or n == num_group)
    )
    if count == 1:
        return None
    weight.attrs['__shape__'] = str(shape)  # MXNet does not infer it through the operators below
    rows, taps = filters // num_group, kernel[0] * kernel[1]
    blocks = make('Reshape', '_groups', [(weight, 0)], shape=(num_group // count, count, rows, 1, channels, taps))
    own = make('Reshape', '_row', [blocks], shape=(-1,))
    own = make('slice_axis', '_some', [own], axis=0, begin=0, end=count)
    own = make('diag', '_eye', [make('ones_like', '_ones', [own])])  # `eye` has a fixed dtype
    own = make('Reshape', '_own', [own], shape=(1, count, 1, count, 1, 1))
    blocks = make('broadcast_mul', '_blocks', [blocks, own])
    merged = make('Reshape', '_merged', [blocks], shape=(filters, channels * count, *kernel))
    node.attrs['num_group'], node.inputs[1] = str(num_group // count), merged
    return node, 0


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
