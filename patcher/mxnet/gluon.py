"""`mxnet.gluon.data.Dataset`, the base class of a data set in onnx_ijbc.py."""

import sys
import types

from . import without

__getattr__ = without('mxnet.gluon')


class Dataset:
    """A sequence of samples; a class has `__len__` and `__getitem__`."""


__path__ = []  # `from mxnet.gluon.data import Dataset` takes this for a package
data = sys.modules[__name__ + '.data'] = types.ModuleType(__name__ + '.data')
data.Dataset = Dataset
data.__getattr__ = without('mxnet.gluon.data')
