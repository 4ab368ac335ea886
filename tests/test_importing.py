"""The ImageNet variants compute what an independent implementation computes, with its weights; files of all sources."""

import functools
import os
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import import_weights
from helpers import compute, run_here
from netkit import checkpoints, gluoncv2, importing, state_dict
from netkit._mxnet import mx
from netkit.networks import build
from netkit.published import PUBLISHED

GLUONCV2 = importing.SOURCES['gluoncv2']
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

    source, loaded = importing.load(path)
    assert source is GLUONCV2
    symbol, converted, _ = importing.convert(source, network, loaded, path)
    assert symbol.tojson() == build(network, **gluoncv2.settings_for(network)).tojson()

    raw = mx.nd.array(np.random.RandomState(1).randint(0, 256, (2, 3, 224, 224)))
    mean, std = [np.reshape(values, (1, 3, 1, 1)) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    expected = peer(mx.nd.array((raw.asnumpy() / 255 - mean) / std)).asnumpy()
    actual = compute(symbol, converted, raw)
    assert np.abs(actual - expected).max() <= 1e-4 * np.ptp(expected)
    assert np.ptp(expected[0] - expected[1]) > 0.01 * np.ptp(expected)  # the image does matter


@pytest.mark.parametrize('network', GLUONCV2.networks)
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
            'resnet50_imagenet',
            {
                'stage1_unit1_bn2_gamma': 'layer1.0.bn1.weight',
                'stage3_unit1_shortcut_weight': 'layer3.0.downsample.0.weight',
                'stage3_unit1_shortcut_bn_moving_mean': 'layer3.0.downsample.1.running_mean',
                'stage4_unit3_bn4_beta': 'layer4.2.bn3.bias',
            },
        ),
        (
            'ires18_imagenet',
            {'stage4_unit2_bn_gamma': 'layer4.1.bn2.weight', 'stage2_unit1_bn3_gamma': 'layer2.0.bn2.weight'},
        ),
    ],
)
def test_names_in_the_files_of_iresnets_authors(network, names):
    """`tests/backbones` has whole files, for which it needs PyTorch."""
    source = importing.SOURCES['iresnet']
    found = source.names_for(importing.expected_of(source, network, {}))
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
    assert taken not in done.stdout and 'pre_fc1_weight' in done.stdout
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
        (['--network', 'cru56'], '--network cru56 is a face network: add --face, or pass cru56_imagenet'),
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
    for name, words in (
        ('arg:conv0_weight', 'it looks like a checkpoint of one of our own networks'),
        ('arg:weight', 'has the names of no known source (gluoncv2, iResNet'),
        ('aux:RA_conv1_bn1_batchnorm_moving_var', 'the nearest is the attention faces of 2018: the file has 1 of'),
        ('arg:weight', 'none of them has any of its names'),
    ):
        mx.nd.save(str(path), {name: mx.nd.zeros(1)})
        done = run_here(import_weights, str(path), '--output', str(tmp_path / 'out' / 'net'))
        assert done.returncode == 2 and words in done.stderr and done.stderr.count('\n') == 1, done.stderr
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


# ------------------------------------------------------------------------------------------- the other sources

OTHERS = {
    'fcrunet': 'cru56',
    'fresattnet': 'att56',
    'cypw': 'cru56_imagenet',
    'tengshaofeng': 'att56_imagenet',
    'facexzoo': 'att56',
}
DEEPER = {'cru56': 'cru116', 'att56': 'att92', 'cru56_imagenet': 'cru116_imagenet', 'att56_imagenet': 'att92_imagenet'}


@pytest.fixture(scope='module')
def arrays():
    """A function of the key of a source: {its name: array} of its smallest network, whose numbers do not matter.

    `tests/backbones` has files of an independent implementation, for which it needs PyTorch.
    """

    @functools.lru_cache(maxsize=None)
    def made(key):
        source = importing.SOURCES[key]
        expected = importing.expected_of(source, OTHERS[key], {})
        return {
            theirs[0]: np.broadcast_to(np.float32(0.5), expected[ours])
            for ours, theirs in source.names_for(expected).items()
        }

    return made


