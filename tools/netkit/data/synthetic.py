"""A data set of drawn faces, written in insightface's formats.

The folder of a data set contains `train.rec` and `train.idx` (record 0: the range of the identity records; identity
records: the range of their images; image records: label and encoded image), `property` ("classes,height,width") and
the verification pairs `lfw.bin`.
"""

import io
import os
import pickle

import numpy as np
from PIL import Image
from tqdm import tqdm

from netkit._mxnet import mx
from netkit.data import faces
from netkit.data.records import FaceRecords
from netkit.errors import UserError
from netkit.files import new_files


def write_synthetic(folder, identities, images, pairs, seed):
    """Draw a data set of `identities` × `images` faces and `pairs` verification pairs into `folder`, all files or none.

    Raises UserError if they cannot be written.
    """
    with new_files(folder) as scratch, tqdm(
        total=identities * images + 2 * pairs, unit='faces', desc='drawing faces', disable=None
    ) as bar:
        with open(os.path.join(scratch, 'property'), 'w') as file:
            file.write(f'{identities},{faces.SIZE},{faces.SIZE}\n')
        try:
            _write_train(scratch, identities, images, seed, bar)
            FaceRecords(scratch, (faces.SIZE, faces.SIZE, 3))  # read back: MXNet ignores an error of the last write
        except (mx.MXNetError, UserError):
            raise UserError(f'the data set could not be written whole to {folder}; is the disk full?')
        _write_pairs(os.path.join(scratch, 'lfw.bin'), pairs, seed, bar)


def _write_train(folder, identities, images, seed, bar):
    """Write `train.rec` and `train.idx`."""
    rng = _random_state(seed, 0)
    record = mx.recordio.MXIndexedRecordIO(os.path.join(folder, 'train.idx'), os.path.join(folder, 'train.rec'), 'w')
    first_identity = identities * images + 1

    def write(index, label, content=b''):
        record.write_idx(index, mx.recordio.pack(mx.recordio.IRHeader(0, label, index, 0), content))

    write(0, [first_identity, first_identity + identities])
    for label in range(identities):
        identity = faces.draw_identity(rng)
        for image in range(images):
            write(1 + label * images + image, float(label), _encode(faces.draw_face(identity, rng)))
            bar.update()
    for label in range(identities):
        write(first_identity + label, [1 + label * images, 1 + (label + 1) * images])
    record.close()


def _write_pairs(path, pairs, seed, bar):
    """Write pairs of people that are not in the training set, every other one of the same person."""
    rng = _random_state(seed, 1)
    images, same = [], []
    for number in range(pairs):
        first = faces.draw_identity(rng)
        second = first if number % 2 == 0 else faces.draw_identity(rng)
        images += [_encode(faces.draw_face(first, rng)), _encode(faces.draw_face(second, rng))]
        same.append(first is second)
        bar.update(2)
    with open(path, 'wb') as file:
        pickle.dump((images, same), file, protocol=2)


def _encode(image):
    """Return an image as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=95)
    return buffer.getvalue()


def _random_state(seed, purpose):
    """Return a generator for one purpose, which the use of others does not shift: 0 images, 1 pairs."""
    return np.random.RandomState([seed, purpose])
