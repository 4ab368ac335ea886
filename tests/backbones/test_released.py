"""iResNet against an implementation in PyTorch (`released.py`): numbers, gradients, and files that PyTorch wrote.

ResNet against torchvision.
"""

import json
import os

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
from netkit.published import PUBLISHED  # noqa: E402

ONE_OF_EACH = ('ires18', 'ires50', 'iresgroup50', 'iresgroupfix50')
IRESNET = importing.SOURCES['iresnet']
NAMES = [name[: -len('_imagenet')] for name in IRESNET.networks if name.startswith('ires')]
COMPUTED = NAMES if os.environ.get('ALL_DEPTHS') else [*ONE_OF_EACH, 'ires34', 'ires101']
ORIGINS = ('paper', 'release')


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch and MXNet would wait for each other's threads."""
    torch.set_num_threads(1)


def ours(network, origin, values, **settings):
    """Return (symbol, parameters) of our network with the weights of theirs, {name: array}."""
    name = network + '_imagenet'
    settings = {**IRESNET.settings_for(name, values), 'net_origin': origin, **settings}
    return build(name, **settings), importing.convert(IRESNET, name, values, 'a file').parameters


def values_of(network):
    """Return {name: array} of a module's state."""
    return {
        name: value.detach().numpy()
        for name, value in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }


def images_of(side, count=2):
    return np.random.RandomState(0).randint(0, 256, (count, 3, side, side)).astype(np.float32)


def expected_of(network, images):
    with torch.no_grad():
        return network(released.as_for_imagenet(torch.from_numpy(images))).numpy()


