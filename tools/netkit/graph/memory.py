"""MXNet's planned memory for a symbol, in total and per unit, and a check against this machine's."""

import math
import os
import re

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError, refusals
from netkit.graph.counts import shapes, types
from netkit.graph.nodes import Graph, Node
from netkit.graph.units import of_output, split


def plan(symbol, inputs, training=True):
    """Return the MB (2^20 bytes) that MXNet plans for a symbol with these `inputs`, {name: (shape, dtype)}.

    That is what an executor allocates besides inputs, parameters and their gradients. It is the same on every device,
    except for the workspaces of convolutions. MXNet counts four bytes for a float16, too. Nothing is computed.
    """
    with refusals('MXNet cannot plan the memory'):
        shapes, _, statistics_shapes = symbol.infer_shape(**{name: shape for name, (shape, _) in inputs.items()})
        if max(map(math.prod, shapes + statistics_shapes)) >= 2**31:
            raise UserError('for images that large a layer has more than 2^31 weights, which MXNet does not take')
        types, _, statistics_types = symbol.infer_type(**{name: type_ for name, (_, type_) in inputs.items()})

        def empty_arrays(shapes, types):  # which take no physical memory; simple_bind would fill gigabytes with zeros
            return [mx.nd.empty(shape, dtype=type_) for shape, type_ in zip(shapes, types)]

        names = symbol.list_arguments()
        gradients = dict(zip(names, empty_arrays(shapes, types)))
        gradients.pop('data', None)  # not needed
        executor = symbol.bind(
            mx.cpu(),
            dict(zip(names, empty_arrays(shapes, types))),
            gradients if training else None,
            'write' if training else 'null',
            empty_arrays(statistics_shapes, statistics_types),
        )
        return float(re.search(r'Total ([\d.]+) MB allocated', executor.debug_str()).group(1))


def planned_memory(symbol, batch, image_shape, training=True):
    """Return the MB (2^20 bytes) that MXNet plans for feature maps and their gradients, for `batch` images."""
    return plan(symbol, {'data': ((batch, 3) + tuple(image_shape[:2]), np.float32)}, training)


def machine_memory():
    """Return the memory of this machine in bytes, None if the system does not report it."""
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return None


def check_room(wanted, sentence):
    """Raise UserError if this machine has less than `wanted` bytes of memory, before the system kills processes.

    `sentence` says what to change and what needs the memory.
    """
    there = machine_memory()
    if there and wanted > there:
        raise UserError(f'{sentence} about {wanted / 2**30:.3g} GB, and this machine has {there / 2**30:.3g}')


def planned_memories(symbol, image_shape, batch):
    """Return {unit's name: MB that MXNet plans to train the unit alone}, for `batch` images.

    `symbol` is in the form in which it is trained. The sum is more than the plan of the network, in which units reuse
    the memory of others.
    """
    graph, shape, type_ = Graph.of(symbol), shapes(symbol, image_shape, batch), types(symbol)
    described = {name: (shape[name], type_[name]) for name in shape}
    readers, memories, known = graph.readers(), {}, {}
    for unit in split(graph):
        key = likeness(unit, readers, described)
        if key not in known:  # most units are like another one
            known[key] = plan(*part_of(unit, readers, described))
        memories[unit.name] = known[key]
    return memories


def likeness(unit, readers, described):
    """Return a key that is equal for units that differ only in names and parameters."""
    inside, numbers, layers = set(unit.nodes), {}, []
    for node in unit.nodes:
        inputs = tuple(
            (
                numbers.setdefault(source, len(numbers)),
                output,
                None if source in inside or source.op == 'null' else of_output(described, source, output),
            )
            for source, output in node.inputs
        )
        numbers[node] = len(numbers)
        layers.append((node.op, tuple(sorted(node.attrs.items())), inputs, inside.issuperset(readers[node])))
    return tuple(layers)


def part_of(unit, readers, described):
    """Return a unit as a separate symbol, and its inputs, {name: (shape, dtype)}.

    `readers` are those of its graph, `described` has the (shape, dtype) of all maps.
    """
    inside, copies, inputs = set(unit.nodes), {}, {}

    def copied(source, output):
        if source in copies:
            return copies[source], output
        if source.op == 'null':
            copies[source] = Node('null', source.name, source.attrs)
            if source.name == 'data':
                inputs['data'] = described['data']
            return copies[source], 0
        outer = source, output
        if outer not in copies:
            copies[outer] = Node('null', f'map{len(inputs)}')
            inputs[copies[outer].name] = of_output(described, source, output)
        return copies[outer], 0

    outputs = []
    for node in unit.nodes:
        copies[node] = Node(node.op, node.name, node.attrs, [copied(*entry) for entry in node.inputs])
        if not inside.issuperset(readers[node]):
            outputs.append((copies[node], 0))
    return Graph(outputs).symbol(), inputs
