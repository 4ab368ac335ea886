"""The forms in which MXNet is fast on a CPU compute what MXNet's own operators do, and are told apart."""

import gzip
import os

import numpy as np
import pytest

import face_blocks
from helpers import COMPUTED, DEPTHS, FACE_NETWORKS, NARROW, PLAIN, assert_close, bind, nodes, shape_of
from netkit._mxnet import mx
from netkit.deploy.plain import plain
from netkit.graph.counts import shapes
from netkit.graph.cpu_forms import VECTOR, for_cpu
from netkit.graph.nodes import Graph
from netkit.graph.symbol_json import load_symbol
from netkit.networks import build
from netkit.targets import Target, is_same, read_note, with_noted_network

SAMPLES = ['cru56', 'att56', 'attnext56']  # between them: groups of one channel and more, resizing, PReLU
SHAPE = NARROW['image_shape']


def rewritten(network, training=True, **changes):
    return for_cpu(build(network, **{**NARROW, **changes}), SHAPE, training)


@pytest.mark.parametrize('network', SAMPLES)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'inference'])
def test_networks_compute_the_same(network, training):
    """Same parameters, shapes and initial values, so that a checkpoint fits both; outputs agree to 1e-5."""
    # No Dropout in this head: it would drop other units in each.
    plain_one = build(network, **dict(NARROW, **PLAIN, net_output='FC'))
    quick = rewritten(network, training, net_output='FC', net_prelu='mul' if training else 'op')
    assert set(plain_one.list_arguments()) == set(quick.list_arguments())
    assert plain_one.list_auxiliary_states() == quick.list_auxiliary_states()
    shape, other = [shapes(symbol, SHAPE) for symbol in (plain_one, quick)]
    assert all(shape[name] == other[name] for name in plain_one.list_arguments())
    if training:
        module = mx.mod.Module(quick, label_names=None)
        module.bind([('data', (1, 3, 48, 48))], for_training=False)
        module.init_params(mx.init.Xavier())
        slopes = [array.asnumpy() for name, array in module.get_params()[0].items() if 'relu' in name]
        assert slopes and all((values == 0.25).all() for values in slopes)
    executor = bind(plain_one, grad_req='null')
    twin = quick.bind(mx.cpu(), executor.arg_dict, grad_req='null', aux_states=executor.aux_dict)
    assert_close(twin.forward(is_train=False)[0], executor.forward(is_train=False)[0])


LAYERS = {
    'prelu': lambda layers, data: layers.act(data, 'relu'),
    'grow': lambda layers, data: layers.resize(data, (11, 13), 'resize'),
    'shrink': lambda layers, data: layers.resize(data, (3, 1), 'resize'),
    'same': lambda layers, data: layers.resize(data, data.size, 'resize'),
    'groups of 2': lambda layers, data: layers.conv(data, face_blocks.Conv(64, 3, 2, num_group=32), 'conv'),
    'groups of 3': lambda layers, data: layers.conv(data, face_blocks.Conv(96, 3, 1, num_group=32), 'conv'),
    'groups of 8': lambda layers, data: layers.conv(data, face_blocks.Conv(64, 1, 1, num_group=8), 'conv'),
    'few groups': lambda layers, data: layers.conv(data, face_blocks.Conv(6, 3, 1, num_group=3), 'conv'),
    'other channels': lambda layers, data: layers.conv(data, face_blocks.Conv(128, 3, 1, num_group=16), 'conv'),
}


@pytest.mark.parametrize('name', LAYERS)
def test_layers_have_the_same_gradient(name):
    """Of one layer: in a whole network, rounding carries a value over PReLU's kink now and then, to another slope."""
    channels, executors, arrays = {'groups of 3': 96, 'few groups': 6}.get(name, 64), [], {}

    layers, image = face_blocks.Layers(), face_blocks.FeatureMap(mx.sym.Variable('data'), 3, (6, 7))
    plain_one = LAYERS[name](layers, layers.conv(image, face_blocks.Conv(channels), 'first')).symbol
    for symbol in (plain_one, for_cpu(plain_one, (6, 7), training=True)):
        executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 6, 7))
        rng = np.random.RandomState(0)
        for key in sorted(executor.arg_dict):
            arrays.setdefault(key, rng.normal(size=executor.arg_dict[key].shape))  # slopes above 1 and below 0 too
            executor.arg_dict[key][:] = arrays[key]
        executor.forward(is_train=True)
        arrays.setdefault('head', rng.normal(size=executor.outputs[0].shape))
        executor.backward(mx.nd.array(arrays['head']))
        executors.append(executor)
    expected, found = executors
    assert len(nodes(found._symbol)) > len(nodes(expected._symbol))
    assert_close(found.outputs[0], expected.outputs[0], tolerance=1e-6)
    assert set(expected.grad_dict) == set(found.grad_dict)
    for key in expected.grad_dict:
        assert_close(found.grad_dict[key], expected.grad_dict[key], tolerance=2e-6, message=key)


