"""Faces aligned to ArcFace's template by five points: eyes, nose and corners of the mouth. PIL images, and NumPy."""

import numpy as np
from PIL import Image

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
    """Return the aligned face of a PIL image as a PIL image of `size` × `size` pixels; `points` are (5, 2)."""
    matrix = similarity(points, np.asarray(TEMPLATE) * (size / TEMPLATE_SIZE))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    # For PIL the centre of the first pixel is at (0.5, 0.5), for landmarks at (0, 0).
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    inverse = shift @ inverse @ np.linalg.inv(shift)
    return image.transform((size, size), Image.AFFINE, tuple(inverse[:2].ravel()), resample=Image.BILINEAR)
