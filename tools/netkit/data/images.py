"""Images from files."""

import contextlib
import functools
import io
import struct

import numpy as np
from PIL import Image, ImageOps

from netkit.errors import UserError

QUALITY = 95  # of JPEG
LONGEST = 20000  # pixels of a side, of a picture that is scaled


class Unusable(ValueError):
    """A picture that cannot be used; the message continues after its name."""


def open_picture(source, longest=None):
    """Return the picture at a path, or in bytes, as a PIL image in RGB, the right way up (EXIF); raises Unusable.

    One with a side of more than `longest` pixels is not decoded.
    """
    read_new_formats()
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if longest and max(image.size) > longest:
                raise Unusable(f'is of {image.size[0]}×{image.size[1]} pixels, and at most {longest} a side are read')
            if image.mode.startswith(('I', 'F')):  # 16 or 32 bits per channel, which `convert` would turn to white
                raise Unusable('has more than 8 bits a channel; save it with 8')
            return ImageOps.exif_transpose(image).convert('RGB')
    except Unusable:
        raise
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        is_new = isinstance(source, str) and source.lower().endswith(('.heic', '.avif'))
        advice = '; such files need the package pillow-heif' if is_new else ''
        why = '' if isinstance(error, Image.UnidentifiedImageError) else f': {error}'  # that one names the path again
        raise Unusable(f'is not readable as an image{why}{advice}')


@functools.lru_cache(maxsize=None)
def read_new_formats():
    """Have PIL read HEIC and AVIF, where the package pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        getattr(pillow_heif, 'register_avif_opener', lambda: None)()


def read_image(path, height, width):
    """Return the image at `path`, resized, as (height, width, 3) uint8 RGB; raises UserError."""
    try:
        return np.asarray(open_picture(path).resize((width, height), Image.BILINEAR))
    except Unusable as error:
        raise UserError(f'--image {path} {error}')


def as_jpeg(image, quality=QUALITY):
    """Return a PIL image as the bytes of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return buffer.getvalue()


def scaled(image, scale, least=1):
    """Return a PIL image with its sides multiplied by `scale`, each at least `least` pixels; raises Unusable."""
    size = [max(least, round(side * scale)) for side in image.size]
    if max(size) > LONGEST:
        raise Unusable(f'is of {image.size[0]}×{image.size[1]} pixels, too long and narrow to be scaled')
    return image.resize(size, Image.BILINEAR)


def centre(image, resize, crop):
    """Return the centre of a PIL image, (crop, crop, 3) uint8, after resizing its shorter side to `resize` pixels."""
    image = scaled(image, resize / min(image.size), crop)
    left, top = ((side - crop) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))
