"""The exported files in OpenVINO, in float32, bfloat16 and int8, and what the engines make of int8."""

import collections
import functools
import os
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from helpers import NARROW, compute, has_vnni, openvino_core, settled, unmasked
from netkit.deploy import int8
from netkit.deploy.compare import compute_onnx
from netkit.deploy.exporting import save_onnx
from netkit.deploy.fold import fold
from netkit.deploy.plain import plain
from netkit.graph.naming import is_original
from netkit.graph.nodes import Graph
from netkit.networks import build

pytest.importorskip('openvino')  # it needs Python 3.10

FAMILIES = ['cru56', 'att56', 'attnext56', 'ires50', 'iresgroup50', 'cru56_imagenet', 'att56_imagenet']
OF_OTHERS = ['cru56:net_origin=release', 'att56:net_origin=facexzoo']
SIDE = NARROW['image_shape'][0]
FACE = 112  # the package insightface takes no smaller ones


@functools.lru_cache(maxsize=None)
def network(name, side):
    """Return (symbol, parameters) of a narrow network with random weights."""
    symbol = build(name, **dict(NARROW, image_shape=(side, side, 3)))
    return symbol, settled(symbol, (4, 3, side, side))


def images(count, seed=1, side=SIDE):
    return np.random.RandomState(seed).randint(0, 256, (count, 3, side, side)).astype(np.float32)


def as_pictures(data):
    """Return images as OpenCV reads them: BGR, (height, width, 3) uint8."""
    return data[:, ::-1].transpose(0, 2, 3, 1).astype(np.uint8)


def exported(name, folder, machine=None, side=SIDE):
    """Write a network's ONNX file, in int8 for `machine`; return (path, Quantised or None)."""
    path, (symbol, parameters) = str(folder / f'{name}.onnx'), network(name, side)
    save_onnx(path, *fold(plain(Graph.of(symbol)), parameters)[:2], (side, side, 3), None, 'float32')
    if machine is None:
        return path, None
    faces = images(4, side=side), images(8, seed=2, side=side)
    promise = int8.Promise(*faces, min_cosine=-1, min_centred=-1, max_drop=0)
    return path, int8.quantise(path, str(folder), promise, machine=machine)


def compiled(path, precision='f32', batch=None):
    model = openvino_core().read_model(path)
    if batch:
        model.reshape([batch, 3, SIDE, SIDE])
    return openvino_core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': precision, 'PERF_COUNT': True})


def executed(model, data):
    """Return (kind of node, kernel) of all nodes that OpenVINO computes."""
    request = model.create_infer_request()
    request.infer({'data': data})
    return [(node.node_type, node.exec_type) for node in request.profiling_info if node.status.name == 'EXECUTED']


def in_onnxruntime(path, data, **options):
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 3
    for name, value in options.items():
        setattr(chosen, name, value)
    return onnxruntime.InferenceSession(path, chosen, providers=['CPUExecutionProvider']).run(None, {'data': data})[0]


