"""What several test files need: the registry of networks, settings that are quick, symbols bound and compared."""

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from netkit import cli
from netkit._mxnet import mx
from netkit.deploy.plain import plain
from netkit.graph import units
from netkit.graph.naming import is_original
from netkit.graph.nodes import Graph
from netkit.measure import runtimes as engines
from netkit.networks import NETWORKS, entry, settings_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.join(ROOT, 'tools')
# Seconds after which a process that a test waits for hangs; a busy machine takes minutes for what takes seconds.
PATIENCE = 900
FACE_NETWORKS = [name for name in NETWORKS if not is_original(name)]


def kind_of(network):
    """Return what networks have in common that differ in depth alone: builder, groups, form, and kind of unit."""
    row = entry('network', network)
    is_basic = row.net_name == 'firesnet' and row.num_layers < 50
    return row.net_name, row.get('num_group', 1), is_original(network), is_basic


def some_depths_of_each():
    """Return two networks of every kind, of iResNet's one: what is deeper repeats their units."""
    found = {}
    for name in NETWORKS:
        found.setdefault(kind_of(name), []).append((entry('network', name).num_layers, name))
    counts = {'firesnet': 1}
    return [name for kind, depths in found.items() for _, name in sorted(depths)[: counts.get(kind[0], 2)]]


# Face networks of other origins than the description.
OF_2018 = [f'{name}:net_origin=release' for name in ('cru56', 'cru116', 'att56', 'att92')]
FACEXZOO = [f'{name}:net_origin=facexzoo' for name in ('att56', 'att92')]
# Two depths of each kind, all of them by `make test-all`; and with others' forms, the networks that are computed.
DEPTHS = list(NETWORKS) if os.environ.get('ALL_DEPTHS') else some_depths_of_each()
COMPUTED = DEPTHS + ['cru56:net_origin=release', 'att56:net_origin=release,net_se=1', 'att56:net_origin=facexzoo']
# Of others, released code differs from the paper in what has no parameters: one of each kind.
IN_PLACE = ['ires18', 'ires50', 'iresgroup50', 'ires50_imagenet']
UNPADDED = ['att56_imagenet', 'attnext56_imagenet']
RELEASED = [f'{name}:net_origin=release' for name in (*IN_PLACE, *UNPADDED)]
FIXED_GAMMAS = ('fc1_gamma', 'bn_data_gamma')  # their layers do not read them

# For what depends on neither width nor size: a sixteenth of the work.
NARROW = dict(net_multiplier=0.25, emb_size=32, image_shape=(48, 48, 3), memonger=False)
# In MXNet's own operators, for what is read off the graph.
PLAIN = {'net_prelu': 'op', 'memonger': False}
SMALL = 'net_multiplier=0.1,emb_size=16,image_shape=(64,64,3)'  # of a benchmark's choice

# Options of train.py for what depends on neither the images nor the weights.
FEW_FACES = ['--identities', '2', '--images', '2']
TINY = ['--multiplier', '0.05', '--steps', '1', '--per-batch-size', '2', *FEW_FACES]


def shape_of(network):
    """Return the image shape of a network."""
    return settings_of(network)['image_shape']


def size_of(network):
    """Return the size of the embedding of a network."""
    return settings_of(network)['emb_size']


def analysed(symbol, image_shape):
    """Return the units of a symbol."""
    return units.analyse(plain(Graph.of(symbol)), image_shape)


def nodes(symbol):
    """Return the nodes of a symbol's JSON, each with `parents`: the names of the nodes it reads."""
    found = json.loads(symbol.tojson())['nodes']
    for node in found:
        node['parents'] = [found[entry[0]]['name'] for entry in node['inputs']]
        node.setdefault('attrs', {}).pop('__crunet__', None)  # which names the settings
    return found


def bind(symbol, batch=2, side=48, grad_req='write', seed=0):
    """Bind with random weights and images of `side` pixels, 48 as NARROW has them."""
    executor = symbol.simple_bind(mx.cpu(), data=(batch, 3, side, side), grad_req=grad_req)
    rng = np.random.RandomState(seed)
    for name, array in executor.arg_dict.items():
        if name == 'data':
            array[:] = rng.randint(0, 256, array.shape)
        elif name.endswith('_weight'):
            array[:] = rng.normal(0, np.sqrt(2 / np.prod(array.shape[1:])), array.shape)
        elif name.endswith('_gamma'):
            array[:] = rng.uniform(0.2, 1, array.shape)
        else:
            array[:] = rng.normal(0, 0.1, array.shape)
    for name, array in executor.aux_dict.items():
        array[:] = rng.uniform(0.5, 2, array.shape) if name.endswith('_var') else rng.normal(0, 0.1, array.shape)
    return executor


