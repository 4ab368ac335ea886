"""Verification pairs in insightface's format, such as `lfw.bin`: pickles, read without executing anything in them."""

import io
import pickle
import pickletools
import re

import numpy as np

from netkit._mxnet import mx
from netkit.data.images import Unusable, open_picture
from netkit.errors import UserError, reason

SMALLEST, LONGEST = 4, 4096  # of a picture: at least a quarter of the size that is wanted; pixels of a side
NO_SET = 'not a verification set (pickled images and same/different list)'


class PairSet:
    """A verification set: `len(pairs)` pairs, `pairs.same` (n,) bool, and 2n images, pair i being 2i and 2i + 1.

    Images stay encoded until they are asked for.
    """

    def __init__(self, path, image_shape):
        """Read the file; raises UserError if it is invalid, or has not two images for each pair."""
        self.path, self.image_shape = path, tuple(image_shape)
        try:
            with open(path, 'rb') as file:
                self._encoded, same = map(_as_list, _read(file.read()))
            self.same = np.array(list(map(_truth, same)), bool)
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror}')
        except Exception as error:  # a foreign pickle may contain anything, and cause any exception
            raise UserError(f'{path} is {NO_SET}: {reason(error)}')
        if len(self._encoded) != 2 * len(self.same) or not self._encoded:
            raise UserError(f'{path} has {len(self._encoded)} images for {len(self.same)} pairs')

    def __len__(self):
        return len(self.same)

    def image(self, number):
        """Return an image, (height, width, 3) uint8 RGB; raises UserError if it cannot be decoded.

        One of another size is resized as insightface's `load_bin` does, shorter side first; it must match the same
        proportions.
        """
        try:
            image = _decode(self._encoded[number])
        except (ValueError, TypeError) as error:
            raise UserError(f'{self.path} is {NO_SET}: {reason(error)} (number {number})')
        height, width = self.image_shape[:2]
        if image.shape[0] * width != image.shape[1] * height or SMALLEST * image.shape[0] < height:
            raise UserError(
                f'{self.path} has an image of {image.shape[0]}×{image.shape[1]} pixels, which is no {height}×{width} '
                'one in another size; align the faces first (tools/pack.py faces)'
            )
        if image.shape != self.image_shape:
            image = mx.image.resize_short(mx.nd.array(image, dtype=np.uint8), min(height, width)).asnumpy()
        return image


def read_pairs(path, image_shape):
    """Return (images, same) of a verification set: 2n images of `image_shape`, uint8 RGB, and (n,) bool.

    Raises UserError for another file, and for images of other proportions.
    """
    pairs = PairSet(path, image_shape)
    return [pairs.image(number) for number in range(2 * len(pairs))], pairs.same


def _decode(content):
    """Return the image of some bytes, (height, width, 3) uint8 RGB; raises ValueError or TypeError."""
    if not isinstance(content, (bytes, bytearray, np.ndarray)):
        raise ValueError(f'an image is a {type(content).__name__}')
    encoded = bytes(content)
    if not encoded:
        raise ValueError('an image is empty')
    try:
        return np.asarray(open_picture(encoded, LONGEST))
    except Unusable:
        raise ValueError(f'an image cannot be decoded, or has a side of more than {LONGEST} pixels')


class _ArrayRead:
    """Replaces a NumPy array in a pickle and keeps its state; NumPy would trust the addresses in it."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def value(self):
        """Return the array, of bytes or numbers, or the list of its objects."""
        _, shape, of_type, is_fortran, content = self.state
        if isinstance(content, list):
            return content
        return np.frombuffer(bytes(content), of_type.value()).reshape(shape, order='F' if is_fortran else 'C')


class _TypeRead:
    """Replaces a NumPy dtype in a pickle."""

    def __init__(self, code, *_):
        self.code, self.order = _text(code), '|'

    def __setstate__(self, state):
        self.order = _text(state[1])

    def value(self):
        """Return the dtype."""
        if not re.fullmatch(r'b1|[uif][1248]|S\d{1,9}', self.code) or self.order not in ('|', '<', '>', '='):
            raise pickle.UnpicklingError(f'it holds an array of {self.code}')
        return np.dtype(self.order + self.code)


def _text(value):
    """Return a text of a pickle: those of Python 2 are bytes."""
    return value.decode('ascii') if isinstance(value, bytes) else str(value)


def _buffer_read(content, of_type, shape, order):
    """Replace the function that makes an array in pickles of protocol 5."""
    return np.frombuffer(bytes(content), of_type.value()).reshape(shape, order=order)


def _scalar_read(of_type, content):
    """Replace the function that makes NumPy scalars."""
    return np.frombuffer(content, of_type.value())[0]


def _bytes_read(text, encoding):
    """Replace `_codecs.encode`: Python 3 writes bytes as text in pickles of protocol 2."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it names an encoding, {encoding!r}')
    return text.encode('latin1')


# The names in a pickle of bytes, truth values and NumPy arrays of them, and what takes their place: nothing that a
# pickle names is called. NumPy writes the first of the two package names since version 2, the second before.
READERS = {('_codecs', 'encode'): _bytes_read, ('numpy', 'ndarray'): _ArrayRead, ('numpy', 'dtype'): _TypeRead}
for _package in ('numpy._core', 'numpy.core'):
    READERS[_package + '.numeric', '_frombuffer'] = _buffer_read
    READERS[_package + '.multiarray', '_reconstruct'] = _ArrayRead
    READERS[_package + '.multiarray', 'scalar'] = _scalar_read


# Opcodes that hash members, which never ends on self-nested tuples; no set of pairs uses these opcodes.
HASHING = {'DICT', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'FROZENSET'}


def _read(content):
    """Return what a pickle holds; raises whatever is wrong with it."""
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name in HASHING:
            raise pickle.UnpicklingError('it holds a dict or a set')
    return _PairUnpickler(io.BytesIO(content), encoding='bytes').load()


class _PairUnpickler(pickle.Unpickler):
    """Reads lists and arrays of bytes and truth values, nothing else: a pickle can name any function to call."""

    def find_class(self, module, name):
        """Return what replaces a name."""
        if (module, name) not in READERS:
            raise pickle.UnpicklingError(f'it names {module}.{name}')
        return READERS[module, name]


def _as_list(read):
    """Return a list or array that was read from a pickle as a list; raises ValueError for other objects."""
    if not isinstance(read, (list, tuple, np.ndarray, _ArrayRead)):
        raise ValueError(f'it holds a {type(read).__name__} instead of a list')
    values = list(read.value() if isinstance(read, _ArrayRead) else read)
    return [value.value() if isinstance(value, _ArrayRead) else value for value in values]


def _truth(value):
    """Return a truth value that was read from a pickle; raises ValueError for other objects."""
    is_number = isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating))
    if not is_number or value not in (0, 1):
        shown = repr(value) if is_number else f'a {type(value).__name__}'  # whose own text may have no end
        raise ValueError(f'{shown} is neither true nor false')
    return bool(value)
