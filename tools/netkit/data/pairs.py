"""Verification pairs in insightface's format, `lfw.bin` and its like: pickles, read without executing anything in them."""
import pickle
import re

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError


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
        raise UserError(f'cannot read {path}: {error.strerror}')
    except Exception as error:  # whatever a foreign pickle may hold, down to bytes that are no image
        raise UserError(f'{path} is not a verification set (pickled images and same/different list): {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}')
    if len(images) != 2 * len(same) or not images:
        raise UserError(f'{path} has {len(images)} images for {len(same)} pairs')
    for image in images:
        if image.shape != tuple(image_shape):
            raise UserError(f'{path} has an image of {image.shape}, the network takes {tuple(image_shape)}')
    return images, np.array(same, bool)


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
            raise pickle.UnpicklingError(f'it holds an array of {self.code}')
        return np.dtype(self.order + self.code)


def _scalar_read(of_type, content):
    return np.frombuffer(content, of_type.value())[0]


def _bytes_read(text, encoding):
    """Return the bytes that Python 3 writes as text in pickles of protocol 2."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it names an encoding, {encoding!r}')
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
            raise pickle.UnpicklingError(f'it names {module}.{name}')
        return READERS[module, name]


def _as_list(read):
    """Return what was read of a pickle as a list: it has to be one, or an array."""
    if not isinstance(read, (list, tuple, _ArrayRead)):
        raise ValueError(f'it holds a {type(read).__name__} in the place of a list')
    values = list(read.value() if isinstance(read, _ArrayRead) else read)
    return [value.value() if isinstance(value, _ArrayRead) else value for value in values]


def _truth(value):
    if not isinstance(value, (bool, int, np.bool_, np.integer)):
        raise ValueError(f'{value!r} is neither true nor false')
    return bool(value)
