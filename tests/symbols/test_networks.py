"""Every registered network: its counts and structure against the papers, its contract, its numbers."""

import hashlib
import importlib
import re
import subprocess
import sys

import numpy as np
import pytest

import config as host
import face_blocks
import face_settings
import fcrunet
import firesnet
import fresattention
import paper
from helpers import (
    COMPUTED,
    DEPTHS,
    FACE_NETWORKS,
    FACEXZOO,
    FIXED_GAMMAS,
    IN_PLACE,
    NARROW,
    NETWORKS,
    OF_2018,
    PLAIN,
    TOOLS,
    UNPADDED,
    bind,
    nodes,
    shape_of,
    size_of,
    with_global_statistics,
)
from netkit._mxnet import mx
from netkit.errors import UserError
from netkit.graph.counts import count_copies, count_macs, count_parameters, shapes
from netkit.networks import build
from netkit.published import PUBLISHED

# ---------------------------------------------------------------------------------- against the papers


@pytest.mark.parametrize('network', [*NETWORKS, *OF_2018, *FACEXZOO])
def test_counts_are_the_papers(network):
    symbol = build(network)
    expected = paper.walk(network, size_of(network), shape_of(network)[0])
    assert count_parameters(symbol, shape_of(network)) == expected.parameters
    assert count_macs(symbol, shape_of(network)) == expected.macs


@pytest.mark.parametrize('network', PUBLISHED)
def test_original_forms_have_the_published_counts(network):
    symbol = build(network)
    parameters, macs, _ = PUBLISHED[network]
    assert count_parameters(symbol, (224, 224, 3)) == parameters
    if isinstance(macs, int):
        assert count_macs(symbol, (224, 224, 3)) == macs
    elif macs:  # published in G with four decimals
        assert round(count_macs(symbol, (224, 224, 3)) / 1e9, 4) == macs / 1e9


def test_every_original_form_has_a_published_count():
    assert set(PUBLISHED) == {name for name in NETWORKS if name.endswith('_imagenet')}


def branch_of(unit, by_name):
    """Follow a residual branch from its addition back to its input; return its layers in order."""
    sequence = []
    node = by_name[by_name[unit + '_plus']['parents'][0]]
    while node['name'].startswith(unit + '_') and not node['name'].startswith(unit + '_project'):
        if node['op'] == 'Convolution':
            attrs = node['attrs']
            kernel, stride = (
                attrs['kernel'].strip('()').split(','),
                attrs.get('stride', '(1, 1)').strip('()').split(','),
            )
            sequence.append(
                'C{}x{}/{}g{}'.format(kernel[0], attrs['num_filter'], stride[0], attrs.get('num_group', '1'))
            )
        else:
            sequence.append({'BatchNorm': 'bn', 'LeakyReLU': 'act', 'Activation': 'act'}[node['op']])
        node = by_name[node['parents'][0]]
    return sequence[::-1]


@pytest.mark.parametrize(
    'network, parameters, macs',
    [
        ('cru116:net_origin=release', 68110432, 13.331),
        ('cru56:net_origin=release', 64215424, None),
        ('att92:net_origin=release', None, 11.913),
        ('att56:net_origin=facexzoo', 81138880, 6.231658496),
        ('att92:net_origin=facexzoo', 101794496, 10.494611456),
    ],
)
def test_released_networks_have_the_counts_of_their_code(network, parameters, macs):
    """Counted from the released code; embeddings of 256 numbers for CRU-Net, 512 for attention."""
    symbol = build(network)
    assert parameters in (None, count_parameters(symbol, shape_of(network)))
    counted = count_macs(symbol, shape_of(network)) / 1e9
    assert macs is None or round(counted, len(str(macs).partition('.')[2])) == macs


@pytest.mark.parametrize('network', [*NETWORKS, *OF_2018, *FACEXZOO])
def test_every_unit_is_the_papers(network):
    symbol = build(network, **PLAIN)
    expected = paper.walk(network, size_of(network), shape_of(network)[0])
    by_name = {node['name']: node for node in nodes(symbol)}
    units = {name[: -len('_plus')] for name in by_name if name.endswith('_plus')}
    assert units == set(expected.branches)
    for unit in units:
        assert branch_of(unit, by_name) == expected.branches[unit], unit


