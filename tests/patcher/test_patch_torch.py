"""patch_insightface.py in arcface_torch: a block in get_model, a folder next to the backbones, configs."""

import contextlib
import io
import os
import runpy
import sys
import types

import pytest

import patch_insightface as command
from helpers import FACE_NETWORKS, ROOT, snapshot
from host.layouts import lay_out, lay_out_torch
from netkit.networks import entry
from patcher import apply, blocks, hosts, source

BY_HAND = """\
    from .crunet import symbol_torch
    if symbol_torch.is_known(name):
        return symbol_torch.get_model(name, **kwargs)
"""
HEAD, BODY = 'def get_model(name, **kwargs):\n', '    if name == "r18":\n        return 18\n    raise ValueError()'
# Versions of backbones/__init__.py, from the history of insightface and from what its users may have made of it.
VERSIONS = {
    'no newline at the end': HEAD + BODY,
    'comments': HEAD + '    # resnet\n\n' + BODY + '\n',
    'docstring': HEAD + '    """Make it.\n    # not a comment"""\n    # one\n' + BODY + '\n',
    'signature': 'def get_model(\n    network,  # which\n    **others\n):\n' + BODY.replace('name', 'network') + '\n',
    'tabs': (HEAD + '    @staticmethod\n    def inner():\n        return 18\n' + BODY + '\n').replace('    ', '\t'),
    'windows': (HEAD + BODY + '\n').replace('\n', '\r\n'),
}


@pytest.fixture(autouse=True)
def in_no_haste(monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda handle: None)


@pytest.fixture
def host(tmp_path):
    return lay_out_torch(str(tmp_path / 'checkout'))


def run(*options):
    """Run the tool; return exit status, output, error output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command.program(list(options))
    return status, out.getvalue(), err.getvalue()


def write(content, *names):
    with open(os.path.join(*names), 'wb') as file:
        file.write(content.encode())


def content_of(*names):
    with open(os.path.join(*names), 'rb') as file:
        return file.read()


def package(host):
    """Run insightface's package of backbones with a stand-in for the module that needs PyTorch; return its names."""
    stand_in = types.ModuleType('backbones.crunet.symbol_torch')
    stand_in.is_known = lambda name: name == 'cru116'
    stand_in.get_model = lambda name, **options: (name, options)
    stand_in.functions = lambda: {'cru116': lambda pretrained=False, **options: ('cru116', options)}
    crunet = types.ModuleType('backbones.crunet')
    crunet.symbol_torch, crunet.__path__ = stand_in, []
    modules = {'backbones.crunet': crunet, 'backbones.crunet.symbol_torch': stand_in}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    found = {'__name__': 'backbones', '__package__': 'backbones', '__path__': []}
    exec(compile(content_of(host, 'backbones', '__init__.py'), 'backbones/__init__.py', 'exec'), found)
    yield found
    for name, module in before.items():
        sys.modules.pop(name) if module is None else sys.modules.update({name: module})


@pytest.mark.parametrize('version', VERSIONS)
def test_every_form_of_get_model(host, version):
    write(VERSIONS[version], host, 'backbones', '__init__.py')
    before = snapshot(host)
    assert run(host)[0] == 0
    installed = snapshot(host)
    assert run(host)[1].startswith('Nothing to change') and snapshot(host) == installed
    assert run(host, '--status') == (0, 'installed      recognition/arcface_torch  (%s)\n' % source.VERSION, '')
    for found in package(host):
        get_model = found['get_model']
        assert get_model('cru116', fp16=True, num_features=8) == ('cru116', {'fp16': True, 'num_features': 8})
        assert get_model('r18', fp16=True) == 18
        with pytest.raises(ValueError):
            get_model('r7')
    assert run(host, '--revert')[0] == 0 and snapshot(host) == before
    assert not os.path.exists(os.path.join(host, 'backbones', 'crunet'))


