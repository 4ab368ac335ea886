"""Face data sets in insightface's formats: written from procedural faces, read back for training.

A folder holds `train.rec` and `train.idx` (record 0: the range of identity records; identity records: the
range of their images; image records: label and encoded image), `property` ("classes,height,width") and
verification pairs such as `lfw.bin`.
"""
import io
import itertools
import os
import pickle
import re
import struct
import zlib

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

    Either all of its files appear there or none. Raises UserError where the disk does not take them.
    """
    with new_files(folder) as scratch, tqdm(total=identities * images + 2 * pairs, unit='faces', desc='drawing faces',
                                            disable=None) as bar:
        with open(os.path.join(scratch, 'property'), 'w') as file:
            file.write('%d,%d,%d\n' % (identities, faces.SIZE, faces.SIZE))
        try:
            _write_train(scratch, identities, images, seed, bar)
            FaceRecords(scratch, (faces.SIZE, faces.SIZE, 3))  # MXNet passes over a last write that fails
        except (mx.MXNetError, UserError):
            raise UserError('the data set could not be written whole to %s; is the disk full?' % folder)
        _write_pairs(os.path.join(scratch, 'lfw.bin'), pairs, seed, bar)


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
    """The images of a data set, of `image_shape`, and their labels, by position: `len(records)`, `records[i]`.

    With `on_bad` 'stop', whatever is truncated, foreign or missing raises UserError, naming file and record. With
    'skip', images that cannot be had are left out and `bad` notes why, {record: what is wrong}; label and image lie in
    one record, so that nothing that is left out shifts a label.
    """

    def __init__(self, folder, image_shape, on_bad='stop'):
        self.path = os.path.join(folder, 'train.rec')
        self.classes = read_property(folder)[0]
        self.image_shape, self.on_bad, self.bad, self._unlisted = tuple(image_shape), on_bad, {}, 0
        index_path = os.path.join(folder, 'train.idx')
        for path in (self.path, index_path):
            if not os.path.isfile(path):
                raise UserError('%s is missing' % path)
        try:
            self.record = mx.recordio.MXIndexedRecordIO(index_path, self.path, 'r')
        except (ValueError, IndexError, mx.MXNetError) as error:
            raise UserError('%s is not an index of lines "record<TAB>offset": %s' % (index_path, error))
        self._try(max(self.record.idx, default=0), self._check_end)
        first, end = self._range(0)
        self.images = self._listed(1, first)
        if not self.images:
            raise UserError('%s holds no images' % self.path)
        for identity in self._listed(first, end):
            self._try(identity, self._check_identity, identity)

    def checksum(self):
        """Return a number that another data set would not have: of the index, which has the length of every record."""
        with open(self.record.idx_path, 'rb') as file:
            return zlib.crc32(file.read(), os.path.getsize(self.path) & 0xffffffff)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        """Return (label, image), the image (height, width, 3) uint8 RGB, or None for one that is skipped."""
        number = self.images[position]
        return None if number in self.bad else self._try(number, self._image, number)

    def _listed(self, first, end):
        """Return those records from `first` to before `end` that the index has; the others count as bad.

        Only the first of them is noted by its number: a foreign file may name billions.
        """
        listed = sorted(number for number in self.record.idx if first <= number < end)
        if len(listed) < end - first:
            missing = next(number for number in itertools.count(first) if number not in self.record.idx)
            self._try(missing, self._read, missing)
            self._unlisted += end - first - len(listed) - 1
        return listed

    def count_bad(self):
        """Return how many records are known to be bad."""
        return len(self.bad) + self._unlisted

    def _try(self, number, function, *arguments):
        """Return what `function` returns; where it raises UserError, note that of record `number`, or let it through."""
        try:
            return function(*arguments)
        except UserError as error:
            if self.on_bad == 'stop':
                raise
            self.bad[number] = str(error)

    def _image(self, number):
        header, content = self._read(number)
        label = float(np.ravel(header.label)[0])
        if not (0 <= label < self.classes and label == int(label)):
            raise UserError('%s: record %d has label %s; "property" allows 0 to %d'
                            % (self.path, number, label, self.classes - 1))
        try:
            image = mx.image.imdecode(content).asnumpy()
        except (mx.MXNetError, ValueError):
            raise UserError('%s: the image of record %d cannot be decoded' % (self.path, number))
        if image.shape != self.image_shape:
            raise UserError('%s: record %d is an image of %s, the network takes %s'
                            % (self.path, number, image.shape, self.image_shape))
        return int(label), image

    def _check_identity(self, number):
        first, end = self._range(number)
        if first == end:
            raise UserError('%s: the identity of record %d has no images' % (self.path, number))

    def _check_end(self):
        """Refuse files that do not belong together, and a file that ends before its last record does.

        Better known now than after hours of training.
        """
        if not self.record.idx:
            raise UserError('%s lists no records' % self.record.idx_path)
        number, offset = max(self.record.idx.items(), key=lambda entry: entry[1])
        if not 0 <= min(self.record.idx.values()) <= offset < 2 ** 62:
            raise UserError('%s names offsets that no file has' % self.record.idx_path)
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
            # A reader that has failed fails ever after. The base class leaves the index as it is.
            mx.recordio.MXRecordIO.close(self.record)
            mx.recordio.MXRecordIO.open(self.record)
            raise UserError('%s: record %d is not readable' % (self.path, number))
        return header, content

    def _range(self, number):
        """Return what a record of the whole set, or of an identity, says: its first record and the one behind its last."""
        label = np.ravel(self._read(number)[0].label)
        if len(label) != 2 or not 0 <= label[0] <= label[1] < float('inf'):
            raise UserError('%s: record %d should hold a range of records; is this a data set of insightface?'
                            % (self.path, number))
        return int(label[0]), int(label[1])


class FaceBatches:
    """An endless stream of training batches, shuffled anew in every pass and mirrored at random.

    What a step sees follows from `seed` and the number of the step alone, so that a run can go on at any step. Of the
    images of a step, `num_parts` workers take `batch_size` each; this is the share of worker `part_index`.
    """

    def __init__(self, records, batch_size, seed, part_index=0, num_parts=1, step=0):
        self.records, self.batch_size = records, batch_size
        self.seed, self.part_index, self.num_parts, self.step = seed, part_index, num_parts, step
        self._pass = None

    def next(self):
        """Return an mx.io.DataBatch: data (batch, 3, h, w) 0…255, label (batch,)."""
        data = np.empty((self.batch_size, 3) + self.records.image_shape[:2], np.float32)
        label = np.empty(self.batch_size, np.float32)
        first = (self.step * self.num_parts + self.part_index) * self.batch_size
        for row in range(self.batch_size):
            label[row], image = self._image(first + row)
            data[row] = image.transpose(2, 0, 1)
        self.step += 1
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])

    def _image(self, number):
        """Return (label, image) of the `number`-th image since the start; for a bad one the next good one."""
        for _ in range(len(self.records)):
            position, is_mirrored = self._order(number)
            found = self.records[position]
            if found:
                return found[0], found[1][:, ::-1] if is_mirrored else found[1]
            number += 1
        raise UserError('%s: not one of its %d images is usable; the first: %s'
                        % (self.records.path, len(self.records), next(iter(self.records.bad.values()))))

    def _order(self, number):
        """Return (position, whether it is mirrored) of the `number`-th image since the start."""
        one_pass, place = divmod(number, len(self.records))
        if self._pass is None or self._pass[0] != one_pass:
            rng = np.random.RandomState([self.seed, 2, one_pass])
            self._pass = one_pass, rng.permutation(len(self.records)), rng.randint(2, size=len(self.records))
        return self._pass[1][place], self._pass[2][place]


class _ArrayRead:
    """Stands for a NumPy array in a pickle: keeps what is said of it. To let NumPy make it would trust its addresses."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def value(self):
        """Return the array: of bytes, texts of bytes or numbers, or as a list of what it holds."""
        _, shape, of_type, is_fortran, content = self.state
        if isinstance(content, list):
            return content
        return np.frombuffer(bytes(content), of_type.value()).reshape(shape, order='F' if is_fortran else 'C')


