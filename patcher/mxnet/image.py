"""`mxnet.image`: images decoded and resized by OpenCV, as in MXNet."""

import cv2
import numpy as np

from . import without
from .ndarray import NDArray

__getattr__ = without('mxnet.image')


def imdecode(buf, flag=1, to_rgb=True):
    """Return an encoded image as an NDArray, (height, width, 3) uint8, RGB; with `flag` 0 (height, width, 1), grey.

    Raises ValueError for bytes that are not an image.
    """
    data = np.frombuffer(buf, np.uint8)
    # As in MXNet, ignore a photograph's EXIF orientation.
    image = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        raise ValueError('these %d bytes are not an image that OpenCV can decode' % len(data))
    if image.ndim == 2:
        image = image[:, :, None]
    elif to_rgb:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return NDArray(image)


def resize_short(src, size, interp=2):
    """Return an image whose shorter side has `size` pixels; `interp` is OpenCV's number, 2 is bicubic."""
    height, width = src.shape[:2]
    if height > width:
        new = size, size * height // width
    else:
        new = size * width // height, size
    image = cv2.resize(src.asnumpy(), new, interpolation=interp)
    return NDArray(image if image.ndim == 3 else image[:, :, None])