def test_before_there_was_get_model(host):
    """In the first two months the trainer looked for a function: eval('backbones.%s' % network)."""
    write('iresnet50 = 50', host, 'backbones', '__init__.py')
    os.remove(os.path.join(host, 'configs', 'base.py'))
    before = snapshot(host)
    code, output, _ = run(host)
    assert code == 0 and output.rstrip().endswith('train_v2.py --network cru116')
    for found in package(host):
        assert found['cru116'](False, fp16=True) == ('cru116', {'fp16': True}) and found['iresnet50'] == 50
    assert run(host, '--revert')[0] == 0 and snapshot(host) == before


def test_what_is_copied(host):
    assert run(host)[0] == 0
    for folder, name in (
        ('symbols', 'face_blocks.py'),
        ('symbols', 'face_settings.py'),
        ('symbols', 'fcrunet.py'),
        ('symbols', 'firesnet.py'),
        ('symbols', 'fresattention.py'),
        *(('backbones/crunet', f'{name}.py') for name in blocks.TORCH_MODULES),
        ('config', 'networks.py'),
    ):
        assert content_of(host, 'backbones', 'crunet', name) == content_of(ROOT, folder, name)
    assert len(os.listdir(os.path.join(host, 'backbones', 'crunet'))) == 13
    configs = set(os.listdir(os.path.join(host, 'configs')))
    assert configs == {'__init__.py', 'base.py', *(f'ms1mv2_{network}.py' for network in FACE_NETWORKS)}


@pytest.mark.parametrize('network', FACE_NETWORKS)
def test_the_configs(host, network):
    assert run(host)[0] == 0
    config = runpy.run_path(os.path.join(host, 'configs', f'ms1mv2_{network}.py'))['config']
    row = entry('network', network)
    assert (config.network, config.batch_size, config.lr) == (network, row.per_batch_size, row.lr)
    assert config.embedding_size == 512 and config.margin_list == (1.0, 0.5, 0.0) and config.fp16
    with open(os.path.join(host, 'configs', f'ms1mv2_{network}.py')) as file:
        assert ('the published training had 256' in file.read()) == (row.get('emb_size', 512) == 256)


@pytest.mark.parametrize(
    'text',
    [
        'def get_model(name, fp16, **kwargs):\n    return 1\n',
        'def get_model(name, **kwargs): return 1\n',
        'def get_model(name, *, fp16=False, **kwargs):\n    return 1\n',
        'def get_model(name, *others, **kwargs):\n    return 1\n',
        'def get_model(name):\n    return 1\n',
        'get_model = lambda name, **kwargs: 1\n',
        'from .factory import get_model\n',
        'def get_model(name, **kwargs):\n    """Nothing else."""\n',
    ],
)
def test_another_get_model_is_left_alone(host, text):
    write(text, host, 'backbones', '__init__.py')
    before = snapshot(host)
    code, _, err = run(host)
    assert code == 2 and 'cannot find its get_model(name, **kwargs)' in err and err.count('\n') == 1
    assert snapshot(host) == before


def test_other_trainers_are_reached_with_only(host, tmp_path):
    """Where get_model cannot be found, and where it can."""
    root = str(tmp_path / 'checkout')
    lay_out(root, 'C')
    before = snapshot(host)
    assert run(root, '--trainer', 'recognition/arcface_mxnet')[0] == 0 and snapshot(host) == before
    write('get_model = 1\n', host, 'backbones', '__init__.py')
    assert run(root)[0] == 2 and run(root, '--trainer', 'recognition/arcface_mxnet')[0] == 0


