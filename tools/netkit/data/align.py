"""Faces aligned to ArcFace's template by five points: eyes, nose and corners of the mouth."""

import csv
import os
import re

import numpy as np
from PIL import Image

from netkit.errors import UserError

# Where the points are in an aligned image of 112×112 pixels, (x, y): left eye, right eye, nose, left and right corner
# of the mouth, left and right as seen in the image (ArcFace, insightface's `face_align`).
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
TEMPLATE_SIZE = 112


def similarity(source, target):
    """Return the (2, 3) matrix of the similarity transform that maps `source` onto `target`, (n, 2) each, best.

    Rotation, uniform scale and translation by least squares (Umeyama, "Least-Squares Estimation of Transformation
    Parameters Between Two Point Patterns", 1991). Raises ValueError for points that coincide.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    variance = (a**2).sum() / len(a)
    if not np.isfinite(variance) or variance < 1e-6:
        raise ValueError('has landmarks that coincide')
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])  # a rotation, no reflection
    rotation = u @ np.diag(signs) @ vt
    scale = (singular * signs).sum() / variance
    return np.column_stack([scale * rotation, mean_target - scale * rotation @ mean_source])


def aligned(image, points, size=TEMPLATE_SIZE):
    """Return the face in a PIL image, aligned, as a PIL image of `size` pixels a side; `points` are (5, 2)."""
    matrix = similarity(points, np.asarray(TEMPLATE) * (size / TEMPLATE_SIZE))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    # For PIL the centre of the first pixel is at (0.5, 0.5), for landmarks at (0, 0).
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    inverse = shift @ inverse @ np.linalg.inv(shift)
    return image.transform((size, size), Image.AFFINE, tuple(inverse[:2].ravel()), resample=Image.BILINEAR)


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
    """Tell whether a row of a CSV file has names of columns: no numbers behind the first cell."""
    return not any(re.match(r'\s*[-+]?[.\d]', cell) for cell in row[1:])