@pytest.mark.parametrize('network', [*DEPTHS, *OF_2018, *FACEXZOO])
def test_sharing_is_the_papers(network):
    symbol = build(network)
    expected = paper.walk(network, size_of(network), shape_of(network)[0])
    uses = {}
    for node in nodes(symbol):
        for parent in node['parents']:
            uses[parent] = uses.get(parent, 0) + 1
    arguments = symbol.list_arguments()
    assert len(arguments) == len(set(arguments))
    shared = {name: count for name, count in uses.items() if name in arguments and count > 1}
    assert shared == dict(expected.uses)
    sizes = dict(zip(arguments, symbol.infer_shape(data=(1, 3, shape_of(network)[0], shape_of(network)[0]))[0]))
    copies = sum((count - 1) * np.prod(sizes[name]) for name, count in expected.uses.items())
    assert count_copies(symbol, shape_of(network)) == copies


@pytest.mark.parametrize('network', FACE_NETWORKS)
def test_face_form(network):
    symbol = build(network, net_prelu='op')
    found = nodes(symbol)
    by_name = {node['name']: node for node in found}
    order = [node['name'] for node in found if node['op'] != 'null']

    # Normalised first, by the nodes that the deployment client looks for; then the face stem without pooling.
    assert order[:5] == ['_minusscalar0', '_mulscalar0', 'conv0', 'bn0', 'relu0']
    assert (by_name['_minusscalar0']['attrs']['scalar'], by_name['_mulscalar0']['attrs']['scalar']) == (
        '127.5',
        '0.0078125',
    )
    assert by_name['conv0']['attrs']['kernel'] == '(3, 3)' and by_name['conv0']['attrs']['stride'] == '(1, 1)'
    assert 'relu0' in by_name[[n for n in order if n.startswith('stage1')][0]]['parents']

    # PReLU everywhere: the only other activations are the masks' sigmoids.
    assert {node['attrs']['act_type'] for node in found if node['op'] == 'LeakyReLU'} == {'prelu'}
    assert {node['attrs']['act_type'] for node in found if node['op'] == 'Activation'} <= {'sigmoid'}

    # Option E.
    assert order[-4:] == ['bn1', 'dropout0', 'pre_fc1', 'fc1']
    assert [by_name[name]['op'] for name in order[-4:]] == ['BatchNorm', 'Dropout', 'FullyConnected', 'BatchNorm']
    assert by_name['fc1']['attrs']['fix_gamma'] == 'True' and by_name['dropout0']['attrs']['p'] == '0.4'
    for node in found:
        if node['op'] == 'BatchNorm':
            assert float(node['attrs']['eps']) == 2e-5 and float(node['attrs']['momentum']) == 0.9
            assert node['attrs']['fix_gamma'] == str(node['name'] in ('fc1',))


@pytest.mark.parametrize('network', FACE_NETWORKS)
@pytest.mark.parametrize('side, last', [(112, 7), (128, 8), (100, 7)])
def test_sizes_of_the_stages(network, side, last):
    symbol = build(network, image_shape=(side, side, 3))
    shape = shapes(symbol, (side, side, 3))
    assert shape['fc1_output'] == (1, size_of(network))
    assert shape['bn1_output'] == (1, paper.walk(network, size_of(network), side).last, last, last)
    assert shape['stage1_unit1_plus_output'][2:] == (side // 2, side // 2)


# ---------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize('network', [*NETWORKS, *OF_2018, *FACEXZOO])
def test_names(network):
    symbol = build(network)
    assert symbol.list_outputs() == ['fc1_output']
    assert 'data' in symbol.list_arguments()
    for name in symbol.list_arguments():
        assert name == 'data' or name.endswith(('_weight', '_bias', '_gamma', '_beta')), name
    for name in symbol.list_auxiliary_states():
        assert name.endswith(('_moving_mean', '_moving_var')), name
    names = [node['name'] for node in nodes(symbol)]
    assert len(names) == len(set(names))


BUILD = """
import hashlib, sys
sys.path.insert(0, {tools!r})
from netkit.project import find_builders; find_builders()
from netkit._mxnet import mx
from netkit.networks import build
mx.sym.Variable('x') + 1
for network in {networks!r}:
    print(network, hashlib.sha256(build(network).tojson().encode()).hexdigest())
"""


def test_json_is_the_same_every_time():
    """In this process, where other symbols were built before, and in another."""
    here = ''.join(
        f'{network} {hashlib.sha256(build(network).tojson().encode()).hexdigest()}\n' for network in COMPUTED
    )
    code = BUILD.format(tools=TOOLS, networks=COMPUTED)
    elsewhere = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True, text=True)
    assert elsewhere.stdout == here


