"""MXNet's .params files, read and written without MXNet, which crashes on damaged ones.

The format, that of `NDArray::Save` and `NDArray::Load` in MXNet 1.9.1, little-endian: a magic number and a reserved
one (uint64 each), the count of arrays (uint64), the arrays, the count of names (uint64), and each name as its length
(uint64) and its bytes. An array is the magic number of its version (uint32), from version 2 on the storage type
(int32, 0 is dense), the shape as the count of axes (int32) and the axes (int64), and unless that is empty a device
(two int32), the number of its dtype (int32) and the values.
"""

import math
import struct

import numpy as np

FILE_MAGIC, FIRST_VERSION, SPARSE_VERSION, NUMPY_VERSION = 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {0: 'float32', 1: 'float64', 2: 'float16', 3: 'uint8', 4: 'int32', 5: 'int8', 6: 'int64', 7: 'bool'}
LONGEST = 1 << 16  # bytes of a name
MOST_AXES = 32
CPU = 1  # the number of that device


class Malformed(ValueError):
    """The file is not a .params file, or damaged; the message says where."""


class _Reader:
    """Reads values from bytes, one after the other."""

    def __init__(self, content):
        self.content, self.place = memoryview(content), 0

    def take(self, count):
        """Return the next `count` bytes."""
        if not 0 <= count <= len(self.content) - self.place:
            raise Malformed('it ends too early')
        self.place += count
        return self.content[self.place - count : self.place]

    def numbers(self, form):
        """Return the next values, little-endian, of the format `form` of struct."""
        return struct.unpack('<' + form, self.take(struct.calcsize('<' + form)))


def begins(start):
    """Return whether a file with these first bytes, eight or more, is a .params file."""
    return start.startswith(struct.pack('<Q', FILE_MAGIC))


def read(path):
    """Return {name: array} of a .params file, or a list of arrays without names. Raises Malformed and OSError."""
    with open(path, 'rb') as file:
        reader = _Reader(file.read())
    if reader.numbers('Q')[0] != FILE_MAGIC:
        raise Malformed('it does not begin as one')
    _, count = reader.numbers('QQ')
    arrays = []
    while len(arrays) < count:  # which may be any number if the file is damaged
        arrays.append(_read_array(reader))
    names = []
    for _ in range(_count_names(reader, count)):
        (length,) = reader.numbers('Q')
        names.append(bytes(reader.take(length if length <= LONGEST else -1)).decode('utf-8'))
    if len(set(names)) < len(names):
        raise Malformed('a name comes twice')
    return dict(zip(names, arrays)) if names else arrays


def _count_names(reader, arrays):
    (names,) = reader.numbers('Q')
    if names not in (0, arrays):
        raise Malformed(f'it has {names} names for {arrays} arrays')
    return names


def _read_array(reader):
    """Read an array."""
    (version,) = reader.numbers('I')
    if version in (SPARSE_VERSION, NUMPY_VERSION) and reader.numbers('i') != (0,):
        raise Malformed('it holds an array that is not dense')
    if version in (FIRST_VERSION, SPARSE_VERSION, NUMPY_VERSION):
        (axes,) = reader.numbers('i')
        kind = 'q'
    else:  # the oldest format has the count of axes here
        axes, kind = version, 'I'
    if not 0 <= axes <= MOST_AXES:
        raise Malformed(f'it holds an array of {axes} axes')
    shape = reader.numbers(f'{axes}{kind}')
    if not axes and version != NUMPY_VERSION:
        return np.zeros(0, np.float32)  # an uninitialised array
    *_, number = reader.numbers('iii')
    if number not in TYPES or min(shape, default=0) < 0:
        raise Malformed(f'it holds an array of type {number} and shape {shape}')
    of_type = np.dtype(TYPES[number])
    return np.frombuffer(reader.take(math.prod(shape) * of_type.itemsize), of_type).reshape(shape)


def write(path, arrays):
    """Write {name: array} as MXNet 1.9.1 does. Raises OSError, and ValueError for arrays without axes or numbers."""
    for name, array in arrays.items():
        if not np.size(array) or not np.ndim(array):
            raise ValueError(f'MXNet has no arrays of the shape {np.shape(array)}, that of {name}')
    numbers = {np.dtype(name): number for number, name in TYPES.items()}
    names = [name.encode('utf-8') for name in arrays]
    with open(path, 'wb') as file:
        file.write(struct.pack('<QQQ', FILE_MAGIC, 0, len(arrays)))
        for array in map(np.asarray, arrays.values()):
            file.write(struct.pack('<Iii', SPARSE_VERSION, 0, array.ndim))  # of the version with a storage type
            file.write(struct.pack(f'<{array.ndim}q', *array.shape))
            file.write(struct.pack('<iii', CPU, 0, numbers[array.dtype]))
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder('<')).tobytes())
        file.write(struct.pack('<Q', len(names)))
        for name in names:
            file.write(struct.pack('<Q', len(name)) + name)
