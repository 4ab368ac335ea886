"""A symbol as stages and units instead of a thousand operators.

Nodes belong to units by their names (`naming`). What precedes the first unit is the stem, what follows the last the
head. In a symbol without such names every layer is a unit, and a stage is the layers whose maps have the same size.
"""

import collections
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from netkit.errors import UserError
from netkit.graph.counts import LAYERS, layer_macs, shapes
from netkit.graph.naming import HEAD, STEM, is_label, sharing_group, stage_of, unit_of
from netkit.graph.nodes import Node


@dataclass(eq=False)
class Unit:
    """A part of a network: its operators, parameters, and multiply-adds for one image."""

    name: str
    stage: str = ''
    nodes: List[Node] = field(default_factory=list)  # operators, in topological order
    sources: List['Unit'] = field(default_factory=list)  # units whose maps it reads
    input: Tuple[int, ...] = ()  # shape of the first map that it reads: (channels, height, width)
    output: Tuple[int, ...] = ()  # shape of its output: likewise, or (emb_size,)
    width: Optional[int] = None  # K, the width of its spatial convolution
    num_group: Optional[int] = None  # of its spatial convolution
    sharing: Optional[str] = None  # the group of units with which it shares weights
    parameters: int = 0  # learnable, without those counted for an earlier unit
    unshared: int = 0  # learnable, if no convolutions shared a weight
    macs: int = 0


def owners(graph):
    """Return {operator: name of its unit}."""
    operators = [node for node in graph.nodes() if node.op != 'null']
    names = {node: unit_of(node.name) for node in operators}
    named = [place for place, node in enumerate(operators) if names[node]]
    if not named:
        return {node: node.name.rpartition('_')[0] or node.name for node in operators}
    for place, node in enumerate(operators):
        if names[node] is None:
            before = [names[source] for source, _ in node.inputs if source in names]
            if place < named[0]:
                names[node] = STEM
            elif place > named[-1] and len(before) < 2:
                names[node] = HEAD
            else:  # a sum without such a name belongs to the unit that it reads
                names[node] = before[0] if before else STEM
    return names


def split(graph):
    """Return the units of a graph, with name, nodes and sources, in topological order."""
    names, units = owners(graph), {}
    for node, name in names.items():
        unit = units.pop(name, None) or Unit(name)
        unit.nodes.append(node)
        units[name] = unit  # at the place of its last node
    for unit in units.values():
        sources = {names[source]: None for node in unit.nodes for source, _ in node.inputs if source in names}
        unit.sources = [units[name] for name in sources if name != unit.name]
    return list(units.values())


def analyse(graph, image_shape):
    """Return the units of a graph with their figures for one image of `image_shape`.

    The graph has to be in its plain form (`deploy.plain`), where a layer is one operator.
    """
    shape, units, counted = shapes(graph.symbol(), image_shape), split(graph), set()
    users = collections.Counter(name for unit in units for name in {variable.name for variable in learnt(unit)})
    for unit in units:
        inside = set(unit.nodes)
        maps = (entry for node in unit.nodes for entry in node.inputs if entry[0] not in inside and is_map(entry[0]))
        unit.input = next((of_output(shape, *entry)[1:] for entry in maps), ())
        unit.output = of_output(shape, unit.nodes[-1])[1:]
        # A unit without a stage belongs to those whose maps have the size of its own.
        unit.stage = stage_of(unit.name) or '×'.join(map(str, unit.output[1:])) or HEAD
        for variable in learnt(unit):
            size = int(np.prod(shape[variable.name]))
            unit.unshared += size
            unit.parameters += 0 if variable.name in counted else size
            counted.add(variable.name)
            if users[variable.name] > 1 and not unit.sharing:
                unit.sharing = sharing_group(variable.name)
        unit.macs = sum(
            layer_macs(node, of_output(shape, *node.inputs[1]), of_output(shape, node))
            for node in unit.nodes
            if node.op in LAYERS
        )
        spatial = [node for node in unit.nodes if node.op == 'Convolution' and max(node.attr('kernel')) > 1]
        if spatial:
            unit.width, unit.num_group = spatial[0].attr('num_filter'), spatial[0].attr('num_group', 1)
    return units


def is_map(node):
    """Return whether the output of a node is a map: an operator's or the images, not a parameter."""
    return node.op != 'null' or node.name == 'data'


def learnt(unit):
    """Return the learnable variables of a unit, as often as it uses them; no moving statistics."""
    inputs = [
        entry for node in unit.nodes for entry in (node.inputs[1:3] if node.op == 'BatchNorm' else node.inputs[1:])
    ]
    return [source for source, _ in inputs if source.op == 'null' and not is_label(source.name)]


def weight_of(node):
    """Return the node of the weight of a convolution or fully connected layer; None for other operators."""
    return node.inputs[1][0] if node.op in LAYERS else None


def of_output(described, node, output=0):
    """Return the value of a variable, or of an operator's output, in `described`, {name of a variable or output: …}."""
    names = (node.name, node.name + '_output', f'{node.name}_output{output}')
    for name in names:
        if name in described:
            return described[name]
    raise UserError(f'MXNet does not tell what {node.name} hands on; do two layers have one name?')
