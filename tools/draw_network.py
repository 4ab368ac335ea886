"""A network as an engineer draws it: a column for each stage, a box for each unit."""
import re

from project import UserError
from sheet import MARGIN, Sheet
from structure import ATTENTION, HEAD, STEM, weight_of

# Fill colours: of units that keep the size, that halve the map, of a mask, of layers, of what has no weights.
UNIT, START, MASK_UNIT, PLAIN, GLUE = '#dbe9f6', '#9ecae1', '#fde0c5', '#f4f4f4', '#fafafa'
GROUPS = ('#c7e9c0', '#dadaeb', '#fdd0a2', '#c6dbef', '#fcc5c0', '#d9f0a3')
MODULE = '#f7f7f2'

WIDTH, HEIGHT, STEP = 1.2, 0.26, 0.4  # of a box, and from one to the next, in inches
GUTTER = 0.45  # between two columns
TOP = 2.15  # where the first box of a column stands
MODULE_GAP = 0.1  # above an attention module
LANE_GAP = 0.25  # between trunk and mask
SKIP_LANE = 0.75  # room for the skip of one level
SHRINK = 0.85  # how much narrower the mask's boxes get from level to level


# -------------------------------------------------------------------------------------------------- words

def size_text(shape):
    """Return a shape in words: 512×28×28, channels first."""
    return '×'.join(map(str, shape))


def number_text(number):
    """Return a number of parameters in short."""
    return '%.1f M' % (number / 1e6) if number >= 1e6 else '%.0f k' % (number / 1e3)


SIGNS = {'elemwise_add': '+', '_Plus': '+', 'broadcast_add': '+',
         'elemwise_mul': '×', '_Mul': '×', 'broadcast_mul': '×'}
WORDS = dict(SIGNS, BatchNorm='BN', prelu='PReLU', relu='ReLU', FullyConnected='FC')
SCALARS = {'_plus_scalar': '+', '_minus_scalar': '−', '_mul_scalar': '×'}


def stride_of(node):
    """Return the stride of a convolution or pooling."""
    return max(node.attr('stride') or (1,))


def node_text(node):
    """Return what an operator does, in a few words."""
    kind = node.attr('act_type') or node.attr('pool_type') or node.op.strip('_')
    kernel = '×'.join(map(str, node.attr('kernel') or ()))
    stride = ', /%d' % stride_of(node) if stride_of(node) > 1 else ''
    if node.op == 'Convolution':
        filters, groups = node.attr('num_filter'), node.attr('num_group', 1)
        grouping = '' if groups == 1 else ', depthwise' if groups == filters else ', %d groups' % groups
        return '%s, %d%s%s' % (kernel, filters, grouping, stride)
    if node.op == 'Pooling':
        return 'global %s pool' % kind if node.attr('global_pool', False) else '%s pool %s%s' % (kind, kernel, stride)
    if node.op == 'FullyConnected':
        return 'FC, %d' % node.attr('num_hidden')
    if node.op in SCALARS:
        return '%s %g' % (SCALARS[node.op], node.attr('scalar'))
    return WORDS.get(node.op) or WORDS.get(kind, kind)


def conv_text(node):
    """Return what all units of a stage have in common of a convolution: not the stride."""
    return node_text(node).replace(', /2', '')


def unit_text(unit):
    """Return a unit's convolutions, a line each, without those of its shortcut."""
    convs = [node for node in unit.nodes if node.op == 'Convolution'
             and not any(word in node.name for word in ('shortcut', 'project', '_sc', '_se_'))]
    return '\n'.join(map(conv_text, convs))


def halves(unit):
    """Tell whether a unit halves the map."""
    return any(stride_of(node) == 2 for node in unit.nodes if node.op in ('Convolution', 'Pooling'))


def short(unit):
    """Return what is written in a unit's box."""
    name = re.sub(r'^(.*_)?stage_?\d+_(attention\d+_)?(mask_)?', '', unit.name).replace('_', ' ')
    return name + (', /2' if halves(unit) else '')


# -------------------------------------------------------------------------------------------------- lanes

class Lane:
    """Things below one another on the sheet, with an arrow from each to the next."""

    def __init__(self, sheet, x, y, *start):
        self.sheet, self.x, self.y = sheet, x, y  # y: where the next one goes
        self.end = list(start)  # the line that leads to the next one, without its last point

    def _next(self, half_height, step):
        y = self.y
        if self.end:
            self.sheet.line(self.end + [(self.x, y - half_height)])
        self.end, self.y = [(self.x, y + half_height)], y + step
        return y

    def box(self, text, colour, name=None, width=WIDTH, height=HEIGHT):
        """Draw the next box; return its y."""
        y = self._next(height / 2, STEP - HEIGHT + height)
        self.sheet.box(self.x, y, width, height, text, colour, name)
        return y

    def sign(self, text, name=None):
        """Draw the next circle; return its y."""
        y = self._next(0.1, 0.36)
        self.sheet.circle(self.x, y, text, name=name)
        return y


