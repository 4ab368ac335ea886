"""The original forms compute what an independent implementation computes, with its weights."""

import os
import re

import numpy as np
import pytest
from PIL import Image

import import_weights
from helpers import compute, run_here
from netkit import gluoncv2, importing
from netkit._mxnet import mx
from netkit.networks import build
from netkit.published import PUBLISHED

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


@pytest.mark.parametrize('network', PEERS)
def test_same_numbers_as_gluoncv2(network, tmp_path):
    peer = peer_with_random_weights(network)
    path = str(tmp_path / 'peer.params')
    peer.save_parameters(path)

    source = importing.source_of(path)
    converted = importing.convert(source, network, importing.load(source, path), path)
    symbol = build(network, **source.settings_for(network))

    raw = mx.nd.array(np.random.RandomState(1).randint(0, 256, (2, 3, 224, 224)))
    mean, std = [np.reshape(values, (1, 3, 1, 1)) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    expected = peer(mx.nd.array((raw.asnumpy() / 255 - mean) / std)).asnumpy()
    actual = compute(symbol, converted, raw)
    assert np.abs(actual - expected).max() <= 1e-4 * np.ptp(expected)
    assert np.ptp(expected[0] - expected[1]) > 0.01 * np.ptp(expected)  # the image does matter


@pytest.mark.parametrize('network', importing.GLUONCV2.networks)
def test_same_number_of_parameters_as_gluoncv2(network):
    from gluoncv2.model_provider import get_model

    parameters = get_model(gluoncv2.peer_name(network)).collect_params().values()
    assert all(all(parameter.shape) for parameter in parameters)
    count = sum(np.prod(parameter.shape) for parameter in parameters if parameter.grad_req != 'null')
    assert count == PUBLISHED[network].parameters


@pytest.mark.parametrize(
    'network, names',
    [
        (
            'ires50_imagenet',
            {
                'conv0_weight': 'conv1.weight',
                'bn0_moving_var': 'bn1.running_var',
                'stage1_unit1_conv1_weight': 'layer1.0.conv1.weight',
                'stage1_unit1_bn2_gamma': 'layer1.0.bn1.weight',
                'stage1_unit1_bn4_beta': 'layer1.0.bn3.bias',
                'stage3_unit1_shortcut_weight': 'layer3.0.downsample.1.weight',
                'stage3_unit1_shortcut_bn_moving_mean': 'layer3.0.downsample.2.running_mean',
                'stage2_unit3_bn1_gamma': 'layer2.2.bn0.weight',
                'stage3_unit6_bn_beta': 'layer3.5.bn3.bias',
                'fc1_bias': 'fc.bias',
            },
        ),
        (
            'ires18_imagenet',
            {'stage4_unit2_bn_gamma': 'layer4.1.bn2.weight', 'stage2_unit1_bn3_gamma': 'layer2.0.bn2.weight'},
        ),
    ],
)
def test_names_in_the_files_of_iresnets_authors(network, names):
    """`tests/backbones` has whole files, for which it wants PyTorch."""
    found = importing.IRESNET.names_for(importing.expected_of(importing.IRESNET, network))
    assert {name: found[name] for name in names} == {name: [theirs] for name, theirs in names.items()}
    assert len({theirs for (theirs,) in found.values()}) == len(found)


def test_the_program_writes_a_checkpoint(saved, tmp_path):
    prefix = str(tmp_path / 'with space' / 'cru56')
    done = run_here(import_weights, saved, '--network', 'cru56_imagenet', '--output', prefix)
    assert done.returncode == 0, done.stderr
    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())
    before = mx.nd.load(saved)['features.0.conv.bn.running_var'].asnumpy()  # with an eps of 1e-5, ours is 2e-5
    np.testing.assert_allclose(aux_params['bn0_moving_var'].asnumpy(), before - 1e-5, rtol=0, atol=2e-7)


def test_the_face_form_starts_from_what_fits(saved, tmp_path):
    prefix = str(tmp_path / 'cru56')
    done = run_here(import_weights, saved, '--network', 'cru56_imagenet', '--face', '--output', prefix)
    assert done.returncode == 0, done.stderr
    symbol, arg_params, _ = mx.model.load_checkpoint(prefix, 0)
    original = mx.nd.load(saved)
    taken = 'stage3_group1_conv1_weight'
    np.testing.assert_array_equal(
        arg_params[taken].asnumpy(), original['features.3.0.body.conv1.conv.weight'].asnumpy()
    )
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
    done = run_here(import_weights, changed, '--network', 'cru56_imagenet', '--output', str(tmp_path / 'out' / 'net'))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not os.path.exists(str(tmp_path / 'out'))


