"""Part `inference`: the ONNX files that tools/export.py writes, by each provider, against the module in PyTorch."""

import functools
import os
import subprocess
import tempfile

import numpy as np
import torch

from netkit.errors import UserError, last_line
from netkit.gpu.harness import Figure, Problems, distance, in_turns
from netkit.gpu.onnx_providers import session, there
from netkit.gpu.sizes import BATCHES, SMALL, measured
from netkit.gpu.torch_device import IS_GPU, images, is_ampere, label, network, tensor_float32
from netkit.project import ROOT

TABLE = 'inference, milliseconds for a batch, with the copies to the device and back'
DIFFERENCE = 'inference: largest difference of the embeddings from PyTorch in float32, of their range'
INPUT, SETTLING = 'data', 30  # the input's name; steps after which the moving statistics are those of the images


class Files:
    """ONNX files of networks with random weights, each written once, by tools/export.py in the Python `python`.

    That one has MXNet, reads the module's state dict and compares what it writes. BatchNorms are folded.
    """

    def __init__(self, python):
        self.python, self.folder = python, tempfile.TemporaryDirectory()

    @functools.lru_cache(maxsize=None)  # noqa: B019 of one object in a process
    def embeddings(self, name):
        """Write the state dict of a network with moving statistics that fit its random weights.

        Return its embeddings of `raw_images`, in PyTorch.
        """
        module, pixels = network(name).train(), images(max(BATCHES))
        with torch.no_grad():
            for _ in range(SETTLING):
                module(images(16))
            torch.save(module.state_dict(), self.weights(name))
            with tensor_float32(False):
                normalised = torch.tensor(raw_images()).sub(127.5).div(127.5).to(pixels.device)
                return module.eval()(normalised).double().cpu().numpy()

    def weights(self, name):
        """Return the path of the state dict of a network."""
        return os.path.join(self.folder.name, name + '.pt')

    @functools.lru_cache(maxsize=None)  # noqa: B019
    def path(self, name, precision):
        """Return the path of the file of a network; raises UserError where it is not written."""
        self.embeddings(name)
        prefix = os.path.join(self.folder.name, f'{name}-{precision}')
        tools = os.path.join(ROOT, 'tools')
        # MXNet for CUDA does not even start without the libraries that gpu_env.py finds.
        command = [self.python, os.path.join(tools, 'gpu_env.py'), '--', self.python, os.path.join(tools, 'export.py')]
        command += ['--network', name, '--model', self.weights(name)]
        command += ['--fold-bn', '--onnx', '--precision', precision, '--output', prefix]
        if not IS_GPU:
            size = ','.join(map(str, SMALL['image_shape'][:2]))
            command += ['--multiplier', str(SMALL['net_multiplier']), '--image-size', size]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f'the ONNX file was not written: {last_line(done.stderr, done.returncode)}')
        return prefix + '-folded.onnx'


@functools.lru_cache(maxsize=None)
def raw_images():
    """Return images as the ONNX files take them: RGB of 0…255."""
    return np.round(images(max(BATCHES)).cpu().numpy() * 127.5 + 127.5).astype(np.float32)


def measure(name, provider, ways, files):
    """Yield the Figures of a network on a provider; `ways` are {row: (precision of the file, options)}."""
    short, steps, problems = short_of(provider), {}, Problems()
    for way, (precision, options) in ways.items():
        row = f'{short}, {way}'
        with problems.caught(row):
            found = session(files.path(name, precision), provider, **options)
            if found is None:
                yield Figure(TABLE, row, label(name), 'not measured: its libraries do not load')
                continue
            output = found.run(None, {INPUT: raw_images()})[0].astype(np.float64)
            yield Figure(DIFFERENCE, row, label(name), distance({'': output}, {'': files.embeddings(name)}))
            steps[row] = found
    for batch in BATCHES if IS_GPU else BATCHES[:2]:
        given = {INPUT: raw_images()[:batch]}
        runs = {row: functools.partial(found.run, None, given) for row, found in steps.items()}
        for found in in_turns(runs, lambda: None, problems):  # a run ends with the embeddings in memory
            for row, seconds in found.items():
                yield Figure(TABLE, row, f'{label(name)}, batch {batch}', round(1e3 * seconds, 2))
    problems.check()


def short_of(provider):
    """Return the name of a provider without its ending."""
    return provider[: -len('ExecutionProvider')]


def ways_of(provider, quick):
    """Return {row: (precision of the file, options)} of a provider."""
    if provider == 'CPUExecutionProvider':
        return {'float32': ('float32', {})}
    # Both take TF32 by default, where the card has it.
    found = {'TF32' if is_ampere() else 'float32': ('float32', {})}
    if provider == 'CUDAExecutionProvider':
        found = {'float32': ('float32', {'use_tf32': '0'}), **found}
    return found if quick else {**found, 'float16': ('float16', {})}


def cases(quick, mxnet_python=None):
    """Return {case: function that yields Figures}; `mxnet_python` is an interpreter with MXNet, which writes the files.

    The cases of a provider stand together: what is measured of one stays if the next brings down the process. Raises
    UserError without one.
    """
    if mxnet_python is None:
        raise UserError('the ONNX files are written by a Python that has MXNet; name it, --mxnet-python PYTHON')
    files = Files(mxnet_python)
    return {
        f'{name}, {short_of(provider)}': functools.partial(measure, name, provider, ways_of(provider, quick), files)
        for provider in there()
        for name in measured(quick)
    }