# --------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize('network', COMPUTED)
def test_every_argument_gets_a_gradient(network):
    """Judged with fixed statistics: batch statistics cancel, exactly, whatever shifts a channel before a BN."""
    symbol = with_global_statistics(build(network, **NARROW))
    fixed = {
        node['parents'][1] for node in nodes(symbol) if node['attrs'].get('fix_gamma') == 'True' and node['parents']
    }
    assert fixed <= set(FIXED_GAMMAS)
    executor = bind(symbol)
    executor.forward(is_train=True)
    executor.backward(mx.nd.random.normal(shape=executor.outputs[0].shape))
    for name, gradient in executor.grad_dict.items():
        gradient = gradient.asnumpy()
        assert np.isfinite(gradient).all(), name
        assert (np.abs(gradient).max() > 0) == (name not in fixed), name


@pytest.mark.parametrize('network', COMPUTED)
def test_training_lowers_the_loss(network):
    """Through Module, with batch statistics, insightface's initialiser and softmax."""
    symbol = build(network, **NARROW)
    if not network.endswith('_imagenet'):  # those have their classifier
        symbol = mx.sym.FullyConnected(symbol, num_hidden=4, name='fc7')
    symbol = mx.sym.SoftmaxOutput(symbol, name='softmax')
    mx.random.seed(0)
    images = mx.nd.random.uniform(0, 255, (4, 3, 48, 48))
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind([('data', images.shape)], [('softmax_label', (4,))])
    module.init_params(mx.init.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2))
    module.init_optimizer(optimizer_params={'learning_rate': 0.005, 'momentum': 0.9, 'rescale_grad': 1 / 4})
    module.forward(mx.io.DataBatch([images], [mx.nd.zeros(4)]), is_train=True)
    label = module.get_outputs()[0].asnumpy().argmin(axis=1)  # what it believes least: there is something to learn
    losses = []
    for _ in range(3):
        module.forward_backward(mx.io.DataBatch([images], [mx.nd.array(label)]))
        losses.append(-np.log(module.get_outputs()[0].asnumpy()[range(4), label]).mean())
        module.update()
    assert np.isfinite(losses).all() and losses[-1] < losses[0], losses
    for name, array in module.get_params()[1].items():
        assert np.isfinite(array.asnumpy()).all(), name


# -------------------------------------------------------------------------------------------- config keys

SAMPLES = ['cru56', 'att56']
CHANGES = (
    [
        {'emb_size': 7},
        {'net_input': 0},
        {'net_input': 2},
        {'net_se': 1},
        {'net_unit': 1},
        {'net_unit': 2},
        {'net_multiplier': 0.1},
        {'net_prelu': 'mul'},
        {'net_prelu': 'op'},
        {'net_bn_eps': 1e-3},
        {'memonger': True},
    ]
    + [{'net_act': name} for name in face_settings.ACTIVATIONS]
    + [{'net_output': name} for name in face_settings.HEADS]
)


