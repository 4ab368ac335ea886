"""onnxruntime: the ONNX files that tools/export.py writes, by each provider, against the modules in PyTorch."""

import functools
import importlib
import importlib.util
import os
import subprocess
import tempfile
from typing import Dict

import numpy as np
import onnxruntime
import torch

from netkit.errors import UserError, last_line
from netkit.measure import agreement, choices, torch_engine
from netkit.onnx_session import open_session
from netkit.project import ROOT

LABEL = 'onnxruntime'
INFERENCE = ', with the copies to the device and back'  # what the title of its table says besides
MAKES_ANEW, IS_GPU = False, torch_engine.IS_GPU
CPU, CUDA, TENSORRT = (name + 'ExecutionProvider' for name in ('CPU', 'CUDA', 'Tensorrt'))
SETTLING = 30  # steps after which the moving statistics are those of the images
DIFFERENCE = 'inference: largest difference of the embeddings from PyTorch in float32, of their range'


@functools.lru_cache(maxsize=None)
def providers():
    """Return the providers to measure: those with which this onnxruntime was built, on a GPU if PyTorch sees one."""
    if hasattr(onnxruntime, 'preload_dlls'):  # of 1.21 and later: the CUDA libraries in the wheels that PyTorch brings
        onnxruntime.preload_dlls()
    if importlib.util.find_spec('tensorrt'):  # whose import loads the libraries in its wheel
        importlib.import_module('tensorrt')
    onnxruntime.set_default_logger_severity(4)  # it would say on several lines what `session` says
    wanted = (CUDA, TENSORRT) if torch.cuda.is_available() else (CPU,)
    return tuple(provider for provider in wanted if provider in onnxruntime.get_available_providers())


def where():
    """Return the name of the GPU, None where this onnxruntime was not built for one."""
    return torch_engine.where() if providers() not in ((CPU,), ()) else None


def wait():
    """Return when everything is computed: a run ends with the embeddings in memory."""


def release():
    """Do nothing: the memory of a session goes with it."""


def facts():
    """Return {what: value} of the library."""
    return {'onnxruntime': onnxruntime.__version__, 'built with': ', '.join(onnxruntime.get_available_providers())}


def computing():
    """Return {what: None where it computes, or why it does not}; its part `inference` says so of each provider."""
    return {}


def networks(_part, names, options):
    """Return {case: function that returns the Network} of some choices, on each provider.

    The cases of a provider are adjacent: its results stay if the next provider crashes the process. Raises
    UserError without an interpreter that has MXNet, which writes the files.
    """
    if options.mxnet_python is None:
        raise UserError('the ONNX files are written by a Python that has MXNet; name it, --mxnet-python PYTHON')
    files = Files(options.mxnet_python)
    return {
        f'{name}, {short_of(provider)}': functools.partial(Network, name, provider, files)
        for provider in providers()
        for name in names
    }


def short_of(provider):
    """Return the name of a provider without its ending."""
    return provider[: -len('ExecutionProvider')]


def fits(function):
    """Call a function; its errors are those of a way, not of memory."""
    function()
    return True


class Network:
    """A network as ONNX files, on a provider; its Ways are pairs (precision of the file, options)."""

    def __init__(self, name, provider, files):
        self.name, self.provider, self.files = name, provider, files
        self.choice = choices.choice_of(name, torch_engine.IS_GPU)
        self.session = functools.lru_cache(maxsize=None)(self._session)

    def ways(self, _part, quick):
        """Return {row: Way}."""
        # CUDA and TensorRT take TF32 by default, where the GPU has it.
        found: Dict[str, tuple] = {'TF32' if torch_engine.is_ampere() else 'float32': ('float32', ())}
        if self.provider == CUDA:
            found = {'float32': ('float32', (('use_tf32', '0'),)), **found}
        if self.provider != CPU and not quick:
            found['float16'] = 'float16', ()
        return {f'{short_of(self.provider)}, {row}': way for row, way in found.items()}

    def _session(self, way):
        """Return the session of a Way; None where the provider does not start, and onnxruntime takes another.

        What TensorRT leaves of a network goes to CUDA, and what CUDA leaves, to the CPU.
        """
        precision, options = way
        behind = [CUDA] if self.provider == TENSORRT else []
        found = open_session(self.files.path(self.name, precision), [(self.provider, dict(options)), *behind])
        found.disable_fallback()  # else a run that fails would be one of the next provider, silently
        return found if found.get_providers()[0] == self.provider else None

    def why_not(self, way):
        """Return why a Way cannot be measured here, None where it can."""
        return None if self.session(way) else 'its libraries do not load'

    def infer(self, way, batch):
        """Return the forward pass of `batch` images in a Way."""
        given = {'data': raw_images(self.choice)[:batch]}
        return lambda: self.session(way).run(None, given)

    def difference(self, way):
        """Return (table, difference of the embeddings from PyTorch's)."""
        output = self.session(way).run(None, {'data': raw_images(self.choice)})[0].astype(np.float64)
        return DIFFERENCE, agreement.distance({'': output}, {'': self.files.embeddings(self.name)})


class Files:
    """ONNX files of networks with random weights, each written once, by tools/export.py in the Python `python`.

    That one has MXNet, reads the module's state dict and compares what it writes. BatchNorms are folded.
    """

    def __init__(self, python):
        self.python, self.folder = python, tempfile.TemporaryDirectory()
        self.embeddings, self.path = (functools.lru_cache(maxsize=None)(of) for of in (self._embeddings, self._path))

    def _embeddings(self, name):
        """Write the state dict of a network with moving statistics that fit its random weights.

        Return its embeddings of `raw_images`, in PyTorch.
        """
        choice = choices.choice_of(name, torch_engine.IS_GPU)
        module = torch_engine.module_of(choice, dropout=0.0).train()
        settling = torch_engine.images_of(16, choice.image_shape)
        with torch.no_grad():
            for _ in range(SETTLING):
                module(settling)
            torch.save(module.state_dict(), self.weights(name))
            with torch_engine.tensor_float32(False):
                normalised = torch.tensor(raw_images(choice)).sub(127.5).div(127.5).to(torch_engine.DEVICE)
                return module.eval()(normalised).double().cpu().numpy()

    def weights(self, name):
        """Return the path of the state dict of a network."""
        return os.path.join(self.folder.name, name + '.pt')

    def _path(self, name, precision):
        """Return the path of the file of a network; raises UserError where it is not written."""
        self.embeddings(name)
        prefix = os.path.join(self.folder.name, f'{name}-{precision}')
        tools = os.path.join(ROOT, 'tools')
        # MXNet for CUDA does not even start without the libraries that are found first.
        command = [self.python, os.path.join(tools, 'measure.py'), 'libraries', '--']
        command += [self.python, os.path.join(tools, 'export.py'), '--network', name, '--model', self.weights(name)]
        command += ['--fold-bn', '--onnx', '--precision', precision, '--output', prefix]
        if not torch_engine.IS_GPU:
            size = ','.join(map(str, choices.SMALL['image_shape'][:2]))
            command += ['--multiplier', str(choices.SMALL['net_multiplier']), '--image-size', size]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f'the ONNX file was not written: {last_line(done.stderr, done.returncode)}')
        return prefix + '-folded.onnx'


def raw_images(choice):
    """Return images as the ONNX files take them: RGB of 0…255."""
    images = torch_engine.images_of(max(choices.BATCHES), choice.image_shape, 'cpu').numpy()
    return np.round(images * 127.5 + 127.5).astype(np.float32)
