"""PReLU's slopes get their true gradient on every path that MXNet has for them; its own operator does not give it.

The judge is a difference quotient in float64. It is not of MXNet's operator, which rounds what is negative to float32
there too; that both compute the same is tested in test_cpu_forms.py.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import face_settings
from helpers import ROOT, TOOLS
from netkit._mxnet import mx
from netkit.graph.cpu_forms import for_cpu
from netkit.networks import build

NETWORKS = ('cru56', 'att56', 'ires50')  # one of each kind
SMALL = {'net_multiplier': 0.1, 'emb_size': 16, 'image_shape': (32, 32, 3), 'net_output': 'FC'}
BATCH = 4


def bind(network, prelu, memonger=False, number=np.float64):
    """Return an executor with the same random values for every form."""
    symbol = build(network, **dict(SMALL, net_prelu='op' if prelu == 'op' else 'mul', memonger=memonger))
    if prelu == 'conv':
        symbol = for_cpu(symbol, SMALL['image_shape'], training=True)
    executor = symbol.simple_bind(mx.cpu(), data=(BATCH, 3, 32, 32), type_dict={'data': number})
    assert all(array.dtype == number for array in executor.arg_dict.values())
    random = np.random.RandomState(0)
    for name in sorted(executor.arg_dict):
        array = executor.arg_dict[name]
        if name == 'data':
            array[:] = random.uniform(0, 255, array.shape)
        elif name.endswith('_weight'):
            array[:] = random.normal(0, np.sqrt(2 / np.prod(array.shape[1:])), array.shape)
        elif name.endswith('_gamma'):
            array[:] = random.uniform(0.2, 0.3, array.shape) if is_slope(name) else 1
    for name, array in executor.aux_dict.items():
        array[:] = name.endswith('_var')
    return executor


def is_slope(name):
    return 'relu' in name and name.endswith('_gamma')


def head():
    """Return what the embedding is multiplied with to make a loss."""
    return np.random.RandomState(1).normal(size=(BATCH, SMALL['emb_size']))


def slope_gradients(network, prelu, memonger=False, number=np.float64):
    """Return {name: gradient of the loss by the slopes of one PReLU} of the backward pass."""
    executor = bind(network, prelu, memonger, number)
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(head(), dtype=number))
    return {name: array.asnumpy() for name, array in executor.grad_dict.items() if is_slope(name)}


def quotient(executor, direction, step=1e-7):
    """Return the derivative of the loss along a direction, {name: numbers} of all slopes, by a difference quotient."""
    slopes, losses = {name: executor.arg_dict[name].asnumpy() for name in direction}, []
    for sign in (1, -1):
        for name, numbers in direction.items():
            executor.arg_dict[name][:] = slopes[name] + sign * step * numbers
        losses.append((executor.forward(is_train=True)[0].asnumpy() * head()).sum())
    for name, numbers in slopes.items():
        executor.arg_dict[name][:] = numbers
    return (losses[0] - losses[1]) / (2 * step)


def test_the_default_is_right():
    assert face_settings.Settings().net_prelu == 'mul'


@pytest.fixture(scope='module')
def true_gradients():
    """Return {network: gradients in float64}, of which `test_the_gradient_is_the_difference_quotient` is the judge."""
    return {network: slope_gradients(network, 'mul') for network in NETWORKS}


@pytest.mark.parametrize('network', NETWORKS)
def test_the_gradient_is_the_difference_quotient(network, true_gradients):
    """Along random signs of all slopes at once: any part of the gradient that is wrong by itself moves the sum."""
    executor, gradients = bind(network, 'mul'), true_gradients[network]
    assert len(gradients) > 20
    allowed = 1e-6 * np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    for name, gradient in gradients.items():
        assert np.linalg.norm(gradient) > 10 * allowed, name  # so that a factor in it alone would show
    for seed in range(4):
        random = np.random.RandomState(seed)
        direction = {name: random.choice([-1, 1], gradient.shape) for name, gradient in gradients.items()}
        expected = sum((gradient * direction[name]).sum() for name, gradient in gradients.items())
        assert abs(quotient(executor, direction) - expected) < allowed


PATHS = [
    (prelu, memonger, number)
    for prelu in ('mul', 'conv')
    for memonger in (False, True)
    for number in ('float32', 'float64')
    if (prelu, number) != ('conv', 'float64')
]  # it has constants of float32
OPERATOR = ('op', False, 'float64')


def distances(network, expected):
    """Return {path: the slopes' largest distance from the gradient `expected`, a share of each PReLU's own}."""
    found = {}
    for prelu, memonger, number in PATHS + [OPERATOR]:
        gradients = slope_gradients(network, prelu, memonger, np.dtype(number).type)
        found[f'{prelu}, memonger {memonger}, {number}'] = [
            float(np.linalg.norm(gradients[name] - expected[name]) / np.linalg.norm(expected[name]))
            for name in sorted(expected)
        ]
    return found


@pytest.fixture(scope='module', params=['oneDNN', 'without'])
def measured(request, true_gradients, tmp_path_factory):
    """Return {network: distances} of a separate process."""
    path = str(tmp_path_factory.mktemp('prelu') / 'true.npz')
    np.savez(
        path, **{f'{network} {name}': array for network in NETWORKS for name, array in true_gradients[network].items()}
    )
    variables = dict(
        os.environ, MXNET_MKLDNN_ENABLED=str(int(request.param == 'oneDNN')), MXNET_STORAGE_FALLBACK_LOG_VERBOSE='0'
    )
    variables['PYTHONPATH'] = os.pathsep.join([TOOLS, os.path.join(ROOT, 'tests'), os.path.join(ROOT, 'symbols'), ROOT])
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), path], env=variables, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.decode())


@pytest.mark.parametrize('network', NETWORKS)
def test_slopes_get_their_true_gradient(network, measured):
    for path, found in measured[network].items():
        if path.startswith('op'):
            continue
        if 'float32' in path:  # a value near a kink may fall to its other side, on some processors and not on others
            assert sorted(found)[len(found) // 2] < 1e-3 and max(found) < 0.1, path
        else:
            assert max(found) < 1e-9, path


@pytest.mark.parametrize('network', NETWORKS)
def test_mxnets_operator_is_told_apart(network, measured):
    """In float64 MXNet computes it by itself, with oneDNN or without: then no slope's gradient is the true one."""
    (found,) = [found for path, found in measured[network].items() if path.startswith('op')]
    assert all(0.6 < share < 0.9 for share in found)  # slopes of 0.2 to 0.3 times the gradient


def test_the_page_shows_what_it_says():
    with open(os.path.join(ROOT, 'docs', 'prelu.md'), encoding='utf-8') as file:
        text = file.read()
    code = text.split('```python\n')[1].split('```')[0]
    done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == '-9.0\n-4.5\n' and 'They print -9 and -4.5' in text


def main():
    with np.load(sys.argv[1]) as file:
        expected = {
            network: {key.split()[1]: file[key] for key in file.files if key.split()[0] == network}
            for network in NETWORKS
        }
    print(json.dumps({network: distances(network, expected[network]) for network in NETWORKS}))


if __name__ == '__main__':
    main()