def written(folder, content):
    """Write {name: array} as a source does, as MXNet's parameters or a state dict of PyTorch; return the path."""
    path = str(folder / 'file')
    if any('_weight' in name for name in content):
        kinds = {name: 'aux' if '_moving_' in name else 'arg' for name in content}
        mx.nd.save(path, {f'{kinds[name]}:{name}': mx.nd.array(array) for name, array in content.items()})
    else:
        state_dict.write(path, content)
    return path


@pytest.mark.parametrize('key', OTHERS)
def test_a_file_of_another_source(key, arrays, tmp_path):
    path, prefix = written(tmp_path, arrays(key)), str(tmp_path / 'x')
    done = run_here(import_weights, path, '--output', prefix)
    assert done.returncode == 0 and f' of {OTHERS[key]} taken over, 0 not' in done.stdout, done.stderr
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    assert set(arguments) == set(symbol.list_arguments()) - {'data'}
    assert set(statistics) == set(symbol.list_auxiliary_states())
    origin = importing.SOURCES[key].settings_for(OTHERS[key], {}).get('net_origin')
    (told,) = [line for line in done.stdout.splitlines() if line.startswith('to train it, pass --network ')]
    network = shlex.split(told)[-1]
    assert build(network).tojson() == symbol.tojson()
    assert network == f'{OTHERS[key]}:net_origin={origin}' or OTHERS[key].endswith('_imagenet')
    again = run_here(import_weights, path, '--output', prefix, '--network', network)
    assert again.returncode == 0, again.stderr
    other = run_here(import_weights, path, '--output', prefix, '--network', OTHERS[key] + ':net_origin=paper')
    assert origin is None or other.returncode == 2 and f'has net_origin={origin}' in other.stderr


@pytest.mark.parametrize('key', OTHERS)
@pytest.mark.parametrize('what', ['missing', 'nan', 'shape', 'depth', 'width', 'more', 'face'])
def test_a_file_of_another_source_that_does_not_fit(key, what, arrays, tmp_path, monkeypatch):
    """Without the file itself, which would have some hundred MB."""
    network, content, options = OTHERS[key], dict(arrays(key)), []
    name = [name for name in content if name.endswith(('_gamma', '.bias'))][10]
    words = f'does not fit {network}: '
    if what == 'missing':
        del content[name]
        words += f'{name} is missing'
    elif what == 'nan':
        content[name] = content[name] * np.nan
        words = f'has NaN or infinity in {name}'
    elif what == 'shape':
        content[name] = content[name][:-1]
        words += f'{name} has shape ({len(content[name])},) instead of'
    elif what == 'depth':
        options, words = ['--network', DEEPER[network]], f'does not fit {DEEPER[network]}: '
    elif what == 'width':
        content = {name: array[: len(array) // 2] if array.ndim else array for name, array in content.items()}
    elif what == 'more':
        content['stage9_weight' if '_weight' in ''.join(content) else 'stage9.weight'] = np.ones(1, np.float32)
        words += 'stage9'
    elif network.endswith('_imagenet'):
        return
    else:
        options, words = ['--face'], 'is a face network already; leave --face out'
    monkeypatch.setattr(importing, 'read', lambda _: content)
    done = run_here(import_weights, 'file', '--output', str(tmp_path / 'out' / 'net'), *options)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count('\n') == 1, done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))