@pytest.mark.parametrize('network', SAMPLES)
@pytest.mark.parametrize(
    'changes', CHANGES, ids=lambda changes: ','.join('{}={}'.format(*item) for item in changes.items())
)
def test_every_config_key_computes(network, changes):
    symbol = build(network, **{**NARROW, 'image_shape': (56, 48, 3), **changes})
    executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 56, 48))
    for name, array in executor.arg_dict.items():
        array[:] = mx.nd.random.uniform(0, 255, array.shape) if name == 'data' else 0.1
    output = executor.forward(is_train=True)[0]
    executor.backward(mx.nd.ones(output.shape))
    size = 512 * 4 * 3 if changes.get('net_output') == 'Z' else changes.get('emb_size', 32)
    assert output.shape == (2, size)
    assert np.isfinite(output.asnumpy()).all()
    assert symbol.list_outputs() == ['fc1_output']


@pytest.mark.parametrize('network', SAMPLES)
def test_what_the_config_keys_change(network):
    def ops(**changes):
        return [(node['op'], node['name'], node['attrs']) for node in nodes(build(network, **changes))]

    plain = ops()
    assert [a['momentum'] for op, _, a in ops(bn_mom=0.5) if op == 'BatchNorm'][0] == '0.5'
    assert {a['workspace'] for op, _, a in ops(workspace=99) if op == 'Convolution'} == {'99'}
    assert {a['act_type'] for op, _, a in ops(net_act='relu') if op in ('Activation', 'LeakyReLU')} <= {
        'relu',
        'sigmoid',
    }
    assert ops(net_input=2)[1:6] != plain[1:6] and any(name == 'bn_data' for _, name, _ in ops(net_input=2))
    assert [a['kernel'] for _, name, a in ops(net_input=0) if name == 'conv0'] == ['(7, 7)']
    gates = [name for _, name, _ in ops(net_se=1) if name.endswith('_se_scale')]
    assert len(gates) == sum(name.endswith('_plus') for _, name, _ in plain)
    widths = {name: int(a['num_filter']) for op, name, a in ops(net_multiplier=0.25) if op == 'Convolution'}
    assert all(4 * widths[name] == int(a['num_filter']) for op, name, a in plain if op == 'Convolution')


@pytest.mark.parametrize('network', SAMPLES)
def test_squeeze_excitation_is_the_papers(network):
    symbol = build(network, net_se=1)
    shape = shapes(symbol, shape_of(network))
    by_name = {node['name']: node for node in nodes(symbol)}
    unit = 'stage1_unit1'
    assert by_name[unit + '_plus']['parents'][0] == unit + '_se_scale'
    assert shape[unit + '_se_conv1_weight'] == (16, 256, 1, 1) and shape[unit + '_se_conv2_weight'] == (256, 16, 1, 1)
    assert by_name[unit + '_se_conv2']['parents'][2] == unit + '_se_conv2_bias'


@pytest.mark.parametrize('network', COMPUTED)
@pytest.mark.parametrize('form', [PLAIN, {}], ids=['plain', 'default'])
def test_fp16_trunk(network, form):
    symbol = build(network, fp16=True, **form)
    types, outputs, _ = symbol.infer_type(data='float32')
    by_name = dict(zip(symbol.list_arguments(), types))
    assert outputs == [np.float32]
    head_weight = 'fc1_weight' if 'fc1_weight' in by_name else 'pre_fc1_weight'
    assert by_name[head_weight] == np.float32
    trunk = {name: kind for name, kind in by_name.items() if name.endswith('_weight') and name != head_weight}
    assert set(trunk.values()) == {np.float16}
    assert {kind for name, kind in by_name.items() if name.endswith('_beta')} == {np.float32}


