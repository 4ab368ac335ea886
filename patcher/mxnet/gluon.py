"""`mxnet.gluon.data.Dataset`, the base class of a data set in onnx_ijbc.py."""

import types

from . import without

__getattr__ = without('mxnet.gluon')


class Dataset:
    """A sequence of samples; a class has `__len__` and `__getitem__`."""


data = types.ModuleType('mxnet.gluon.data')
data.Dataset = Dataset
data.__getattr__ = without('mxnet.gluon.data')