def test_sizes_are_the_files(arrays, tmp_path):
    """Embeddings of 128 numbers, and the 365 classes of Places."""
    faces, places = dict(arrays('fcrunet')), dict(arrays('cypw'))
    faces.update({name: array[:128] for name, array in faces.items() if name.startswith(('pre_fc1_', 'fc1_'))})
    places.update({name: array[:365] for name, array in places.items() if name.startswith('fc6_')})
    for key, content, size in (('fcrunet', faces, 128), ('cypw', places, 365)):
        done = run_here(import_weights, written(tmp_path, content), '--output', str(tmp_path / 'x'))
        assert done.returncode == 0, done.stderr
        assert ('--network cru56:net_origin=release,emb_size=128\n' in done.stdout) == (key == 'fcrunet')
        assert mx.model.load_checkpoint(str(tmp_path / 'x'), 0)[0].infer_shape(data=(1, 3, 224, 224))[1] == [
            (1, size)
        ] or (key == 'fcrunet')


@pytest.mark.parametrize('key', ['facexzoo', 'tengshaofeng'])
def test_other_content_is_not_left_out(key, arrays, tmp_path, monkeypatch):
    for name in ('zzz.conv4.weight', 'attention_body.1.last_blocks.conv5.weight'):
        monkeypatch.setattr(importing, 'read', lambda _, name=name: dict(arrays(key), **{name: np.ones(1, np.float32)}))
        done = run_here(import_weights, 'file', '--output', str(tmp_path / 'x'))
        assert done.returncode == 2 and f'{name} has no place in this network' in done.stderr


def test_integers_are_no_weights(tmp_path):
    mx.nd.save(str(tmp_path / 'x'), {'arg:conv1_conv2d_weight': mx.nd.ones((64, 3, 3, 3), dtype='int64')})
    done = run_here(import_weights, str(tmp_path / 'x'), '--output', str(tmp_path / 'y'))
    assert done.returncode == 2 and 'conv1_conv2d_weight has dtype int64; expected a floating-point' in done.stderr


def test_the_nearest_network_is_told_with_all_sources(arrays, monkeypatch, tmp_path):
    content = dict(arrays('fcrunet'), conv1_conv2d_weight=np.ones((32, 3, 3, 3), np.float32))
    monkeypatch.setattr(importing, 'read', lambda _: content)
    done = run_here(import_weights, 'file', '--output', str(tmp_path / 'x'))
    words = (
        'does not fit cru56: conv1_conv2d_weight has shape (32, 3, 3, 3) instead of (64, 3, 3, 3); it is the nearest'
    )
    assert done.returncode == 2 and words in done.stderr and "the sources are gluoncv2, iResNet's" in done.stderr


def test_what_a_source_does_not_use_is_left_out(arrays, tmp_path):
    """The classes of a loss, and the projection that every block of FaceX-Zoo's has."""
    content = dict(arrays('facexzoo'))
    content.update(
        {name: np.ones((256, 256, 1, 1), np.float32) for name in ('attention_body.1.last_blocks.conv4.weight',)}
    )
    content = {'backbone.' + name: array for name, array in content.items()}
    content['head.weight'] = np.ones((512, 7), np.float32)
    path = written(tmp_path, content)
    done = run_here(import_weights, path, '--output', str(tmp_path / 'x'))
    assert done.returncode == 0 and '2 arrays that the network does not use were left out' in done.stdout, done.stderr
    content = dict(arrays('fcrunet'), fc7_weight=np.ones((9, 256), np.float32))
    done = run_here(import_weights, written(tmp_path, content), '--output', str(tmp_path / 'x'))
    assert done.returncode == 0 and 'were left out: fc7_weight' in done.stdout, done.stderr


def test_squeeze_excitation_is_detected(arrays, tmp_path):
    source = importing.SOURCES['fresattnet']
    symbol = build('att56', net_origin='release', net_se=1)
    expected = checkpoints.wanted_shapes(symbol, (112, 112, 3))
    content = {source.names_for([name])[name][0]: np.ones(shape, np.float32) for name, shape in expected.items()}
    assert {'RAN_R_unit1_se_1_conv2d_weight', 'RAN_AM_s1_unit1_RB_last_se_prelu_gamma'} < set(content)
    done = run_here(import_weights, written(tmp_path, content), '--output', str(tmp_path / 'x'))
    assert done.returncode == 0 and 'att56:net_origin=release,net_se=1\n' in done.stdout, done.stderr
    assert mx.model.load_checkpoint(str(tmp_path / 'x'), 0)[0].tojson() == symbol.tojson()


