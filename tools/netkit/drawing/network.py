"""Draw a network: a column for each stage, a box for each unit."""

from netkit.drawing.attention import Module, draw_module
from netkit.drawing.lane import GLUE, GROUPS, MASK_UNIT, PLAIN, START, UNIT, WIDTH, Lane
from netkit.drawing.sheet import MARGIN, Sheet
from netkit.drawing.words import conv_text, halves, node_text, number_text, short, size_text, unit_text
from netkit.errors import UserError
from netkit.graph.naming import ATTENTION, HEAD, STEM
from netkit.graph.units import weight_of

GUTTER = 0.45  # between two columns
TOP = 2.15  # where the first box of a column stands


def draw(title, units, image_shape):
    """Return the picture of a network, a matplotlib figure, from its units (`graph.units.analyse`).

    Raises UserError where units, other than those of attention modules, do not follow one another.
    """
    sheet = Sheet()
    check_chain(units)
    stages = {}
    for unit in units:
        stages.setdefault(unit.stage, []).append(unit)
    left, lane = MARGIN, None
    for stage, of_stage in stages.items():
        lane, right = draw_stage(sheet, left, lane, stage, of_stage, image_shape)
        left = right + GUTTER
    parameters, macs = (sum(getattr(unit, key) for unit in units) for key in ('parameters', 'macs'))
    totals = f'{number_text(parameters)} parameters, {macs / 1e9:.2f} G multiply-adds'
    sheet.text((MARGIN, 0.3), title, 12, 'left', weight='bold')
    sheet.text((MARGIN, 0.55), totals, 8, 'left')
    draw_legend(sheet, units, sheet.bottom + 0.35)
    return sheet.figure()


def draw_stage(sheet, left, before, stage, units, image_shape):
    """Draw the column of a stage; return its lane and its right edge. `before` is the lane of the column before it."""
    start = []
    if before:  # from below the last box of the column before, up through the gutter
        (x, y), gutter = before.end[-1], left - GUTTER / 2
        start = [(x, y), (x, y + 0.12), (gutter, y + 0.12), (gutter, TOP - 0.32), (left + WIDTH / 2, TOP - 0.32)]
    lane = Lane(sheet, left + WIDTH / 2, TOP, *start)
    heading = [size_text(units[-1].output), f'{number_text(sum(unit.parameters for unit in units))} parameters']
    if stage in (STEM, HEAD):
        right = left + WIDTH
        if not before:
            lane.box(f'image, 3×{size_text(image_shape[:2])}', PLAIN)
        for unit in units:
            for node in unit.nodes:
                lane.box(node_text(node), PLAIN, unit.name if node is unit.nodes[-1] else None)
    else:
        right = draw_units(lane, in_modules(units))
        heading.insert(1, unit_text(units[-1]))
    sheet.text((left, 0.9), stage, 9, 'left', weight='bold')
    sheet.text((left, 1.02), '\n'.join(heading), 6.5, 'left', 'top')
    return lane, right


def draw_units(lane, items):
    """Draw a stage's units and Modules, and the weights they share; return the right edge."""
    left, groups = lane.x - WIDTH / 2, {}
    right = left + WIDTH
    for item in items:
        if isinstance(item, Module):
            draw_module(lane, item)
            right = max(right, left + item.width())
        elif item.sharing:
            colour, group = groups.setdefault(item.sharing, (GROUPS[len(groups) % len(GROUPS)], []))
            group.append((item, lane.box(short(item), colour, item.name)))
        else:
            lane.box(short(item), START if halves(item) else UNIT, item.name)
    return max(
        [right] + [draw_shared(lane.sheet, left + WIDTH, colour, *zip(*group)) for colour, group in groups.values()]
    )


def draw_shared(sheet, left, colour, units, heights):
    """Draw the weights that a group of units shares, connected to its units; return the right edge."""
    shared = [node for node in units[0].nodes if weight_of(node) and weight_of(node).name.startswith(units[0].sharing)]
    x, y = left + 0.75, (heights[0] + heights[-1]) / 2
    for height in heights:
        sheet.line([(x - 0.5, y), (left, height)], arrow=False, colour='#999999', width=0.6)
    lines = (
        ['shared by', f'{len(units)} units:']
        + [conv_text(node).replace(', depthwise', ',\ndepthwise') for node in shared]
        + [number_text(units[-1].unshared - units[-1].parameters)]
    )
    text = '\n'.join(lines)
    sheet.box((x, y), (1.0, 0.15 + 0.13 * (text.count('\n') + 1)), text, colour, units[0].sharing, 6.5)
    return x + 0.5


def draw_legend(sheet, units, y):
    """Explain the colours in the picture."""
    entries = [(UNIT, 'unit that keeps the size'), (START, 'unit that halves the map (/2)')]
    if any(ATTENTION.match(unit.name) for unit in units):
        entries += [(MASK_UNIT, 'unit of a mask'), (GLUE, 'no weights')]
    if any(unit.sharing for unit in units):
        entries.append((GROUPS[0], 'collective unit: shares weights with those of its colour'))
    x = MARGIN
    for colour, text in entries:
        x = sheet.legend(x, y, colour, text) + 0.17


def in_modules(units):
    """Return `units` with a Module instead of the units of each attention module."""
    names = {}
    for unit in units:
        match = ATTENTION.match(unit.name + '_')
        names.setdefault(match[1] if match else unit.name, []).append(unit)
    return [Module(name, group) if ATTENTION.match(name + '_') else group[0] for name, group in names.items()]


def check_chain(units):
    """Raise UserError if a unit reads others than the one before it."""
    before = None
    for unit in units:
        if ATTENTION.match(unit.name):
            before = None  # an attention module is drawn with all its paths
            continue
        if before and [source.name for source in unit.sources] != [before.name]:
            read = ' and '.join(source.name for source in unit.sources)
            raise UserError(f'{unit.name} reads {read}: only networks whose units follow one another can be drawn')
        before = unit