def test_groups_of_other_layouts_stay():
    """One convolution for each channel, one that fills a vector, one in three dimensions."""
    data = mx.sym.Variable('data')
    for conv in (
        dict(num_filter=6, num_group=3, kernel=(1, 1)),
        dict(num_filter=3, num_group=3, kernel=(1, 1)),
        dict(num_filter=6, num_group=3, kernel=(1,)),
    ):
        symbol = mx.sym.Convolution(mx.sym.reshape(data, (0, 0, -1)) if len(conv['kernel']) == 1 else data, **conv)
        is_merged = len(nodes(for_cpu(symbol, (6, 7)))) > len(nodes(symbol))
        assert is_merged == (conv == dict(num_filter=6, num_group=3, kernel=(1, 1)))


def test_mxnets_prelu_stays_in_training():
    """Its gradient differs, and whoever asks for it trains on as before."""
    symbol = build('cru56', **dict(NARROW, net_prelu='op'))
    kinds = [{node['op'] for node in nodes(for_cpu(symbol, SHAPE, training))} for training in (True, False)]
    assert ['LeakyReLU' in ops for ops in kinds] == [True, False]


DATA = mx.sym.Variable('data')


@pytest.mark.parametrize(
    'symbol',
    [
        mx.sym.LeakyReLU(DATA, gamma=mx.sym.Variable('slope', shape=(1,)), act_type='prelu', name='act'),
        mx.sym.LeakyReLU(mx.sym.FullyConnected(DATA, num_hidden=3, name='fc'), act_type='prelu', name='act'),
        mx.sym.contrib.BilinearResize2D(DATA, scale_height=2, scale_width=2, name='resize'),
        mx.sym.contrib.BilinearResize2D(DATA, mx.sym.Variable('like', shape=(1, 3, 8, 8)), mode='like', name='resize'),
    ],
    ids=['one slope', 'after a fully connected layer', 'by a factor', 'as another'],
)
def test_what_the_networks_have_not_stays(symbol):
    assert for_cpu(symbol, (4, 4)).tojson() == symbol.tojson()


@pytest.mark.parametrize('network', ['cru56', 'iresgroupfix50'])
def test_merged_groups_in_float64(network):
    """The matrix of ones and zeros has the type of the weight."""
    symbol, outputs = build(network, **dict(NARROW, net_act='relu')), []
    drawn = bind(symbol, grad_req='null')
    for form in (symbol, for_cpu(symbol, SHAPE)):
        executor = form.simple_bind(mx.cpu(), grad_req='null', data=(2, 3, 48, 48), type_dict={'data': 'float64'})
        for kind in ('arg_dict', 'aux_dict'):
            for name, array in getattr(executor, kind).items():
                assert array.dtype == np.float64, name
                array[:] = getattr(drawn, kind)[name].astype('float64')
        outputs.append(executor.forward(is_train=False)[0].asnumpy())
    assert np.abs(outputs[0] - outputs[1]).max() <= 1e-12 * np.ptp(outputs[0])


@pytest.mark.parametrize('network', DEPTHS)
def test_no_convolution_has_groups_of_a_few_channels(network):
    """On a CPU the BatchNorms around such a convolution would crawl."""
    for node in nodes(for_cpu(build(network), shape_of(network))):
        if node['op'] == 'Convolution':
            groups = int(node['attrs'].get('num_group', 1))
            channels = int(node['attrs']['num_filter']) // groups
            assert groups == 1 or channels == 1 or channels >= VECTOR, node['name']


@pytest.mark.parametrize('network', COMPUTED)
def test_undone_it_is_the_network_before(network):
    for memonger in (False, True):
        symbol = build(network, **dict(NARROW, memonger=memonger, fp16=memonger))
        quick = for_cpu(symbol, SHAPE, training=True)
        assert is_same(quick, symbol)
        assert quick.infer_type(data='float32') == symbol.infer_type(data='float32')
        marks = [
            {node['name'] for node in nodes(form) if '__force_mirroring__' in node['attrs']} for form in (quick, symbol)
        ]
        assert marks[0] >= marks[1] - {name for name in marks[1] if name.endswith('_factor')}
        assert bool(marks[0]) == memonger


