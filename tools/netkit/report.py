"""Tables, on the terminal and as Markdown."""

import re

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

NUMBER = re.compile(r'–|[-+≤≥]?\d[\d.,…]*(e[-+]?\d+)?( ?(×|%|[GMK]B?|±.*))?')


def is_numeric(rows, place):
    """Return whether the cells of a column are numbers, with a unit perhaps; they are right-justified."""
    return bool(rows) and all(NUMBER.fullmatch(row[place]) for row in rows)


def show(title, columns, rows, file=None):
    """Print a table of texts, to standard output or `file`."""
    table = Table(title=title, title_justify='left')
    for place, column in enumerate(columns):
        table.add_column(column, justify='right' if is_numeric(rows, place) else 'left', overflow='fold')
    for row in rows:
        table.add_row(*row)
    console = Console(file=file, markup=False, emoji=False)  # a path may hold [brackets]
    if not console.is_terminal:
        console.width = 200  # in a file or a pipe, paths need not be folded
    console.print(table)


def printer(is_markdown):
    """Return the function that prints a table: `show_as_markdown` or `show`."""
    return show_as_markdown if is_markdown else show


def show_as_markdown(title, columns, rows):
    """Print a table of texts as Markdown, without its title."""
    rule = ['--:' if is_numeric(rows, place) else ':--' for place in range(len(columns))]
    for row in [columns, rule, *rows]:
        print(f'| {" | ".join(row)} |')


def waiting(text):
    """Return a context manager that shows a spinner with `text` on standard error, if that is a terminal."""
    return Console(stderr=True).status(text)


def progress(items, unit, hidden=False):
    """Iterate over `items` with a progress bar, if standard error is a terminal and it is not to be hidden."""
    return tqdm(items, unit=unit, leave=False, disable=True if hidden else None)