class _TypeRead:
    """Stands for a NumPy type in a pickle."""

    def __init__(self, code, *_):
        self.code, self.order = code, '|'

    def __setstate__(self, state):
        self.order = state[1]

    def value(self):
        if not re.match(r'(b1|[uif][1248]|S\d{1,9})$', str(self.code)):
            raise pickle.UnpicklingError('it holds an array of %s' % self.code)
        return np.dtype(self.order + self.code)


def _scalar_read(of_type, content):
    return np.frombuffer(content, of_type.value())[0]


def _bytes_read(text, encoding):
    """Return the bytes that Python 3 writes as text in pickles of protocol 2."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError('it names an encoding, %r' % encoding)
    return text.encode('latin1')


# What a pickle of bytes, truth values and NumPy arrays of them names, and what takes its place here: NumPy writes the
# first form of its names since version 2, the second before. Nothing of what is named is called.
READERS = {('_codecs', 'encode'): _bytes_read, ('numpy', 'ndarray'): _ArrayRead, ('numpy', 'dtype'): _TypeRead}
for _package in ('numpy._core', 'numpy.core'):
    READERS[_package + '.multiarray', '_reconstruct'] = _ArrayRead
    READERS[_package + '.multiarray', 'scalar'] = _scalar_read


class _PairUnpickler(pickle.Unpickler):
    """Reads lists and arrays of bytes and truth values; a pickle could name any function to be called."""

    def find_class(self, module, name):
        if (module, name) not in READERS:
            raise pickle.UnpicklingError('it names %s.%s' % (module, name))
        return READERS[module, name]


def _as_list(read):
    """Return what was read of a pickle as a list: it has to be one, or an array."""
    if not isinstance(read, (list, tuple, _ArrayRead)):
        raise ValueError('it holds a %s in the place of a list' % type(read).__name__)
    values = list(read.value() if isinstance(read, _ArrayRead) else read)
    return [value.value() if isinstance(value, _ArrayRead) else value for value in values]


def _truth(value):
    if not isinstance(value, (bool, int, np.bool_, np.integer)):
        raise ValueError('%r is neither true nor false' % (value,))
    return bool(value)


def read_pairs(path, image_shape):
    """Return (images, same) of a verification set: 2n images of `image_shape`, uint8 RGB, and n truth values.

    Raises UserError for a file that is none, or has images of another size.
    """
    try:
        with open(path, 'rb') as file:
            encoded, same = map(_as_list, _PairUnpickler(file, encoding='bytes').load())
        same = list(map(_truth, same))
        images = [mx.image.imdecode(content.tobytes() if isinstance(content, np.ndarray) else bytes(content)).asnumpy()
                  for content in encoded]
    except OSError as error:
        raise UserError('cannot read %s: %s' % (path, error.strerror))
    except Exception as error:  # whatever a foreign pickle may hold, down to bytes that are no image
        raise UserError('%s is not a verification set (pickled images and same/different list): %s'
                        % (path, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__))
    if len(images) != 2 * len(same) or not images:
        raise UserError('%s has %d images for %d pairs' % (path, len(images), len(same)))
    for image in images:
        if image.shape != tuple(image_shape):
            raise UserError('%s has an image of %s, the network takes %s' % (path, image.shape, tuple(image_shape)))
    return images, np.array(same, bool)
