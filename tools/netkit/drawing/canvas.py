"""Figures, drawn without a screen, as files."""

import argparse
import os
import re

from netkit.cli import check_name
from netkit.files import new_files

FORMATS = ('svg', 'png', 'pdf')
CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')  # not allowed in SVG, but possible in file names


def picture_path(text):
    """Argparse type: the path of a figure to write, ending in one of FORMATS."""
    if os.path.splitext(text)[1][1:].lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .{", .".join(FORMATS)}')
    check_name(os.path.basename(text))
    return text


def new_figure(width, height):
    """Return an empty matplotlib figure of width × height inches."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text as text, in SVG and PDF: it can be searched, and the files are a tenth as large.
    matplotlib.rcParams.update(
        {'svg.fonttype': 'none', 'pdf.fonttype': 42, 'svg.hashsalt': 'pictures', 'text.parse_math': False}
    )  # a path may hold $ signs
    return Figure(figsize=(width, height))


def save(figure, path, dpi=100):
    """Write a figure into the file `path`, whole or not at all; the same figure gives the same bytes."""
    folder, name = os.path.split(os.path.abspath(path))
    ending = os.path.splitext(name)[1][1:].lower()
    undated = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}, 'png': {'Software': None}}[ending]
    for text in figure.findobj(lambda artist: hasattr(artist, 'set_text')):
        text.set_text(CONTROL.sub('?', text.get_text()))
    with new_files(folder) as scratch:
        figure.savefig(os.path.join(scratch, name), dpi=dpi, metadata=undated)