def test_heads_have_the_hosts_nodes():
    expected = {
        'E': ['bn1', 'dropout0', 'pre_fc1', 'fc1'],
        'FC': ['bn1', 'pre_fc1', 'fc1'],
        'I': ['bn1', 'pre_fc1', 'fc1'],
        'GAP': ['bn1', 'relu1', 'pool1', 'pre_fc1', 'fc1'],
        'GDC': ['conv_6dw7_7_conv2d', 'conv_6dw7_7_batchnorm', 'pre_fc1', 'fc1'],
        'F': ['bn1', 'dropout0', 'fc1'],
        'G': ['bn1', 'fc1'],
        'H': ['fc1'],
        'J': ['pre_fc1', 'fc1'],
        'K': ['pre_fc1', 'fc1'],
        'Z': ['bn1', 'dropout0', 'fc1'],
        'C': ['pool1', 'fc1'],
    }
    assert set(expected) == set(face_settings.HEADS)
    for output, names in expected.items():
        order = [
            node['name'] for node in nodes(fcrunet.build(56, net_output=output, net_prelu='op')) if node['op'] != 'null'
        ]
        assert order[order.index('stage4_unit3_plus') + 1 :] == names, output


@pytest.mark.parametrize('network', ['att56', 'att56_imagenet'])
def test_two_readings_of_the_masks_way_up(network):
    """'dense' adds, to each map on its way up, the map on its way down; both readings have the same parameters."""
    dense, paper_ = build(network, net_mask_up='dense'), build(network, net_mask_up='paper')
    default = dense if network == 'att56' else paper_
    assert build(network).tojson() == default.tojson()
    assert set(dense.list_arguments()) == set(paper_.list_arguments())
    added = {node['name'] for node in nodes(dense)} - {node['name'] for node in nodes(paper_)}
    assert added == {
        'stage%d_attention1_mask_%s' % (stage, what)
        for stage, whats in (
            (1, ('plus_trunk', 'up1_plus_down', 'up2_plus_down')),
            (2, ('plus_trunk', 'up1_plus_down')),
            (3, ('plus_trunk',)),
        )
        for what in whats
    }


