"""Tables, on the terminal and as Markdown."""

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

# Left-justified columns; all others are numbers.
TEXT_COLUMNS = (
    'set',
    'model',
    'network',
    'choice',
    'file',
    'form',
    'training',
    'where',
    'the first of them',
    'library',
    'version',
    'unit',
    'shares',
    'card',
    'does mxnet-cu112 run on it',
)


def show(title, columns, rows, file=None):
    """Print a table of texts, to standard output or `file`."""
    table = Table(title=title, title_justify='left')
    for column in columns:
        table.add_column(column, justify='left' if column in TEXT_COLUMNS else 'right', overflow='fold')
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
    rule = [':--' if column in TEXT_COLUMNS else '--:' for column in columns]
    for row in [columns, rule, *rows]:
        print(f'| {" | ".join(row)} |')


def waiting(text):
    """Return a context manager that shows a spinner with `text` on standard error, if that is a terminal."""
    return Console(stderr=True).status(text)


def progress(items, unit, hidden=False):
    """Iterate over `items` with a progress bar, if standard error is a terminal and it is not to be hidden."""
    return tqdm(items, unit=unit, leave=False, disable=True if hidden else None)
