"""CRU-Nets and attention networks against an implementation in PyTorch (`released.py`), by the released names.

Embeddings, gradients in float64, moving statistics after a step, and files through the importer.
"""

import functools
import json

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip('torch')

import export  # noqa: E402
import import_weights  # noqa: E402
import released  # noqa: E402
from helpers import compute, run_here  # noqa: E402
from netkit import importing  # noqa: E402
from netkit._mxnet import mx  # noqa: E402
from netkit.networks import build  # noqa: E402

# {name of the case: (key of the source, network of ours, function, its other arguments)}
CASES = {
    'cru56': ('fcrunet', 'cru56', released.cru_face, (56,)),
    'cru116': ('fcrunet', 'cru116', released.cru_face, (116,)),
    'att56 with SE': ('fresattnet', 'att56', released.att_face, (56,)),
    'att92 without SE': ('fresattnet', 'att92', functools.partial(released.att_face, has_se=False), (92,)),
    'cypw 56': ('cypw', 'cru56_imagenet', released.cru_original, (56,)),
    'cypw 116': ('cypw', 'cru116_imagenet', released.cru_original, (116,)),
    'tengshaofeng 56': ('tengshaofeng', 'att56_imagenet', released.tengshaofeng, (56,)),
    'tengshaofeng 92': ('tengshaofeng', 'att92_imagenet', released.tengshaofeng, (92,)),
    'FaceX-Zoo 56': ('facexzoo', 'att56', released.facexzoo, (56,)),
    'FaceX-Zoo 92': ('facexzoo', 'att92', released.facexzoo, (92,)),
}
FILES = ('cru116', 'att56 with SE', 'cypw 56', 'tengshaofeng 56', 'FaceX-Zoo 56')  # at full width
EPS = {'fcrunet': 1e-3, 'fresattnet': 1e-3, 'cypw': 1e-3, 'tengshaofeng': 1e-5, 'facexzoo': 1e-5}
NARROW = {'net_multiplier': 0.25, 'image_shape': (64, 64, 3)}
SIZE = 16  # of the outputs of narrow networks


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch and MXNet would wait for each other's threads."""
    torch.set_num_threads(1)


def theirs(case, multiplier=1.0, dtype=torch.float32):
    """Return (Weights, function of images) of a case."""
    key, _, function, arguments = CASES[case]
    suffixes = released.MXNET if EPS[key] == 1e-3 else released.PYTORCH
    weights = released.Weights(suffixes, EPS[key], multiplier, dtype)
    return weights, lambda images, size: function(weights, torch.from_numpy(images), *arguments, size)


def narrow(case):
    """Return (symbol, {our name: its name}) of a narrow network of ours; eps as theirs, whatever `--network` has."""
    key, network, *_ = CASES[case]
    source, has_se = importing.SOURCES[key], 'with SE' in case
    settings = source.settings_for(network, {'x_se_1_conv2d_weight': None} if has_se else {})
    symbol = build(network, **{**settings, **NARROW, 'net_bn_eps': EPS[key], 'emb_size': SIZE})
    names = source.names_for(symbol.list_arguments()[1:] + symbol.list_auxiliary_states())
    return symbol, {ours: found for ours, (found,) in names.items()}


def adapted(case, name, array):
    """Return an array as in our network."""
    return importing.SOURCES[CASES[case][0]].adapt(name, array)


