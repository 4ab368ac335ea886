"""Inference engines other than MXNet, as steps to time on a CPU, and the processor's support."""

import functools
import os
import platform
import re

from netkit.errors import UserError
from netkit.graph.naming import EMBEDDING
from netkit.onnx_session import asked_threads, open_session

CPU_INFO = '/proc/cpuinfo'
# Instructions that speed up int8 and bfloat16, by their names on x86 and on ARM.
INT8 = {'avx512_vnni', 'avx_vnni', 'amx_int8', 'asimddp', 'i8mm'}
BFLOAT16 = {'avx512_bf16', 'amx_bf16', 'bf16'}


def threads():
    """Return the number of threads that all engines take: MXNet's, OMP_NUM_THREADS."""
    return asked_threads() or os.cpu_count() or 1


class OnnxRuntime:
    """A forward pass of an ONNX file in onnxruntime; a call runs it on `data`."""

    def __init__(self, path, data):
        self.session = open_session(path, threads=threads())
        self.data = data

    def run(self, images):
        """Return the embeddings of images."""
        return self.session.run([EMBEDDING], {'data': images})[0]

    def __call__(self):
        self.run(self.data)


class OpenVINO:
    """A forward pass of an ONNX file in OpenVINO, in `precision`, 'f32' or 'bf16'; a call runs it on `data`."""

    def __init__(self, path, data, precision):
        core = openvino_core()
        model = core.read_model(path)
        model.reshape({'data': list(data.shape)})
        hints = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision}
        self.request = core.compile_model(
            model, 'CPU', {'INFERENCE_NUM_THREADS': threads(), **hints}
        ).create_infer_request()
        self.data = data

    def run(self, images):
        """Return the embeddings of images."""
        return self.request.infer({'data': images})[EMBEDDING].copy()

    def __call__(self):
        self.request.infer({'data': self.data})


@functools.lru_cache(maxsize=None)
def openvino_core():
    """Return OpenVINO's Core; raises UserError where it is not installed.

    One per process, until its end: each Core installs a stack for signal handlers. If several are freed in another
    order than they were made, the installed stack is freed memory, and the next Ctrl-C ends in a segmentation fault
    (OpenVINO 2026.4).
    """
    try:
        import openvino
    except ImportError:
        raise UserError(
            'OpenVINO is not installed; install the extra dev on Python 3.10 or later (tools/extras.py)'
        ) from None
    return openvino.Core()


def note():
    """Return a sentence on what this processor has, or has not, for int8 and bfloat16."""
    try:
        with open(CPU_INFO, encoding='utf-8') as file:
            text = file.read()
    except OSError:
        return f'What instructions this processor ({platform.processor() or platform.machine()}) has is not known here.'
    match = re.search(r'^(?:flags|Features)\s*:(.*)$', text, re.MULTILINE)
    flags = set(match.group(1).split()) if match else set()
    missing = [
        f'{name} ({", ".join(sorted(known))})'
        for name, known in (('int8', INT8), ('bfloat16', BFLOAT16))
        if not flags & known
    ]
    if missing:
        return f'This processor has no instructions for {" and ".join(missing)}: one that has them gains more.'
    return f'This processor has {", ".join(sorted(flags & (INT8 | BFLOAT16)))}.'
