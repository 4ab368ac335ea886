"""RecordIO files as im2rec writes them, read by offset, by several threads at once.

`rec_format.py` has the format of records. Their data begin with a flag (uint32), a label (float32) and two ids
(uint64); a flag above 0 is the number of labels (float32) that follow.
"""

import os
import struct

import numpy as np
from tqdm import tqdm

from netkit.data.rec_format import FIRST, HEADER, WHOLE, parse_head, record_at
from netkit.errors import UserError
from netkit.files import settle


def unpack(content):
    """Return (labels, bytes of an image) of a record, the labels as a float array; raises ValueError if it is cut."""
    if len(content) < HEADER.size:
        raise ValueError('has no label')
    flag, label, _, _ = HEADER.unpack_from(content)
    end = HEADER.size + 4 * flag
    if len(content) < end:
        raise ValueError('has fewer labels than it says')
    return np.frombuffer(content, '<f4', flag, HEADER.size) if flag else np.array([label], '<f4'), content[end:]


def label_at(file, place):
    """Return the (first) label of the record at an offset, without reading its image; raises ValueError without one."""
    start = os.pread(file, 8 + HEADER.size + 4, place)[8:]
    if len(start) < HEADER.size:
        raise ValueError('has no label')
    flag, label, _, _ = HEADER.unpack_from(start)
    return struct.unpack_from('<f', start, HEADER.size)[0] if flag and len(start) == HEADER.size + 4 else label


class RecordFile:
    """The records of a file, as a sequence of (label, bytes of an image)."""

    def __init__(self, path):
        """Find the records; raises UserError for a file that is not RecordIO, or truncated."""
        settle(os.path.dirname(path) or os.curdir)
        self.path, self.offsets = path, []
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror}')
        self._find(os.fstat(self._file).st_size)
        if not self.offsets:
            raise UserError(f'{path} holds no records')

    def __del__(self):
        if hasattr(self, '_file'):
            os.close(self._file)

    def _find(self, size):
        """Note the offsets of all records of a file of `size` bytes."""
        place = 0
        with tqdm(total=size, unit='B', unit_scale=True, desc='finding records', leave=False, disable=None) as bar:
            while place < size:
                part, length = self._head(place)
                if place + 8 + length > size:
                    raise UserError(f'{self.path} is truncated: it ends within the record at {place}; copy it again')
                if part in (WHOLE, FIRST):
                    self.offsets.append(place)
                place += 8 + (length + 3) // 4 * 4
                bar.update(8 + (length + 3) // 4 * 4)

    def _head(self, place):
        """Return (part, length) of the record, or part of one, at an offset."""
        head = parse_head(os.pread(self._file, 8, place))
        if head is None:
            raise UserError(f'{self.path} is not a RecordIO file: there is no record at {place}')
        return head

    def __len__(self):
        return len(self.offsets)

    def label(self, number):
        """Return the (first) label of a record, without reading its image."""
        try:
            return label_at(self._file, self.offsets[number])
        except ValueError as error:
            raise UserError(f'{self.path}: record {number} {error}')

    def __getitem__(self, number):
        """Return (label, bytes of an image); raises UserError for a record without a label."""
        try:
            labels, content = unpack(record_at(self._file, self.offsets[number]))
        except ValueError as error:
            raise UserError(f'{self.path}: record {number} {error}')
        return float(labels[0]), content
