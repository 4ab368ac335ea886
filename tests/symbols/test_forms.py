"""The forms of a network that compute the same: rewritten operators, and feature maps computed again in training."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import config as host
import face_blocks
from helpers import (
    COMPUTED,
    FACE_NETWORKS,
    FACEXZOO,
    NARROW,
    NETWORKS,
    OF_2018,
    PLAIN,
    QUICK,
    TOOLS,
    assert_close,
    bind,
    nodes,
    shape_of,
    size_of,
)
from netkit._mxnet import mx
from netkit.graph.counts import count_parameters, shapes
from netkit.graph.memory import planned_memory
from netkit.networks import build, settings_of

SAMPLES = ['cru56', 'att56', 'attnext56']  # between them: groups of one channel and more, resizing, PReLU
PRODUCTS = dict(PLAIN, net_prelu='mul')


# ------------------------------------------------------------------------------------- rewritten operators


@pytest.mark.parametrize('network', SAMPLES)
@pytest.mark.parametrize('form', [QUICK, PRODUCTS], ids=['quick', 'products'])
def test_rewritten_networks_compute_the_same(network, form):
    """Same parameters, shapes and initial values, so that a checkpoint fits both; outputs agree to 1e-5."""
    # No Dropout in this head: it would drop other units in each.
    plain, quick = [build(network, **dict(NARROW, net_output='FC', **changes)) for changes in (PLAIN, form)]
    assert set(plain.list_arguments()) == set(quick.list_arguments())
    assert plain.list_auxiliary_states() == quick.list_auxiliary_states()
    shape, other = [shapes(symbol, NARROW['image_shape']) for symbol in (plain, quick)]
    assert all(shape[name] == other[name] for name in plain.list_arguments())
    initial = []
    for symbol in (plain, quick):
        module = mx.mod.Module(symbol, label_names=None)
        module.bind([('data', (1, 3, 48, 48))], for_training=False)
        module.init_params(mx.init.Xavier())
        initial.append({name: array.asnumpy() for name, array in module.get_params()[0].items() if 'relu' in name})
    assert initial[0] and all((values[name] == 0.25).all() for values in initial for name in initial[0])

    executor = bind(plain, grad_req='null')
    twin = quick.bind(mx.cpu(), executor.arg_dict, grad_req='null', aux_states=executor.aux_dict)
    assert_close(twin.forward(is_train=False)[0], executor.forward(is_train=False)[0])


LAYERS = {
    'prelu': lambda layers, data: layers.act(data, 'relu'),
    'prelu by products': lambda layers, data: layers.act(data, 'relu'),
    'grow': lambda layers, data: layers.resize(data, (11, 13), 'resize'),
    'shrink': lambda layers, data: layers.resize(data, (3, 1), 'resize'),
    'same': lambda layers, data: layers.resize(data, data.size, 'resize'),
    'groups of 2': lambda layers, data: layers.conv(data, face_blocks.Conv(64, 3, 2, num_group=32), 'conv'),
    'groups of 3': lambda layers, data: layers.conv(data, face_blocks.Conv(96, 3, 1, num_group=32), 'conv'),
    'groups of 8': lambda layers, data: layers.conv(data, face_blocks.Conv(64, 1, 1, num_group=8), 'conv'),
    'few groups': lambda layers, data: layers.conv(data, face_blocks.Conv(6, 3, 1, num_group=3), 'conv'),
}


@pytest.mark.parametrize('name', LAYERS)
def test_rewritten_layers_have_the_same_gradient(name):
    """Of one layer: in a whole network, rounding carries a value over PReLU's kink now and then, to another slope."""
    channels = {'groups of 3': 96, 'few groups': 6}.get(name, 64)
    executors, arrays = [], {}
    for form in (PLAIN, PRODUCTS if name == 'prelu by products' else QUICK):
        data = face_blocks.FeatureMap(mx.sym.Variable('data'), channels, (6, 7))
        symbol = LAYERS[name](face_blocks.Layers(**form), data).symbol
        executor = symbol.simple_bind(mx.cpu(), data=(2, channels, 6, 7))
        rng = np.random.RandomState(0)
        for key in sorted(executor.arg_dict):
            arrays.setdefault(key, rng.normal(size=executor.arg_dict[key].shape))  # slopes above 1 and below 0 too
            executor.arg_dict[key][:] = arrays[key]
        executor.forward(is_train=True)
        arrays.setdefault('head', rng.normal(size=executor.outputs[0].shape))
        executor.backward(mx.nd.array(arrays['head']))
        executors.append(executor)
    plain, rewritten = executors
    assert len(nodes(rewritten._symbol)) > len(nodes(plain._symbol))
    assert_close(rewritten.outputs[0], plain.outputs[0], tolerance=1e-6)
    assert set(plain.grad_dict) == set(rewritten.grad_dict)
    for key in plain.grad_dict:
        assert_close(rewritten.grad_dict[key], plain.grad_dict[key], tolerance=2e-6, message=key)


@pytest.mark.parametrize('network', ['attnext56', 'iresgroupfix50'])
def test_merged_groups_in_float64(network):
    """The matrix of ones and zeros has the type of the weight."""
    changes = dict(NARROW, net_prelu='mul', net_resize='op')
    outputs = []
    for groups in ('op', 'merged'):
        symbol = build(network, **dict(changes, net_groups=groups))
        executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=(2, 3, 48, 48), type_dict={'data': 'float64'})
        drawn = bind(build(network, **dict(changes, net_groups='op')), grad_req='null')
        for kind in ('arg_dict', 'aux_dict'):
            for name, array in getattr(executor, kind).items():
                assert array.dtype == np.float64, name
                array[:] = getattr(drawn, kind)[name].astype('float64')
        outputs.append(executor.forward(is_train=False)[0].asnumpy())
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-12 * np.ptp(outputs[0])


@pytest.mark.parametrize('network', NETWORKS)
def test_no_convolution_has_groups_of_a_few_channels(network):
    """By default, inside insightface too: on a CPU the BatchNorms around such a convolution would crawl."""
    for node in nodes(build(network)):
        if node['op'] == 'Convolution':
            groups = int(node['attrs'].get('num_group', 1))
            channels = int(node['attrs']['num_filter']) // groups
            assert groups == 1 or channels == 1 or channels >= face_blocks.VECTOR, node['name']


# ----------------------------------------------------------------------------------------------- memonger


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
from netkit._mxnet import mx
from netkit.networks import build
for network in ('att56', 'ires101', 'cru56_imagenet', 'att56_imagenet'):
    symbol = build(network, net_multiplier=0.1, emb_size=16, image_shape=(64, 64, 3), memonger=True, net_se=1)
    executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 64, 64))
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


@pytest.mark.parametrize('network', [*FACE_NETWORKS, *OF_2018, *FACEXZOO])
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
@pytest.mark.parametrize('prelu', ['mul', 'conv', 'op'])
def test_memonger_trains_the_same(network, prelu):
    """The gradient, and weights and moving statistics after three steps, agree to float32 rounding.

    PReLU starts with slope 1, so that rounding carries no value over a kink to another gradient; the head has
    no Dropout. Rounding grows from step to step, so the gradient is judged at the first.
    """
    executors = []
    changes = dict(NARROW, net_output='H', net_act='prelu', net_prelu=prelu)
    for switch in (False, True):
        executor = bind(build(network, **dict(changes, memonger=switch)), batch=4)
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
