"""Receptive fields: the pixels of the image on which a position of a feature map depends, from kernels and strides."""

import math
from typing import NamedTuple, Tuple

from netkit.errors import UserError
from netkit.graph.counts import shapes
from netkit.graph.naming import ATTENDS, ATTENTION, SOFT_MASK
from netkit.graph.units import of_output

# Operators that read, for a position of their output, the same position of all their inputs.
POINTWISE = (
    'BatchNorm',
    'LeakyReLU',
    'Activation',
    'Concat',
    'SliceChannel',
    'Dropout',
    'broadcast_mul',
    'elemwise_add',
    'elemwise_mul',
    '_plus_scalar',
    '_minus_scalar',
    '_mul_scalar',
)


class Field(NamedTuple):
    """A rectangle of the image: the first and the last row, the first and the last column."""

    rows: Tuple[int, int]
    columns: Tuple[int, int]

    def size(self):
        """Return (height, width)."""
        return tuple(last - first + 1 for first, last in self)


def read_by(node, first, last, axis, sides):
    """Return the (first, last) positions of a node's input that it reads for those of its output.

    `axis` is 0 for rows, 1 for columns; `sides` are the lengths of input and output. Raises UserError for an operator
    that is not known here.
    """
    before, after = sides
    if node.op == 'Pooling' and node.attr('global_pool', False):
        return 0, before - 1
    if node.op in ('Convolution', 'Pooling'):
        kernel, stride, pad, dilate = (
            node.attr(key, (default, default))[axis]
            for key, default in (('kernel', 1), ('stride', 1), ('pad', 0), ('dilate', 1))
        )
        first, last = first * stride - pad, last * stride - pad + (kernel - 1) * dilate
    elif node.op == '_contrib_BilinearResize2D':
        step = (before - 1) / (after - 1) if after > 1 else 0
        first, last = math.floor(first * step), math.ceil(last * step)
    elif node.op not in POINTWISE:
        raise UserError(f'the receptive field of {node.name} is not known: it is a {node.op}')
    return max(0, first), min(before - 1, last)


def receptive_field(graph, name, image_shape, source='data'):
    """Return the Field of the middle of the map of operator `name`, in the map of `source`, by default in the image.

    The graph has to be plain (`deploy.plain`).
    """
    shape, nodes = shapes(graph.symbol(), image_shape), graph.nodes()

    def side(node, axis):
        found = of_output(shape, node)
        return found[2 + axis] if len(found) == 4 else 1

    def field(axis):
        (top,) = (node for node in nodes if node.name == name)
        needed = {top: (side(top, axis) // 2,) * 2}
        for node in reversed(nodes):
            if node not in needed or node.op == 'null' or node.name == source:
                continue
            for read, _ in node.inputs:
                if read.op == 'null' and read.name != 'data':
                    continue
                sides = side(read, axis), side(node, axis)
                # One value for the whole map, a gate of squeeze-and-excitation, is read as it is.
                first, last = (0, 0) if sides[0] == 1 else read_by(node, *needed[node], axis, sides)
                before = needed.get(read, (first, last))
                needed[read] = min(before[0], first), max(before[1], last)
        return next(span for node, span in needed.items() if node.name == source)

    return Field(field(0), field(1))


class ModuleFields(NamedTuple):
    """What trunk and mask of an attention module read for the middle of their maps."""

    size: Tuple[int, int]  # of the map that the module reads, (height, width)
    trunk: Field  # in that map
    mask: Field
    trunk_in_image: Field
    mask_in_image: Field


def branches(graph):
    """Return {attention module: (operator whose output it reads, of its trunk's output, of its mask's)}."""
    found = {}
    for node in graph.nodes():
        if node.op == 'null' or not ATTENTION.match(node.name):
            continue
        (module,) = ATTENTION.match(node.name).groups()
        if module not in found:
            found[module] = [next(read.name for read, _ in node.inputs if read.op != 'null')]
        if node.op == 'elemwise_mul' and node.name.endswith(ATTENDS):
            trunk = next(read for read, _ in node.inputs if read.op != '_plus_scalar')
            found[module] += [trunk.name, module + SOFT_MASK]
    return {module: tuple(names) for module, names in found.items() if len(names) == 3}


def fields_of(graph, image_shape):
    """Return {attention module: ModuleFields} of a plain graph."""
    shape = shapes(graph.symbol(), image_shape)
    return {
        module: ModuleFields(
            shape[source + '_output'][2:],
            *(receptive_field(graph, name, image_shape, of) for of in (source, 'data') for name in (trunk, mask)),
        )
        for module, (source, trunk, mask) in branches(graph).items()
    }
