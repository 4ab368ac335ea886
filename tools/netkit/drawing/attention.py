"""An attention module in the picture of a network: trunk, mask with its levels, skips."""

import re

from netkit.drawing.lane import GLUE, HEIGHT, MASK_UNIT, MODULE, STEP, UNIT, WIDTH, Lane
from netkit.drawing.words import short, size_text
from netkit.errors import UserError
from netkit.graph.naming import (
    ADDS,
    ADDS_DOWN,
    ADDS_TRUNK,
    ATTENDS,
    CLOSING,
    FIRST_UNIT,
    MASK,
    MASK_LEVEL,
    TRUNK,
    in_stage,
    mask_skip,
    mask_units,
)

MODULE_GAP = 0.1  # above an attention module
LANE_GAP = 0.25  # between trunk and mask
SKIP_LANE = 0.75  # room for the skip of one level
SHRINK = 0.85  # how much narrower the mask's boxes get from level to level


class Module:
    """The units of an attention module, by their roles in it."""

    def __init__(self, name, units):
        self.name = name
        self.units = {unit.name[len(name) + 1 :]: unit for unit in units}
        self.levels = len(set(MASK_LEVEL.findall(' '.join(self.units))))
        levels = range(1, self.levels + 1)
        needed = (
            [FIRST_UNIT + '1', TRUNK + '1', MASK[1:], CLOSING]
            + [mask_skip(level) for level in levels[:-1]]
            + [mask_units(way, level) + '1' for level in levels for way in ('down', 'up')]
        )
        missing = [role for role in needed if role not in self.units]
        if missing or not levels:
            raise UserError(f'{name} has the name of an attention module, and no {[*missing, MASK[1:]][0]}')
        self.mask = self.units[MASK[1:]]
        joins = [node.name for node in self.mask.nodes]
        self.adds_down = any(join.endswith(ADDS_DOWN) for join in joins)
        self.adds_trunk = any(join.endswith(ADDS_TRUNK) for join in joins)

    def some(self, role):
        """Return the units named `role` + 1, 2, …"""
        return [unit for key, unit in self.units.items() if re.fullmatch(role + r'\d+', key)]

    def width(self):
        """Return how wide the module is drawn, in inches."""
        return 2 * WIDTH + LANE_GAP + (self.levels - 1) * SKIP_LANE + 0.1


def draw_module(lane, module):
    """Draw an attention module in `lane`, that of its trunk, which continues after it."""
    sheet = lane.sheet
    lane.y += MODULE_GAP
    top = lane.y - STEP / 2
    sheet.text((lane.x + WIDTH / 2 + 0.1, lane.y), in_stage(module.name), 7, 'left', weight='bold')
    for unit in module.some(FIRST_UNIT):
        lane.box(short(unit), UNIT, unit.name)
    split = lane.end[-1][0], lane.end[-1][1] + 0.1
    start = lane.y + 0.1
    mask = Lane(sheet, lane.x + WIDTH + LANE_GAP, start, split, (lane.x + WIDTH + LANE_GAP, split[1]))
    lane.y = start
    for unit in module.some(TRUNK):
        lane.box(short(unit), UNIT, unit.name)
    draw_mask(mask, module, lane.end[-1])
    y = max(lane.y, mask.y) - 0.05
    lane.y = y
    lane.sign('×', module.name + ATTENDS)
    sheet.line(mask.end + [(mask.x, y), (lane.x + 0.1, y)])
    sheet.text((lane.x + 0.2, y - 0.09), '(1 + mask) × trunk', 6, 'left')
    lane.box(short(module.units[CLOSING]), UNIT, module.units[CLOSING].name)
    sheet.frame(
        lane.x - WIDTH / 2 - 0.1, top, lane.x - WIDTH / 2 + module.width(), lane.y - STEP / 2, MODULE, module.name
    )


def draw_mask(lane, module, trunk_end):
    """Draw a mask's downsampling path, its way up with the skips, and its end."""
    sheet, down = lane.sheet, {}

    def widths(level):
        return WIDTH * SHRINK**level

    for level in range(1, module.levels + 1):
        units = module.some(mask_units('down', level))
        lane.box(f'pool {size_text(units[0].output[1:])}', GLUE, width=widths(level), height=0.18)
        for unit in units:
            y = lane.box(short(unit), MASK_UNIT, unit.name, widths(level))
        down[level] = lane.x + widths(level) / 2, y
    for level in range(module.levels, 0, -1):
        if level < module.levels:
            skip = module.units[mask_skip(level)]
            y = lane.sign('+', f'{module.name}{ADDS}{level}')
            (right, start), middle = down[level], (down[level][1] + y) / 2
            x = lane.x + WIDTH / 2 + SKIP_LANE * (module.levels - level - 0.45)
            sheet.line([(right, start), (x, start), (x, middle - HEIGHT / 2)])
            sheet.box((x, middle), (0.42, HEIGHT), short(skip), MASK_UNIT, skip.name)
            sheet.line([(x, middle + HEIGHT / 2), (x, y), (lane.x + 0.1, y)])
            if module.adds_down:
                sheet.line([(x - 0.28, start), (x - 0.28, y)], arrow=False)
        for unit in module.some(mask_units('up', level)):
            lane.box(short(unit), MASK_UNIT, unit.name, widths(level))
        above = module.mask if level == 1 else module.some(mask_units('down', level - 1))[0]
        lane.box(f'resize {size_text(above.output[1:])}', GLUE, width=widths(level - 1), height=0.18)
    if module.adds_trunk:
        y = lane.sign('+', module.name + ADDS_TRUNK)
        sheet.line([trunk_end, (trunk_end[0], y), (lane.x - 0.1, y)])
    lane.box('1×1 – 1×1 – sigmoid', MASK_UNIT, module.mask.name)