# ---------------------------------------------------------------------------------------- attention modules

class Module:
    """An attention module's units by what they are in it."""

    def __init__(self, name, units):
        self.name = name
        self.units = {unit.name[len(name) + 1:]: unit for unit in units}
        self.levels = len(set(re.findall(r'mask_down(\d+)_', ' '.join(self.units))))
        levels = range(1, self.levels + 1)
        needed = (['unit1', 'trunk_unit1', 'mask', 'close'] + ['mask_skip%d' % level for level in levels[:-1]]
                  + ['mask_%s%d_unit1' % (way, level) for level in levels for way in ('down', 'up')])
        missing = [role for role in needed if role not in self.units]
        if missing or not levels:
            raise UserError('%s has the name of an attention module, and no %s' % (name, (missing + ['mask'])[0]))
        self.mask = self.units['mask']
        joins = [node.name for node in self.mask.nodes]
        self.adds_down = any(join.endswith('_plus_down') for join in joins)
        self.adds_trunk = any(join.endswith('_plus_trunk') for join in joins)

    def some(self, role):
        """Return the units called `role` + 1, 2, …"""
        return [unit for key, unit in self.units.items() if re.fullmatch(role + r'\d+', key)]

    def width(self):
        """Return how wide the module is drawn, in inches."""
        return 2 * WIDTH + LANE_GAP + (self.levels - 1) * SKIP_LANE + 0.1


def draw_module(lane, module):
    """Draw an attention module from where `lane`, that of its trunk, is; the lane goes on behind it."""
    sheet = lane.sheet
    lane.y += MODULE_GAP
    top = lane.y - STEP / 2
    sheet.text(lane.x + WIDTH / 2 + 0.1, lane.y, module.name.partition('_')[2], 7, 'left', weight='bold')
    for unit in module.some('unit'):
        lane.box(short(unit), UNIT, unit.name)
    split = lane.end[-1][0], lane.end[-1][1] + 0.1
    start = lane.y + 0.1
    mask = Lane(sheet, lane.x + WIDTH + LANE_GAP, start, split, (lane.x + WIDTH + LANE_GAP, split[1]))
    lane.y = start
    for unit in module.some('trunk_unit'):
        lane.box(short(unit), UNIT, unit.name)
    draw_mask(mask, module, lane.end[-1])
    y = max(lane.y, mask.y) - 0.05
    lane.y = y
    lane.sign('×', module.name + '_attend')
    sheet.line(mask.end + [(mask.x, y), (lane.x + 0.1, y)])
    sheet.text(lane.x + 0.2, y - 0.09, '(1 + mask) × trunk', 6, 'left')
    lane.box(short(module.units['close']), UNIT, module.units['close'].name)
    sheet.frame(lane.x - WIDTH / 2 - 0.1, top, lane.x - WIDTH / 2 + module.width(), lane.y - STEP / 2, MODULE,
                module.name)


def draw_mask(lane, module, trunk_end):
    """Draw a mask's way down, its way up with the skips, and its end."""
    sheet, down = lane.sheet, {}

    def widths(level):
        return WIDTH * SHRINK ** level

    for level in range(1, module.levels + 1):
        units = module.some('mask_down%d_unit' % level)
        lane.box('pool %s' % size_text(units[0].output[1:]), GLUE, width=widths(level), height=0.18)
        for unit in units:
            y = lane.box(short(unit), MASK_UNIT, unit.name, widths(level))
        down[level] = lane.x + widths(level) / 2, y
    for level in range(module.levels, 0, -1):
        if level < module.levels:
            skip = module.units['mask_skip%d' % level]
            y = lane.sign('+', '%s_plus%d' % (module.name, level))
            (right, start), middle = down[level], (down[level][1] + y) / 2
            x = lane.x + WIDTH / 2 + SKIP_LANE * (module.levels - level - 0.45)
            sheet.line([(right, start), (x, start), (x, middle - HEIGHT / 2)])
            sheet.box(x, middle, 0.42, HEIGHT, short(skip), MASK_UNIT, skip.name)
            sheet.line([(x, middle + HEIGHT / 2), (x, y), (lane.x + 0.1, y)])
            if module.adds_down:
                sheet.line([(x - 0.28, start), (x - 0.28, y)], arrow=False)
        for unit in module.some('mask_up%d_unit' % level):
            lane.box(short(unit), MASK_UNIT, unit.name, widths(level))
        size = module.mask.output[1:] if level == 1 else module.some('mask_down%d_unit' % (level - 1))[0].output[1:]
        lane.box('resize %s' % size_text(size), GLUE, width=widths(level - 1), height=0.18)
    if module.adds_trunk:
        y = lane.sign('+', module.name + '_plus_trunk')
        sheet.line([trunk_end, (trunk_end[0], y), (lane.x - 0.1, y)])
    lane.box('1×1 – 1×1 – sigmoid', MASK_UNIT, module.mask.name)