@pytest.mark.parametrize(
    'options, words',
    [
        (['--network', 'att56_imagenet'], 'does not fit att56_imagenet: '),
        (['--network', 'cru116_imagenet'], 'does not fit cru116_imagenet: '),
        (['--network', 'cru116', '--face'], 'does not fit cru116_imagenet: '),
        (['--network', 'ires50_imagenet'], 'is a file of gluoncv2, who have no such network; choose from cru56'),
        (['--network', 'cru56'], '--network cru56 is a face network: add --face, or name cru56_imagenet'),
        (['--face', '--image', 'x.jpg'], 'not allowed with argument'),
        (['--image', 'nowhere.jpg'], '--image nowhere.jpg is not readable as an image'),
    ],
)
def test_bad_options(saved, tmp_path, options, words):
    done = run_here(import_weights, saved, '--output', str(tmp_path / 'out' / 'net'), *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))


def test_files_that_are_none(saved, tmp_path):
    with open(saved, 'rb') as file:
        content = file.read()
    path = tmp_path / 'file'
    for data, words in (
        (content[:5000], 'is not readable as an MXNet .params file'),
        (content[:4], 'is neither a .params file of MXNet nor a state dict of PyTorch'),
        (b'not a .params file', 'is neither a .params file of MXNet nor a state dict of PyTorch'),
        (b'', 'is neither a .params file of MXNet nor a state dict of PyTorch'),
    ):
        path.write_bytes(data)
        done = run_here(import_weights, str(path), '--output', str(tmp_path / 'out' / 'net'))
        assert done.returncode == 2 and words in done.stderr, done.stderr
    mx.nd.save(str(path), {'arg:conv0_weight': mx.nd.zeros(1)})
    done = run_here(import_weights, str(path), '--output', str(tmp_path / 'out' / 'net'))
    assert 'is no file of gluoncv2: it has no features.0.conv.conv.weight' in done.stderr
    done = run_here(import_weights, str(tmp_path / 'nowhere'), '--output', str(tmp_path / 'out' / 'net'))
    assert done.returncode == 2 and 'cannot read' in done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))


def test_the_network_is_found_from_the_file_and_classifies_a_picture(saved, tmp_path):
    """The classes, by gluoncv2's network itself."""
    rng = np.random.RandomState(2)
    picture = Image.fromarray(rng.randint(0, 256, (20, 30, 3)).astype(np.uint8)).resize((480, 320), Image.BICUBIC)
    path, prefix = str(tmp_path / 'photo.png'), str(tmp_path / 'cru56')
    picture.save(path)
    done = run_here(import_weights, saved, '--output', prefix, '--image', path)
    assert done.returncode == 0 and 'parameters of cru56_imagenet taken over, 0 not' in done.stdout, done.stderr

    scaled = np.asarray(picture.resize((384, 256), Image.BILINEAR), np.float64)[16:-16, 80:-80]  # 224 of 256 and 384
    mean, std = [np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    images = ((scaled / 255 - mean) / std).transpose(2, 0, 1)[None]
    outputs = peer_with_random_weights('cru56_imagenet')(mx.nd.array(images)).softmax().asnumpy()[0]
    expected = np.argsort(-outputs)[:5]
    rows = [re.findall(r'[\d.]+', line) for line in done.stdout.splitlines() if '%' in line]
    assert [int(row[1]) for row in rows] == list(expected), done.stdout
    assert [float(row[2]) for row in rows] == [round(100 * float(outputs[place]), 2) for place in expected]


def test_nan_is_refused(saved, tmp_path):
    def edit(parameters):
        parameters['features.1.0.body.conv1.conv.weight'][0, 0] = float('nan')

    changed = change(saved, tmp_path, edit)
    for options in ([], ['--face']):
        done = run_here(import_weights, changed, '--output', str(tmp_path / 'out' / 'net'), *options)
        assert done.returncode == 2 and 'has NaN or infinity in features.1.0.body.conv1.conv.weight' in done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))
