"""A data set of synthetic faces, written in insightface's formats.

The folder of a data set contains `train.rec` and `train.idx`, `property` ("classes,height,width") and the verification
pairs `drawn.bin`.
"""

import os

import numpy as np
from PIL import Image
from tqdm import tqdm

from netkit._mxnet import mx
from netkit.data import drawn_faces as faces
from netkit.data.images import as_jpeg
from netkit.data.records import FaceRecords
from netkit.data.writing import write_pairs, write_records
from netkit.errors import UserError
from netkit.files import new_files


def write_synthetic(folder, identities, images, pairs, seed):
    """Draw a data set of `identities` × `images` faces and `pairs` verification pairs into `folder`, all files or none.

    Raises UserError if they cannot be written.
    """
    with new_files(folder) as scratch, tqdm(
        total=identities * images + 2 * pairs, unit='faces', desc='drawing faces', disable=None
    ) as bar:
        try:
            write_records(scratch, faces.SIZE, [images] * identities, _drawn(identities, images, seed, bar))
            FaceRecords(scratch, (faces.SIZE, faces.SIZE, 3))
        except (mx.MXNetError, UserError):
            raise UserError(f'the data set could not be written completely to {folder}; is the disk full?')
        _write_pairs(os.path.join(scratch, 'drawn.bin'), pairs, seed, bar)


def _drawn(identities, images, seed, bar):
    """Draw the images for training, person by person, encoded."""
    rng = _random_state(seed, 0)
    for image in faces.draw_people(rng, identities, images):
        yield _encode(image)
        bar.update()


def _write_pairs(path, pairs, seed, bar):
    """Write pairs of people that are not in the training set."""
    images, same = [], []
    for first, second, is_same in faces.draw_pairs(_random_state(seed, 1), pairs):
        images += [_encode(first), _encode(second)]
        same.append(is_same)
        bar.update(2)
    write_pairs(path, images, same)


def _encode(image):
    """Return an image, (height, width, 3) uint8, as JPEG."""
    return as_jpeg(Image.fromarray(image))


def _random_state(seed, purpose):
    """Return a generator for one purpose, which the use of others does not shift: 0 images, 1 pairs."""
    return np.random.RandomState([seed, purpose])