# -------------------------------------------------------------------------------------------------- stages

def draw(title, units, image_shape):
    """Return the picture of a network, a matplotlib figure, from its units (`structure.analyse`).

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
    totals = '%s parameters, %.2f G multiply-adds' % (number_text(sum(unit.parameters for unit in units)),
                                                    sum(unit.macs for unit in units) / 1e9)
    sheet.text(MARGIN, 0.3, title, 12, 'left', weight='bold')
    sheet.text(MARGIN, 0.55, totals, 8, 'left')
    draw_legend(sheet, units, sheet.bottom + 0.35)
    return sheet.figure()


def draw_stage(sheet, left, before, stage, units, image_shape):
    """Draw a column; return its lane and its right edge. `before` is the lane of the column before it."""
    start = []
    if before:  # from below the last box of the column before, up through the gutter
        (x, y), gutter = before.end[-1], left - GUTTER / 2
        start = [(x, y), (x, y + 0.12), (gutter, y + 0.12), (gutter, TOP - 0.32), (left + WIDTH / 2, TOP - 0.32)]
    lane = Lane(sheet, left + WIDTH / 2, TOP, *start)
    heading = [size_text(units[-1].output), '%s parameters' % number_text(sum(unit.parameters for unit in units))]
    if stage in (STEM, HEAD):
        right = left + WIDTH
        if not before:
            lane.box('image, 3×%s' % size_text(image_shape[:2]), PLAIN)
        for unit in units:
            for node in unit.nodes:
                lane.box(node_text(node), PLAIN, unit.name if node is unit.nodes[-1] else None)
    else:
        right = draw_units(lane, in_modules(units))
        heading.insert(1, unit_text(units[-1]))
    sheet.text(left, 0.9, stage, 9, 'left', weight='bold')
    sheet.text(left, 1.02, '\n'.join(heading), 6.5, 'left', 'top')
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
    return max([right] + [draw_shared(lane.sheet, left + WIDTH, colour, *zip(*group))
                          for colour, group in groups.values()])


def draw_shared(sheet, left, colour, units, heights):
    """Draw the weights that a sharing group has in common, tied to its units; return the right edge."""
    shared = [node for node in units[0].nodes
              if weight_of(node) and weight_of(node).name.startswith(units[0].sharing)]
    x, y = left + 0.75, (heights[0] + heights[-1]) / 2
    for height in heights:
        sheet.line([(x - 0.5, y), (left, height)], arrow=False, colour='#999999', width=0.6)
    lines = (['shared by', '%d units:' % len(units)]
             + [conv_text(node).replace(', depthwise', ',\ndepthwise') for node in shared]
             + [number_text(units[-1].unshared - units[-1].parameters)])
    text = '\n'.join(lines)
    sheet.box(x, y, 1.0, 0.15 + 0.13 * (text.count('\n') + 1), text, colour, units[0].sharing, 6.5)
    return x + 0.5


def draw_legend(sheet, units, y):
    """Explain the colours that were used."""
    entries = [(UNIT, 'unit that keeps the size'), (START, 'unit that halves the map (/2)')]
    if any(ATTENTION.match(unit.name) for unit in units):
        entries += [(MASK_UNIT, 'unit of a mask'), (GLUE, 'no weights')]
    if any(unit.sharing for unit in units):
        entries.append((GROUPS[0], 'collective unit: shares weights with those of its colour'))
    x = MARGIN
    for colour, text in entries:
        x = sheet.legend(x, y, colour, text) + 0.17


def in_modules(units):
    """Return `units` with a Module in the place of the units of each attention module."""
    names = {}
    for unit in units:
        match = ATTENTION.match(unit.name + '_')
        names.setdefault(match[1] if match else unit.name, []).append(unit)
    return [Module(name, group) if ATTENTION.match(name + '_') else group[0] for name, group in names.items()]


def check_chain(units):
    """Raise UserError where a unit reads others than the one in front of it."""
    before = None
    for unit in units:
        if ATTENTION.match(unit.name):
            before = None  # an attention module is drawn with all its paths
            continue
        if before and [source.name for source in unit.sources] != [before.name]:
            raise UserError('%s reads %s: only networks whose units follow one another can be drawn'
                            % (unit.name, ' and '.join(source.name for source in unit.sources)))
        before = unit