@pytest.mark.parametrize('case', CASES)
def test_a_step_of_training(case):
    """In float64: outputs, gradients and moving statistics; only here the place of a stride shows."""
    weights, network = theirs(case, 0.25, torch.float64)
    symbol, names = narrow(case)
    images = released.images(64, count=4, dtype=np.float64)
    with torch.no_grad():
        network(images, SIZE)  # makes the parameters
    arrays = {name: array.copy() for name, array in weights.arrays().items()}
    unused = {name for name in arrays if name.endswith('.conv4.weight')} - set(names.values())
    assert set(names.values()) == set(arrays) - unused

    executor = without_dropout(symbol).simple_bind(mx.cpu(), data=images.shape, type_dict={'data': 'float64'})
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        assert array.dtype == np.float64, name
        array[:] = images if name == 'data' else mx.nd.array(adapted(case, name, arrays[names[name]]), dtype='float64')
    direction = np.random.RandomState(1).normal(size=(4, SIZE))
    outputs = executor.forward(is_train=True)[0].asnumpy()
    executor.backward(mx.nd.array(direction, dtype='float64'))
    mx.nd.waitall()

    weights.is_training = True
    expected = network(images, SIZE)
    (expected * torch.from_numpy(direction)).sum().backward()
    np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=0, atol=1e-6 * np.ptp(outputs))
    for name, array in executor.aux_dict.items():
        moved = adapted(case, name, weights.moved[names[name]])
        np.testing.assert_allclose(array.asnumpy(), moved, rtol=0, atol=1e-6 * np.abs(moved).max(), err_msg=name)
    largest = max(tensor.grad.abs().max().item() for tensor in weights.tensors.values() if tensor.grad is not None)
    for name, array in executor.grad_dict.items():
        if name == 'data' or array is None or name == 'fc1_gamma' and CASES[case][0] != 'facexzoo':
            continue
        found, gradient = array.asnumpy(), adapted(case, name, weights.tensors[names[name]].grad.numpy())
        assert np.abs(found - gradient).max() <= max(1e-5 * np.abs(gradient).max(), 1e-9 * largest), name


def without_dropout(symbol):
    """Return the symbol with a Dropout that drops nothing."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        if node['op'] == 'Dropout':
            node['attrs']['p'] = '0'
    return mx.sym.load_json(json.dumps(graph))


def saved(case, folder):
    """Write a file of a case at full width; return (path, function of images)."""
    weights, network = theirs(case)
    key, name, *_ = CASES[case]
    side, size = (224, 1000) if name.endswith('_imagenet') else (112, 256 if 'cru' in name else 512)
    with torch.no_grad():
        network(released.images(side), size)
    path = str(folder / 'file')
    if weights.suffixes is released.MXNET:
        kinds = {key: 'aux' if '_moving_' in key else 'arg' for key in weights.tensors}
        mx.nd.save(path, {f'{kinds[key]}:{key}': mx.nd.array(array) for key, array in weights.arrays().items()})
    elif key == 'facexzoo':
        state = {'backbone.' + name: tensor.detach() for name, tensor in weights.tensors.items()}
        torch.save({'epoch': 17, 'state_dict': {**state, 'head.weight': torch.zeros(512, 7)}}, path)
    else:
        torch.save({name: tensor.detach() for name, tensor in weights.tensors.items()}, path)
    return path, lambda images: network(images, size).detach().numpy(), side


@pytest.mark.parametrize('case', FILES)
def test_a_file_becomes_a_checkpoint_and_an_onnx_file(case, tmp_path):
    """In plain MXNet and onnxruntime, folded too; the embeddings are theirs."""
    path, network, side = saved(case, tmp_path)
    prefix = str(tmp_path / 'x')
    done = run_here(import_weights, path, '--output', prefix)
    assert done.returncode == 0 and f' of {CASES[case][1]} taken over, 0 not' in done.stdout, done.stderr
    images = released.images(side)
    expected = network(images)
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.ptp(expected)  # the image does matter
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    found = compute(symbol, {**arguments, **statistics}, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
    model = ['--model', prefix + ',0', '--image-size', f'{side},{side}', '--output', str(tmp_path / 'y')]
    done = run_here(export, *model, '--onnx', '--fold-bn')
    assert done.returncode == 0, done.stderr
    (found,) = onnxruntime.InferenceSession(str(tmp_path / 'y-folded.onnx')).run(None, {'data': images})
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