def assert_same(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
    assert np.ptp(expected[0] - expected[-1]) > 0.01 * np.ptp(expected)  # the image does matter


@pytest.mark.parametrize('origin', ORIGINS)
@pytest.mark.parametrize('name', COMPUTED)
def test_outputs(name, origin):
    network, images = released.random_network(name, origin), images_of(96)
    expected = expected_of(network, images)
    shape = {'image_shape': (96, 96, 3)}
    assert_same(compute(*ours(name, origin, values_of(network), **shape), images), expected)
    other = compute(*ours(name, ORIGINS[origin == 'paper'], values_of(network), **shape), images)
    assert np.abs(other - expected).max() > 0.1 * np.ptp(expected)  # it is not a matter of rounding


def test_eps_instead_of_other_variances():
    """The one and the other make up for PyTorch's eps."""
    network, images = released.random_network('ires18', 'release'), images_of(96)
    network.bn1.running_var.mul_(1e-4)  # so that the eps is not a trifle
    network.conv1.weight.data.mul_(1e-2)
    expected, values = expected_of(network, images), values_of(network)
    symbol, parameters = ours('ires18', 'release', values, image_shape=(96, 96, 3))
    assert_same(compute(symbol, parameters, images), expected)
    as_they_are = dict(parameters)
    for name in symbol.list_auxiliary_states():
        if name.endswith('_moving_var'):
            as_they_are[name] = parameters[name] + 1e-5
    symbol, _ = ours('ires18', 'release', values, image_shape=(96, 96, 3), net_bn_eps=1e-5)
    assert_same(compute(symbol, as_they_are, images), expected)
    symbol, _ = ours('ires18', 'release', values, image_shape=(96, 96, 3))
    wrong = compute(symbol, as_they_are, images)
    assert np.abs(wrong - expected).max() > 1e-3 * np.ptp(expected)


def randomised(network):
    """Give a module of torchvision random weights and statistics, as `released.random_network` does."""
    released.randomise(network, torch.Generator().manual_seed(0))
    return network.eval()


def resnet(depth):
    from torchvision.models.resnet import Bottleneck, ResNet

    return randomised(ResNet(Bottleneck, list(released.IRESNET[depth])))


@pytest.mark.parametrize('depth', [50, 101, 152, 200] if os.environ.get('ALL_DEPTHS') else [50, 200])
def test_resnet_is_torchvisions(depth):
    """Outputs, the statistics after a step of training, and the number of parameters."""
    network, images, name = resnet(depth), images_of(96), f'resnet{depth}_imagenet'
    values = values_of(network)
    assert importing.recognised(IRESNET, values) == name
    symbol = build(name, **IRESNET.settings_for(name, values), image_shape=(96, 96, 3))
    parameters = importing.convert(IRESNET, name, values, 'a file').parameters
    assert_same(compute(symbol, parameters, images), expected_of(network, images))
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[name].parameters
    if depth != 50:  # in float32, more layers add up more rounding
        return
    executor = symbol.simple_bind(mx.cpu(), data=images.shape)
    executor.copy_params_from(*({key: mx.nd.array(value) for key, value in parameters.items()},) * 2, True)
    executor.forward(is_train=True, data=mx.nd.array(images))
    executor.backward(mx.nd.ones(executor.outputs[0].shape))
    mx.nd.waitall()
    expected_of(network.train(), images)
    for key, array in executor.aux_dict.items():
        if key.endswith('_mean'):
            moved = network.state_dict()[IRESNET.names_for(parameters)[key][0]].numpy()
            assert np.abs(array.asnumpy() - moved).max() <= 1e-3 * np.abs(moved).max(), key


@pytest.mark.parametrize('origin', ORIGINS)
@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_gradients(name, origin):
    """In training, in float64, of a random direction of the outputs."""
    network = released.random_network(name, origin)
    symbol, parameters = ours(name, origin, values_of(network), image_shape=(64, 64, 3), net_bn_eps=1e-5)
    images = images_of(64, count=4).astype(np.float64)
    executor = symbol.simple_bind(mx.cpu(), data=images.shape, type_dict={'data': 'float64'})
    for key, array in executor.arg_dict.items():
        assert array.dtype == np.float64, key
        array[:] = images if key == 'data' else mx.nd.array(parameters[key], dtype='float64')
    direction = np.random.RandomState(1).normal(size=(4, 1000))
    outputs = executor.forward(is_train=True)[0].asnumpy()
    executor.backward(mx.nd.array(direction, dtype='float64'))

    network = network.double().train()
    theirs = network(released.as_for_imagenet(torch.from_numpy(images)))
    (theirs * torch.from_numpy(direction)).sum().backward()
    np.testing.assert_allclose(outputs, theirs.detach().numpy(), rtol=0, atol=1e-9 * np.ptp(outputs))
    names = IRESNET.names_for(parameters)
    gradients = {key: parameter.grad.numpy() for key, parameter in network.named_parameters()}
    found = {names[key][0]: array.asnumpy() for key, array in executor.grad_dict.items() if key != 'data'}
    assert set(found) == set(gradients)
    for key, expected in gradients.items():
        cosine = (found[key] * expected).sum() / np.linalg.norm(found[key]) / np.linalg.norm(expected)
        assert cosine > 0.9999, key
        assert abs(np.linalg.norm(found[key]) / np.linalg.norm(expected) - 1) < 1e-4, key


# ------------------------------------------------------------------------------------------------- files


def save(network, path, is_old=False, is_wrapped=False, is_parallel=False):
    """Write the state of a module, as PyTorch does it."""
    state = (torch.nn.DataParallel(network) if is_parallel else network).state_dict()
    content = {'epoch': 120, 'arch': 'x', 'state_dict': state, 'best_acc1': 1.5} if is_wrapped else state
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)
    return str(path)


@pytest.fixture(scope='module')
def network():
    return released.random_network('ires18', 'release')


@pytest.mark.parametrize('is_old', [False, True], ids=['archive', 'old'])
@pytest.mark.parametrize('wrapped', [(False, False), (True, True), (False, True)], ids=['bare', 'both', 'module'])
def test_a_file_becomes_a_checkpoint(network, tmp_path, is_old, wrapped):
    path, prefix = save(network, tmp_path / 'x.pth', is_old, *wrapped), str(tmp_path / 'out' / 'x')
    done = run_here(import_weights, path, '--output', prefix)
    assert done.returncode == 0 and 'of ires18_imagenet taken over, 0 not' in done.stdout, done.stderr
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    images = images_of(224)
    assert_same(compute(symbol, {**arguments, **statistics}, images), expected_of(network, images))


