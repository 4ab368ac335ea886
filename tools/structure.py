"""A symbol as people speak of it: stages and units, instead of a thousand operators.

A node belongs to a unit by its name: `stage3_unit4_conv2` to `stage3_unit4`, as here and in insightface. What
stands before the first unit is the stem, what stands behind the last the head. A symbol without such names has
its layers for units, and the sizes of their maps for stages.
"""
import collections
import re
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from graph import Graph, Node
from inference import plain
from network import LAYERS, layer_macs, plan, shapes, types
from project import UserError

STEM, HEAD = 'stem', 'head'
ATTENTION = re.compile(r'(stage\d+_attention\d+)_')
IN_ATTENTION = re.compile(r'((?:trunk_)?unit\d+|mask_(?:down|up)\d+_unit\d+|mask_skip\d+|close)_')
MASK = '_mask'  # behind an attention module's name: all that is in it and in none of its units
UNIT = re.compile(r'(.*(?:unit|block)_?\d+)(?:_|$)')


@dataclass(eq=False)
class Unit:
    """A part of a network: operators, what they have learnt, and what they cost for one image."""
    name: str
    stage: str = ''
    nodes: List[Node] = field(default_factory=list)  # operators, each behind those that it reads
    sources: List['Unit'] = field(default_factory=list)  # units whose maps it reads
    input: Tuple[int, ...] = ()  # shape of the first map that it reads: (channels, height, width)
    output: Tuple[int, ...] = ()  # shape of what it hands on: likewise, or (emb_size,)
    width: Optional[int] = None  # K, the width of its spatial convolution, and the groups of that
    num_group: Optional[int] = None
    sharing: Optional[str] = None  # the group that it shares weights with
    parameters: int = 0  # learnt, without those that a unit before it has as well
    unshared: int = 0  # learnt, if no convolution shared its weight with another
    macs: int = 0


# ------------------------------------------------------------------------------------------ nodes to units

def unit_name(node):
    """Return the unit that a node's name puts it in, or None."""
    module = ATTENTION.match(node.name)
    if module:
        inside = IN_ATTENTION.match(node.name, module.end())
        return '%s_%s' % (module[1], inside[1]) if inside else module[1] + MASK
    unit = UNIT.match(node.name)
    return unit[1] if unit else None


def owners(graph):
    """Return {operator: name of its unit}."""
    operators = [node for node in graph.nodes() if node.op != 'null']
    names = {node: unit_name(node) for node in operators}
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
            else:  # a sum without a name of its own ends the unit that it reads
                names[node] = before[0] if before else STEM
    return names


def split(graph):
    """Return the units of a graph, with name, nodes and sources; each stands behind those that it reads."""
    names, units = owners(graph), {}
    for node, name in names.items():
        unit = units.pop(name, None) or Unit(name)
        unit.nodes.append(node)
        units[name] = unit  # in the place of its last node
    for unit in units.values():
        sources = {names[source]: None for node in unit.nodes for source, _ in node.inputs if source in names}
        unit.sources = [units[name] for name in sources if name != unit.name]
    return list(units.values())


# ------------------------------------------------------------------------------------------------ figures

def analyse(symbol, image_shape):
    """Return the units of a symbol, in its plain form, with their figures for one image of `image_shape`."""
    graph = plain(Graph.of(symbol))
    shape, units, counted = shapes(graph.symbol(), image_shape), split(graph), set()
    users = collections.Counter(name for unit in units for name in {variable.name for variable in learnt(unit)})
    for unit in units:
        inside = set(unit.nodes)
        maps = (entry for node in unit.nodes for entry in node.inputs
                if entry[0] not in inside and is_map(entry[0]))
        unit.input = next((of_output(shape, *entry)[1:] for entry in maps), ())
        unit.output = of_output(shape, unit.nodes[-1])[1:]
        unit.stage = stage_of(unit)
        for variable in learnt(unit):
            size = int(np.prod(shape[variable.name]))
            unit.unshared += size
            unit.parameters += 0 if variable.name in counted else size
            counted.add(variable.name)
            if users[variable.name] > 1 and not unit.sharing:
                unit.sharing = re.sub(r'_?(conv\d*)?_?weight$', '', variable.name)
        unit.macs = sum(layer_macs(node, of_output(shape, *node.inputs[1]), of_output(shape, node))
                        for node in unit.nodes if node.op in LAYERS)
        spatial = [node for node in unit.nodes if node.op == 'Convolution' and max(node.attr('kernel')) > 1]
        if spatial:
            unit.width, unit.num_group = spatial[0].attr('num_filter'), spatial[0].attr('num_group', 1)
    return units


