"""The original forms compute what an independent implementation computes, with its weights."""

import os

import numpy as np
import pytest

import import_gluoncv2
from helpers import run_here
from netkit import gluoncv2
from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.networks import build

PEERS = {
    'cru56_imagenet': 'crunet56',
    'cru116_imagenet': 'crunet116',
    'att56_imagenet': 'resattnet56',
    'att92_imagenet': 'resattnet92',
}


def peer_with_random_weights(network):
    """Return a gluoncv2 network whose weights and statistics are all random.

    Statistics that fit no data normalise nothing: the weights are small enough that numbers do not grow from
    unit to unit, and rounding errors with them.
    """
    from gluoncv2.model_provider import get_model

    net = get_model(PEERS[network])
    net.initialize(mx.init.Zero())
    net(mx.nd.zeros((1, 3, 224, 224)))
    rng = np.random.RandomState(0)
    for name, parameter in net.collect_params().items():
        shape = parameter.shape
        if name.endswith('_weight'):
            value = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
        elif name.endswith(('_gamma', '_running_var')):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        parameter.set_data(mx.nd.array(value))
    return net


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A file of cru56's weights."""
    path = str(tmp_path_factory.mktemp('gluoncv2') / 'crunet56.params')
    peer_with_random_weights('cru56_imagenet').save_parameters(path)
    return path


def compute(symbol, parameters, images):
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    parameters = {name: mx.nd.array(array) for name, array in parameters.items()}
    executor.copy_params_from(
        {name: array for name, array in parameters.items() if name in executor.arg_dict},
        {name: array for name, array in parameters.items() if name in executor.aux_dict},
    )
    return executor.forward(is_train=False, data=images)[0].asnumpy()


@pytest.mark.parametrize('network', PEERS)
def test_same_numbers_as_gluoncv2(network, tmp_path):
    peer = peer_with_random_weights(network)
    path = str(tmp_path / 'peer.params')
    peer.save_parameters(path)

    symbol = build(network, **gluoncv2.settings_for(network))
    converted, misfits = gluoncv2.convert(symbol, gluoncv2.load(path), (224, 224, 3))
    assert not misfits

    raw = mx.nd.array(np.random.RandomState(1).randint(0, 256, (2, 3, 224, 224)))
    mean, std = [np.reshape(values, (1, 3, 1, 1)) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    expected = peer(mx.nd.array((raw.asnumpy() / 255 - mean) / std)).asnumpy()
    actual = compute(symbol, converted, raw)
    assert np.abs(actual - expected).max() <= 1e-4 * np.ptp(expected)
    assert np.ptp(expected[0] - expected[1]) > 0.01 * np.ptp(expected)  # the image does matter


def test_the_program_writes_a_checkpoint(saved, tmp_path):
    prefix = str(tmp_path / 'with space' / 'cru56')
    done = run_here(import_gluoncv2, saved, '--network', 'cru56_imagenet', '--output', prefix)
    assert done.returncode == 0, done.stderr
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())


def test_the_face_form_starts_from_what_fits(saved, tmp_path):
    prefix = str(tmp_path / 'cru56')
    done = run_here(import_gluoncv2, saved, '--network', 'cru56_imagenet', '--face', '--output', prefix)
    assert done.returncode == 0, done.stderr
    symbol, arg_params, _ = mx.model.load_checkpoint(prefix, 0)
    original = gluoncv2.load(saved)
    taken = 'stage3_group1_conv1_weight'
    np.testing.assert_array_equal(arg_params[taken].asnumpy(), original['features.3.0.body.conv1.conv.weight'])
    assert taken in done.stdout and 'pre_fc1_weight' in done.stdout
    assert set(arg_params) < set(symbol.list_arguments())
    assert 'conv0_weight' not in arg_params  # 7x7 there, 3x3 here
    convolutions = {name for name in symbol.list_arguments() if 'stage' in name and name.endswith('_weight')}
    assert convolutions <= set(arg_params)


def change(path, folder, edit):
    parameters = mx.nd.load(path)
    edit(parameters)
    changed = str(folder / 'changed.params')
    mx.nd.save(changed, parameters)
    return changed


@pytest.mark.parametrize(
    'edit, words',
    [
        (lambda p: p.pop('features.2.1.body.conv2.bn.beta'), 'features.2.1.body.conv2.bn.beta is missing'),
        (lambda p: p.update({'output.1.bias': mx.nd.zeros(10)}), 'output.1.bias has shape (10,) instead of (1000,)'),
        (lambda p: p.update({'features.9.weight': mx.nd.zeros(1)}), 'features.9.weight has no place in this network'),
        (
            lambda p: p.update({'features.3.2.body.conv2.weight': mx.nd.zeros((640, 1, 3, 3))}),
            'features.3.0.body.conv2.weight and features.3.2.body.conv2.weight should be one shared weight, but differ',
        ),
    ],
)
def test_a_file_that_does_not_fit(saved, tmp_path, edit, words):
    changed = change(saved, tmp_path, edit)
    done = run_here(import_gluoncv2, changed, '--network', 'cru56_imagenet', '--output', str(tmp_path / 'out' / 'net'))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not os.path.exists(str(tmp_path / 'out'))


@pytest.mark.parametrize(
    'options, words',
    [
        (['--network', 'att56_imagenet'], 'does not fit att56_imagenet: '),
        (['--network', 'cru116_imagenet'], 'does not fit cru116_imagenet: '),
        (['--network', 'ires50_imagenet'], 'has no counterpart in gluoncv2; choose from cru56_imagenet'),
        ([], 'the following arguments are required: --network'),
    ],
)
def test_bad_options(saved, tmp_path, options, words):
    done = run_here(import_gluoncv2, saved, '--output', str(tmp_path / 'out' / 'net'), *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))


def test_files_that_are_none(saved, tmp_path):
    with open(saved, 'rb') as file:
        content = file.read()
    for name, data in (('truncated', content[:5000]), ('foreign', b'not a .params file'), ('empty', b'')):
        path = str(tmp_path / name)
        with open(path, 'wb') as file:
            file.write(data)
        with pytest.raises(UserError, match='is not readable as an MXNet .params file'):
            gluoncv2.load(path)
    mx.nd.save(str(tmp_path / 'ours'), {'arg:conv0_weight': mx.nd.zeros(1)})
    with pytest.raises(UserError, match='is not a .params file of gluoncv2'):
        gluoncv2.load(str(tmp_path / 'ours'))