def smallest_cosine(left, right):
    return ((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min()


@pytest.mark.parametrize('name', FAMILIES + OF_OTHERS)
def test_float32(name, tmp_path):
    path, _ = exported(name, tmp_path)
    model = compiled(path)
    for count in (1, 3):
        expected = compute(*network(name, SIDE), images(count))
        np.testing.assert_allclose(model(images(count))['fc1'], expected, rtol=0, atol=1e-4 * np.ptp(expected))


@unmasked
@pytest.mark.parametrize('name', ['cru56', 'att56', 'ires50'])
def test_bfloat16_is_an_option_of_the_engine(name, tmp_path):
    path, _ = exported(name, tmp_path)
    found = compiled(path, 'bf16')(images(8))['fc1']
    assert smallest_cosine(found, compute(*network(name, SIDE), images(8))) > 0.99


@pytest.fixture(scope='module')
def in_int8(tmp_path_factory):
    """A function of a name: its file in int8, and Quantised."""
    folder = tmp_path_factory.mktemp('int8')
    return functools.lru_cache(maxsize=None)(lambda name: exported(name, folder, 'cpu'))


@pytest.mark.parametrize('name', FAMILIES + OF_OTHERS)
def test_int8_is_the_same_in_both_engines(name, in_int8, tmp_path):
    path, quantised = in_int8(name)
    data, optimised = images(8, seed=2), str(tmp_path / 'optimised.onnx')
    expected = in_onnxruntime(path, data, optimized_model_filepath=optimised)
    assert smallest_cosine(compiled(path, batch=8)(data)['fc1'], expected) > 0.995
    kinds = collections.Counter(node.op_type for node in onnx.load(optimised).graph.node)
    assert kinds['QLinearConv'] + kinds['QGemm'] == quantised.layers  # onnxruntime computes all of them in int8


@pytest.mark.parametrize('name', [name for name in FAMILIES if not is_original(name)])
def test_openvino_stays_in_int8(name, in_int8):
    """In all layers; with slopes of fewer axes than the map it changes the layout before and after each PReLU."""
    path, quantised = in_int8(name)
    ran = executed(compiled(path, batch=8), images(8))
    layers = [kernel for kind, kernel in ran if kind in ('Convolution', 'GroupConvolution', 'FullyConnected')]
    assert len(layers) == quantised.layers and all(kernel.endswith('_I8') for kernel in layers)
    assert [kind for kind, _ in ran].count('Reorder') <= 0.2 * quantised.layers


@pytest.mark.parametrize('name', ['cru56', 'att56'])
def test_int8_for_tensorrt(name, tmp_path):
    """As its importer needs it: signed, zero points of 0, nothing in int32, and quantised inputs of layers only."""
    path, quantised = exported(name, tmp_path, 'tensorrt')
    onnx.checker.check_model(onnx.load(path), full_check=True)
    graph = onnx.load(path).graph
    arrays = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ('QuantizeLinear', 'DequantizeLinear')]
    assert pairs
    for node in pairs:
        zero = arrays[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    assert not any(array.dtype == np.int32 for array in arrays.values())
    weights = [arrays[node.input[0]] for node in pairs if node.input[0] in arrays]
    assert len(weights) == quantised.layers and max(np.abs(weight.astype(int)).max() for weight in weights) == 127
    read = {name for node in graph.node if node.op_type in ('Conv', 'Gemm') for name in node.input}
    assert all(node.output[0] in read for node in pairs if node.op_type == 'DequantizeLinear')
    # The cosine that was judged is that of float arithmetic; OpenVINO computes it so, too.
    data, expected = images(8, seed=2), compute(*network(name, SIDE), images(8, seed=2))
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = in_onnxruntime(path, data, graph_optimization_level=off)
    assert smallest_cosine(exact, expected) == pytest.approx(quantised.outcome.smallest, abs=1e-5)
    # Without VNNI its products of eight bits overflow in 16, and the file is not for such a processor.
    assert smallest_cosine(compiled(path, batch=8)(data)['fc1'], exact) > (0.995 if has_vnni() else 0.98)


def test_int8_for_tensorrt_is_judged_by_what_the_file_says(in_int8, tmp_path, monkeypatch):
    """Not by onnxruntime's kernels, which overflow on processors without VNNI."""
    path, _ = in_int8('cru56')
    data, off = images(8, seed=2), onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = {optimised: compute_onnx(path, data, None, optimised) for optimised in (True, False)}
    np.testing.assert_array_equal(found[False], in_onnxruntime(path, data, graph_optimization_level=off))
    np.testing.assert_array_equal(found[True], in_onnxruntime(path, data))
    assert (found[True] != found[False]).any()
    asked = []
    monkeypatch.setattr(int8, 'compute_onnx', lambda *given: asked.append(given[3]) or compute_onnx(*given))
    for machine in ('cpu', 'tensorrt'):
        exported('cru56', tmp_path, machine)
        assert set(asked) == {machine == 'cpu'}
        asked.clear()


PROVIDER = """
import sys
import insightface
import numpy as np

path, provider, images = sys.argv[1:]
model = insightface.model_zoo.get_model(path, providers=[provider])
assert model.session.get_providers()[0] == provider
np.save(images + '.npy', model.get_feat(list(np.load(images))))
"""


@pytest.mark.skipif('OPENVINO_PYTHON' not in os.environ, reason='make test-openvino has its own environment')
@pytest.mark.parametrize('name', ['cru56', 'att56'])
@pytest.mark.parametrize('machine, least', [(None, 0.99999), ('cpu', 0.995)])
def test_the_insightface_package_with_openvino_as_its_provider(name, machine, least, tmp_path):
    """By the same two lines as with onnxruntime; its float32 is float32, other than OpenVINO's own default."""
    path, _ = exported(name, tmp_path, machine, FACE)
    data, pictures = images(4, side=FACE), str(tmp_path / 'pictures.npy')
    np.save(pictures, as_pictures(data))
    command = [os.environ['OPENVINO_PYTHON'], '-c', PROVIDER, path, 'OpenVINOExecutionProvider', pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert smallest_cosine(np.load(pictures + '.npy'), in_onnxruntime(path, data)) > least


def test_the_insightface_package_takes_int8(tmp_path):
    insightface = pytest.importorskip('insightface')
    path, _ = exported('cru56', tmp_path, 'cpu', FACE)
    model = insightface.model_zoo.get_model(path, providers=['CPUExecutionProvider'])
    assert (type(model).__name__, model.input_mean, model.input_std) == ('ArcFaceONNX', 0, 1)
    data = images(2, side=FACE)
    found = model.get_feat(list(as_pictures(data)))
    np.testing.assert_allclose(found, in_onnxruntime(path, data), rtol=0, atol=1e-5 * np.ptp(found))
