"""tools/convert.py, and what else takes a model.pt of arcface_torch. Files are read back by plain MXNet."""

import json
import os

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

import convert
import evaluate
import export
import summarize
import visualize
from crunet.identifiers import identifiers, mxnet_names, torch_name
from helpers import FACEXZOO, OF_2018, bind, snapshot
from netkit import checkpoints, state_dict
from netkit._mxnet import mx
from netkit.data import synthetic
from netkit.errors import UserError
from netkit.importing import SOURCES
from netkit.networks import build, parse
from netkit.targets import of_checkpoint

NARROW = {'net_multiplier': 0.125, 'emb_size': 24}


def weights_of(executor):
    both = {**executor.arg_dict, **executor.aux_dict}
    return {name: array.asnumpy() for name, array in both.items() if name != 'data'}


@pytest.fixture
def model(tmp_path):
    """(path of a model.pt of a narrow cru56, the executor that has its weights)."""
    executor = bind(build('cru56', **NARROW), batch=2, side=112)
    executor.arg_dict['fc1_gamma'][:] = 1
    state_dict.write(str(tmp_path / 'model.pt'), weights_of(executor))
    return str(tmp_path / 'model.pt'), executor


def shared(folder, config, weights):
    """Write a folder as crunet's `save_pretrained` does."""
    folder.mkdir()
    (folder / 'config.json').write_text(config)
    state_dict.write(str(folder / 'model.safetensors'), weights)
    return str(folder)


def test_a_folder_of_the_package(tmp_path, run_tool):
    """Its config names the network, of which the weights of this one do not tell."""
    executor = bind(build('cru56', net_act='relu', image_shape=(64, 64, 3), **NARROW), batch=2, side=64)
    config = {'net_act': 'relu', 'image_shape': [64, 64, 3], **NARROW}
    folder = shared(tmp_path / 'it', json.dumps({'network': 'cru56', 'settings': config}), weights_of(executor))
    code, _, err = run_tool(convert, folder, '--output', str(tmp_path / 'x'))
    assert code == 0, err
    expected = executor.forward(is_train=False)[0].asnumpy()
    found = outputs_of(str(tmp_path / 'x'), executor.arg_dict['data'])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert run_tool(export, '--model', folder, '--output', str(tmp_path / 'y'))[0] == 0


@pytest.mark.parametrize(
    'config, words',
    [
        ('{', 'is not a config of crunet.save_pretrained'),
        ('[]', 'is not a config of crunet.save_pretrained'),
        ('{"network": "cru56", "settings": 3}', 'is not a config of crunet.save_pretrained'),
        ('{"network": "../x", "settings": {}}', '../x'),
        ('{"network": "cru56", "settings": {"net_act": "; rm"}}', "net_act=';rm' is not known"),
    ],
)
def test_a_folder_that_is_none(config, words, tmp_path, run_tool):
    folder = shared(tmp_path / 'it', config, {'conv0_weight': np.ones((3, 3, 3, 3), np.float32)})
    code, _, err = run_tool(convert, folder, '--output', str(tmp_path / 'out' / 'x'))
    assert code == 2 and words in err and err.count('\n') == 1, err
    assert not (tmp_path / 'out').exists()


def outputs_of(prefix, images):
    """Return what plain MXNet computes of a checkpoint."""
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    executor = symbol.simple_bind(mx.cpu(), data=images.shape, grad_req='null')
    executor.copy_params_from(arguments, statistics)
    return executor.forward(is_train=False, data=images)[0].asnumpy()


def test_there_and_back(model, tmp_path, run_tool):
    path, executor = model
    code, out, err = run_tool(convert, path, '--output', str(tmp_path / 'out' / 'x'))
    assert code == 0 and err == '' and 'x-0000.params' in out and '(cru56:net_multiplier=0.125)' in out
    found = outputs_of(str(tmp_path / 'out' / 'x'), executor.arg_dict['data'])
    expected = executor.forward(is_train=False)[0].asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert run_tool(convert, f'{tmp_path}/out/x,0', '--output', str(tmp_path / 'back.pt'))[0] == 0
    back, first = state_dict.read(str(tmp_path / 'back.pt')), state_dict.read(path)
    assert set(back) == set(map(torch_name, first))  # those of earlier versions are read, PyTorch's written
    for name, array in first.items():
        np.testing.assert_array_equal(back[torch_name(name)], array)


