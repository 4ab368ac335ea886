"""Figures, their tables, and failures that do not stop other figures."""

import contextlib
import math
from typing import NamedTuple

from netkit.errors import UserError, reason

NO_ROOM = 'not one image fits'


class Figure(NamedTuple):
    """A figure: the table that it belongs to, with its unit, its row and its column there."""

    table: str
    row: str
    column: str
    value: object  # number or text
    note: str = ''


def facts_in(table, column, facts):
    """Yield the Figures of {what: value}, the rows of one column."""
    for what, value in facts.items():
        yield Figure(table, what, column, value)


class Problems:
    """Collects failures, so that one does not stop the others."""

    def __init__(self):
        self.found = []

    @contextlib.contextmanager
    def caught(self, row):
        """Record an error in the block for a row."""
        try:
            yield
        except Exception as error:
            self.found.append(f'{row}: {reason(error)}')

    def check(self):
        """Raise UserError if there were any."""
        if self.found:
            raise UserError('; '.join(self.found))


def note_of(batch, wanted):
    """Return the note on a figure that was measured with `batch` images where `wanted` ones did not fit."""
    return '' if batch == wanted else f'batch {batch}'


def text_of(value):
    """Return a figure as a text: numbers with few digits, small and large ones with an exponent."""
    if isinstance(value, float) and not math.isfinite(value):
        return 'not a number' if math.isnan(value) else 'infinite'
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e6:
        return f'{value:.1e}'
    return f'{value:,.6g}' if isinstance(value, float) else f'{value:,}' if isinstance(value, int) else str(value)


def tables(figures):
    """Return {title: {row: {column: Figure}}} of Figures."""
    found = {}
    for figure in figures:
        found.setdefault(figure.table, {}).setdefault(figure.row, {})[figure.column] = figure
    return found


def cell(figure):
    """Return the table cell of a Figure or None."""
    if figure is None:
        return '–'
    note = f' ({figure.note})' if figure.note else ''
    return text_of(figure.value).replace('|', '/') + note


def table_lines(title, rows):
    """Return the lines of a table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [
        title[:1].upper() + title[1:] + ':',
        '',
        f'| | {" | ".join(columns)} |',
        '| :-- |' + ' --: |' * len(columns),
    ]
    for name, row in rows.items():
        lines.append(f'| {name} | {" | ".join(cell(row.get(column)) for column in columns)} |')
    return [*lines, '']
