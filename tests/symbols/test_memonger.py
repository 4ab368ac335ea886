"""`memonger`: feature maps computed again in training; the network computes the same."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import config as host
from helpers import (
    COMPUTED,
    DEPTHS,
    FACE_NETWORKS,
    FACEXZOO,
    NARROW,
    NETWORKS,
    OF_2018,
    TOOLS,
    assert_close,
    bind,
    nodes,
    shape_of,
    size_of,
)
from netkit._mxnet import mx
from netkit.graph.counts import count_parameters
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.memory import planned_memory
from netkit.networks import build, settings_of


@pytest.mark.parametrize('network', COMPUTED)
def test_memonger_is_attributes_and_identities(network):
    off, on = [nodes(build(network, memonger=switch)) for switch in (False, True)]
    read = {node['name']: node['parents'][0] for node in on if node['op'] == '_copy'}
    assert all(name == parent + '_read' for name, parent in read.items())
    marked, same = [], []
    for node in on:
        cudnn_off = node['attrs'].pop(
            'cudnn_off', None
        )  # MXNet copies it to the variables that it makes for a BatchNorm
        if node['attrs'].pop('__force_mirroring__', None):
            marked.append(node['name'])
            if node['op'] == 'BatchNorm':  # else cuDNN would update the moving statistics twice
                assert cudnn_off == 'True'
        if node['op'] != '_copy':
            parents = [read.get(parent, parent) for parent in node['parents']]
            same.append((node['name'], node['op'], node['attrs'], parents))
    assert same == [(node['name'], node['op'], node['attrs'], node['parents']) for node in off]
    for node in off:
        assert not {'__force_mirroring__', 'cudnn_off'} & set(node['attrs']), node['name']
    assert len(marked) > 0.6 * sum(node['op'] != 'null' for node in on)
    # Computed again for nobody, a convolution would be refused by MXNet's own implementation.
    readers = {parent for node in on if node['name'] in marked for parent in node['parents']}
    assert not [
        node['name']
        for node in on
        if node['name'] in marked and node['op'] == 'Convolution' and node['name'] not in readers
    ]


WITHOUT_ONEDNN = """
import sys
sys.path.insert(0, {tools!r})
from netkit.project import find_builders; find_builders()
from netkit._mxnet import mx
from netkit.graph.cpu_forms import for_cpu
from netkit.networks import build
for network in ('att56', 'ires101', 'cru56_imagenet', 'att56_imagenet'):
    symbol = build(network, net_multiplier=0.1, emb_size=16, image_shape=(64, 64, 3), memonger=True, net_se=1)
    for form in (symbol, for_cpu(symbol, (64, 64), training=True)):
        executor = form.simple_bind(mx.cpu(), data=(2, 3, 64, 64))
        executor.forward(is_train=True)
        executor.backward(mx.nd.ones((2, 16)))
        mx.nd.waitall()
print('done')
"""


def test_memonger_without_onednn():
    """By MXNet's own operators, as on a GPU where cuDNN does not take a convolution."""
    variables = dict(os.environ, MXNET_MKLDNN_ENABLED='0', MXNET_STORAGE_FALLBACK_LOG_VERBOSE='0')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_ONEDNN.format(tools=TOOLS)], env=variables, capture_output=True, text=True
    )
    assert done.stdout == 'done\n', done.stderr[-2000:]


# Where the first units, which are computed again at once, are more of the whole.
SAVED = {'ires18': 1.5, 'ires34': 2, 'iresgroup50': 2.5, 'iresgroupfix50': 2.5}
SAVED[OF_2018[0]] = 2.5
SAVED.update(dict.fromkeys(FACEXZOO, 2.5))  # ReLU stores less than PReLU to begin with


@pytest.mark.parametrize('network', [*filter(FACE_NETWORKS.__contains__, DEPTHS), *OF_2018, *FACEXZOO])
def test_memonger_plans_a_third_of_the_memory(network):
    off, on = [planned_memory(build(network, memonger=switch), 16, shape_of(network)) for switch in (False, True)]
    assert on < off / SAVED.get(network, 3)