def test_a_gamma_that_mxnet_takes_for_1_is_1_in_pytorch(tmp_path, run_tool):
    """And parameters of the classes behind the embedding stay behind."""
    symbol = build('cru56', **NARROW)
    parameters = weights_of(bind(symbol, batch=1, side=112))
    parameters['fc1_gamma'][:] = 3
    checkpoints.save(str(tmp_path / 'x'), 7, symbol, parameters)
    arrays = mx.nd.load(str(tmp_path / 'x-0007.params'))
    mx.nd.save(str(tmp_path / 'x-0007.params'), dict(arrays, **{'arg:fc7_weight': mx.nd.ones((5, 24))}))
    assert run_tool(convert, f'{tmp_path}/x,7', '--output', str(tmp_path / 'x.pt'))[0] == 0
    found = state_dict.read(str(tmp_path / 'x.pt'))
    assert (found.pop('fc1.weight') == 1).all() and not [name for name in found if 'fc7' in name]
    assert set(found) == {torch_name(name) for name in parameters} - {'fc1.weight'}
    for name, array in parameters.items():
        if name != 'fc1_gamma':
            np.testing.assert_array_equal(found[torch_name(name)], array)


def renamed(symbol, change):
    """Return a symbol whose nodes have the names that `change` returns for theirs."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        node['name'] = change(node['name'])
    return mx.sym.load_json(json.dumps(graph))


def test_a_network_that_is_not_ours_comes_with_its_symbol(tmp_path, run_tool):
    """Its names become identifiers; tests/backbones loads such files in PyTorch."""

    def change(name):
        return f'conv3_x_1-{name}(s/2)' if name.startswith('stage2') else name

    symbol = build('cru56', net_act='elu', **NARROW)
    parameters = weights_of(bind(symbol, batch=1, side=112))
    checkpoints.save(
        str(tmp_path / 'x'), 0, renamed(symbol, change), {change(name): array for name, array in parameters.items()}
    )
    code, out, err = run_tool(convert, f'{tmp_path}/x,0', '--output', str(tmp_path / 'y.pt'))
    assert code == 0, err
    assert f"config.network = '{tmp_path}/y-symbol.json:pretrained={tmp_path}/y.pt'" in out
    found = state_dict.read(str(tmp_path / 'y.pt'))
    wanted = {f'conv3_x_1_{name}_s_2_' if name.startswith('stage2') else torch_name(name): name for name in parameters}
    assert set(found) == set(wanted)
    for name, array in found.items():
        if name != 'fc1.weight':
            np.testing.assert_array_equal(array, parameters[wanted[name]])
    written = mx.sym.load(str(tmp_path / 'y-symbol.json'))
    assert set(written.list_arguments()) - {'data'} < {change(name) for name in parameters}


def test_a_symbol_that_is_there_already_is_kept(tmp_path, run_tool, monkeypatch):
    """That of the checkpoint itself, or another; the same may be written again."""
    monkeypatch.chdir(tmp_path)
    symbol = build('cru56', net_mean=120.0, memonger=True, **NARROW)
    symbol._set_attr(__crunet__='{}')  # as in another's network
    checkpoints.save('x', 0, symbol, weights_of(bind(symbol, batch=1, side=112)))
    before = snapshot('.')
    code, out, err = run_tool(convert, 'x,0', '--output', 'x.pt')
    assert code == 2 and 'x-symbol.json is there already' in err and err.count('\n') == 1 and out == ''
    assert snapshot('.') == before
    for _ in range(2):
        assert run_tool(convert, 'x,0', '--output', 'y.pt')[0] == 0


@pytest.mark.parametrize(
    'network, line',
    [
        ('cru56', 'cru56:net_multiplier=0.125,pretrained='),
        ('cru56:net_origin=release', 'cru56:net_origin=release,net_multiplier=0.125,pretrained='),
        ('att56:net_origin=facexzoo', 'att56:net_origin=facexzoo,net_multiplier=0.125,pretrained='),
        ('ires18:net_origin=release', 'ires18:net_origin=release,net_multiplier=0.125,pretrained='),
        ('att56:net_origin=release', 'att56:net_origin=release,net_multiplier=0.125,pretrained='),
        ('att56:net_origin=release,net_se=1', 'att56:net_origin=release,net_se=1,net_multiplier=0.125,pretrained='),
        ('cru56:net_mean=120.0', 'cru56:net_mean=120.0,net_multiplier=0.125,pretrained='),
        ('', 'y-symbol.json:pretrained='),
    ],
)
def test_the_line_of_the_config(network, line, tmp_path, run_tool):
    """Names a network only if it computes the same."""
    symbol = build(network or 'cru56:net_mean=120.0', **NARROW)
    if not network:
        symbol._set_attr(__crunet__='{}')
    checkpoints.save(str(tmp_path / 'x'), 0, symbol, weights_of(bind(symbol, batch=1, side=112)))
    code, out, err = run_tool(convert, f'{tmp_path}/x,0', '--output', str(tmp_path / 'y.pt'))
    assert code == 0 and line in out, err
    assert os.path.exists(str(tmp_path / 'y-symbol.json')) == ('symbol.json' in line)


def test_a_known_source_is_named(tmp_path, run_tool):
    """The code of 2018, whose checkpoints also become one of our networks."""
    symbol = build('cru56', net_origin='release', **NARROW)
    names = {ours: theirs for ours, (theirs,) in SOURCES['fcrunet'].names_for(shapes_of(symbol)).items()}
    parameters = weights_of(bind(symbol, batch=1, side=112))
    theirs = renamed(symbol, lambda name: names.get(name, name))
    checkpoints.save(str(tmp_path / 'x'), 0, theirs, {names[name]: array for name, array in parameters.items()})
    code, out, err = run_tool(convert, f'{tmp_path}/x,0', '--output', str(tmp_path / 'y.pt'))
    assert code == 0 and 'from the CRU-Net faces of 2018; tools/import_weights.py' in out, err
    assert 'conv3_x_1_c1x1_w_s_key__conv2d.weight' in state_dict.read(str(tmp_path / 'y.pt'))


def shapes_of(symbol):
    return checkpoints.wanted_shapes(symbol, (112, 112, 3))


@pytest.mark.parametrize(
    'name, expected',
    [
        ('conv0_weight', 'conv0.weight'),
        ('pre_fc1_bias', 'pre_fc1.bias'),
        ('stage1_unit1_bn1_moving_mean', 'stage1.unit1.bn1.running_mean'),
        ('stage3_group1_conv1_weight', 'stage3.group1.conv1.weight'),
        ('stage2_attention1_mask_down1_unit2_relu2_gamma', 'stage2.attention1.mask.down1.unit2.relu2.weight'),
        ('stage2_attention1_close_bn1_beta', 'stage2.attention1.close.bn1.bias'),
        ('stage1_unit1_shortcut_bn_gamma', 'stage1.unit1.shortcut_bn.weight'),
        ('stage1_unit1_class_weight', 'stage1_unit1_class.weight'),
        ('anything', 'anything'),
    ],
)
def test_names_in_pytorch(name, expected):
    assert torch_name(name) == expected


@pytest.mark.parametrize('network', ['cru56', 'att56', 'attnext56', 'ires50', 'cru56:net_origin=release'])
def test_names_there_and_back(network):
    """The rule back needs nothing but names and numbers of axes; a count of batches has no place in MXNet."""
    symbol = build(*parse(network)[:1], **{**parse(network)[1], **NARROW})
    axes = {torch_name(name): len(shape) for name, shape in shapes_of(symbol).items()}
    assert len(axes) == len(shapes_of(symbol))
    assert set(mxnet_names({**axes, 'bn0.num_batches_tracked': 0}).values()) == set(shapes_of(symbol))


@example(['a_', 'a__2', 'a-'])
@given(st.lists(st.text(alphabet='a_.-2é', max_size=4), unique=True))
def test_identifiers(names):
    found = identifiers(names)
    assert list(found) and set(found) == set(names) or not names
    assert len(set(found.values())) == len(names)
    for name, identifier in found.items():
        assert identifier.isidentifier() and identifier.isascii()
        assert identifier == name or not (name.isidentifier() and name.isascii())


@pytest.mark.parametrize('program', [convert, export, evaluate])
def test_a_state_dict_of_a_known_source_is_named(program, tmp_path, run_tool):
    """Also behind its prefixes; insightface's own iresnets are not those of iResNet's authors."""
    path = str(tmp_path / 'x.pt')
    options = {
        convert: [path, '--output', str(tmp_path / 'y')],
        export: ['--model', path, '--output', str(tmp_path / 'y')],
        evaluate: ['faces', path, '--data', str(tmp_path)],
    }
    (tmp_path / 'lfw.bin').write_bytes(b'')
    for names, words in (
        (['backbone.attention_body.0.conv1.weight'], "is a file of FaceX-Zoo's attention networks; run tools/import_w"),
        (['layer1.0.conv1.weight'], "is a file of iResNet's authors; run tools/import_weights.py"),
        (['layer1.0.conv1.weight', 'prelu.weight'], 'matches no network'),
    ):
        state_dict.write(path, {name: np.ones(3, np.float32) for name in names})
        code, _, err = run_tool(program, *options[program])
        assert code == 2 and words in err and err.count('\n') == 1, err


@pytest.mark.parametrize(
    'network, options',
    [
        ('cru56', {}),
        *((network, {}) for network in (*OF_2018[:2], *FACEXZOO)),
        *((f'{network},net_se=1', {}) for network in OF_2018[2:]),
        ('cru56', {'network': 'cru56'}),
        ('cru56', {'network': 'cru56:net_multiplier=0.125,dropout=0.0,memonger=True'}),
        ('cru56', {'network': 'cru56', 'multiplier': 0.125}),
        ('att56', {}),
        ('ires101', {}),
        ('attnext56', {}),
    ],
    ids=str,
)
def test_its_network_is_recognised(tmp_path, network, options):
    parameters = weights_of(bind(build(network, **NARROW), batch=1, side=112))
    state_dict.write(str(tmp_path / 'x.pt'), parameters)
    target = of_checkpoint(str(tmp_path / 'x.pt'), **options)
    assert target.network.partition(':')[0] == network.partition(':')[0] and target.image_shape == (112, 112, 3)
    assert target.network.startswith(network)
    shapes = checkpoints.wanted_shapes(target.symbol, (112, 112, 3))
    assert shapes == {name: array.shape for name, array in parameters.items()}


def test_settings_are_named(tmp_path):
    parameters = weights_of(bind(build('cru56', net_act='relu', **NARROW), batch=1, side=112))
    state_dict.write(str(tmp_path / 'x.pt'), parameters)
    with pytest.raises(UserError, match='matches no network; pass --network'):
        of_checkpoint(str(tmp_path / 'x.pt'))
    target = of_checkpoint(str(tmp_path / 'x.pt'), network='cru56:net_act=relu')
    assert set(target.parameters) == set(parameters)
    assert parse('cru56:net_act=relu,image_shape=(64,64,3)') == (
        'cru56',
        {'net_act': 'relu', 'image_shape': (64, 64, 3)},
    )


@pytest.mark.parametrize('network, words', [(None, 'matches no network'), ('cru56', 'has no conv0_weight')])
def test_other_state_dicts(model, tmp_path, network, words):
    """One with nothing of a network, and one with a stage too many."""
    state_dict.write(str(tmp_path / 'x.pt'), {'block.conv.weight': np.ones((3, 3))})
    with pytest.raises(UserError, match=words):
        of_checkpoint(str(tmp_path / 'x.pt'), network=network)
    more = dict(state_dict.read(model[0]), stage5_unit1_conv1_weight=np.ones(1))
    state_dict.write(str(tmp_path / 'y.pt'), more)
    with pytest.raises(
        UserError, match=words if network is None else 'stage5_unit1_conv1_weight, for which there is no'
    ):
        of_checkpoint(str(tmp_path / 'y.pt'), network=network)


def test_a_state_dict_that_was_not_written_whole(tmp_path, monkeypatch):
    real = state_dict.write
    monkeypatch.setattr(state_dict, 'write', lambda path, arrays: real(path, {k: a + 1 for k, a in arrays.items()}))
    symbol = mx.sym.FullyConnected(name='fc1', num_hidden=2)
    with pytest.raises(UserError, match='x.pt could not be written completely'):
        checkpoints.save_state_dict(str(tmp_path / 'x.pt'), symbol, {'fc1_weight': np.ones((2, 2), np.float32)})


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['model.pt', '--output', 'y.pt'], 'one has to be FILE.pt or FILE.safetensors, the other PREFIX'),
        (['x,1', '--output', 'y'], 'one has to be FILE.pt or FILE.safetensors, the other PREFIX'),
        (['nowhere.pt', '--output', 'y'], 'cannot read nowhere.pt: No such file'),
        (['model.pt', '--network', 'cru57', '--output', 'y'], "there is no network 'cru57'"),
        (['model.pt', '--network', 'cru116', '--output', 'y'], 'model.pt has conv0_weight in shape'),
        (['model.pt', '--network', 'cru56', '--multiplier', '0.5', '--output', 'y'], 'add --multiplier 0.125'),
        (['model.pt', '--network', 'cru56:colour=1', '--output', 'y'], "'colour' is not a setting"),
        (['cut.pt', '--output', 'y'], 'cut.pt is not readable as a state dict of PyTorch'),
        (['nan.pt', '--output', 'y'], 'nan.pt has NaN or infinity in conv0_weight'),
        (['model.pt', '--output', 'folder/'], 'is a folder'),
    ],
)
def test_what_cannot_be_converted(model, tmp_path, run_tool, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with open('model.pt', 'rb') as file, open('cut.pt', 'wb') as cut:
        cut.write(file.read()[:-5000])
    arrays = state_dict.read('model.pt')
    arrays['conv0_weight'] = arrays['conv0_weight'] * np.nan
    state_dict.write('nan.pt', arrays)
    before = sorted(os.listdir('.'))
    code, out, err = run_tool(convert, *arguments)
    assert code == 2 and words in err and out == '' and err.count('\n') == 1
    assert sorted(os.listdir('.')) == before


def test_it_does_not_overwrite_what_it_reads(model, tmp_path, run_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_tool(convert, 'model.pt', '--output', 'x')[0] == 0
    os.symlink('x-0000.params', 'x.pt')
    code, _, err = run_tool(convert, 'x,0', '--output', 'x.pt')
    assert code == 2 and 'would be overwritten' in err


def test_the_programs_take_it(model, tmp_path, run_tool, monkeypatch):
    """Exported, verified, drawn and summed up as a checkpoint of MXNet is."""
    path, executor = model
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_tool(export, '--model', path, '--onnx', '--fold-bn', '--output', 'e')
    assert code == 0 and 'e-folded-0000.params' in out
    import onnxruntime

    images = executor.arg_dict['data'].asnumpy()
    (found,) = onnxruntime.InferenceSession('e-folded.onnx').run(None, {'data': images})
    expected = executor.forward(is_train=False)[0].asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    synthetic.write_synthetic('faces', identities=2, images=2, pairs=10, seed=0)
    assert run_tool(convert, path, '--output', 'c')[0] == 0
    code, out, _ = run_tool(evaluate, 'faces', path, 'c,0', '--data', 'faces', '--markdown')
    rows = [line for line in out.splitlines() if line.startswith('| drawn | 10 ')]
    assert code == 0 and len(rows) == 2 and rows[0] == rows[1]
    assert run_tool(visualize, 'attention', '--model', path, '--layer', 'stage1_unit1_plus', '-o', 'm.png')[0] == 0
    assert run_tool(summarize, path)[0] == 0
