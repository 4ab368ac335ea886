"""onnxruntime, and its providers here."""

import importlib
import importlib.util

import onnxruntime
import torch

from netkit.gpu import torch_device as device
from netkit.onnx_session import open_session

ON_GPU = 'CUDAExecutionProvider', 'TensorrtExecutionProvider'
ON_CPU = ('CPUExecutionProvider',)
if hasattr(onnxruntime, 'preload_dlls'):  # of 1.21 and later: the CUDA libraries in the wheels that PyTorch brings
    onnxruntime.preload_dlls()
if importlib.util.find_spec('tensorrt'):  # whose import loads the libraries in its wheel
    importlib.import_module('tensorrt')
onnxruntime.set_default_logger_severity(4)  # it would say on several lines what `session` says


def there():
    """Return the providers to measure, of those with which this onnxruntime was built."""
    wanted = ON_GPU if torch.cuda.is_available() else ON_CPU
    return [provider for provider in wanted if provider in onnxruntime.get_available_providers()]


def where():
    """Return the name of the card, None where this onnxruntime was not built for one."""
    return device.where() if there() != list(ON_CPU) and there() else None


def session(path, provider, **options):
    """Return a session of an ONNX file; None where the provider does not start, and onnxruntime takes another.

    What TensorRT leaves of a network goes to CUDA, and what CUDA leaves, to the CPU.
    """
    behind = ['CUDAExecutionProvider'] if provider == 'TensorrtExecutionProvider' else []
    found = open_session(path, [(provider, options), *behind])
    found.disable_fallback()  # else a run that fails would be one of the next provider, without a word
    return found if found.get_providers()[0] == provider else None
