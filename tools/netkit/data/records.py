"""Images and labels of a data set in insightface's formats: `train.rec`, with or without `train.idx` and `property`.

insightface's own sets begin with a record of the range of the identities, of which each has a record of the range of
its images. What its RecBuilder, MXNet's im2rec and rec2shufrec.py write has images only, and labels in their records.
"""

import itertools
import os
import zlib

import numpy as np
from tqdm import tqdm

from netkit.data.augment import prepared
from netkit.data.rec_format import parse_head, record_at
from netkit.data.recordio import RecordFile, label_at, unpack
from netkit.errors import UserError
from netkit.files import settle

MOST_CLASSES = 2**24  # the labels are float32, which has no integers beyond
RECORDS, INDEX, PROPERTY = 'train.rec', 'train.idx', 'property'


def is_data_set(folder):
    """Return whether a folder has a data set, or part of one."""
    return any(os.path.exists(os.path.join(folder, name)) for name in (RECORDS, PROPERTY))


def image_shape_of(folder):
    """Return (height, width, 3) of the images of a data set: what `property` says, or that of the first good image.

    Raises UserError.
    """
    settle(folder)
    if os.path.exists(os.path.join(folder, PROPERTY)):
        return (*read_property(folder)[1:], 3)
    records = FaceRecords(folder, on_bad='skip')
    for position in range(len(records)):
        read = records.read(position)
        image = read and prepared(read[1])
        if image is not None:
            return image.shape
    if records.bad:
        raise UserError(f'{records.first_bad()}, and no other is good')
    raise UserError(f'{records.path}: the image of record {records.images[0]} cannot be decoded, nor any other')


def read_property(folder):
    """Return (classes, height, width), the first line of a data set's `property`; raises UserError."""
    path = os.path.join(folder, PROPERTY)
    try:
        with open(path, encoding='utf-8-sig') as file:
            classes, height, width = [int(part) for part in file.readline(1000).strip().split(',')]
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is not readable as "classes,height,width": {error}')
    if min(classes, height, width) < 1:
        raise UserError(f'{path} has a number below 1')
    return classes, height, width


def read_index(path):
    """Return {record: offset} of a `train.idx`; raises UserError for a file that is not an index."""
    offsets = {}
    try:
        with open(path, encoding='ascii') as file:
            for line in file:
                number, offset = line.split()
                offsets[int(number)] = int(offset)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except ValueError as error:  # also UnicodeDecodeError
        raise UserError(f'{path} is not an index of lines "record<TAB>offset": {error}')
    return offsets