# The instructions that oneDNN may use, in OpenVINO and PyTorch. onnxruntime has its own kernels, which nothing masks.
MASK = os.environ.get('ONEDNN_MAX_CPU_ISA', 'ALL').upper()
unmasked = pytest.mark.skipif(
    MASK not in ('ALL', 'DEFAULT'),
    reason='OpenVINO 2026.4 takes bfloat16 if the processor has it, and fails or crashes if oneDNN must not',
)


def has_vnni():
    """Return whether oneDNN may multiply in eight bits without overflow on this processor."""
    with contextlib.suppress(OSError), open(engines.CPU_INFO, encoding='utf-8') as file:
        flags = set(file.read().split())
        return bool(flags & engines.INT8) and (MASK in ('ALL', 'DEFAULT') or re.search('VNNI|BF16|FP16|AMX', MASK))
    return False


@functools.lru_cache(maxsize=None)
def openvino_core():
    """Return OpenVINO's Core, one for the process (netkit/measure/runtimes.py says why); without it, skip the test."""
    return pytest.importorskip('openvino').Core()  # it needs Python 3.10


def settled(symbol, shape, seed=0):
    """Return random parameters of a symbol, with moving statistics that its own feature maps have a part in.

    Else the feature maps of a deep network would grow until rounding decides its output.
    """
    graph = Graph.of(symbol)
    for node in graph.nodes():
        if node.op == 'BatchNorm':
            # Half of it stays random: of two images and one pixel the variance may be next to nothing.
            node.attrs['momentum'] = '0.5'
    executor = bind(graph.symbol(), shape[0], shape[2], seed=seed)
    executor.forward(is_train=True)
    executor.backward([mx.nd.zeros(output.shape) for output in executor.outputs])  # it updates the statistics,
    mx.nd.waitall()  # and MXNet does not know that reading them has to wait for it
    arrays = dict(executor.arg_dict, **executor.aux_dict)
    return {name: array.asnumpy() for name, array in arrays.items() if name != 'data'}


def compute(symbol, parameters, images):
    """Return the outputs of a symbol in plain MXNet, for parameters and statistics as {name: array}."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            if name != 'data':
                array[:] = parameters[name]
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def assert_close(actual, expected, tolerance=1e-5, message=''):
    """Assert that two NDArrays differ by no more than `tolerance` of their largest value."""
    actual, expected = actual.asnumpy(), expected.asnumpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=message)


def with_global_statistics(symbol):
    """Return the symbol with BatchNorm reading its moving statistics in training too."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        if node['op'] == 'BatchNorm':
            node['attrs']['use_global_stats'] = 'True'
    return mx.sym.load_json(json.dumps(graph))


def assert_gone(processes):
    """Wait until processes, by their ids, have ended; fail if they do not."""
    end = time.monotonic() + PATIENCE
    while running := [pid for pid in processes if is_running(pid)]:
        assert time.monotonic() < end, f'{running} are still running'
        time.sleep(0.01)


def is_running(pid):
    """Return whether a process runs, by Linux's list of them; one that nobody has waited for yet does not."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def run_here(module, *arguments):
    """Run a program in this process, which saves the seconds of its imports; return what subprocess.run would."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [module.__name__ + '.py', *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run(module.main)
    except SystemExit as end:
        return subprocess.CompletedProcess(sys.argv, end.code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv


def assert_trained_alike(actual, expected, initial):
    """Assert that two training runs, {name: array}, ended alike, and did train.

    Every parameter and statistic of `expected` has moved away from `initial`, by more than rounding could move it, and
    by a hundred times what the two may be apart.
    """
    assert set(actual) == set(expected) <= set(initial)
    for name in set(expected) - set(FIXED_GAMMAS):
        change = np.abs(expected[name] - initial[name]).max()
        assert change > max(1e-6 * np.abs(initial[name]).max(), 1e-12), f'{name} is as it was before training'
        difference = np.abs(actual[name] - expected[name]).max()
        assert difference <= change / 100, f'{name} differs by {difference:g}, where training changed it by {change:g}'


def markdown(text):
    """Return the tables of `text`, each a list of {column: cell}."""
    tables, columns = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if not line.startswith('|'):
            columns = None
        elif columns is None or cells[0] == columns[0]:
            columns = cells
            tables.append([])
        elif not cells[0].startswith(':-'):
            tables[-1].append(dict(zip(columns, cells)))
    return tables


def snapshot(folder):
    """Return {path: (bytes, mode)} of everything in a folder, and its empty folders."""
    found = {}
    for at, folders, files in os.walk(folder):
        for name in files:
            path = os.path.join(at, name)
            with open(path, 'rb') as file:
                found[path] = file.read(), os.stat(path).st_mode
        if not folders and not files:
            found[at] = None
    return found
