"""Part `inference`: the ONNX files that tools/export.py writes, by each provider, against the module in PyTorch."""

import functools
import os
import subprocess
import tempfile

import numpy as np
import torch

from netkit import ROOT
from netkit.errors import UserError
from netkit.gpu.figures import Figure, distance, in_turns
from netkit.gpu.in_onnxruntime.providers import session, there
from netkit.gpu.in_torch.device import IS_GPU, images, label, measured, network, tensor_float32
from netkit.gpu.in_torch.inference import TABLE
from netkit.gpu.sizes import BATCHES, SMALL

DIFFERENCE = 'inference: largest difference of the embeddings from PyTorch in float32, of their range'
INPUT, SETTLING = 'data', 30  # the input's name; steps after which the moving statistics are those of the images


def settled(name):
    """Return a network with random weights and moving statistics that fit them."""
    module = network(name).train()
    with torch.no_grad():
        for _ in range(SETTLING):
            module(images(16))
    return module.eval()


def exported(module, name, precision, python, folder):
    """Return the path of the ONNX file of a module, BatchNorms folded; raises UserError where it is not written.

    `python` has MXNet, with which tools/export.py reads the module's state dict and compares what it writes.
    """
    weights, prefix = os.path.join(folder, name + '.pt'), os.path.join(folder, f'{name}-{precision}')
    torch.save(module.state_dict(), weights)
    command = [python, os.path.join(ROOT, 'tools', 'export.py'), '--network', name, '--model', weights]
    command += ['--fold-bn', '--onnx', '--precision', precision, '--output', prefix]
    if not IS_GPU:
        size = ','.join(map(str, SMALL['image_shape'][:2]))
        command += ['--multiplier', str(SMALL['net_multiplier']), '--image-size', size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise UserError(f'the ONNX file was not written: {reason}')
    (path,) = (os.path.join(folder, file) for file in os.listdir(folder) if file.endswith(f'{precision}-folded.onnx'))
    return path


def measure(name, precisions, python):
    """Yield the Figures of a network."""
    with tempfile.TemporaryDirectory() as folder:
        module, pixels = settled(name), images(max(BATCHES))
        raw = np.round(pixels.cpu().numpy() * 127.5 + 127.5)  # RGB as the ONNX file takes it
        with torch.no_grad(), tensor_float32(False):
            expected = module((torch.tensor(raw) - 127.5).div(127.5).to(pixels.device)).double().cpu().numpy()
        for precision in precisions:
            path = exported(module, name, precision, python, folder)
            sessions = {provider: session(path, provider) for provider in there()}
            for provider, found in sessions.items():
                row = f'{provider[: -len("ExecutionProvider")]}, {precision}'
                if found is None:
                    yield Figure(TABLE, row, label(name), 'not measured: its libraries do not load')
                    continue
                output = found.run(None, {INPUT: raw.astype(np.float32)})[0].astype(np.float64)
                yield Figure(DIFFERENCE, row, label(name), distance({'': output}, {'': expected}))
            yield from times(sessions, raw.astype(np.float32), name, precision)


def times(sessions, raw, name, precision):
    """Yield the times of {provider: session or None}, in turns."""
    for batch in BATCHES if IS_GPU else BATCHES[:2]:
        steps = {
            f'{provider[: -len("ExecutionProvider")]}, {precision}': functools.partial(
                found.run, None, {INPUT: raw[:batch]}
            )
            for provider, found in sessions.items()
            if found
        }
        for row, seconds in in_turns(steps, lambda: None).items():  # a run ends with the embeddings in memory
            yield Figure(TABLE, row, f'{label(name)}, batch {batch}', round(1e3 * seconds, 2))


def cases(quick, python=None):
    """Return {case: function that yields Figures}; `python` is an interpreter with MXNet, which writes the files."""
    precisions = ('float32',) if quick or not IS_GPU else ('float32', 'float16')
    return {name: functools.partial(measure, name, precisions, python) for name in measured(quick)}
