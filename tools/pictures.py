"""Pictures in and out: images to compute on, and figures, drawn without a screen, as files."""
import argparse
import os
import re

import numpy as np

from project import UserError, check_name, new_files

FORMATS = ('svg', 'png', 'pdf')
CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')  # letters that no SVG may hold, and a file's name can


def read_image(path, height, width):
    """Return the image at `path`, resized, as (height, width, 3) uint8 RGB; raises UserError if it is none."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            if image.mode.startswith(('I', 'F')):  # 16 or 32 bits a channel: converted as it is, all would be white
                raise UserError('--image %s has more than 8 bits a channel; save it with 8' % path)
            return np.asarray(image.convert('RGB').resize((width, height), Image.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError('--image %s is not readable as an image: %s' % (path, error))


def picture_path(text):
    """Argparse type: the path of a picture to write, with one of FORMATS for its ending."""
    if os.path.splitext(text)[1][1:].lower() not in FORMATS:
        raise argparse.ArgumentTypeError('%r does not end in .%s' % (text, ', .'.join(FORMATS)))
    check_name(os.path.basename(text))
    return text


def new_figure(width, height):
    """Return an empty matplotlib figure of width × height inches."""
    import matplotlib
    from matplotlib.figure import Figure
    # Text stays text, in SVG and in PDF: it can be searched, and the files are a tenth as large.
    matplotlib.rcParams.update({'svg.fonttype': 'none', 'pdf.fonttype': 42, 'svg.hashsalt': 'pictures',
                                'text.parse_math': False})  # a path may hold $ signs
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
