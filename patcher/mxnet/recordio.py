"""`mxnet.recordio`: records by their numbers, read and written in MXNet's format (`rec_format.py`)."""

import collections
import numbers
import os

import numpy as np

from . import without
from .rec_format import HEADER, record_at, record_of

__getattr__ = without('mxnet.recordio')

IRHeader = collections.namedtuple('HEADER', ['flag', 'label', 'id', 'id2'])


class MXIndexedRecordIO:
    """The records of a `.rec` file by the numbers in its `.idx`, lines of number, tab and offset.

    `flag` is 'r' or 'w'. `keys` are the numbers in the order of the file. Processes that are forked or spawned may read
    at once. Raises ValueError for another `flag` and for a file that is not readable as records.
    """

    def __init__(self, idx_path, uri, flag, key_type=int):
        if flag not in ('r', 'w'):
            raise ValueError("flag=%r is neither 'r' nor 'w'" % (flag,))
        self.idx_path, self.uri, self.flag, self.key_type = idx_path, uri, flag, key_type
        self.writable, self.is_open = flag == 'w', False
        self.open()

    def open(self):
        """Open the files, and read the index."""
        self.idx, self.keys = {}, []
        if self.writable:
            self._index, self._file = open(self.idx_path, 'w'), open(self.uri, 'wb')
        else:
            self._file = os.open(self.uri, os.O_RDONLY)
            self._read_index()
        self.is_open = True

    def _read_index(self):
        with open(self.idx_path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    key, place = line.split('\t')[:2]
                    key = self.key_type(key)
                    self.idx[key] = int(place)
                except ValueError:
                    raise ValueError('%s:%d is not a number, a tab and an offset' % (self.idx_path, number))
                self.keys.append(key)

    def close(self):
        """Close the files."""
        if self.is_open and self.writable:
            self._file.close()
            self._index.close()
        elif self.is_open:
            os.close(self._file)
        self.is_open = False

    def reset(self):
        """Open the files again, from the beginning; those that are written become empty."""
        self.close()
        self.open()

    def read_idx(self, idx):
        """Return the content of the record of a number; raises KeyError, and ValueError for a damaged file."""
        self._require('r', 'read_idx')
        place = self.idx[idx]
        try:
            return record_at(self._file, place)
        except ValueError as error:
            raise ValueError('%s, record %s: %s' % (self.uri, idx, error))

    def write_idx(self, idx, buf):
        """Write a record at the end, and its number and offset into the index."""
        self._require('w', 'write_idx')
        key, place = self.key_type(idx), self._file.tell()
        self._file.write(record_of(buf))
        self._index.write('%s\t%d\n' % (key, place))
        self.idx[key] = place
        self.keys.append(key)

    def _require(self, flag, what):
        """Raise ValueError where the file is closed, or was opened for the other purpose."""
        if not self.is_open or self.flag != flag:
            state = 'opened with flag %r' % self.flag if self.is_open else 'closed'
            raise ValueError('%s is %s; %s needs it open with flag %r' % (self.uri, state, what, flag))

    __getattr__ = staticmethod(without('mxnet.recordio.MXIndexedRecordIO'))

    def __del__(self):
        if getattr(self, 'is_open', False):
            self.close()

    def __getstate__(self):
        """Return what a spawned process needs: it opens the files by itself."""
        if self.writable:
            raise ValueError('%s is being written, and cannot be handed to another process' % self.uri)
        return {key: value for key, value in self.__dict__.items() if key != '_file'}

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.is_open:
            self._file = os.open(self.uri, os.O_RDONLY)


def pack(header, s):
    """Return the content of a record: a header, of which the label is a number or a sequence, and the bytes `s`."""
    flag, label, number, number2 = header
    if isinstance(label, numbers.Number):
        return HEADER.pack(0, label, number, number2) + s
    labels = np.asarray(label, '<f4')
    return HEADER.pack(labels.size, 0, number, number2) + labels.tobytes() + s


def unpack(s):
    """Return (IRHeader, bytes) of the content of a record; a `flag` above 0 is the number of labels."""
    header = IRHeader(*HEADER.unpack_from(s))
    end = HEADER.size + 4 * header.flag
    if header.flag > 0:
        header = header._replace(label=np.frombuffer(s, '<f4', header.flag, HEADER.size))
    return header, s[end:]