def test_normalisation_by_channel():
    mean, std = (123.0, 117.0, 104.0), (58.0, 57.0, 57.5)
    normalised = build('cru56_imagenet', net_mean=mean, net_std=std).get_internals()['normalised_output']
    image = np.random.RandomState(0).randint(0, 256, (1, 3, 4, 4))
    expected = (image - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    np.testing.assert_allclose(normalised.eval(data=mx.nd.array(image))[0].asnumpy(), expected, rtol=1e-5)


def test_iresnet_units():
    """Start, middle and end units differ in what stands around their convolutions (paper, figure 1)."""
    by_name = {node['name']: node for node in nodes(build('ires50'))}
    assert 'stage1_unit1_relu' not in by_name and by_name['stage1_unit2_relu1']['parents'][0] == 'stage1_unit1_plus'
    assert by_name['stage2_unit3_relu1']['parents'][0] == 'stage2_unit3_bn1'
    assert by_name['stage1_unit3_relu']['parents'][0] == 'stage1_unit3_bn'
    assert by_name['stage1_unit3_bn']['parents'][0] == 'stage1_unit3_plus'
    assert by_name['stage2_unit1_shortcut_pool']['parents'] == ['stage1_unit3_relu']
    assert by_name['stage2_unit1_shortcut']['attrs']['stride'] == '(1, 1)'


# ------------------------------------------------------------------------------------------- net_origin


def is_pooling(node):
    return node['op'] == 'Pooling' and node['attrs']['pool_type'] == 'max'


@pytest.mark.parametrize('network', IN_PLACE)
def test_what_the_authors_code_of_iresnet_adds(network):
    """Behind a start unit, the activated input in place of the input; nothing else."""
    found, expected = (nodes(build(network, **PLAIN, net_origin=origin)) for origin in ('release', 'paper'))
    changed = []
    for node, other in zip(found, expected):
        if node['parents'] != other['parents']:
            changed.append(node['name'])
            branch, added = other['parents']
            unit = node['name'][: -len('_plus')]
            assert unit.endswith('_unit2') and added == unit.replace('_unit2', '_unit1') + '_plus'
            assert node['parents'] == [branch, unit + '_relu1']
        assert {**node, 'parents': 0, 'inputs': 0} == {**other, 'parents': 0, 'inputs': 0}
    assert len(found) == len(expected) and len(changed) == 4


@pytest.mark.parametrize('network', UNPADDED)
def test_how_the_authors_attention_networks_pool(network):
    """Without padding, the size rounded up as Caffe does; for the sizes of the paper it is the same size."""
    found, expected = (nodes(build(network, net_origin=origin)) for origin in ('release', 'paper'))
    pads = [node['attrs'].pop('pad') for node in found if is_pooling(node)]
    conventions = [node['attrs'].pop('pooling_convention') for node in found if is_pooling(node)]
    assert set(pads) == {'(0, 0)'} and set(conventions) == {'full'} and len(pads) == 7
    assert {node['attrs'].pop('pad') for node in expected if is_pooling(node)} == {'(1, 1)'}
    assert found == expected
    shape = shape_of(network)
    assert shapes(build(network, net_origin='release'), shape) == shapes(build(network), shape)


@pytest.mark.parametrize('network', [*OF_2018, *FACEXZOO])
def test_face_networks_pool_with_padding(network):
    pads = {node['attrs']['pad'] for node in nodes(build(network)) if is_pooling(node)}
    assert pads == ({'(1, 1)'} if 'att' in network else set())


def eps_by_node(symbol):
    return {node['name']: float(node['attrs']['eps']) for node in nodes(symbol) if node['op'] == 'BatchNorm'}


@pytest.mark.parametrize(
    'network, trunk, of_head',
    [
        ('cru56', 2e-5, 2e-5),
        ('cru56:net_origin=release', 1e-3, 2e-5),
        ('att56:net_origin=release', 1e-3, 2e-5),
        ('att56:net_origin=facexzoo', 1e-5, 1e-5),
        ('cru56_imagenet:net_origin=release', 1e-3, None),
        ('att56_imagenet:net_origin=release', 2e-5, None),
        ('ires50:net_origin=release', 2e-5, 2e-5),
        ('ires50_imagenet:net_origin=release', 2e-5, None),
        ('cru56:net_origin=release,net_bn_eps=1e-4', 1e-4, 2e-5),
    ],
)
def test_the_eps_that_an_origin_brings(network, trunk, of_head):
    """Unless the setting names another; the head of a face network has insightface's."""
    found = eps_by_node(build(network))
    head = {'bn1', 'fc1'} if of_head else set()
    assert {eps for name, eps in found.items() if name in head} == ({of_head} if head else set())
    assert {eps for name, eps in found.items() if name not in head} == {trunk}


def test_the_original_crunets_were_released_as_described_but_for_the_eps():
    found, expected = (nodes(build('cru116_imagenet', net_origin=origin)) for origin in ('release', 'paper'))
    for node in found + expected:  # MXNet copies it to the variables that it makes for a BatchNorm
        node['attrs'].pop('eps', None)
    assert found == expected


def test_squeeze_excitation_of_2018_has_no_biases():
    names = [name for name in build('att56:net_origin=release,net_se=1').list_arguments() if '_se_' in name]
    assert len(names) == 3 * (6 + 12 + 9 + 6) and not [name for name in names if name.endswith('_bias')]
    assert not [name for name in build('att56:net_origin=release').list_arguments() if '_se_' in name]
    assert 'stage1_unit1_se_conv1_bias' in build('att56:net_se=1').list_arguments()


def test_settings_that_an_origin_brings_give_way_to_others():
    named = build('att56:net_origin=facexzoo,net_act=elu,net_output=FC')
    acts = {node['attrs']['act_type'] for node in nodes(named) if node['op'] in ('Activation', 'LeakyReLU')}
    assert acts == {'elu', 'sigmoid'} and 'bn1_gamma' in named.list_arguments()


@pytest.mark.parametrize('height, width', [(7, 9), (8, 3), (12, 5)])
def test_pooling_without_padding(height, width):
    """By numpy: the windows begin in the corner, and the last one may reach beyond the edge."""
    data = np.random.RandomState(0).normal(size=(1, 2, height, width)).astype(np.float32)
    layers = face_blocks.Layers(net_origin='release')
    map_ = layers.pool(face_blocks.FeatureMap(mx.sym.Variable('data'), 2, (height, width)), 'pool', padded=False)
    rows, columns = (range(0, 2 * int(np.ceil((side - 3) / 2)) + 1, 2) for side in (height, width))
    expected = [[data[0, :, y : y + 3, x : x + 3].max(axis=(1, 2)) for x in columns] for y in rows]
    found = map_.symbol.eval(data=mx.nd.array(data))[0].asnumpy()[0]
    np.testing.assert_array_equal(found, np.array(expected).transpose(2, 0, 1))
    assert found.shape[1:] == map_.size


WAS_RELEASED = {'release': r'(cru|att)(56|92|116)(_imagenet)?|attnext(56|92)_imagenet|ires.*', 'facexzoo': 'att(56|92)'}


@pytest.mark.parametrize('origin', WAS_RELEASED)
@pytest.mark.parametrize('network', NETWORKS)
def test_networks_of_which_nothing_was_released(network, origin):
    if re.fullmatch(WAS_RELEASED[origin], network):
        build(network, net_origin=origin)
        return
    with pytest.raises(UserError, match=f"net_origin='{origin}' is not known with num_layers=.*: no such network"):
        build(network, net_origin=origin)


@pytest.mark.parametrize(
    'network',
    ['att56:net_unit=2', 'attnext56:net_unit=1', 'cru56:net_unit=2', 'cru56:net_unit=1', 'cru56:net_output=C'],
)
def test_face_networks_of_other_units_were_not_released(network):
    with pytest.raises(UserError, match="net_origin='release' is not known with"):
        build(network, net_origin='release')


def test_images_too_small_to_be_pooled_without_padding():
    with pytest.raises(UserError, match=r'image_shape=\(32, 32, 3\) is too small for the max poolings of net_origin'):
        build('att56_imagenet', net_origin='release', image_shape=(32, 32, 3))
    shape = (48, 48, 3)  # maps of 12, 6 and 3 numbers are pooled
    assert shapes(build('att56_imagenet', net_origin='release', image_shape=shape), shape)['fc1_output'] == (1, 1000)


@pytest.mark.parametrize('network', SAMPLES + ['ires50'])
@pytest.mark.parametrize('form', ['', '_imagenet'])
def test_the_eps_is_that_of_all_batchnorms_but_the_heads(network, form):
    """Insightface's head has 2e-5; the BatchNorm in front of an ImageNet variant's classifier belongs to the trunk."""
    symbol = build(network + form, net_bn_eps=1e-3)
    found = {node['name']: float(node['attrs']['eps']) for node in nodes(symbol) if node['op'] == 'BatchNorm'}
    of_head = {'bn1', 'fc1'} if not form else set()
    symbol = build(network, net_bn_eps=1e-3, net_output='GDC')
    eps = {node['name']: node['attrs']['eps'] for node in nodes(symbol) if node['op'] == 'BatchNorm'}
    assert {name for name, value in eps.items() if value == '2e-05'} == {'conv_6dw7_7_batchnorm', 'fc1'}
    assert {name for name, eps in found.items() if eps == 2e-5} == of_head
    assert {eps for name, eps in found.items() if name not in of_head} == {1e-3}


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'net_act': 'swish'}, ['net_act', "'swish'", "'prelu'"]),
        ({'net_act': 1}, ['net_act', 'prelu']),
        ({'net_unit': 4}, ['net_unit', '4', '1, 2, 3']),
        ({'net_origin': 'caffe'}, ['net_origin', "'caffe'", "'paper', 'release', 'facexzoo'"]),
        ({'net_bn_eps': 0}, ['net_bn_eps', '0']),
        ({'net_bn_eps': 1}, ['net_bn_eps', '1']),
        ({'net_bn_eps': 'small'}, ['net_bn_eps', "'small'"]),
        ({'net_unit': '3'}, ['net_unit', "'3'"]),
        ({'net_input': 3}, ['net_input', '0, 1, 2']),
        ({'net_output': 'GNAP'}, ['net_output', "'GNAP'", "'GDC'"]),
        ({'net_prelu': 'fast'}, ['net_prelu', "'mul', 'op'"]),
        ({'memonger': 'yes'}, ['memonger', "'yes'"]),
        ({'net_se': 2}, ['net_se', '2']),
        ({'fp16': 'yes'}, ['fp16', "'yes'"]),
        ({'emb_size': 0}, ['emb_size', '0']),
        ({'emb_size': 'many'}, ['emb_size', "'many'"]),
        ({'bn_mom': 1.5}, ['bn_mom', '1.5']),
        ({'bn_mom': 1}, ['bn_mom']),
        ({'bn_mom': -0.1}, ['bn_mom']),
        ({'emb_size': 2.5}, ['emb_size']),
        ({'workspace': -1}, ['workspace']),
        ({'workspace': 0.5}, ['workspace']),
        ({'net_multiplier': 100}, ['net_multiplier']),
        ({'net_multiplier': -1}, ['net_multiplier']),
        ({'image_shape': (112, 31, 3)}, ['image_shape']),
        ({'image_shape': (112, 112, 1)}, ['image_shape']),
        ({'image_shape': (112, 112)}, ['image_shape']),
        ({'image_shape': (112.5, 112, 3)}, ['image_shape']),
        ({'net_std': -1}, ['net_std']),
        ({'net_std': 1e6}, ['net_std']),
        ({'net_mean': -1e6}, ['net_mean']),
        ({'net_multiplier': 0}, ['net_multiplier']),
        ({'net_multiplier': float('nan')}, ['net_multiplier']),
        ({'image_shape': (16, 112, 3)}, ['image_shape', '32']),
        ({'image_shape': 112}, ['image_shape']),
        ({'num_layers': 57}, ['num_layers', '57', '56']),
        ({'net_std': 0}, ['net_std', '0']),
        ({'net_mean': (1, 2)}, ['net_mean', '(1, 2)']),
    ],
)
def test_undefined_values_are_named(changes, words):
    for network in SAMPLES:
        host.generate_config(network, 'faces', 'arcface')
        host.config.update(changes)
        with pytest.raises(face_settings.SettingError) as caught:  # a ValueError
            importlib.import_module(host.config.net_name).get_symbol()
        with pytest.raises(UserError, match=re.escape(str(caught.value))):
            build(network, **changes)
        assert isinstance(caught.value, ValueError)
        assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'num_group': 8}, ['num_group', '8', '1, 32']),
        ({'net_mask_up': 'sparse'}, ['net_mask_up', "'sparse'", "'dense'"]),
    ],
)
def test_undefined_values_of_attention_networks_are_named(changes, words):
    with pytest.raises(UserError) as caught:
        build('att56', **changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    'network, changes, words',
    [
        ('ires50', {'num_group': 32}, ['num_group=32', '1, 64, (8, 16, 32, 64)']),
        ('iresgroup50', {'num_layers': 200}, ['num_layers=200', '50, 101, 152']),
        ('iresgroupfix50', {'num_layers': 18}, ['num_layers=18', '50, 101, 152']),
        ('ires50', {'num_layers': 20}, ['num_layers=20', '18, 34, 50, 101, 152, 200, 302, 404, 1001']),
    ],
)
def test_undefined_values_of_iresnets_are_named(network, changes, words):
    with pytest.raises(UserError) as caught:
        build(network, **changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_without_a_config_it_is_the_face_form():
    for network, built in (
        ('cru56', fcrunet.build(56, emb_size=256, memonger=True)),
        ('att56', fresattention.build(56, memonger=True)),
        ('ires50', firesnet.build(50, memonger=True)),
    ):
        assert built.tojson() == build(network).tojson()


def test_unknown_setting_is_named():
    with pytest.raises(ValueError, match='net_akt is not a setting; choose from emb_size'):
        fresattention.build(56, net_akt='relu')
