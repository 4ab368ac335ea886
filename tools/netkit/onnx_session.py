"""Open onnxruntime's sessions, in one place; the first session imports onnxruntime."""

import contextlib
import os

CPU = 'CPUExecutionProvider'


def asked_threads():
    """Return the number of threads that OMP_NUM_THREADS asks for, 0 for none: one for each core."""
    asked = os.environ.get('OMP_NUM_THREADS', '')
    return int(asked) if asked.isdecimal() and len(asked) < 6 else 0


def open_session(path, providers=(CPU,), threads=None, optimised=True, written_to=None):
    """Return a session of an ONNX file on the first of `providers` (names, or pairs of name and options) that starts.

    Without `optimised`, onnxruntime computes the file in float, even if it has int8 kernels. With a number
    of `threads` they sleep between two runs; by default there are as many as MXNet's, OMP_NUM_THREADS. The file, with
    its BatchNorms and constants folded, is `written_to` a path where one is named. Raises onnxruntime's own errors for
    a file that it cannot run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if written_to:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = written_to
    options.intra_op_num_threads = threads or asked_threads()
    if threads:
        options.add_session_config_entry('session.force_spinning_stop', '1')
    with contextlib.redirect_stdout(None):  # it prints there that it tries another provider
        return onnxruntime.InferenceSession(path, options, providers=list(providers))
