"""Part `card`: onnxruntime and its providers."""

import onnxruntime

from netkit.gpu.harness import MACHINE, Figure


def described():
    """Yield the Figures of the library."""
    yield Figure(MACHINE, 'onnxruntime', 'onnxruntime', onnxruntime.__version__)
    yield Figure(MACHINE, 'built with', 'onnxruntime', ', '.join(onnxruntime.get_available_providers()))


def cases(_quick):
    """Return {case: function that yields Figures}."""
    return {'described': described}