def is_map(node):
    """Tell whether a node hands on a map: an operator or the images, not a parameter."""
    return node.op != 'null' or node.name == 'data'


def learnt(unit):
    """Return the variables that a unit has learnt, as often as it uses them; not moving statistics."""
    inputs = [entry for node in unit.nodes
              for entry in (node.inputs[1:3] if node.op == 'BatchNorm' else node.inputs[1:])]
    return [source for source, _ in inputs if source.op == 'null' and not source.name.endswith('label')]


def weight_of(node):
    """Return the node of the weight of a convolution or fully connected layer, None for another operator."""
    return node.inputs[1][0] if node.op in LAYERS else None


def of_output(described, node, output=0):
    """Return what `described`, {name of a variable or an output: …}, says of a variable, or of an operator's output."""
    names = (node.name, node.name + '_output', '%s_output%d' % (node.name, output))
    for name in names:
        if name in described:
            return described[name]
    raise UserError('MXNet does not tell what %s hands on; do two layers have one name?' % node.name)


def stage_of(unit):
    """Return the name of the stage that a unit is in."""
    if unit.name in (STEM, HEAD):
        return unit.name
    stage = re.search(r'stage_?\d+', unit.name)
    return stage[0] if stage else '×'.join(map(str, unit.output[1:])) or HEAD


# ------------------------------------------------------------------------------------------------- memory

def planned_memories(symbol, image_shape, batch):
    """Return {unit's name: MB that MXNet plans to train it by itself}, for `batch` images.

    `symbol` is in the form in which it is trained. The units' own plans do not add up to the network's, which
    lets one unit use again what another is done with.
    """
    graph, shape, type_ = Graph.of(symbol), shapes(symbol, image_shape, batch), types(symbol)
    described = {name: (shape[name], type_[name]) for name in shape}
    readers, memories, known = graph.readers(), {}, {}
    for unit in split(graph):
        key = likeness(unit, readers, described)
        if key not in known:  # most units are one another's copies
            known[key] = plan(*part_of(unit, readers, described))
        memories[unit.name] = known[key]
    return memories


def likeness(unit, readers, described):
    """Return what is equal for units that differ only in their names and in what they have learnt."""
    inside, numbers, layers = set(unit.nodes), {}, []
    for node in unit.nodes:
        inputs = tuple((numbers.setdefault(source, len(numbers)), output,
                        None if source in inside or source.op == 'null' else of_output(described, source, output))
                       for source, output in node.inputs)
        numbers[node] = len(numbers)
        layers.append((node.op, tuple(sorted(node.attrs.items())), inputs, inside.issuperset(readers[node])))
    return tuple(layers)


def part_of(unit, readers, described):
    """Return a unit as a symbol of its own, and its inputs, {name: (shape, type)}.

    `readers` are those of its graph, `described` holds shape and type of all its maps.
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
            copies[outer] = Node('null', 'map%d' % len(inputs))
            inputs[copies[outer].name] = of_output(described, source, output)
        return copies[outer], 0

    outputs = []
    for node in unit.nodes:
        copies[node] = Node(node.op, node.name, node.attrs, [copied(*entry) for entry in node.inputs])
        if not inside.issuperset(readers[node]):
            outputs.append((copies[node], 0))
    return Graph(outputs).symbol(), inputs