class FaceRecords:
    """The images of a data set, of shape `image_shape`, and their labels, as a sequence.

    `classes` is the number of people, `note` a sentence where the labels have other ones than `property`, or None.

    With `on_bad` 'stop', anything truncated, foreign or missing raises UserError, naming file and record. With 'skip',
    bad images are left out, and `bad` is {record: what is wrong}. Label and image are in one record, so skipping one
    does not shift the labels of others.
    """

    def __init__(self, folder, image_shape=None, on_bad='stop'):
        settle(folder)
        self.path, self.index_path = os.path.join(folder, RECORDS), os.path.join(folder, INDEX)
        self.image_shape, self.on_bad, self.bad, self._unlisted = tuple(image_shape or ()), on_bad, {}, 0
        has_property = os.path.exists(os.path.join(folder, PROPERTY))
        self.classes = read_property(folder)[0] if has_property else None
        if not os.path.isfile(self.path):
            raise UserError(f'{self.path} is missing')
        self.offsets = self._offsets()
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f'cannot read {self.path}: {error.strerror}')
        self._try(max(self.offsets, default=0), self._check_end)
        people, found = self._identities() if self._has_ranges() else self._labels()
        if not self.images:
            raise UserError(f'{self.path} holds no images')
        self.note = None
        if has_property and found != self.classes:
            self.note = f'{self.path} has {found} people, and "property" says {self.classes}'
        elif people != found:
            self.note = f'{self.path} has pictures of {people} people, and labels up to {found - 1}'
        self.classes = self.classes or found

    def _offsets(self):
        """Return {record: offset}, of the index, or where there is none by reading all records."""
        if os.path.isfile(self.index_path):
            return read_index(self.index_path)
        return dict(enumerate(RecordFile(self.path).offsets))

    def _has_ranges(self):
        """Return whether record 0 has no image: then it is the range of the identities."""
        return 0 in self.offsets and not self._read(0)[1]

    def _identities(self):
        """Find the images by the ranges of the identities; return how many of these there are, and of the labels."""
        first, end = self._range(0)
        self.images = self._listed(1, first)
        for identity in self._listed(first, end):
            self._try(identity, self._check_identity, identity)
        return end - first, end - first

    def _labels(self):
        """Take all records for images; return how many people they are of, and how many labels there are, from 0."""
        self.images, labels = sorted(self.offsets), set()
        for number in tqdm(self.images, unit='labels', desc='reading labels', leave=False, disable=None):
            labels.add(self._try(number, self._label, number))
        labels.discard(None)
        return len(labels), max(labels, default=-1) + 1

    def _label(self, number):
        """Return the label of a record; raises UserError if it has none."""
        try:
            label = label_at(self._file, self.offsets[number])
        except (ValueError, OSError, OverflowError):
            raise UserError(f'{self.path}: record {number} is not readable')
        return self._as_class(number, label)

    def _as_class(self, number, label):
        """Return a label as an integer; raises UserError where `property` does not allow it."""
        most, whose = (self.classes, '"property" allows') if self.classes else (MOST_CLASSES, 'a label is')
        if not (0 <= label < most and label == int(label)):
            raise UserError(f'{self.path}: record {number} has label {label}; {whose} 0 to {most - 1}')
        return int(label)

    def __del__(self):
        if hasattr(self, '_file'):
            os.close(self._file)

    def checksum(self):
        """Return a checksum of the data set: of the index, which has the length of every record."""
        size = os.path.getsize(self.path) & 0xFFFFFFFF
        if not os.path.isfile(self.index_path):
            return zlib.crc32(np.array(sorted(self.offsets.values()), np.int64), size)
        with open(self.index_path, 'rb') as file:
            return zlib.crc32(file.read(), size)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        """Return (label, image), the image as (height, width, 3) uint8 RGB; None for a bad one."""
        read = self.read(position)
        image = read and self.checked(position, prepared(read[1]))
        return None if image is None else (read[0], image)

    def read(self, position):
        """Return (label, bytes of the image), None for a bad one."""
        number = self.images[position]
        return None if number in self.bad else self._try(number, self._encoded, number)

    def checked(self, position, image):
        """Return what `prepared` returned if it is an image of the right size, None for a bad one."""
        return self._try(self.images[position], self._check_image, self.images[position], image)

    def _listed(self, first, end):
        """Return those records from `first` to before `end` that the index has; the others are bad.

        Only the first of them is noted by its number: in a foreign file there may be billions.
        """
        listed = sorted(number for number in self.offsets if first <= number < end)
        if len(listed) < end - first:
            missing = next(number for number in itertools.count(first) if number not in self.offsets)
            self._try(missing, self._read, missing)
            self._unlisted += end - first - len(listed) - 1
        return listed

    def count_bad(self):
        """Return the number of records that are known to be bad."""
        return len(self.bad) + self._unlisted

    def first_bad(self):
        """Return what is wrong with the first record that was found to be bad."""
        return next(iter(self.bad.values()))

    def _try(self, number, function, *arguments):
        """Call `function`; with `on_bad` 'skip', turn its UserError into a note about record `number`."""
        try:
            return function(*arguments)
        except UserError as error:
            if self.on_bad == 'stop':
                raise
            self.bad[number] = str(error)

    def _encoded(self, number):
        labels, content = self._read(number)
        return self._as_class(number, float(labels[0])), content

    def _check_image(self, number, image):
        if image is None:
            raise UserError(f'{self.path}: the image of record {number} cannot be decoded')
        if image.shape != self.image_shape:
            raise UserError(
                f'{self.path}: record {number} is an image of {image.shape}, the network takes {self.image_shape}'
            )
        return image

    def _check_identity(self, number):
        first, end = self._range(number)
        if first == end:
            raise UserError(f'{self.path}: the identity of record {number} has no images')

    def _check_end(self):
        """Refuse files that do not belong together, and a file that ends within its last record.

        Now, not after hours of training.
        """
        if not self.offsets:
            raise UserError(f'{self.index_path} lists no records')
        number, offset = max(self.offsets.items(), key=lambda entry: entry[1])
        if not 0 <= min(self.offsets.values()) <= offset < 2**62:
            raise UserError(f'{self.index_path} names offsets that no file has')
        start, size = os.pread(self._file, 8, offset), os.fstat(self._file).st_size
        if len(start) == 8:
            head = parse_head(start)
            if head is None:
                raise UserError(
                    f'{self.path}: there is no record at offset {offset}, where train.idx has record '
                    f'{number}; the two files do not belong together'
                )
            if offset + 8 + head[1] <= size:
                return
        raise UserError(
            f'{self.path} is truncated: it has {size} bytes and ends before its last record, {number}; copy it again'
        )

    def _read(self, number):
        """Return (labels, bytes) of a record."""
        if number not in self.offsets:
            raise UserError(f'{self.index_path} has no record {number}')
        try:
            return unpack(record_at(self._file, self.offsets[number]))
        except (ValueError, OSError, OverflowError):
            raise UserError(f'{self.path}: record {number} is not readable')

    def _range(self, number):
        """Return (first, end), the range of records in the record of the whole set, or of an identity."""
        label = self._read(number)[0]
        if len(label) != 2 or not 0 <= label[0] <= label[1] < float('inf'):
            raise UserError(
                f'{self.path}: record {number} should hold a range of records; is this a data set of insightface?'
            )
        return int(label[0]), int(label[1])