@pytest.mark.parametrize('network', NETWORKS)
def test_the_default_batch_fits_11_gb(network):
    """Plan, weights four times (gradient, momentum, KVStore), 86,000 classes likewise, CUDA and its workspace."""
    symbol = build(network)
    batch, image_shape = host.network[network].per_batch_size, shape_of(network)
    parameters = count_parameters(symbol, image_shape) + 86000 * size_of(network)
    logits = 8 * 86000 * batch
    rest = (16 * parameters + 4 * logits) / 2**20 + settings_of(network)['workspace'] + 600
    assert planned_memory(symbol, batch, image_shape) + rest < 11 * 1024


@pytest.mark.parametrize(
    'network, kept',
    [
        ('ires50', [3, 4, 6, 3]),
        ('ires101', [3, 4, 12, 3]),
        ('ires1001', [4, 26, 25, 4]),
        ('iresgroup152', [3, 8, 12, 3]),
    ],
)
def test_how_many_sums_of_an_iresnet_stay_in_memory(network, kept):
    found = {}
    for node in nodes(build(network, memonger=True)):
        if node['name'].endswith('_plus'):
            stage, unit = map(int, re.fullmatch(r'stage(\d)_unit(\d+)_plus', node['name']).groups())
            found.setdefault(stage, []).append((unit, '__force_mirroring__' not in node['attrs']))
    assert [sum(is_kept for _, is_kept in units) for units in found.values()] == kept
    for units in found.values():
        numbers = [unit for unit, is_kept in units if is_kept]
        assert numbers[0] == 1 and len(set(np.diff(numbers))) == 1


@pytest.mark.parametrize('network', ['cru56', 'att56', 'ires50', 'ires101', 'att56_imagenet'])
@pytest.mark.parametrize('prelu', ['mul', 'rewritten', 'op'])
def test_memonger_trains_the_same(network, prelu):
    """The gradient, and weights and moving statistics after three steps, agree to float32 rounding.

    PReLU starts with slope 1, so that rounding carries no value over a kink to another gradient; the head has
    no Dropout. Rounding grows from step to step, so the gradient is judged at the first.
    """
    executors = []
    changes = dict(NARROW, net_output='H', net_act='prelu', net_prelu='op' if prelu == 'op' else 'mul')
    for switch in (False, True):
        symbol = build(network, **dict(changes, memonger=switch))
        executor = bind(for_cpu(symbol, (48, 48), training=True) if prelu == 'rewritten' else symbol, batch=4)
        for name, array in executor.arg_dict.items():
            if 'relu' in name:
                array[:] = 1
        executors.append(executor)
    plain, recomputed = executors
    head = mx.nd.array(np.random.RandomState(1).normal(size=plain.outputs[0].shape))
    started = {name: array.copy() for name, array in plain.aux_dict.items()}
    for step in range(3):
        for executor in executors:
            executor.forward(is_train=True)
            executor.backward(head)
        # A gradient that batch statistics cancel is nothing but rounding, so small ones are judged by the largest.
        largest = max(float(abs(gradient).max().asscalar()) for gradient in plain.grad_dict.values())
        for name, gradient in plain.grad_dict.items() if step == 0 else ():
            difference = float(abs(recomputed.grad_dict[name] - gradient).max().asscalar())
            assert difference <= 1e-4 * float(abs(gradient).max().asscalar()) + 1e-5 * largest, name
        for executor in executors:
            for name, gradient in executor.grad_dict.items():
                executor.arg_dict[name][:] -= 0.1 / largest * gradient
    for kind in ('arg_dict', 'aux_dict'):
        for name, array in getattr(plain, kind).items():
            assert_close(getattr(recomputed, kind)[name], array, tolerance=1e-3, message=name)
    for name, array in started.items():
        assert (array.asnumpy() != plain.aux_dict[name].asnumpy()).any(), name
