"""Sample faces from a data set in insightface's format, a verification set, or a folder of images."""

import os

import numpy as np

from netkit.data.folders import pictures_in
from netkit.data.images import Unusable, open_picture
from netkit.data.pairs import PairSet
from netkit.data.records import FaceRecords
from netkit.errors import UserError

FEWEST = 12  # images of which a quarter is held out


def samples(path, image_shape, count, others, seed=0):
    """Return (images, other images) of a data set, chosen by `seed`, each (n, 3, height, width) uint8 RGB.

    `path` is a folder with train.rec, a .bin file, or a folder of pictures. `count` and `others` are the two sizes;
    with fewer images, a quarter are other images. Raises UserError.
    """
    number, load = opened(path, image_shape)
    if number < FEWEST:
        raise UserError(f'{path} has {number} images, and {FEWEST} are needed at least')
    if number < count + others:
        others = number // 4
        count = number - others
    chosen = np.random.RandomState(seed).permutation(number)[: count + others]
    images = np.stack([load(int(place)).transpose(2, 0, 1) for place in chosen])
    return images[:count], images[count:]


def opened(path, image_shape):
    """Return (number of images, function of a number that returns an image, (height, width, 3) uint8 RGB)."""
    if os.path.isfile(path):
        pairs = PairSet(path, image_shape)
        return 2 * len(pairs), pairs.image
    if os.path.isfile(os.path.join(path, 'train.rec')):
        records = FaceRecords(path, image_shape)
        return len(records), lambda place: records[place][1]
    files = pictures_in([path])

    def load(place):
        try:
            image = np.asarray(open_picture(files[place]))
        except Unusable as error:
            raise UserError(f'{files[place]} {error}')
        if image.shape != tuple(image_shape):
            raise UserError(
                f'{files[place]} is of {image.shape[0]}×{image.shape[1]}, the network takes '
                f'{image_shape[0]}×{image_shape[1]}; align the faces first (tools/pack.py faces)'
            )
        return image

    return len(files), load
