"""Read files of face landmarks: five points for `alignment.aligned`."""

import csv
import os
import re

import numpy as np

from netkit.errors import UserError


def read_landmarks(path, folder):
    """Return {picture: (5, 2) points} of a CSV file: a path, then x and y of five points; raises UserError.

    Paths are absolute, or relative to `folder`. A first line without numbers is a heading.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig', errors='surrogateescape') as file:
            return landmarks_in(file, path, folder)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read {path}: {getattr(error, "strerror", None) or error}')


def landmarks_in(lines, path, folder):
    """Return what `read_landmarks` does, from the lines of the file."""
    found = {}
    for number, row in enumerate(csv.reader(lines), 1):
        try:
            points = np.array([float(cell) for cell in row[1:]]).reshape(5, 2)
            is_good = np.isfinite(points).all()
        except ValueError:
            is_good = False
        if is_good:
            found[os.path.abspath(os.path.join(folder, row[0]))] = points
        elif row and not (number == 1 and is_heading(row)):
            raise UserError(f'{path}:{number} is not a path and ten numbers')
    if not found:
        raise UserError(f'{path} has no line of a path and ten numbers')
    return found


def is_heading(row):
    """Return whether a CSV row has column names: no numbers after the first cell."""
    return not any(re.match(r'\s*[-+]?[.\d]', cell) for cell in row[1:])