def test_the_symbol_of_an_earlier_version(tmp_path):
    """Of the version in which these forms were settings, with all of them, and with `memonger`."""
    saved = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'saved-by-an-earlier-version-symbol.json.gz')
    path = tmp_path / 'net-symbol.json'
    path.write_bytes(gzip.open(saved).read())
    symbol, ours = load_symbol(str(path)), build('attnext56', **dict(NARROW, memonger=True))
    assert not is_same(symbol, build('attnext56', **dict(NARROW, net_mask_up='paper')))
    assert is_same(symbol, ours) and read_note(symbol) is None
    kinds = {node['op'] for node in nodes(plain(Graph.of(symbol)).symbol())}
    assert {'LeakyReLU', '_contrib_BilinearResize2D'} <= kinds and not {'transpose', 'diag', '_full'} & kinds
    executor = bind(symbol, grad_req='null')
    twin = ours.bind(mx.cpu(), executor.arg_dict, grad_req='null', aux_states=executor.aux_dict)
    assert_close(twin.forward(is_train=False)[0], executor.forward(is_train=False)[0])


# ------------------------------------------------------------------------------------------ what a symbol notes


@pytest.mark.parametrize('network', DEPTHS)
def test_a_symbol_says_which_network_it_is(network, tmp_path):
    symbol = build(network)
    assert read_note(symbol) == network
    plain(Graph.of(symbol)).symbol().save(str(tmp_path / 'net-symbol.json'))
    assert read_note(load_symbol(str(tmp_path / 'net-symbol.json'))) == network


@pytest.mark.parametrize(
    'text',
    ['cru56:net_multiplier=0.25', 'att92:image_shape=(64,64,3),net_mean=(1,2,3),net_se=1', 'cru116:net_origin=release'],
)
def test_settings_that_are_noted(text):
    assert read_note(build(text)) == text


@pytest.mark.parametrize('text, network', [('cru56', 'cru56'), ('cru56:net_act=relu', None)])
def test_a_checkpoint_is_of_the_network_that_it_notes(text, network):
    target = Target('x,1', build(text), (112, 112, 3), parameters={})
    assert with_noted_network(target).network == network
    assert with_noted_network(target._replace(parameters=None)).network is None
    assert with_noted_network(target._replace(network='att56')).network == 'att56'


def test_values_of_numpy_are_noted():
    symbol = build('cru56', emb_size=np.int64(128), net_mean=np.array([1.0, 2.0, 3.0]))
    assert read_note(symbol) == 'cru56:emb_size=128,net_mean=(1.0,2.0,3.0)'


def test_a_note_that_is_not_true_is_not_believed():
    symbol, of_another = build('cru56'), build('cru116')
    text = symbol.attr('__crunet__')
    assert read_note(symbol) == 'cru56'
    for note in (
        of_another.attr('__crunet__'),
        '',
        '{',
        '[]',
        '{"builder": "os", "num_layers": 56}',
        '{"builder": []}',
    ):
        symbol._set_attr(__crunet__=note)
        assert read_note(symbol) is None, note
    for old, new in (
        ('56', '57'),
        ('56', '"56"'),
        ('}', ', "net_mean": 1}'),
        ('}', ', "no_such": 1}'),
        ('256', 'Infinity'),
    ):
        symbol._set_attr(__crunet__=text.replace(old, new))
        assert read_note(symbol) is None, symbol.attr('__crunet__')


@pytest.mark.parametrize('network', FACE_NETWORKS[:3])
def test_a_module_keeps_the_note(network, tmp_path):
    symbol = build(network, **NARROW)
    module = mx.mod.Module(mx.sym.SoftmaxOutput(symbol, name='softmax'))
    module.bind([('data', (1, 3, 48, 48))], [('softmax_label', (1,))])
    module.init_params(mx.init.Xavier())
    module.save_checkpoint(str(tmp_path / 'net'), 1)
    loaded, _, _ = mx.model.load_checkpoint(str(tmp_path / 'net'), 1)
    assert read_note(loaded.get_internals()['fc1_output']).startswith(network + ':')
