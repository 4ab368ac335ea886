"""Write the report: Markdown, JSON, and a figure."""

import json
import math
import os

from netkit.drawing import canvas as drawing
from netkit.files import new_files
from netkit.measure import cuda
from netkit.measure.figures import cell, table_lines, tables, text_of
from netkit.measure.parts import CARD, ENGINES, PARTS

PICTURE = 'report.png'
DRAWN = {'speed': 'training, images per second', 'memory': 'MB of a training step'}  # {part: title}


def computed(outcomes):
    """Return the Outcomes of parts in which networks were computed; before there are any, the GPUs'."""
    found = [outcome for outcome in outcomes if outcome.part != CARD and PARTS[outcome.part].is_computed]
    return found or [outcome for outcome in outcomes if outcome.part == CARD and not outcome.problems]


def device_of(outcomes):
    """Return the name of the GPU on which the networks were computed, None for a CPU."""
    return next((outcome.where for outcome in computed(outcomes) if outcome.where), None)


def place(where):
    """Return where a part was computed."""
    return f'on {where}' if where else 'on a CPU'


def title_of(outcomes):
    """Return the title of the report."""
    card = device_of(outcomes)
    return f'Measured on {card}' if card else 'Measured on a CPU, not on a GPU'


def lines_of(outcome):
    """Return the lines of the page on one part in one engine."""
    lines = [f'## {outcome.part}, {ENGINES[outcome.engine]}, {place(outcome.where)}', '']
    lines += [f'Not finished: {problem}' for problem in outcome.problems] + [''] * bool(outcome.problems)
    for title, rows in tables(figure for _, figure in outcome.figures).items():
        lines += table_lines(title, rows)
    commands = list(outcome.commands.values())
    if commands:
        lines += [f'{outcome.seconds:.0f} s; each case alone:', '', '```', *commands, '```', '']
    return lines


def as_markdown(outcomes, command, date, has_picture):
    """Return the page."""
    lines = [f'# {title_of(outcomes)}', '', f'`{command}`, {date}.', '']
    if device_of(outcomes) is None:
        lines += ['No figure here is of a GPU: narrow networks on a CPU, which show that the parts run.', '']
        lines += [f'This machine has {card.name}, which no engine here computes on.\n' for card in cuda.cards()]
    there = {outcome.engine for outcome in computed(outcomes)}
    for outcome in outcomes:
        sees_none = device_of(outcomes) and not outcome.where
        if outcome.part == CARD and outcome.engine not in there and (outcome.problems or sees_none):
            why = ', '.join(outcome.problems) or 'it sees no GPU'
            lines += [f'{ENGINES[outcome.engine]} was left out: {why}.', '']
    for engine in (engine for engine in ENGINES if engine not in {outcome.engine for outcome in outcomes}):
        lines += [f'{ENGINES[engine]} was not measured: no Python with it was named, or another engine was.', '']
    lines += [f'![{", ".join(DRAWN.values())}]({PICTURE})', ''] * has_picture
    for outcome in outcomes:
        lines += lines_of(outcome)
    return '\n'.join(lines)


def as_json(outcomes, command, date):
    """Return the report as JSON data: each figure with its device and the command to measure it alone."""
    return {
        'title': title_of(outcomes),
        'command': command,
        'date': date,
        'parts': [
            {
                'part': outcome.part,
                'engine': outcome.engine,
                'device': outcome.where or 'CPU',
                'seconds': round(outcome.seconds, 1),
                'problems': outcome.problems,
                'figures': [
                    {**figure._asdict(), 'value': value_of(figure), 'command': outcome.commands[case]}
                    for case, figure in outcome.figures
                ],
            }
            for outcome in outcomes
        ],
    }


def value_of(figure):
    """Return a Figure's value as JSON allows it: NaN and infinity become strings."""
    is_odd = isinstance(figure.value, float) and not math.isfinite(figure.value)
    return text_of(figure.value) if is_odd else figure.value


def panels(outcomes):
    """Return {title: {row: {column: Figure}}} of what is drawn: the numbers of the parts in DRAWN."""
    found = {}
    for outcome in outcomes:
        if outcome.part in DRAWN:
            numbers = [figure for _, figure in outcome.figures if isinstance(value_of(figure), (int, float))]
            for title, rows in tables(numbers).items():
                found[f'{ENGINES[outcome.engine]}, {place(outcome.where)}: {title}'] = rows
    return found


def draw(found, title, path):
    """Draw `panels` as bars into the file `path`."""
    columns_of = {
        heading: list(dict.fromkeys(name for row in rows.values() for name in row)) for heading, rows in found.items()
    }
    heights = [len(rows) * len(columns_of[heading]) + 4 for heading, rows in found.items()]
    figure = drawing.new_figure(12, 0.8 + 0.19 * sum(heights))
    all_panels = figure.subplots(len(found), 1, squeeze=False, gridspec_kw={'height_ratios': heights}).flat
    for panel, (heading, rows) in zip(all_panels, found.items()):
        draw_rows(panel, rows, columns_of[heading])
        panel.set_title(heading, fontsize=9, loc='left')
    figure.suptitle(title)
    figure.set_layout_engine('tight')
    drawing.save(figure, path)


def draw_rows(panel, rows, columns):
    """Draw {row: {column: Figure}} as groups of bars, a colour for each column."""
    thick = 0.8 / len(columns)
    for number, column in enumerate(columns):
        bars = [(place + number * thick, row[column]) for place, row in enumerate(rows.values()) if column in row]
        panel.barh([at for at, _ in bars], [figure.value for _, figure in bars], thick, label=column)
        for at, figure in bars:
            panel.text(figure.value, at, f'  {cell(figure)}', va='center', fontsize=7)
    panel.set_yticks([place + 0.4 - thick / 2 for place in range(len(rows))], list(rows), fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.25 * max(figure.value for row in rows.values() for figure in row.values()))
    panel.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1.01, 1))
    panel.spines[['top', 'right']].set_visible(False)


def save(outcomes, command, date, folder):
    """Write report.md, report.json and, where there is something to draw, report.png into a folder; return the page."""
    found = panels(outcomes)
    page = as_markdown(outcomes, command, date, bool(found))
    with new_files(folder) as scratch:
        if found:
            draw(found, title_of(outcomes), os.path.join(scratch, PICTURE))
        with open(os.path.join(scratch, 'report.md'), 'w', encoding='utf-8') as file:
            file.write(page)
        with open(os.path.join(scratch, 'report.json'), 'w', encoding='utf-8') as file:
            json.dump(as_json(outcomes, command, date), file, indent=1, ensure_ascii=False, allow_nan=False)
    return page
