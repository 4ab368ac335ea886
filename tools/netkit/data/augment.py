"""Random augmentation of the training images."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from netkit.data.images import Unusable, open_picture

GREY = 128  # of a covered square
LUMA = np.array([0.299, 0.587, 0.114])  # shares of red, green and blue in brightness (ITU-R BT.601)


class Augmentation(NamedTuple):
    """The augmentation, besides mirroring half of the images."""

    crop: float = 1.0  # least side of a random part that is enlarged to the whole, relative to the image's
    color: float = 0.0  # brightness, contrast and saturation change by up to this share
    cutoff: int = 0  # side, in pixels, of a grey square on half of the images


NO_AUGMENTATION = Augmentation()
NUMBERS = 9  # random numbers that an image takes, whatever is done, so that one option does not shift another's


def augmented(picture, augmentation, numbers):
    """Return a PIL image, changed, as (height, width, 3) uint8; `numbers` are NUMBERS random ones from 0 to 1."""
    share, across, down, *factors, row, column = numbers[:-1]
    if augmentation.crop < 1:
        picture = cropped(picture, 1 - (1 - augmentation.crop) * share, across, down)
    if augmentation.color:
        picture = recoloured(picture, *(1 + augmentation.color * (2 * factor - 1) for factor in factors))
    image = np.asarray(picture)
    # Half of the images; the last number decides alone.
    return covered(image, augmentation.cutoff, row, column) if augmentation.cutoff and numbers[-1] < 0.5 else image


def cropped(picture, share, across, down):
    """Return the part of a PIL image with sides of `share`, enlarged; `across` and `down`, 0…1, say where it lies."""
    width, height = picture.size
    left, top = (1 - share) * width * across, (1 - share) * height * down
    return picture.resize((width, height), Image.BILINEAR, (left, top, left + share * width, top + share * height))


def recoloured(picture, brightness, contrast, saturation):
    """Return a PIL image with its brightness, contrast and saturation multiplied.

    Saturation is the distance of a pixel from its own grey, contrast that from the image's mean grey. The three commute
    except the limits 0 and 255, so they are one product.
    """
    mix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA))
    offset = np.full((3, 1), brightness * (1 - contrast) * np.asarray(picture.convert('L')).mean())
    return picture.convert('RGB', tuple(np.hstack([mix, offset]).ravel()))


def covered(image, side, row, column):
    """Return an image with a grey square of `side` pixels; its middle is at `row` and `column`, 0…1 of the image."""
    height, width = image.shape[:2]
    top, left = (int(place * length) - side // 2 for place, length in ((row, height), (column, width)))
    image = image.copy()
    image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = GREY
    return image


def prepared(content, is_mirrored=False, augmentation=NO_AUGMENTATION, numbers=()):
    """Return encoded bytes as a training image, (height, width, 3) uint8 RGB; None if they are not an image.

    The result depends only on the arguments, so it is the same in every process.
    """
    try:
        picture = open_picture(content)
    except Unusable:
        return None
    image = np.asarray(picture) if augmentation == NO_AUGMENTATION else augmented(picture, augmentation, numbers)
    return image[:, ::-1] if is_mirrored else image