@pytest.mark.parametrize('name', ['configs/ms1mv2_cru116.py', 'backbones/crunet/fcrunet.py'])
def test_what_was_edited_is_not_lost(host, name):
    assert run(host)[0] == 0
    edited = content_of(host, name) + b'# mine\n'
    write(edited.decode(), host, name)
    for options, words in (
        ((), 'is not what this plug-in put there'),
        (('--revert',), 'was edited after it was copied'),
    ):
        before = snapshot(host)
        code, _, err = run(host, *options)
        assert code == 2 and name.split('/')[-1] in err and words in err and snapshot(host) == before
    assert run(host, '--status')[1].startswith('modified')
    assert run(host, '--revert', '--force')[0] == 0
    assert content_of(host, name + apply.BACKUP) == edited and not os.path.exists(os.path.join(host, name))


def test_a_network_that_is_no_longer_shipped_goes(host, monkeypatch):
    real = blocks.load_networks()
    older = dict(real, oldnet=dict(real['cru56']))
    monkeypatch.setattr(hosts, 'load_networks', lambda: older)
    assert run(host)[0] == 0 and os.path.exists(os.path.join(host, 'configs', 'ms1mv2_oldnet.py'))
    monkeypatch.setattr(hosts, 'load_networks', lambda: real)
    assert run(host, '--status')[1].startswith('outdated')
    assert run(host)[0] == 0 and not os.path.exists(os.path.join(host, 'configs', 'ms1mv2_oldnet.py'))
    assert run(host, '--status')[1].startswith('installed')


def put_in_by_hand(host):
    """Do what docs/arcface-torch.md says."""
    os.mkdir(os.path.join(host, 'backbones', 'crunet'))
    files = blocks.load_torch_modules(blocks.load_modules(blocks.load_networks()))
    for name, content in files.items():
        write(content.decode(), host, 'backbones', 'crunet', name)
    text = content_of(host, 'backbones', '__init__.py').decode()
    write(text.replace('**kwargs):\n', '**kwargs):\n' + BY_HAND), host, 'backbones', '__init__.py')


def test_what_was_put_in_by_hand(host):
    before = content_of(host, 'backbones', '__init__.py')
    put_in_by_hand(host)
    assert run(host, '--status')[1].startswith('by hand')
    code, _, err = run(host)
    assert code == 2 and 'already has something of that name; remove the line, use --adopt' in err
    write("config.network = 'cru116'\n", host, 'configs', 'mine.py')
    code, output, _ = run(host, '--revert')
    assert code == 0 and os.path.exists(os.path.join(host, 'backbones', 'crunet', 'fcrunet.py'))
    assert 'mine.py' not in output  # the network is still there
    assert run(host, '--adopt')[0] == 0 and run(host, '--status')[1].startswith('installed')
    assert content_of(host, 'backbones', '__init__.py').count(b'symbol_torch.is_known') == 1
    assert run(host, '--revert')[0] == 0
    assert content_of(host, 'backbones', '__init__.py') == before
    assert not os.path.exists(os.path.join(host, 'backbones', 'crunet'))


def test_configs_of_the_user_are_named_that_use_what_has_gone(host):
    assert run(host)[0] == 0
    write("config = 1\nconfig.network = 'cru116:net_origin=release'\n", host, 'configs', 'mine.py')
    write("config.network = 'r50'  # not config.network = 'cru116'\n", host, 'configs', 'other.py')
    _, output, _ = run(host, '--revert')
    notes = [line for line in output.splitlines() if line.startswith('Note')]
    assert len(notes) == 1 and notes[0].endswith('configs/mine.py uses cru116, which this trainer no longer has.')


def test_compiled_files_go_with_the_folder_and_others_stay(host):
    assert run(host)[0] == 0
    compiled = os.path.join(host, 'backbones', 'crunet', '__pycache__')
    os.mkdir(compiled)
    write('', compiled, 'fcrunet.cpython-311.pyc')
    assert run(host, '--revert')[0] == 0 and not os.path.exists(os.path.join(host, 'backbones', 'crunet'))
    assert run(host)[0] == 0
    os.mkdir(compiled)
    write('', compiled, 'mine.cpython-311.pyc')
    assert run(host, '--revert')[0] == 0 and os.listdir(compiled) == ['mine.cpython-311.pyc']