@pytest.mark.parametrize('options', [[], ['--fold-bn']], ids=['plain', 'folded'])
def test_its_onnx_has_the_same_outputs(network, tmp_path, options):
    imported, prefix = str(tmp_path / 'x'), str(tmp_path / 'y')
    run_here(import_weights, save(network, tmp_path / 'x.pth'), '--output', imported)
    model = ['--model', imported + ',0', '--image-size', '224,224']
    done = run_here(export, *model, '--output', prefix, '--onnx', *options)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(prefix + ('-folded' if options else '') + '.onnx')
    images = images_of(224, count=1)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    expected = expected_of(network, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def test_a_face_network_starts_from_it(network, tmp_path):
    prefix = str(tmp_path / 'x')
    path = save(network, tmp_path / 'x.pth')
    done = run_here(import_weights, path, '--face', '--network', 'ires18', '--output', prefix)
    assert done.returncode == 0 and 'pass --network ires18:net_origin=release' in done.stdout, done.stderr
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    assert symbol.tojson() == build('ires18', net_origin='release').tojson() != build('ires18').tojson()
    values = values_of(network)
    taken = {
        'stage2_unit1_shortcut_weight': 'layer2.0.downsample.1.weight',
        'stage4_unit2_bn_gamma': 'layer4.1.bn2.weight',
    }
    for mine, theirs in taken.items():
        np.testing.assert_array_equal(arguments[mine].asnumpy(), values[theirs])
    in_stages = {name for name in symbol.list_arguments() if 'stage' in name and 'relu' not in name}
    assert in_stages == {name for name in arguments if 'stage' in name}
    assert {name for name in statistics if 'stage' in name} < set(symbol.list_auxiliary_states())
    assert not {'conv0_weight', 'pre_fc1_weight', 'fc1_weight'} & set(arguments)  # 7x7 there; another head


def without(name):
    return lambda state: state.pop(name)


def instead(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    'edit, options, words',
    [
        (without('layer2.1.bn1.bias'), [], 'layer2.1.bn1.bias is missing'),
        (instead('layer2.1.bn1.bias', torch.zeros(5)), [], 'layer2.1.bn1.bias has shape (5,) instead of (128,)'),
        (instead('layer1.2.conv1.weight', torch.zeros(5)), [], 'layer1.2.conv1.weight has no place in this network'),
        (instead('fc.bias', torch.full((1000,), float('inf'))), [], 'has NaN or infinity in fc.bias'),
        (without('layer1.0.conv1.weight'), [], "the nearest is iResNet's authors: the file has"),
        (
            lambda state: None,
            ['--network', 'ires34_imagenet'],
            'does not fit ires34_imagenet: layer1.2.bn0.weight is missing',
        ),
        (lambda state: None, ['--network', 'ires50_imagenet'], 'does not fit ires50_imagenet: '),
        (lambda state: None, ['--network', 'iresgroup50_imagenet'], 'does not fit iresgroup50_imagenet: '),
        (
            lambda state: None,
            ['--network', 'cru56_imagenet'],
            "is a file of iResNet's authors, who have no such network",
        ),
    ],
)
@pytest.mark.parametrize('more', [[], ['--face']], ids=['original', 'face'])
def test_a_file_that_does_not_fit(network, tmp_path, edit, options, words, more):
    state = dict(network.state_dict())
    edit(state)
    path = str(tmp_path / 'x.pth')
    torch.save(state, path)
    options = options or ['--network', 'ires18_imagenet']
    done = run_here(import_weights, path, '--output', str(tmp_path / 'out' / 'x'), *options, *more)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and not os.path.exists(str(tmp_path / 'out'))


def test_what_is_amiss_in_a_file_of_no_network_is_told_of_the_one_most_like_it(network, tmp_path):
    state = dict(network.state_dict())
    state['fc.weight'], state['fc.bias'] = torch.zeros(10, 512), torch.zeros(10)
    torch.save(state, tmp_path / 'x.pth')
    done = run_here(import_weights, str(tmp_path / 'x.pth'), '--output', str(tmp_path / 'out' / 'x'))
    words = 'does not fit ires18_imagenet: fc.weight has shape (10, 512) instead of (1000, 512)'
    assert done.returncode == 2 and words in done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))


def test_a_network_is_told_from_those_with_the_same_units(tmp_path):
    """iResGroup and iResGroupFix differ in the groups alone, so in the shape of some weights."""
    for name in ('iresgroup50', 'iresgroupfix50', 'ires50'):
        values = values_of(released.Network(name, 'release'))
        assert importing.recognised(IRESNET, values) == name + '_imagenet'


def test_attributes_of_the_symbol(network, tmp_path):
    """It normalises as its weights were trained: by channel."""
    prefix = str(tmp_path / 'x')
    run_here(import_weights, save(network, tmp_path / 'x.pth'), '--output', prefix)
    with open(prefix + '-symbol.json') as file:
        nodes = json.load(file)['nodes']
    means = [float(node['attrs']['scalar']) for node in nodes if node['op'] == '_minus_scalar']
    np.testing.assert_allclose(means, [123.675, 116.28, 103.53])
