"""The inside of a unit as papers draw it: layers from top to bottom, shortcuts next to them, weights in colour."""

import collections

from netkit.drawing.lane import GROUPS, HEIGHT, PLAIN, STEP
from netkit.drawing.sheet import MARGIN, Sheet
from netkit.drawing.words import SIGNS, node_text, size_text
from netkit.errors import UserError
from netkit.graph.naming import HEAD, MASK, STEM
from netkit.graph.units import is_map, weight_of

WIDTH = 1.4  # of a layer's box
BARE = 0.3  # room for a shortcut without layers
TOP = 1.05  # where a unit's input stands
INPUT = None  # stands for the node that a unit's first layers read
OWN, SHARED, TWICE = '#dbe9f6', GROUPS[0], GROUPS[2]
LEGEND = {
    OWN: 'weights of its own',
    SHARED: 'weights shared with other units',
    TWICE: 'one weight, used twice in the unit',
}
# `nodes` between two that stand elsewhere; `end` is None where nothing in the unit reads them.
Chain = collections.namedtuple('Chain', 'start nodes end')


def is_drawable(unit):
    """Return whether a unit can be drawn: not the nodes of an attention module that are in none of its units."""
    return not unit.name.endswith(MASK)


def kinds(units):
    """Return the first unit of every kind; units of one kind differ only in their widths."""
    found = {}
    for unit in units:
        if unit.name in (STEM, HEAD) or not is_drawable(unit):
            continue
        places = {node: place for place, node in enumerate(unit.nodes)}
        layers = tuple(
            (
                node.op,
                node.attrs.get('kernel'),
                node.attrs.get('stride'),
                node.attrs.get('act_type'),
                node.attr('num_group', 1) > 1,
                tuple(places.get(source, -1) for source, _ in node.inputs),
            )
            for node in unit.nodes
        )
        found.setdefault((layers, bool(unit.sharing)), unit)
    return list(found.values())


def named(units, name):
    """Return the unit called `name`; raises UserError if there is none."""
    names = {unit.name: unit for unit in units if is_drawable(unit)}
    if name not in names:
        raise UserError(
            f'--detail {name}: there is no such unit; say unit, for one of each kind, or name one of {", ".join(names)}'
        )
    return names[name]


def sources(node):
    """Return the inputs of a node without its parameters."""
    return [source for source, _ in node.inputs if is_map(source)]


def layout(unit):
    """Return ({node: row}, [Chain, …]). The first chain is the longest, the others are drawn next to it."""
    inside = set(unit.nodes)
    edges = {node: [source if source in inside else INPUT for source in sources(node)] for node in unit.nodes}
    rows = {INPUT: 0}
    for node in unit.nodes:
        rows[node] = 1 + max((rows[source] for source in edges[node]), default=0)
    read = {source for node in unit.nodes for source in edges[node]}
    open_ends = collections.deque((node, None) for node in reversed(unit.nodes) if node not in read)
    chains, placed = [], {INPUT}
    while open_ends:  # pairs (last node of a chain, the node that reads it)
        node, end = open_ends.popleft()
        nodes = []
        while node not in placed:
            placed.add(node)
            nodes.insert(0, node)
            upwards = sorted(edges[node], key=lambda source: -rows[source])
            open_ends.extend((source, node) for source in upwards[1:])
            node = upwards[0] if upwards else INPUT
        chains.append(Chain(node, nodes, end))
    return rows, chains


def lanes(rows, chains):
    """Return [x, …], the distance of each chain to the right of the first: the shorter, the nearer."""
    below = max(rows.values()) + 1
    spans = [(rows[chain.start], below if chain.end is None else rows[chain.end]) for chain in chains]
    offsets, right, taken = [0.0] * len(chains), WIDTH / 2, []
    for number in sorted(range(1, len(chains)), key=lambda number: spans[number][1] - spans[number][0]):
        first, last = spans[number]
        room = WIDTH if chains[number].nodes else 0.0
        for lane in taken:
            if lane['room'] >= room and all(last <= start or end <= first for start, end in lane['spans']):
                break
        else:
            lane = {'x': right + BARE + room / 2, 'room': room, 'spans': []}
            right += BARE + room
            taken.append(lane)
        lane['spans'].append((first, last))
        offsets[number] = lane['x']
    return offsets


def draw(title, drawn, units):
    """Return the picture of the units `drawn`, side by side; `units` are all of the network."""
    users = collections.Counter(weight for unit in units for weight in set(map(weight_of, unit.nodes)))
    sheet, left = Sheet(), MARGIN
    sheet.text((MARGIN, 0.3), title, 12, 'left', weight='bold')
    for unit in drawn:
        left = draw_unit(sheet, left, unit, users) + 0.6
    y = sheet.bottom + 0.3
    used = {colour_of(node, unit, users) for unit in drawn for node in unit.nodes}
    for colour, text in LEGEND.items():
        if colour in used:
            sheet.legend(MARGIN, y, colour, text)
            y += 0.2
    return sheet.figure()


def colour_of(node, unit, users):
    """Return the colour of a layer's box; `users` is {weight: number of units that have it}."""
    weight = weight_of(node)
    if not weight:
        return PLAIN
    if users[weight] > 1:
        return SHARED
    return TWICE if sum(weight_of(other) is weight for other in unit.nodes) > 1 else OWN


def draw_unit(sheet, left, unit, users):
    """Draw a unit whose left edge is at `left`; return its right edge."""
    rows, chains = layout(unit)
    place = {INPUT: (left + WIDTH / 2, TOP)}
    offsets = lanes(rows, chains)
    for chain, offset in zip(chains, offsets):
        for node in chain.nodes:
            place[node] = left + WIDTH / 2 + offset, TOP + STEP * rows[node]

    heading = unit.name if not unit.sharing else f'{unit.name}, in {unit.sharing}'
    sheet.text((left, 0.7), heading, 8, 'left', weight='bold')
    sheet.text(place[INPUT], size_text(unit.input))
    for node in unit.nodes:
        text = node_text(node)
        if node.op in SIGNS:
            sheet.circle(place[node], text, name=node.name)
        else:
            sheet.box(place[node], (WIDTH, HEIGHT), text, colour_of(node, unit, users), node.name)
    for chain, offset in zip(chains, offsets):
        draw_chain(sheet, chain, left + WIDTH / 2 + offset, place)
    x, y = place[unit.nodes[-1]]
    sheet.line([(x, y + half_height(unit.nodes[-1])), (x, y + STEP - 0.1)])
    sheet.text((x, y + STEP), size_text(unit.output))
    return left + WIDTH / 2 + max(offset + WIDTH / 2 * bool(chain.nodes) for chain, offset in zip(chains, offsets))


def half_height(node):
    """Return half the height of a node's box or circle."""
    return 0.08 if node is INPUT else 0.1 if node.op in SIGNS else HEIGHT / 2


def draw_chain(sheet, chain, x, place):
    """Draw the arrows of a chain at `x`: from its start through its nodes to its end."""
    start_x, start_y = place[chain.start]
    below = start_y + half_height(chain.start)
    line = [(start_x, below)]
    if start_x != x:
        line += [(start_x, below + 0.05), (x, below + 0.05)]
    for node in chain.nodes:
        _, y = place[node]
        sheet.line(line + [(x, y - half_height(node))])
        line = [(x, y + half_height(node))]
    if chain.end is not None:
        end_x, end_y = place[chain.end]
        side = 0.1 if chain.end.op in SIGNS else WIDTH / 2
        sheet.line(line + [(x, end_y), (end_x + side, end_y)])
