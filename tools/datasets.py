"""Face data sets in insightface's formats: written from procedural faces, read back for training.

A folder holds `train.rec` and `train.idx` (record 0: the range of identity records; identity records: the
range of their images; image records: label and encoded image), `property` ("classes,height,width") and
verification pairs such as `lfw.bin`.
"""
import io
import os
import pickle
import struct

import mxnet as mx
import numpy as np
from PIL import Image
from tqdm import tqdm

import faces
from project import UserError, new_files

REC_MAGIC = 0xced7230a  # dmlc RecordIO: magic, 3 bits of continuation and 29 of length, data padded to 4


# ----------------------------------------------------------------------------------------------- writing

def _encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=95)
    return buffer.getvalue()


def _random_state(seed, purpose):
    """Return a generator of its own for each purpose, so that one does not shift another."""
    return np.random.RandomState([seed, purpose])


def _write_train(folder, identities, images, seed, bar):
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
    """Write `pairs` pairs, every other one of the same person, of people that the training set does not have."""
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


def write_synthetic(folder, identities, images, pairs, seed):
    """Draw a data set of `identities` x `images` faces and `pairs` verification pairs into `folder`.

    Either all of its files appear there or none.
    """
    with new_files(folder) as scratch, tqdm(total=identities * images + 2 * pairs, unit='faces',
                                            desc='drawing faces') as bar:
        _write_train(scratch, identities, images, seed, bar)
        _write_pairs(os.path.join(scratch, 'lfw.bin'), pairs, seed, bar)
        with open(os.path.join(scratch, 'property'), 'w') as file:
            file.write('%d,%d,%d\n' % (identities, faces.SIZE, faces.SIZE))


# ----------------------------------------------------------------------------------------------- reading

def read_property(folder):
    """Return (classes, height, width) of a data set."""
    path = os.path.join(folder, 'property')
    try:
        with open(path) as file:
            classes, height, width = [int(part) for part in file.read(1000).strip().split(',')]
    except (OSError, ValueError) as error:
        raise UserError('%s is not readable as "classes,height,width": %s' % (path, error))
    if min(classes, height, width) < 1:
        raise UserError('%s has a number below 1' % path)
    return classes, height, width


class FaceRecords:
    """The images of a data set and their labels, by position: `len(records)`, `records[i]`.

    Raises UserError, naming file and record, for whatever is truncated or foreign.
    """

    def __init__(self, folder):
        self.path = os.path.join(folder, 'train.rec')
        self.classes = read_property(folder)[0]
        index_path = os.path.join(folder, 'train.idx')
        for path in (self.path, index_path):
            if not os.path.isfile(path):
                raise UserError('%s is missing' % path)
        try:
            self.record = mx.recordio.MXIndexedRecordIO(index_path, self.path, 'r')
        except (ValueError, mx.MXNetError) as error:
            raise UserError('%s is not an index of lines "record<TAB>offset": %s' % (index_path, error))
        self._check_end()
        header, _ = self._read(0)
        first, last = self._range(header, 0)
        self.images = []
        for identity in range(first, last):
            self.images.extend(range(*self._range(self._read(identity)[0], identity)))
        if not self.images:
            raise UserError('%s holds no images' % self.path)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        """Return (label, image), the image (height, width, 3) uint8 RGB."""
        number = self.images[position]
        header, content = self._read(number)
        label = float(np.ravel(header.label)[0])
        if not (label == int(label) and 0 <= label < self.classes):
            raise UserError('%s: record %d has label %s; "property" allows 0 to %d'
                            % (self.path, number, label, self.classes - 1))
        try:
            return int(label), mx.image.imdecode(content).asnumpy()
        except (mx.MXNetError, ValueError):
            raise UserError('%s: the image of record %d cannot be decoded' % (self.path, number))

    def _check_end(self):
        """Refuse a file that ends before its last record does, before hours have gone into training on it."""
        if not self.record.idx:
            raise UserError('%s lists no records' % self.record.idx_path)
        number, offset = max(self.record.idx.items(), key=lambda entry: entry[1])
        with open(self.path, 'rb') as file:
            file.seek(offset)
            start = file.read(8)
            size = os.fstat(file.fileno()).st_size
        if len(start) == 8:
            magic, length = struct.unpack('<II', start)
            if magic != REC_MAGIC:
                raise UserError('%s: there is no record at offset %d, where train.idx has record %d; '
                                'the two files do not belong together' % (self.path, offset, number))
            if offset + 8 + (length & (1 << 29) - 1) <= size:
                return
        raise UserError('%s is truncated: it has %d bytes and ends before its last record, %d; copy it again'
                        % (self.path, size, number))

    def _read(self, number):
        try:
            content = self.record.read_idx(number)
            header, content = mx.recordio.unpack(content)
        except KeyError:
            raise UserError('%s has no record %d' % (self.record.idx_path, number))
        except (mx.MXNetError, struct.error, TypeError, ValueError):
            raise UserError('%s: record %d is not readable' % (self.path, number))
        return header, content

    def _range(self, header, number):
        label = np.ravel(header.label)
        if len(label) != 2 or not 0 <= label[0] <= label[1]:
            raise UserError('%s: record %d should hold a range of records; is this a data set of insightface?'
                            % (self.path, number))
        return int(label[0]), int(label[1])


class FaceBatches:
    """An endless stream of training batches, shuffled anew in every pass and mirrored at random."""

    def __init__(self, records, batch_size, image_shape, seed):
        self.records, self.batch_size, self.image_shape = records, batch_size, tuple(image_shape)
        self.rng = _random_state(seed, 2)
        self.order = []

    def next(self):
        """Return an mx.io.DataBatch: data (batch, 3, h, w) 0…255, label (batch,)."""
        data = np.empty((self.batch_size, 3) + self.image_shape[:2], np.float32)
        label = np.empty(self.batch_size, np.float32)
        for row in range(self.batch_size):
            if not self.order:
                self.order = list(self.rng.permutation(len(self.records)))
            position = self.order.pop()
            label[row], image = self.records[position]
            if image.shape != self.image_shape:
                raise UserError('%s: record %d is an image of %s, the network takes %s'
                                % (self.records.path, self.records.images[position],
                                   image.shape, self.image_shape))
            data[row] = (image[:, ::-1] if self.rng.randint(2) else image).transpose(2, 0, 1)
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])


class _PairUnpickler(pickle.Unpickler):
    """Reads plain lists of bytes and truth values; a pickle could name any function to be called."""

    def find_class(self, module, name):
        if (module, name) == ('_codecs', 'encode'):  # how protocol 2 stores bytes
            return super().find_class(module, name)
        raise pickle.UnpicklingError('it names %s.%s' % (module, name))


def read_pairs(path):
    """Return (images, same) of a verification set: 2n images (h, w, 3) uint8 RGB, n truth values."""
    try:
        with open(path, 'rb') as file:
            encoded, same = _PairUnpickler(file, encoding='bytes').load()
        images = [mx.image.imdecode(content).asnumpy() for content in encoded]
    except Exception as error:  # whatever a foreign pickle may hold, down to bytes that are no image
        raise UserError('%s is not a verification set (pickled images and same/different list): %s'
                        % (path, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__))
    if len(images) != 2 * len(same) or not images:
        raise UserError('%s has %d images for %d pairs' % (path, len(images), len(same)))
    return images, np.array(same, bool)
