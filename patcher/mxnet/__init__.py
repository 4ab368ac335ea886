"""Stands in for MXNet in insightface's arcface_torch: what its scripts use, and nothing else.

`patch_insightface.py --without-mxnet` put it here, and `--revert` removes it. OpenCV decodes the images, as in MXNet.
Needs NumPy and opencv-python.
"""


def without(module):
    """Return a module's `__getattr__`, which reports the missing attribute."""

    def missing(name):
        if name.startswith('__'):
            raise AttributeError(name)
        raise AttributeError(
            '%s.%s is not in the stand-in for MXNet that patch_insightface.py --without-mxnet put here; remove it with '
            '--revert and install MXNet, which needs Python 3.8 to 3.11' % (module, name)
        )

    return missing


from . import gluon, image, io, ndarray, recordio  # noqa: E402, F401

nd = ndarray
__getattr__ = without('mxnet')
