"""`mxnet.ndarray`: an array of NumPy with MXNet's methods, and the two functions that verification uses."""

import numpy as np

from . import without

__getattr__ = without('mxnet.ndarray')


class NDArray:
    """An array that `asnumpy` returns in its own contiguous memory, as torch.from_numpy requires."""

    def __init__(self, values):
        self._values = values
        self.shape, self.dtype, self.size = values.shape, values.dtype.type, values.size

    def asnumpy(self):
        """Return a NumPy array."""
        return np.ascontiguousarray(self._values)

    def __len__(self):
        return len(self._values)

    __getattr__ = staticmethod(without('mxnet.ndarray.NDArray'))


def transpose(data, axes=None):
    """Return an array with its axes in another order."""
    return NDArray(data._values.transpose(axes))


def flip(data, axis):
    """Return an array in the opposite order along an axis."""
    return NDArray(np.flip(data._values, axis))