def test_a_checkpoint_may_be_named_by_prefix_and_epoch(arrays, tmp_path):
    path = written(tmp_path, arrays('fcrunet'))
    os.rename(path, str(tmp_path / 'model-0036.params'))
    done = run_here(import_weights, str(tmp_path / 'model') + ',36', '--output', str(tmp_path / 'x'))
    assert done.returncode == 0, done.stderr
    done = run_here(import_weights, str(tmp_path / 'model') + ',0', '--output', str(tmp_path / 'model'))
    assert done.returncode == 2 and 'cannot read' in done.stderr
    os.rename(str(tmp_path / 'model-0036.params'), str(tmp_path / 'model-0000.params'))
    done = run_here(import_weights, str(tmp_path / 'model') + ',0', '--output', str(tmp_path / 'model'))
    assert done.returncode == 2 and 'would be overwritten' in done.stderr


@pytest.mark.parametrize('key, shift', [('cypw', 1e-3 - 2e-5), ('tengshaofeng', 1e-5 - 2e-5)])
def test_a_face_network_starts_from_another_source(key, shift, arrays, tmp_path):
    """With the moving variances for its own eps."""
    path = written(tmp_path, arrays(key))
    done = run_here(import_weights, path, '--face', '--output', str(tmp_path / 'x'))
    face = OTHERS[key][: -len('_imagenet')]
    assert done.returncode == 0 and f' of {face} taken over' in done.stdout, done.stderr
    symbol, arguments, statistics = mx.model.load_checkpoint(str(tmp_path / 'x'), 0)
    assert symbol.tojson() == build(face).tojson()
    np.testing.assert_allclose(statistics['bn0_moving_var'].asnumpy(), 0.5 + shift, rtol=0, atol=1e-7)
    assert 'conv0_weight' not in arguments and 'stage1_unit1_conv2_weight' in arguments


def test_networks_without_a_face_variant(tmp_path):
    source = importing.SOURCES['iresnet']
    expected = importing.expected_of(source, 'resnet50_imagenet', {})
    state_dict.write(
        str(tmp_path / 'x.pth'),
        {theirs[0]: np.ones(expected[ours], np.float32) for ours, theirs in source.names_for(expected).items()},
    )
    done = run_here(import_weights, str(tmp_path / 'x.pth'), '--face', '--output', str(tmp_path / 'out' / 'x'))
    assert done.returncode == 2 and 'resnet50_imagenet has no face variant' in done.stderr
    done = run_here(import_weights, str(tmp_path / 'x.pth'), '--output', str(tmp_path / 'x'))
    assert done.returncode == 0 and ' of resnet50_imagenet taken over, 0 not' in done.stdout


def test_faces_have_no_classes(arrays, tmp_path):
    Image.new('RGB', (300, 300)).save(str(tmp_path / 'x.png'))
    path = written(tmp_path, arrays('fcrunet'))
    done = run_here(import_weights, path, '--image', str(tmp_path / 'x.png'), '--output', str(tmp_path / 'out' / 'x'))
    assert done.returncode == 2 and '--image needs an image classifier, and cru56 computes embeddings' in done.stderr


def test_nan_is_refused(saved, tmp_path):
    def edit(parameters):
        parameters['features.1.0.body.conv1.conv.weight'][0, 0] = float('nan')

    changed = change(saved, tmp_path, edit)
    for options in ([], ['--face']):
        done = run_here(import_weights, changed, '--output', str(tmp_path / 'out' / 'net'), *options)
        assert done.returncode == 2 and 'has NaN or infinity in features.1.0.body.conv1.conv.weight' in done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))
