"""patch_insightface.py: one command installs, another removes without a trace, and the user's lines stay."""

import contextlib
import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from kills import killed

import patch_insightface as command
from helpers import PATIENCE, ROOT, snapshot
from host.layouts import LAYOUTS, TEMPLATE, lay_out, lay_out_partial_fc
from patcher import apply, blocks, hosts, plan, source

TOOL = os.path.join(ROOT, 'patch_insightface.py')
MODULES = ['face_blocks.py', 'face_settings.py', 'fcrunet.py', 'firesnet.py', 'fresattention.py']
TRAIN, CONFIG = ('arcface_mxnet', 'train.py'), ('arcface_mxnet', 'config.py')


@pytest.fixture(scope='module', autouse=True)
def parsed_once():
    """Read the builder modules once: the programs of these tests do it some thousand times."""
    networks, real = blocks.load_networks(), blocks.load_modules
    modules = real(networks)
    hosts.load_modules = lambda wanted: dict(modules) if wanted == networks else real(wanted)
    yield
    hosts.load_modules = real


@pytest.fixture(autouse=True)
def in_no_haste(monkeypatch):
    """Do not wait for the disk after every file, in this process: it is most of the time, and nobody pulls the plug."""
    monkeypatch.setattr(os, 'fsync', lambda handle: None)


def run(*options):
    """Run the tool; return exit status, output, error output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command.program(list(options))
        except SystemExit as end:  # argparse
            status = end.code
    return status, out.getvalue(), err.getvalue()


def run_alone(*options):
    """The same in a separate process."""
    done = subprocess.run([sys.executable, TOOL] + list(options), capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def edit(path, change):
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(change(content))


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request):
    return request.param


@pytest.fixture
def checkout(tmp_path):
    """A checkout of today's layout with partial_fc and a config.py, at a path with spaces and other letters."""
    root = str(tmp_path / 'in sight fäce')
    trainer = lay_out(root, 'C')[0]
    lay_out_partial_fc(root)
    shutil.copy(os.path.join(trainer, 'sample_config.py'), os.path.join(trainer, 'config.py'))
    edit(os.path.join(trainer, 'config.py'), lambda text: text.replace(b'../datasets/faces_emore', b'/data/mine'))
    return root


def file_in(checkout, *names):
    return os.path.join(checkout, 'recognition', *names)


# ----------------------------------------------------------------------------------------- install and remove


def test_every_layout(layout, tmp_path):
    root = str(tmp_path / 'checkout')
    trainers = lay_out(root, layout)
    before = snapshot(root)
    assert run(root, '--status') == (1, ''.join(f'not installed  {os.path.relpath(t, root)}\n' for t in trainers), '')
    code, output, _ = run(root)
    assert code == 0 and 'python -u train' in output and '--network cru116 --loss arcface --dataset emore' in output
    assert run(root, '--status') == (
        0,
        ''.join(f'installed      {os.path.relpath(t, root)}  ({source.VERSION})\n' for t in trainers),
        '',
    )
    for trainer in trainers:
        own = os.path.join(trainer, 'symbol')
        symbol = own if os.path.isdir(own) else os.path.join(os.path.dirname(trainer), 'symbol')
        for module in MODULES:
            with open(os.path.join(symbol, module), 'rb') as copied, open(
                os.path.join(ROOT, 'symbols', module), 'rb'
            ) as ours:
                assert copied.read() == ours.read()
    installed = snapshot(root)
    code, output, _ = run(root)
    assert code == 0 and 'Nothing to change' in output and snapshot(root) == installed
    assert run(root, '--revert')[0] == 0
    assert snapshot(root) == before
    code, output, _ = run(root, '--revert')
    assert code == 0 and 'Nothing to revert' in output


def test_as_a_program_of_its_own(checkout):
    before = snapshot(checkout)
    assert run_alone(checkout, '--status')[0] == 1
    code, out, err = run_alone(checkout)
    assert code == 0 and err == '' and 'Done: ' in out
    assert run_alone(checkout, '--status') == run(checkout, '--status')
    assert run_alone(checkout, '--revert')[0] == 0 and snapshot(checkout) == before
    code, out, err = run_alone(os.path.join(checkout, 'none'))
    assert (code, out, len(err.splitlines())) == (2, '', 1) and 'is not a folder' in err


def test_any_folder_of_the_checkout_will_do(checkout):
    assert run(file_in(checkout, 'arcface_mxnet', 'symbol'))[0] == 0
    assert run(checkout, '--status')[0] == 0


def test_the_config_knows_the_networks_and_keeps_the_users_edits(checkout):
    run(checkout)
    code = (
        'from config import config, network, generate_config, dataset, default\n'
        "generate_config('cru116', 'emore', 'arcface')\n"
        'print(config.net_name, config.num_layers, default.per_batch_size, config.dataset_path, sorted(network) == %r)'
    )
    expected = sorted(list(blocks.load_networks()) + ['mini', 'mini4'])
    done = subprocess.run(
        [sys.executable, '-c', code % expected],
        cwd=file_in(checkout, 'arcface_mxnet'),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == 'fcrunet 116 80 /data/mine True\n'


def test_partial_fc_finds_the_networks(checkout):
    run(checkout)
    for network, size in (('cru56', 256), ('att56', 512), ('mini', 512)):
        done = subprocess.run(
            [sys.executable, 'train_memory.py', '--network', network],
            cwd=file_in(checkout, 'partial_fc', 'mxnet'),
            capture_output=True,
            text=True,
        )
        assert done.stdout == 'fc1 (%d, %d)\n' % (64 if network == 'mini' else 80, size), done.stderr


def test_dry_run_shows_the_diff_and_writes_nothing(checkout):
    before = snapshot(checkout)
    code, output, _ = run(checkout, '--dry-run')
    assert code == 0 and snapshot(checkout) == before
    assert '--- a/recognition/arcface_mxnet/train.py' in output
    assert '+++ b/recognition/arcface_mxnet/symbol/fcrunet.py' in output and '--- /dev/null' in output
    assert "+network.cru116.net_name = 'fcrunet'" in output
    run(checkout)
    code, output, _ = run(checkout, '--dry-run')
    assert code == 0 and 'Nothing would change' in output
    installed = snapshot(checkout)
    code, output, _ = run(checkout, '--revert', '--dry-run')
    assert code == 0 and "-network.cru116.net_name = 'fcrunet'" in output and snapshot(checkout) == installed


def test_dry_run_is_what_patch_would_apply(checkout, tmp_path):
    """The diff, applied by another program, gives the same tree."""
    if shutil.which('git') is None:
        pytest.skip('git is not installed')
    edit(file_in(checkout, *CONFIG), lambda text: text[: text.index(b'# data sets')].rstrip(b'\n'))
    by_git = str(tmp_path / 'by git')
    shutil.copytree(checkout, by_git)
    diff = run(checkout, '--dry-run')[1]
    subprocess.run(['git', 'init', '-q', '.'], cwd=by_git, check=True)
    subprocess.run(['git', 'apply', '--whitespace=nowarn', '-'], cwd=by_git, input=diff.encode(), check=True)
    shutil.rmtree(os.path.join(by_git, '.git'))
    run(checkout)
    relative = [
        {os.path.relpath(path, root): content for path, (content, _) in snapshot(root).items()}
        for root in (checkout, by_git)
    ]
    assert relative[0] == relative[1]


def test_an_older_install_is_brought_up_to_date(checkout, monkeypatch):
    before = snapshot(checkout)
    old_networks = {'cru56': {'net_name': 'fcrunet', 'num_layers': 56}}
    with monkeypatch.context() as older:
        older.setattr(hosts, 'load_networks', lambda: old_networks)
        older.setattr(
            hosts, 'load_modules', lambda networks: {'fcrunet.py': b'old = 1\n', 'face_blocks.py': b'old = 2\n'}
        )
        assert command.main([checkout]) == 0
    assert run(checkout, '--status')[1].startswith('outdated')
    assert run(checkout)[0] == 0
    assert run(checkout, '--status')[0] == 0
    with open(file_in(checkout, 'arcface_mxnet', 'config.py')) as file:
        assert file.read().count('network.cru56 = ') == 1
    assert run(checkout, '--revert')[0] == 0
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    'change',
    [
        lambda text: text.replace(b'\n', b'\r\n'),
        lambda text: text.rstrip(b'\n'),
        lambda text: text.replace(b'\n', b'\r\n').rstrip(b'\r\n'),
        lambda text: b'\xef\xbb\xbf' + text,
        lambda text: text.replace(b'    ', b'\t'),
        lambda text: text.replace(b'    ', b'  '),
        lambda text: text[: text.index(b'# data sets')],
        lambda text: text[: text.index(b'# data sets')].rstrip(b'\n'),
        lambda text: text[: text.index(b'# data sets')].rstrip(b'\n').replace(b'\n', b'\r\n'),
        lambda text: text + '# 人脸 \f\x0b\u2028 face'.encode('utf-8'),
    ],
    ids=[
        'crlf',
        'no newline',
        'crlf, no newline',
        'bom',
        'tabs',
        'two spaces',
        'ends there',
        'ends there, no newline',
        'ends there, crlf, no newline',
        'odd characters',
    ],
)
def test_revert_gives_back_every_byte(checkout, change):
    config = file_in(checkout, 'arcface_mxnet', 'config.py')
    edit(config, change)
    os.chmod(config, 0o640)
    before = snapshot(checkout)
    code, _, error = run(checkout)
    assert code == 0, error
    with open(config, 'rb') as file:
        content = file.read()
    assert content != before[config][0] and os.stat(config).st_mode == before[config][1]
    assert content.count(b'\r\n') == (content.count(b'\n') if b'\r\n' in before[config][0] else 0)
    assert content.index(b'network.mini4') < content.index(b'network.cru116 = edict()')
    assert run(checkout, '--status')[0] == 0
    assert run(checkout, '--revert')[0] == 0
    assert snapshot(checkout) == before


def test_a_file_of_one_line_without_its_end(checkout):
    edit(file_in(checkout, *TRAIN), lambda _: b'import fmini')
    before = snapshot(checkout)
    assert command.main([checkout]) == 0 and block(file_in(checkout, *TRAIN))[1] == 'import fmini'
    assert command.main([checkout, '--revert']) == 0 and snapshot(checkout) == before


def test_a_line_that_an_editor_ended_otherwise_is_kept(checkout):
    script = file_in(checkout, *TRAIN)
    edit(script, lambda _: b'import os\r\nimport fmini')
    assert command.main([checkout]) == 0
    edit(script, lambda text: text.replace(b'import fmini\r\n', b'import fmini\n'))
    assert command.main([checkout, '--revert']) == 0
    with open(script, 'rb') as file:
        assert file.read() == b'import os\r\nimport fmini\n'


@pytest.mark.skipif(os.name != 'posix' or os.getuid() != 0, reason='only root can give files away')
def test_files_keep_their_owner_and_mode(checkout):
    """And what is new belongs to whoever installs."""
    script = file_in(checkout, *TRAIN)
    os.chown(script, 1234, 2345)
    os.chmod(script, 0o750)
    for options in ([], ['--revert']):
        assert command.main([checkout] + options) == 0
        status = os.stat(script)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o750)
        module = file_in(checkout, 'arcface_mxnet', 'symbol', 'fcrunet.py')
        assert options or os.stat(module).st_uid == os.getuid()


@pytest.mark.parametrize('problem', [PermissionError(1, 'Operation not permitted'), OSError(22, 'Invalid argument')])
def test_a_file_that_cannot_be_given_back_is_ones_own(checkout, monkeypatch, problem):
    def refuse(*_):
        raise problem

    script = file_in(checkout, *TRAIN)
    os.chmod(script, 0o750)
    monkeypatch.setattr(os, 'chown', refuse)
    real = os.stat

    def of_another(path, *rest, **kwargs):
        status = real(path, *rest, **kwargs)
        return (
            os.stat_result((status.st_mode,) + tuple(status)[1:4] + (4321, 4321) + tuple(status)[6:])
            if path == script
            else status
        )

    with monkeypatch.context() as patched:
        patched.setattr(os, 'stat', of_another)
        assert command.main([checkout]) == 0
    assert os.stat(script).st_mode & 0o777 == 0o750 and 'import fcrunet' in open(script).read()


def block(path):
    """Return the lines of the plug-in's block in a file, except its checksums, and the line in front of it."""
    with open(path) as file:
        lines = file.read().splitlines()
    start, end = [index for index, line in enumerate(lines) if line.startswith((source.BEGIN, source.END))]
    return [line for line in lines[start + 1 : end] if not re.match(r'# \w+\.py [0-9a-f]{16}$', line)], lines[start - 1]


def test_the_blocks_hold_what_their_trainer_wants_and_no_more(checkout):
    assert command.main([checkout]) == 0
    imports = ['import fcrunet', 'import firesnet', 'import fresattention']
    for name in ('train.py', 'train_parall.py'):
        assert block(file_in(checkout, 'arcface_mxnet', name)) == (imports, 'import fmini')
    lines, _ = block(file_in(checkout, 'partial_fc', 'mxnet', 'train_memory.py'))
    assert (
        lines
        == [
            'import os',
            'import sys',
            "sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'symbol'))",
        ]
        + imports
    )
    lines, before = block(file_in(checkout, *CONFIG))
    assert before == 'network.mini4.per_batch_size = 16'
    assert lines[:3] == [
        'network.cru56 = edict()',
        "network.cru56.net_name = 'fcrunet'",
        'network.cru56.num_layers = 56',
    ]
    assert all(line == '' or line.startswith('network.') for line in lines)
    assert block(file_in(checkout, 'partial_fc', 'mxnet', 'default.py'))[0][0] == '_crunet_networks = {'
    assert not os.path.exists(file_in(checkout, 'arcface_mxnet', 'symbol', 'config.py'))
    assert os.path.exists(file_in(checkout, 'partial_fc', 'mxnet', 'config.py'))


@pytest.mark.parametrize(
    'text, before',
    [
        ('import fmini\nimport os\nimport fmini as again\nx = 1\n', 'import fmini as again'),
        ('import fmini\nimport fminimal\n', 'import fmini'),
        ('import fmini, \\\n    os\n', '    os'),
        ("sys.path.append(f('symbol',\n  1))\nx = 1\n", '  1))'),
        ("sys.path.append('symbol')\nprint('Python 3')\n", "sys.path.append('symbol')"),
        ("if x:\n  import fmini\nelse:\n  import os\nprint('Python 3')\n", '  import os'),
        ("import fmini; y = '''\nabc\n'''; z = 1\nprint('Python 3')\n", "'''; z = 1"),
        ("import fmini\n'''\nimport fmini\n'''\n", 'import fmini'),
        ('import fmini\n@decorated\ndef f():\n  pass\n', 'import fmini'),
        ('import fmini\n@decorated\n@(\n  again)\nclass F: pass\n', 'import fmini'),
    ],
)
def test_the_place_of_the_imports(checkout, text, before):
    edit(file_in(checkout, *TRAIN), lambda _: text.encode())
    assert command.main([checkout]) == 0
    assert block(file_in(checkout, *TRAIN))[1] == before


@pytest.mark.parametrize(
    'text, before',
    [
        ('network = edict()\nnetwork.a = [1,\n  2]\nloss = 1\n', '  2]'),
        ("network = edict()\nnetwork['a'] = 'it (was'\nloss = 1\n", "network['a'] = 'it (was'"),
        ('network = edict()\nnetworks = 1\n', 'network = edict()'),
        ('network = edict()\nnetwork.a = [1,\n  2]  # end\nloss = 1\n', '  2]  # end'),
        ("network = edict()\nnetwork.a = edict(); y = '''\nabc\n'''; z = 3\n", "'''; z = 3"),
        ("network = edict()\n'''\nnetwork.old = edict()\n'''\nloss = 1\n", 'network = edict()'),
        ('network = edict()\nx = \'it\\\'s\'  # don\'t\ny = """\nnetwork.old = 1\n"""\n', 'network = edict()'),
        ('network = edict()\n"""\na text\n"""\nloss = 1\n', 'network = edict()'),
    ],
)
def test_the_place_of_the_choices(checkout, text, before):
    edit(file_in(checkout, *CONFIG), lambda _: text.encode())
    assert command.main([checkout]) == 0
    assert block(file_in(checkout, *CONFIG))[1] == before


@pytest.mark.parametrize(
    'line, name',
    [
        ('network = EasyDict()', 'EasyDict'),
        ('network = easydict.EasyDict()', 'easydict.EasyDict'),
        ('network = EasyDict({})', 'EasyDict'),
        ('network: EasyDict = EasyDict()', 'EasyDict'),
        ('if True:\n    network = EasyDict()', 'EasyDict'),
    ],
)
def test_the_choices_are_made_as_the_config_makes_its_own(checkout, line, name):
    config = file_in(checkout, *CONFIG)
    imports = b'import easydict\nfrom easydict import EasyDict\n'
    edit(
        config,
        lambda text: (
            imports
            + text.replace(b'network = edict()', line.encode()).replace(
                b'from easydict import EasyDict as edict', b'edict = dict'
            )
        ),
    )
    assert command.main([checkout]) == 0
    assert block(config)[0][0] == f'network.cru56 = {name}()'


@pytest.mark.parametrize(
    'line', ['names = [network for network in (1, 2)]', 'for network in ():\n    pass', 'network: object']
)
def test_another_use_of_the_name_is_no_assignment(checkout, line):
    config = file_in(checkout, *CONFIG)
    edit(config, lambda text: text.replace(b'network = edict()', line.encode() + b'\nnetwork = edict()'))
    assert command.main([checkout]) == 0
    assert block(config)[0][0] == 'network.cru56 = edict()'


@pytest.mark.parametrize('value', ['{}', 'dict()', 'OrderedDict()', '[]'])
def test_choices_that_have_no_names_are_refused(checkout, value):
    edit(file_in(checkout, *CONFIG), lambda text: text.replace(b'network = edict()', b'network = ' + value.encode()))
    refused(checkout, r'config\.py:\d+: its networks are not an EasyDict')


UNSUPPORTED = [
    (TRAIN, lambda text: text + b'print "Python 2"\n', r'train\.py:\d+ cannot be parsed by Python 3\.\d+; run'),
    (CONFIG, lambda text: text + b'x = 1\n print 2\n', r'config\.py:\d+ cannot be parsed by Python'),
    (TRAIN, lambda text: b'x = 1\r\ny = 1\rz = 2\r\n' + text, r'train\.py:2 has a carriage return'),
    (
        CONFIG,
        lambda _: b'from sample_config import *\n',
        r'config\.py:1 takes its networks from another file; add them',
    ),
    (('arcface_mxnet', 'config', '__init__.py'), lambda text: text, r'a config that is a package is not supported'),
]


@pytest.mark.parametrize(
    'name, change, words', UNSUPPORTED, ids=['script', 'config', 'carriage return', 'star import', 'package']
)
def test_what_is_not_supported_is_named(checkout, name, change, words):
    path = file_in(checkout, *name)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path))
        open(path, 'w').close()
    edit(path, change)
    refused(checkout, words)
    refused(checkout, words, '--dry-run')


@pytest.mark.parametrize('name, change', [row[:2] for row in UNSUPPORTED[:2]], ids=['script', 'config'])
def test_what_was_installed_there_before_is_updated_and_reverted(checkout, monkeypatch, name, change):
    before, path = snapshot(checkout), file_in(checkout, *name)
    with monkeypatch.context() as older:
        older.setattr(source, 'VERSION', '0.9')
        assert command.main([checkout]) == 0
    edit(path, change)
    assert run(checkout)[0] == 0 and run(checkout, '--status')[0] == 0
    assert run(checkout, '--revert')[0] == 0
    with open(path, 'rb') as file:
        assert file.read() == change(before[path][0])


def test_a_star_import_of_a_config_that_has_the_block_is_left(checkout, monkeypatch):
    """As version 1.0 installed it."""
    sample, config = (file_in(checkout, 'arcface_mxnet', name) for name in ('sample_config.py', 'config.py'))
    shutil.copy(config, sample)
    with monkeypatch.context() as older:
        older.setattr(source, 'VERSION', '0.9')
        assert command.main([checkout]) == 0
    with open(config, 'wb') as file:
        file.write(b'from sample_config import *\nnetwork.cru116.per_batch_size = 40\n')
    assert run(checkout)[0] == 0 and run(checkout, '--status')[0] == 0
    code, output, _ = run(checkout, '--revert')
    assert code == 0 and re.search(r'Note: .*arcface_mxnet/config\.py:2 still names one of the networks', output)


@pytest.fixture
def project_of_ones_own(tmp_path):
    """A copy of this project, which its user edits."""
    project = str(tmp_path / 'project')
    os.mkdir(project)
    shutil.copy(TOOL, project)
    for folder in ('symbols', 'config', 'patcher'):
        shutil.copytree(os.path.join(ROOT, folder), os.path.join(project, folder))
    return project


@pytest.mark.parametrize(
    'name, content, words',
    [
        ('symbols/fcrunet.py', None, r'the network cru56 needs .*fcrunet\.py, which does not exist'),
        ('symbols/fcrunet.py', 'def x(:\n', r'fcrunet\.py is not a Python module'),
        ('config/networks.py', 'NETWORKS = {', r'networks\.py has no table of networks: '),
        ('config/networks.py', 'NETWORK = {}', r'networks\.py has no table of networks: '),
    ],
)
def test_a_fault_in_ones_own_project_is_a_sentence(checkout, project_of_ones_own, name, content, words):
    path = os.path.join(project_of_ones_own, name)
    os.remove(path)
    if content:
        with open(path, 'w') as file:
            file.write(content)
    before = snapshot(checkout)
    done = subprocess.run(
        [sys.executable, os.path.join(project_of_ones_own, 'patch_insightface.py'), checkout],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and re.search(words, done.stderr), done.stderr
    assert snapshot(checkout) == before


def test_the_place_in_partial_fc_is_behind_generate_config(checkout):
    path = file_in(checkout, 'partial_fc', 'mxnet', 'default.py')
    edit(
        path,
        lambda text: (
            text.replace(b'def generate_config', b'def load():\n    pass\n\n\ndef generate_config')
            + b'    assert network\n\n\ndef store():\n    pass\n'
        ),
    )
    assert command.main([checkout]) == 0
    assert block(path)[1] == '    assert network'


@pytest.mark.parametrize(
    'files, script, before',
    [
        (['fother.py'], 'import os\nimport fother\nimport sys\n', 'import fother'),
        ([], 'import os\nimport fresnet\nimport sys\n', 'import fresnet'),  # it has been insightface's in every version
        (['_hidden.py', 'notes.txt'], 'import fresnet\nimport _hidden\nimport notes\n', 'import fresnet'),
        (['fother.py'], 'import fresnet\nimport fother.part\n', 'import fresnet'),
    ],
)
def test_the_hosts_modules_are_those_of_its_symbol_folder(checkout, files, script, before):
    symbol = file_in(checkout, 'arcface_mxnet', 'symbol')
    os.remove(os.path.join(symbol, 'fmini.py'))
    for name in files:
        open(os.path.join(symbol, name), 'w').close()
    for name in ('train.py', 'train_parall.py'):
        edit(file_in(checkout, 'arcface_mxnet', name), lambda _: script.encode())
    shutil.rmtree(file_in(checkout, 'subcenter_arcface'))
    assert command.main([checkout]) == 0
    assert block(file_in(checkout, *TRAIN))[1] == before
    # Its own modules, there by now, are none of insightface's: a second install finds the same place.
    assert command.main([checkout]) == 0 and block(file_in(checkout, *TRAIN))[1] == before


def test_its_own_modules_copied_by_hand_are_none_of_the_hosts(checkout):
    module = file_in(checkout, 'arcface_mxnet', 'symbol', 'face_blocks.py')
    shutil.copy(os.path.join(ROOT, 'symbols', 'face_blocks.py'), module)
    edit(file_in(checkout, *TRAIN), lambda _: b'import fresnet\nimport face_blocks\n')
    assert run(checkout, '--status')[1].startswith('not installed')  # by itself it does nothing
    assert command.main([checkout]) == 0
    assert block(file_in(checkout, *TRAIN))[1] == 'import fresnet'


def test_other_files_are_not_touched(checkout):
    bystander = file_in(checkout, 'arcface_mxnet', 'symbol', 'fmini.py')
    times = os.stat(bystander).st_mtime_ns
    run(checkout)
    run(checkout, '--revert')
    assert os.stat(bystander).st_mtime_ns == times


# --------------------------------------------------------------------------------- nothing of the user's


def refused(checkout, words, *options):
    """The tool stops with one sentence and leaves everything as it is."""
    before = snapshot(checkout) if os.path.isdir(checkout) else None
    code, output, error = run(checkout, *options)
    assert code == 2 and len(error.splitlines()) == 1, (output, error)
    assert re.search(words, error), error
    assert before is None or snapshot(checkout) == before


@pytest.mark.parametrize(
    'name, change, words',
    [
        (
            TRAIN,
            lambda text: text.replace(b'import fmini', b'import fmini\nimport fcrunet'),
            r'train\.py:16 already has',
        ),
        (
            CONFIG,
            lambda text: text.replace(b'# data', b'network.cru116 = edict()\n# data'),
            r'config\.py:29 already has',
        ),
        (
            CONFIG,
            lambda text: text.replace(b'# data', b'network["att92"] = edict()\n# data'),
            r'config\.py:29 already has',
        ),
        (
            CONFIG,
            lambda text: text.replace(b'# data', b'<<<<<<< HEAD\n# data'),
            r'config\.py:29 has an unresolved merge',
        ),
        (TRAIN, lambda text: text + b'>>>>>>> branch\n', r'has an unresolved merge conflict'),
        (CONFIG, lambda text: b'\n# \xe9\n' + text, r'config\.py:2 is not UTF-8'),
        (CONFIG, lambda text: re.sub(b'(?m)^network.*\n', b'', text), r'cannot find its networks'),
        (
            TRAIN,
            lambda text: text.replace(b'import fmini', b'').replace(b"'symbol'", b"'s'"),
            r'cannot find where it imports',
        ),
        (
            ('arcface_mxnet', 'symbol', 'fcrunet.py'),
            lambda text: b'mine = 1\n',
            r'fcrunet\.py is not what this plug-in put',
        ),
        (CONFIG, lambda text: text + source.BEGIN.encode() + b'\n', r'do not form one block'),
        (
            CONFIG,
            lambda text: source.BEGIN.encode() + b'\n' + text + source.BEGIN.encode() + b'\n',
            r'config\.py:1 has markers of the plug-in that do not form one block',
        ),
    ],
)
def test_install_stops_before_what_is_not_its_own(checkout, name, change, words):
    path = file_in(checkout, *name)
    if not os.path.exists(path):
        open(path, 'w').close()
    edit(path, change)
    refused(checkout, words)
    refused(checkout, words, '--dry-run')


def test_the_version_is_told(checkout, monkeypatch):
    with open(os.path.join(ROOT, 'CHANGELOG.md')) as file:
        assert re.search(r'(?m)^## ([\d.]+)', file.read()).group(1) == source.VERSION
    with monkeypatch.context() as older:
        older.setattr(source, 'VERSION', '0.9')
        assert run(checkout)[0] == 0
    code, output, _ = run(checkout, '--status')
    assert code == 0 and output.splitlines()[0] == 'installed      recognition/arcface_mxnet  (0.9)'
    edit(file_in(checkout, *TRAIN), lambda text: text.replace(source.BEGIN.encode() + b' 0.9;', source.BEGIN.encode()))
    assert run(checkout, '--status')[1].splitlines()[0].endswith('arcface_mxnet  (0.9, before 1.0)')
    before = snapshot(checkout)
    assert run(checkout)[0] == 0 and snapshot(checkout) != before
    assert run(checkout, '--status')[1].splitlines()[0].endswith(f'arcface_mxnet  ({source.VERSION})')
    assert run('--version') == (0, f'patch_insightface.py {source.VERSION}\n', '')


def test_edited_block(checkout):
    run(checkout)
    edit(
        file_in(checkout, *CONFIG),
        lambda text: text.replace(b'cru116.per_batch_size = 80', b'cru116.per_batch_size = 40'),
    )
    assert run(checkout, '--status')[1].startswith('modified')
    with open(file_in(checkout, *CONFIG)) as file:
        line = 1 + [text.startswith(source.BEGIN) for text in file].index(True)
    refused(checkout, r'config\.py:%d: the block of the plug-in was edited' % line)
    refused(checkout, r'config\.py:%d: the block of the plug-in was edited' % line, '--revert')
    assert run(checkout, '--force')[0] == 0
    assert run(checkout, '--status')[0] == 0
    with open(file_in(checkout, *CONFIG) + apply.BACKUP) as file:
        assert 'cru116.per_batch_size = 40' in file.read()


def test_a_block_that_would_not_compile_is_not_written(checkout, monkeypatch):
    monkeypatch.setattr(hosts, 'network_lines', lambda *_: ['network.cru56 = (', '1'])
    refused(checkout, r'config\.py would not compile with the block in it \(line \d+: .*\); please report this')


OLD_NETWORKS = {'cru56': {'net_name': 'fcrunet', 'num_layers': 56}, 'oldnet': {'net_name': 'foldnet', 'num_layers': 1}}
OLD_MODULES = {'fcrunet.py': b'old = 1\n', 'foldnet.py': b'old = 2\n'}


@pytest.fixture
def older(checkout, monkeypatch):
    """The checkout with an install of a version that had a network and a module more."""
    with monkeypatch.context() as before:
        before.setattr(hosts, 'load_networks', lambda: OLD_NETWORKS)
        before.setattr(hosts, 'load_modules', lambda networks: OLD_MODULES)
        assert command.main([checkout]) == 0
    return checkout


@pytest.mark.parametrize('options', [[], ['--revert']], ids=['update', 'revert'])
def test_what_is_no_longer_shipped_goes(older, options):
    assert os.path.exists(file_in(older, 'arcface_mxnet', 'symbol', 'foldnet.py'))
    assert run(older, *options)[0] == 0
    assert not os.path.exists(file_in(older, 'arcface_mxnet', 'symbol', 'foldnet.py'))
    with open(file_in(older, *CONFIG)) as file:
        assert 'oldnet' not in file.read()
    assert run(older, '--revert')[0] == 0
    left = [path for path in snapshot(older) if 'crunet' in path or 'fcru' in path or 'foldnet' in path]
    assert left == []


@pytest.mark.parametrize(
    'name, line, words',
    [
        (
            CONFIG,
            'network.oldnet.per_batch_size = 40',
            r'config\.py:\d+ names the network oldnet, which is no longer shipped',
        ),
        (
            CONFIG,
            "network['oldnet'].per_batch_size = 40",
            r'config\.py:\d+ names the network oldnet, which is no longer shipped',
        ),
        (TRAIN, 'import foldnet', r'train\.py:\d+ imports foldnet, which is no longer shipped'),
        (('arcface_mxnet', 'symbol', 'foldnet.py'), 'mine = 1', r'foldnet\.py is no longer shipped, and was edited'),
    ],
)
def test_what_needs_what_is_no_longer_shipped_is_named_first(older, name, line, words):
    edit(file_in(older, *name), lambda text: text + line.encode() + b'\n')
    refused(older, words)


def test_all_collisions_are_named_at_once(checkout):
    edit(file_in(checkout, *TRAIN), lambda text: text + b'import fcrunet\n')
    edit(file_in(checkout, *CONFIG), lambda text: text + b'network.cru116 = edict()\n')
    with open(file_in(checkout, 'arcface_mxnet', 'symbol', 'firesnet.py'), 'w') as file:
        file.write('mine = 1\n')
    refused(
        checkout,
        r'firesnet\.py is not what .*train\.py:\d+ already has .*config\.py:\d+ already has|'
        r'firesnet\.py is not what .*config\.py:\d+ already has .*train\.py:\d+ already has',
    )


@pytest.fixture
def by_hand(checkout):
    """The checkout with everything in one trainer as the README's section "by hand" has it."""
    networks = blocks.load_networks()
    for name, content in blocks.load_modules(networks).items():
        with open(file_in(checkout, 'arcface_mxnet', 'symbol', name), 'wb') as file:
            file.write(content)
    lines = blocks.network_lines(networks, 'edict')
    for name in ('config.py', 'sample_config.py'):
        edit(
            file_in(checkout, 'arcface_mxnet', name),
            lambda text: text.replace(b'# data sets', '\n'.join(lines).encode() + b'\n# data sets'),
        )
    for name in ('train.py', 'train_parall.py'):
        edit(
            file_in(checkout, 'arcface_mxnet', name),
            lambda text: text.replace(
                b'import fmini', b'import fmini\nimport fcrunet\nimport fresattention\nimport firesnet'
            ),
        )
    return checkout


def test_what_was_put_in_by_hand_is_adopted(by_hand):
    states = dict(
        reversed(line.split(None, 2)[-1:] + [line[:14].strip()]) for line in run(by_hand, '--status')[1].splitlines()
    )
    assert 'by hand' in states
    refused(by_hand, r'train\.py:\d+ already has something of that name; remove the line, use --adopt')
    with open(file_in(by_hand, *TRAIN), 'rb') as file:
        before = file.read()
    assert run(by_hand, '--adopt')[0] == 0 and run(by_hand, '--status')[0] == 0
    with open(file_in(by_hand, *TRAIN) + apply.BACKUP, 'rb') as file:
        assert file.read() == before
    for name in (CONFIG, TRAIN):
        with open(file_in(by_hand, *name)) as file:
            text = file.read()
        assert text.count('network.cru116 = edict()') + text.count('import fcrunet') == 1
    assert run(by_hand, '--revert')[0] == 0
    with open(file_in(by_hand, *CONFIG)) as file:
        assert 'cru116' not in file.read()


def test_as_the_readme_has_it_is_by_hand(checkout):
    """Only train.py and config.py, and one network."""
    trainer = file_in(checkout, 'arcface_mxnet')
    for name, content in blocks.load_modules(blocks.load_networks()).items():
        with open(os.path.join(trainer, 'symbol', name), 'wb') as file:
            file.write(content)
    edit(file_in(checkout, *TRAIN), lambda text: text.replace(b'import fmini', b'import fmini\nimport fcrunet'))
    edit(
        file_in(checkout, *CONFIG), lambda text: text.replace(b'# data sets', b'network.cru116 = edict()\n# data sets')
    )
    assert run(checkout, '--status')[1].splitlines()[0].split(None, 2) == ['by', 'hand', 'recognition/arcface_mxnet']


def test_a_trainer_that_only_shares_the_modules_is_not_installed(tmp_path):
    root = str(tmp_path / 'checkout')
    first, other = lay_out(root, 'B')
    assert run(root, '--trainer', first)[0] == 0
    assert run(root, '--status')[1].splitlines() == [
        f'installed      {os.path.relpath(first, root)}  ({source.VERSION})',
        'not installed  ' + os.path.relpath(other, root),
    ]


def test_what_stands_between_adopted_imports_and_needs_them_stops_it(by_hand):
    edit(
        file_in(by_hand, *TRAIN),
        lambda text: text.replace(b'import fresattention', b'NETS = [fcrunet]\nimport fresattention'),
    )
    with open(file_in(by_hand, *TRAIN)) as file:
        number = 1 + file.read().splitlines().index('NETS = [fcrunet]')
    refused(by_hand, r'train\.py:%d sets or uses one of the networks between the lines' % number, '--adopt')


@pytest.mark.parametrize('as_link', [False, True])
def test_revert_leaves_what_it_did_not_put_there(checkout, tmp_path, as_link):
    symbol = file_in(checkout, 'arcface_mxnet', 'symbol')
    shutil.copy(os.path.join(ROOT, 'symbols', 'fcrunet.py'), file_in(checkout, 'mine.py') if as_link else symbol)
    if as_link:
        os.symlink(os.path.join('..', '..', 'mine.py'), os.path.join(symbol, 'fcrunet.py'))
    before = snapshot(checkout)
    code, output, _ = run(checkout, '--revert')
    assert code == 0 and snapshot(checkout) == before
    assert 'Note: recognition/arcface_mxnet/symbol/fcrunet.py stays: no block says' in output
    if as_link:
        assert run(checkout)[0] == 0 and run(checkout, '--revert')[0] == 0 and snapshot(checkout) == before
        assert os.path.islink(os.path.join(symbol, 'fcrunet.py'))


def test_revert_of_one_trainer_leaves_an_older_module_that_another_needs(tmp_path, monkeypatch):
    root = str(tmp_path / 'checkout')
    first, _ = lay_out(root, 'B')
    with monkeypatch.context() as older:
        older.setattr(hosts, 'load_networks', lambda: OLD_NETWORKS)
        older.setattr(hosts, 'load_modules', lambda networks: OLD_MODULES)
        assert command.main([root]) == 0
    assert run(root, '--revert', '--trainer', first)[0] == 0
    assert os.path.exists(os.path.join(root, 'recognition', 'symbol', 'foldnet.py'))


def test_what_was_changed_by_hand_is_not_adopted(by_hand):
    edit(
        file_in(by_hand, *CONFIG),
        lambda text: text.replace(b'network.cru116 = edict()', b'network.cru116 = edict(x=1)'),
    )
    refused(
        by_hand, r'config\.py:\d+ sets or uses one of the networks between the lines that were added by hand', '--adopt'
    )


LATER = [
    ('network.cru116.per_batch_size = 40', 'print(network.cru116.per_batch_size)', '40'),
    ("network['att92'].memonger = False", 'print(network.att92.memonger)', 'False'),
    ('network.mine = network.cru116', 'print(network.mine.num_layers)', '116'),
]


@pytest.mark.parametrize('line, code, printed', LATER)
def test_what_uses_the_networks_behind_the_adopted_lines_stays_behind_them(by_hand, line, code, printed):
    config = file_in(by_hand, *CONFIG)
    edit(config, lambda text: text.replace(b'# data sets', line.encode() + b'\n# data sets'))
    assert run(by_hand, '--adopt')[0] == 0 and run(by_hand, '--status')[0] == 0
    done = subprocess.run(
        [sys.executable, '-c', 'from config import network; ' + code],
        cwd=os.path.dirname(config),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout == printed + '\n'


@pytest.mark.parametrize('line', [line for line, _, _ in LATER])
def test_what_uses_the_networks_between_the_adopted_lines_stops_it(by_hand, line):
    config = file_in(by_hand, *CONFIG)
    edit(config, lambda text: text.replace(b'network.ires50 = edict()', line.encode() + b'\nnetwork.ires50 = edict()'))
    with open(config) as file:
        number = 1 + file.read().splitlines().index(line)
    refused(by_hand, r'config\.py:%d sets or uses one of the networks between the lines' % number, '--adopt')


def test_lines_of_a_text_are_not_adopted(by_hand):
    text = b"NOTE = '''\nimport fcrunet\nimport firesnet\n'''\n"
    edit(file_in(by_hand, *TRAIN), lambda content: content + text)
    run(by_hand, '--adopt', '--force')
    with open(file_in(by_hand, *TRAIN), 'rb') as file:
        assert text in file.read()


def test_revert_of_one_trainer_leaves_what_another_imports_by_hand(tmp_path):
    root = str(tmp_path / 'checkout')
    first, other = lay_out(root, 'B')
    assert run(root)[0] == 0
    edit(
        os.path.join(other, 'train_parall.py'),
        lambda text: b''.join(line for line in text.splitlines(True) if b'plug-in' not in line),
    )
    assert run(root, '--revert', '--trainer', first)[0] == 0
    assert set(MODULES) <= set(os.listdir(os.path.join(root, 'recognition', 'symbol')))
    refused(root, '--trainer : the checkout has no such trainer', '--trainer', '')


def test_an_update_of_one_trainer_reaches_the_one_that_shares_its_modules(tmp_path, monkeypatch):
    """Their blocks record the same files: another version of the program would else find them edited."""
    root = str(tmp_path / 'checkout')
    first, other = lay_out(root, 'B')
    before = snapshot(root)
    module = os.path.join(root, 'recognition', 'symbol', 'foldnet.py')
    with monkeypatch.context() as older:
        older.setattr(hosts, 'load_networks', lambda: OLD_NETWORKS)
        older.setattr(hosts, 'load_modules', lambda networks: OLD_MODULES)
        assert command.main([root]) == 0 and os.path.exists(module)
    assert command.main([root, '--trainer', first]) == 0 and not os.path.exists(module)
    assert run(root, '--status')[0] == 0
    assert run(root, '--revert', '--trainer', first)[0] == 0 and run(root, '--status', '--trainer', other)[0] == 0
    with monkeypatch.context() as older:
        older.setattr(hosts, 'load_networks', lambda: OLD_NETWORKS)
        older.setattr(hosts, 'load_modules', lambda networks: OLD_MODULES)
        assert run(root, '--revert')[0] == 0
    assert snapshot(root) == before


def test_only_one_trainer(tmp_path):
    root = str(tmp_path / 'checkout')
    first, *others = lay_out(root, 'C')
    assert others
    before = snapshot(root)
    assert run(root, '--trainer', os.path.basename(first))[0] == 0  # the end of its path
    for name in (first, os.path.relpath(first, root), os.path.basename(first) + os.sep):
        assert run(root, '--status', '--trainer', name)[0] == 0
    assert run(root, '--status', '--only', first)[0] == 0  # the name of earlier versions
    refused(root, 'the checkout has no such trainer', '--trainer', os.path.basename(first)[1:])
    assert {path for path, content in snapshot(root).items() if before.get(path) != content} and all(
        path.startswith(first + os.sep) for path, content in snapshot(root).items() if before.get(path) != content
    )
    assert run(root)[0] == 0
    assert run(root, '--revert', '--trainer', first)[0] == 0 and run(root, '--status', '--trainer', others[0])[0] == 0
    assert run(root, '--revert')[0] == 0 and snapshot(root) == before
    refused(
        root,
        '--trainer nothere: the checkout has no such trainer; choose from recognition/arcface_mxnet, ',
        '--trainer',
        'nothere',
    )


def test_every_backup_has_a_name_of_its_own(checkout):
    config = file_in(checkout, *CONFIG)
    assert command.main([checkout]) == 0
    for number in ('', '2', '3'):
        edit(
            config,
            lambda text: text.replace(b'cru116.per_batch_size = 80', b'cru116.per_batch_size = 4' + number.encode()),
        )
        assert command.main([checkout, '--force']) == 0
        with open(config + apply.BACKUP + number) as file:
            assert f'cru116.per_batch_size = 4{number}\n' in file.read()
    assert sorted(name for name in os.listdir(os.path.dirname(config)) if apply.BACKUP in name) == [
        'config.py' + apply.BACKUP + number for number in ('', '2', '3')
    ]


def test_edits_below_the_block_stay(checkout):
    run(checkout)
    edit(file_in(checkout, *CONFIG), lambda text: text + b'\nnetwork.cru116.per_batch_size = 40\n')
    code, output, _ = run(checkout)
    assert code == 0 and 'Nothing to change' in output
    code, output, _ = run(checkout, '--revert')
    with open(file_in(checkout, *CONFIG), 'rb') as file:
        line = len(file.read().splitlines())  # the last, now that the block is gone
    assert code == 0 and re.search(rf'Note: .*config\.py:{line} still names one of the networks', output)


def test_edited_module(checkout):
    run(checkout)
    module = file_in(checkout, 'arcface_mxnet', 'symbol', 'fcrunet.py')
    edit(module, lambda text: text + b'# mine\n')
    assert run(checkout, '--status')[1].startswith('modified')
    refused(checkout, 'fcrunet.py is not what this plug-in put there')
    refused(checkout, 'fcrunet.py was edited after it was copied', '--revert')
    assert run(checkout, '--revert', '--force')[0] == 0
    assert not os.path.exists(module)
    with open(module + apply.BACKUP) as file:
        assert file.read().endswith('# mine\n')


def test_what_cannot_be_read_is_named(checkout):
    os.mkdir(file_in(checkout, 'partial_fc', 'train_memory.py'))
    os.mkdir(file_in(checkout, 'partial_fc', 'default.py'))
    refused(checkout, r'train_memory\.py cannot be read: Is a directory')


@pytest.mark.parametrize('terms', [900, 1500])
def test_a_statement_of_any_depth(checkout, terms):
    before = snapshot(checkout)
    edit(file_in(checkout, *CONFIG), lambda text: text + b'total = ' + b' + '.join([b'1'] * terms) + b'\n')
    edit(
        file_in(checkout, *TRAIN), lambda text: text.replace(b'import fmini', b'import fmini\nx = ' + b'-' * 90 + b'1')
    )
    with_it = snapshot(checkout)
    assert with_it != before and run(checkout)[0] == 0 and run(checkout, '--status')[0] == 0
    assert run(checkout, '--revert')[0] == 0 and snapshot(checkout) == with_it


OUTPUTS = [
    ('> /dev/full', 2, r'what this program prints cannot be written .*: No space left on device$'),
    ('>&-', 0, '$'),
    ('2>&-', 0, '$'),
    ('>&- 2>&-', 0, '$'),
]


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
@pytest.mark.parametrize('how, code, words', OUTPUTS, ids=[how for how, _, _ in OUTPUTS])
@pytest.mark.parametrize('options', ['', '--status', '--dry-run', '--revert'])
def test_output_that_cannot_be_written(checkout, how, code, words, options):
    before = snapshot(checkout)
    done = subprocess.run(
        f'"{sys.executable}" "{TOOL}" "{checkout}" {options} {how}',
        shell=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == (1 if options == '--status' and not code else code)
    assert re.match(r'(patch_insightface\.py: )?' + words, done.stderr)
    if code:
        assert snapshot(checkout) == before  # the plan could not be shown


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_a_refusal_that_cannot_be_written(tmp_path):
    """Standard error is buffered, and Python would try again at its end."""
    with open('/dev/full', 'w') as full:
        command = [sys.executable, TOOL, str(tmp_path / 'nowhere')]
        assert subprocess.run(command, stderr=full, env=dict(os.environ, PYTHONUNBUFFERED='')).returncode == 2


def test_output_of_few_letters(checkout):
    edit(file_in(checkout, *CONFIG), lambda text: text + '# größer\n'.encode())
    for options in ([], ['--status'], ['--revert', '--dry-run'], ['--revert']):
        done = subprocess.run(
            [sys.executable, TOOL, checkout] + options,
            capture_output=True,
            env=dict(os.environ, PYTHONIOENCODING='ascii'),
        )
        assert (done.returncode, done.stderr) == (0, b''), options


def test_the_plan_is_printed(checkout):
    lines = run(checkout)[1].splitlines()
    assert lines[0] == f'Plan, in {checkout}:'
    assert '  add      recognition/arcface_mxnet/symbol/fcrunet.py' in lines
    assert '  change   recognition/arcface_mxnet/config.py' in lines
    assert 'Done: %d files.' % sum(line.startswith('  ') and 'recognition/' in line[:25] for line in lines) in lines
    lines = run(checkout, '--revert')[1].splitlines()
    assert '  remove   recognition/arcface_mxnet/symbol/fcrunet.py' in lines


def test_a_reader_who_has_had_enough_ends_it(checkout):
    before = snapshot(checkout)
    process = subprocess.Popen(
        [sys.executable, TOOL, checkout, '--dry-run'], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait(30) == 1 and snapshot(checkout) == before


@pytest.mark.parametrize('name', ['open', 'fsync'], ids=['opened', 'written'])
def test_a_folder_that_cannot_be_synced_is_no_reason_to_stop(checkout, monkeypatch, name):
    real = getattr(os, name)

    def refuse(what, *rest):
        if os.path.isdir('/proc/self/fd/%d' % what if name == 'fsync' else what):
            raise OSError(22, 'Invalid argument')
        return real(what, *rest)

    monkeypatch.setattr(os, name, refuse)
    assert command.main([checkout]) == 0 and command.main([checkout, '--revert']) == 0


def test_a_checkout_called_like_a_backup(tmp_path):
    """Its name says nothing about its files: none is a backup, and each keeps its mode."""
    checkout = str(tmp_path / ('insightface' + apply.BACKUP))
    lay_out(checkout, 'C')
    (tmp_path / 'insightface').mkdir(mode=0o700)
    before = snapshot(checkout)
    out = run(checkout, '--dry-run')[1]
    assert 'add' in out and 'keep a backup' not in out
    assert run(checkout)[0] == 0
    assert stat.S_IMODE(os.stat(file_in(checkout, *TRAIN)).st_mode) == before[file_in(checkout, *TRAIN)][1] & 0o777
    assert run(checkout, '--revert')[0] == 0 and snapshot(checkout) == before


def test_what_was_copied_before_the_install_is_there_after_the_revert(checkout):
    symbol = file_in(checkout, 'arcface_mxnet', 'symbol')
    for name in os.listdir(os.path.join(ROOT, 'symbols')):
        if name.endswith('.py'):
            shutil.copy(os.path.join(ROOT, 'symbols', name), symbol)
    before = snapshot(checkout)
    assert run(checkout)[0] == 0 and run(checkout, '--status')[0] == 0
    assert run(checkout)[0] == 0  # once more: they are not its own now, either
    assert run(checkout, '--revert')[0] == 0 and snapshot(checkout) == before
    assert run(checkout, '--adopt')[0] == 0 and run(checkout, '--revert')[0] == 0
    assert not [name for name in os.listdir(symbol) if name in ('fcrunet.py', 'face_blocks.py')]


def test_a_module_copied_and_imported_by_hand_stays(checkout):
    module = file_in(checkout, 'arcface_mxnet', 'symbol', 'fcrunet.py')
    shutil.copy(os.path.join(ROOT, 'symbols', 'fcrunet.py'), module)
    edit(file_in(checkout, *TRAIN), lambda text: text.replace(b'import fmini', b'import fmini, fcrunet'))
    before = snapshot(checkout)
    assert run(checkout, '--revert')[0] == 0
    assert snapshot(checkout) == before


def test_a_foreign_module_of_that_name_is_left_by_revert(checkout):
    module = file_in(checkout, 'arcface_mxnet', 'symbol', 'fcrunet.py')
    with open(module, 'w') as file:
        file.write('mine = 1\n')
    before = snapshot(checkout)
    assert run(checkout, '--revert')[0] == 0 and snapshot(checkout) == before


def test_links(checkout, tmp_path):
    link = str(tmp_path / 'link')
    os.symlink(checkout, link)
    half = str(tmp_path / 'half')
    os.mkdir(half)
    os.symlink(file_in(checkout), os.path.join(half, 'recognition'))
    refused(half, r'half/recognition is a link, to .*; name the checkout that it leads to')
    assert run(link)[0] == 0 and run(checkout, '--status')[0] == 0 and run(link, '--revert')[0] == 0
    config = file_in(checkout, *CONFIG)
    outside = str(tmp_path / 'my config.py')
    os.rename(config, outside)
    os.symlink(outside, config)
    refused(checkout, r'config\.py is a link that leads out of the checkout')
    with open(outside) as file:
        assert 'cru116' not in file.read()


def test_nothing_of_the_checkout_is_run(checkout, tmp_path):
    witness = str(tmp_path / 'was here')
    for name in (TRAIN, CONFIG, ('arcface_mxnet', 'symbol', 'fmini.py')):
        edit(file_in(checkout, *name), lambda text: text + (f'\nopen({witness!r}, "w")\n').encode())
    assert run(checkout)[0] == 0 and run(checkout, '--revert')[0] == 0
    assert not os.path.exists(witness)


def test_what_is_no_checkout(tmp_path):
    refused(str(tmp_path / 'nowhere'), 'is not a folder')
    refused(str(tmp_path), 'is not in an insightface checkout')
    os.makedirs(str(tmp_path / 'recognition' / 'arcface_torch'))
    with open(str(tmp_path / 'recognition' / 'arcface_torch' / 'train.py'), 'w') as file:
        file.write('import torch\n')
    refused(str(tmp_path), r'has no trainer; looked for recognition/train\*\.py, .*recognition/arcface_mxnet/train')
    refused(str(tmp_path / 'recognition' / 'arcface_torch' / 'train.py'), 'is not a folder')
    assert run()[0] == 2 and run(str(tmp_path), '--dry-run', '--status')[0] == 2


# --------------------------------------------------------------------------------------------- all or nothing


def count_calls(monkeypatch, name, fail_at=None):
    """Count the calls of os.`name`; make one of them fail as a full disk would."""
    real, calls = getattr(os, name), []

    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == fail_at:
            raise OSError(28, 'No space left on device', args[0] if isinstance(args[0], str) else None)
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, counted)
    return calls


@pytest.mark.parametrize('options', [[], ['--revert']], ids=['install', 'revert'])
@pytest.mark.parametrize('name', ['fsync', 'replace'])
def test_a_failure_at_any_write_changes_nothing(checkout, monkeypatch, name, options):
    if options:
        command.main([checkout])
    before = snapshot(checkout)
    fail_at, failures, step = 0, 0, 3 if name == 'fsync' else 1
    while True:
        fail_at += step
        with monkeypatch.context() as patched:
            calls = count_calls(patched, name, fail_at)
            try:
                command.main([checkout] + options)
            except source.Refusal as refusal:
                assert 'No space left on device; nothing was changed' in str(refusal)
                failures += 1
                assert snapshot(checkout) == before, fail_at
                continue
        if len(calls) < fail_at:
            break
        assert name == 'fsync'  # of a folder, after everything is written, it may fail without harm
        command.main([checkout] + ([] if options else ['--revert']))
    assert failures >= 8 // step


def targets(checkout, options):
    """Return the paths that install or revert changes."""
    planned = plan.plan_revert if options else plan.plan_install
    return [change.path for change in planned(hosts.Checkout(checkout), False)]


@pytest.mark.parametrize('options', [[], ['--revert']], ids=['install', 'revert'])
def test_where_one_target_cannot_be_replaced_nothing_changes(checkout, monkeypatch, options):
    """Immutable, mounted by itself, in a sticky folder of another user: it fails, and would in going back."""
    if options:
        command.main([checkout])
    before = snapshot(checkout)
    for target in targets(checkout, options):
        with monkeypatch.context() as patched:
            for name in ('replace', 'remove', 'rename'):

                def refuse(path, *rest, real=getattr(os, name)):
                    if target in (path,) + rest:
                        raise OSError(16, 'Device or resource busy', target)
                    return real(path, *rest)

                patched.setattr(os, name, refuse)
            refused(checkout, re.escape(f'{target}: Device or resource busy; nothing was changed'), *options)
    assert snapshot(checkout) == before


@pytest.mark.parametrize('options', [[], ['--revert']], ids=['install', 'revert'])
def test_an_edit_in_the_meantime_is_not_overwritten(checkout, monkeypatch, options):
    if options:
        command.main([checkout])
    before, script = snapshot(checkout), file_in(checkout, *TRAIN)
    real = os.fsync
    with monkeypatch.context() as patched:

        def editing(handle):
            patched.setattr(os, 'fsync', real)
            edit(script, lambda text: text + b'# saved by an editor\n')

        patched.setattr(os, 'fsync', editing)
        refused_edit = run(checkout, *options)
    assert (
        refused_edit[0] == 2 and 'train.py was changed by another program in the meantime; try again' in refused_edit[2]
    )
    edit(script, lambda text: text.replace(b'# saved by an editor\n', b''))
    assert snapshot(checkout) == before


def test_an_edit_before_it_is_undone_is_not_overwritten(checkout, monkeypatch):
    script = file_in(checkout, *TRAIN)
    os.chmod(script, 0o600)
    before, last, real = snapshot(checkout), targets(checkout, [])[-1], os.replace

    def refuse(scratch, target):
        if target == last:
            edit(script, lambda text: text + b'# saved by an editor\n')
            raise OSError(1, 'Operation not permitted', target)
        real(scratch, target)

    monkeypatch.setattr(os, 'replace', refuse)
    code, _, error = run(checkout)
    backup = script + apply.BACKUP
    assert code == 2
    assert f'{script} was changed by another program in the meantime; what it was before is in {backup}' in error
    after = snapshot(checkout)
    assert after.pop(script)[0].endswith(b'# saved by an editor\n') and after.pop(backup) == before.pop(script)
    assert after == before


def test_what_cannot_be_undone_is_undone_by_the_next_run(checkout, monkeypatch):
    before, script = snapshot(checkout), file_in(checkout, *TRAIN)
    last, real, replaced = targets(checkout, [])[-1], os.replace, []

    def refuse(scratch, target):
        if target == last or (target == script and script in replaced):
            raise OSError(16, 'Device or resource busy', target)
        replaced.append(target)
        return real(scratch, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', refuse)
        code, _, error = run(checkout)
    busy = 'Device or resource busy'
    assert code == 2 and f'{last}: {busy}; {script}: {busy}; run the patch again when it can be written' in error
    for option in ('--status', '--dry-run'):
        stopped = snapshot(checkout)
        code, _, error = run(checkout, option)
        assert code == 2 and 'an earlier run was stopped among its changes' in error and snapshot(checkout) == stopped
    code, output, _ = run(checkout, '--revert')
    assert code == 0 and 'An earlier run was stopped among its changes: they were undone.' in output
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    'content',
    [
        '',
        '[]',
        '{"changes": [], "folders": []}',
        '{"changes": [["../outside", null, null]], "folders": [], "status": {}}',
        '{"changes": [["recognition/x", "*", null]], "folders": [], "status": {}}',
        '{"changes": [["recognition/x", "", null]], "folders": [], "status": {}}',
        '{"changes": [], "folders": ["/tmp"], "status": {}}',
        '{"changes": [["recognition/outside/x.py", null, null]], "folders": [], "status": {}}',
        '{"changes": [["recognition/x.py", "", null]], "folders": [], "status": {"recognition/x.py": [1e999, 0, 0]}}',
        '{"changes": [["recognition/x.py", "", null]], "folders": [], "status": {"recognition/x.py": [2541, 0, 0]}}',
        '{"changes": [[".git/x.py", "", null]], "folders": [], "status": {".git/x.py": [493, 0, 0]}}',
        '{"changes": [["recognition/x.sh", "", null]], "folders": [], "status": {"recognition/x.sh": [493, 0, 0]}}',
        '[' * 5000,
    ],
    ids=range(13),
)
def test_a_journal_that_is_not_ours_is_named(checkout, content):
    """Also one in a hostile checkout: it may only change Python files below recognition."""
    os.symlink('/tmp', file_in(checkout, 'outside'))
    with open(os.path.join(checkout, apply.JOURNAL), 'w') as file:
        file.write(content)
    refused(checkout, r'/\.patch-insightface-journal is not a journal of this program .*; remove it')


@pytest.mark.skipif(os.name != 'posix' or os.getuid() != 0, reason='only root can give files away')
def test_new_files_are_as_their_folder_is(checkout):
    config, symbol = file_in(checkout, *CONFIG), file_in(checkout, 'arcface_mxnet', 'symbol')
    for path in (config, symbol, os.path.dirname(symbol)):
        os.chown(path, 4321, 4321)
    os.chmod(config, 0o600)
    edit(config, lambda text: text.replace(b'# data', b'network.cru116 = edict()\n# data'))
    umask = os.umask(0o077)
    try:
        assert run(checkout, '--force')[0] == 0
    finally:
        os.umask(umask)
    status = os.stat(config + apply.BACKUP)
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, 4321)
    status = os.stat(os.path.join(symbol, 'fcrunet.py'))
    assert (status.st_mode & 0o777, status.st_uid) == (0o644, 4321)


@pytest.mark.parametrize(
    'options, name', [([], 'fsync'), ([], 'replace'), (['--revert'], 'fsync'), (['--revert'], 'remove')]
)
def test_ctrl_c_at_any_time_changes_nothing(checkout, monkeypatch, name, options):
    if options:
        command.main([checkout])
    before, stopped = snapshot(checkout), 0
    for number in range(1, 40, 4):
        with monkeypatch.context() as patched:
            real, calls = getattr(os, name), []

            def interrupted(*args):
                calls.append(args)
                if len(calls) == number:
                    raise KeyboardInterrupt
                return real(*args)

            patched.setattr(os, name, interrupted)
            code, _, error = run(checkout, *options)
        if snapshot(checkout) == before:
            assert (code, error.splitlines()) in (
                (130, ['patch_insightface.py: interrupted; nothing was changed']),
                (130, ['patch_insightface.py: interrupted']),
            ), number
            stopped += 1
        else:
            command.main([checkout] + ([] if options else ['--revert']))
            assert snapshot(checkout) == before
    assert stopped >= 2


TERMINATED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import patch_insightface as command
signal.signal(signal.SIGTERM, command.end)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have it ignored
real, left = os.replace, [{after}]
def terminated(*args):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), {number})
    return real(*args)
os.replace = terminated
sys.exit(command.program([{checkout!r}]))
"""


@pytest.mark.parametrize('after', [1, 4, 9])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_ends_as_ctrl_c_does(checkout, after, number):
    """Any other signal kills the process; then the next run undoes what it did."""
    before = snapshot(checkout)
    code = TERMINATED.format(root=ROOT, after=after, checkout=checkout, number=int(number))
    done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if number == signal.SIGTERM:
        assert (done.returncode, done.stderr) == (130, 'patch_insightface.py: interrupted; nothing was changed\n')
    else:
        assert done.returncode == -number and run(checkout, '--revert')[0] == 0
    assert snapshot(checkout) == before


def has(*command):
    return (
        shutil.which(command[0])
        and subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    )


@pytest.mark.skipif(not has('unshare', '-m', 'true'), reason='no mount namespaces here')
@pytest.mark.parametrize('options', [[], ['--revert']], ids=['install', 'revert'])
@pytest.mark.parametrize(
    'mount',
    ['mount --bind "$1" "$1"', 'mount --bind "$2" "$2" && mount -o remount,ro,bind "$2"'],
    ids=['a file that is mounted', 'a folder that is mounted to be read only'],
)
def test_mounts(checkout, options, mount):
    if options:
        command.main([checkout])
    before, config = snapshot(checkout), file_in(checkout, *CONFIG)
    script = f'set -e; {mount}; shift 2; exec "$@"'
    done = subprocess.run(
        [
            'unshare',
            '-m',
            'sh',
            '-c',
            script,
            'sh',
            config,
            file_in(checkout, 'subcenter_arcface'),
            sys.executable,
            TOOL,
            checkout,
        ]
        + options,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.endswith('; nothing was changed\n'), done.stderr
    assert snapshot(checkout) == before


@pytest.fixture
def immutable(checkout):
    """A script of the checkout that nobody can change."""
    path = file_in(checkout, *TRAIN)
    if not has('chattr', '+i', path):
        pytest.skip('chattr +i does not work here')
    yield path
    subprocess.run(['chattr', '-i', path], check=True)


def test_an_immutable_file(checkout, immutable):
    before = snapshot(checkout)
    code, _, error = run(checkout)
    assert code == 2 and 'train.py: Operation not permitted; nothing was changed' in error
    assert snapshot(checkout) == before


def open_to_all(folder):
    """Let every user read a folder, whatever the mode of the clone and the umask."""
    for at, _, files in os.walk(folder):
        os.chmod(at, 0o755)
        for name in files:
            os.chmod(os.path.join(at, name), 0o644)


@pytest.mark.skipif(os.name != 'posix' or os.getuid() != 0, reason='only root can be another user')
def test_a_sticky_folder_of_another(checkout, monkeypatch):
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        for part in ('symbols', 'config', 'backbones'):  # another user may have no way into this clone
            shutil.copytree(os.path.join(ROOT, part), os.path.join(above, part))
        open_to_all(above)
        monkeypatch.setattr(blocks, 'HERE', above)
        root = os.path.join(above, 'checkout')
        shutil.copytree(checkout, root)
        open_to_all(root)
        for at, _, files in os.walk(root):
            for path in [at] + [os.path.join(at, name) for name in files]:
                os.chown(path, 12345, 12345)
        folder = os.path.join(root, 'recognition', 'arcface_mxnet')
        for path in (folder, os.path.join(folder, 'config.py')):
            os.chown(path, 0, 0)
        os.chmod(folder, 0o1777)
        before = snapshot(root)
        os.seteuid(12345)
        try:
            code, _, error = run(root)
        finally:
            os.seteuid(0)
        assert code == 2 and 'config.py: Operation not permitted; nothing was changed' in error, error
        assert snapshot(root) == before


def test_one_at_a_time(checkout):
    before = snapshot(checkout)
    with apply.alone_in(os.path.realpath(checkout)):
        code, _, error = run_alone(checkout)
        assert code == 2 and 'another patch_insightface.py is at work in' in error and snapshot(checkout) == before
        assert run_alone(checkout, '--status')[0] == 1
    assert run_alone(checkout)[0] == 0


def test_install_and_revert_at_once_leave_one_or_the_other(checkout):
    before = snapshot(checkout)
    assert command.main([checkout]) == 0
    installed = snapshot(checkout)
    for _ in range(6):
        processes = [
            subprocess.Popen(
                [sys.executable, TOOL, checkout] + options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for options in ([], ['--revert'], [], ['--revert'])
        ]
        codes = [process.wait(60) for process in processes]
        assert 0 in codes and set(codes) <= {0, 2}
        assert snapshot(checkout) in (before, installed)


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import patch_insightface as command
left = [{after}]
def dying(real):
    def call(*args):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call
os.replace, os.fsync, os.remove = dying(os.replace), dying(os.fsync), dying(os.remove)
command.main({arguments!r})
"""


def relative(root):
    """Return the snapshot of a folder, with paths within it."""
    return {os.path.relpath(path, root): content for path, content in snapshot(root).items()}


def copied(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


@pytest.mark.parametrize('options', [[], ['--revert']], ids=['install', 'revert'])
def test_killed_at_any_change_of_a_name_and_again_in_the_repair(checkout, options, tmp_path):
    """A repair is tried at every 29th change, at others each time; every second one is a run that installs."""
    before = relative(checkout)
    if options:
        assert command.main([checkout]) == 0
    kills = 0
    while True:
        begun = copied(checkout, str(tmp_path / 'begun'))
        was_killed, again = killed(kills, command.program, [begun, *options]), kills % 29
        while True:
            root = copied(begun, str(tmp_path / 'again'))
            if kills % 3 == 1:  # by hand, as one does who sees what a killed program has left
                for path in [path for path in snapshot(root) if '.crunet-' in os.path.basename(path)]:
                    os.remove(path)
            was_killed_again = killed(again, command.program, [root, *(['--revert'] if kills % 2 else [])])
            if again % 2:
                killed(again // 2, command.program, [root, '--revert'])
            assert run(root, '--revert')[0] == 0 and relative(root) == before, (kills, again)
            if not was_killed_again:
                break
            again += 29
        if not was_killed:
            break
        kills += 1
    assert kills > 12


def test_killed_while_it_undoes(checkout, tmp_path):
    """What the user had edited is there after the third run."""
    assert command.main([checkout]) == 0
    edit(file_in(checkout, 'arcface_mxnet', 'symbol', 'fcrunet.py'), lambda text: text + b'# mine\n')
    before, again, found = relative(checkout), 0, []
    assert killed(6, command.program, [checkout, '--revert', '--force'])
    while True:
        root = copied(checkout, str(tmp_path / 'copy'))
        was_killed = killed(again, command.program, [root, '--trainer', 'nothing'])
        found.append(relative(root))
        run(root, '--trainer', 'nothing')
        assert relative(root) == before, again
        if not was_killed:
            break
        again += 1
    assert again > 3 and len({len(files) for files in found}) > 2


@pytest.mark.parametrize('after', [0, 1, 3, 8, 9, 10])
def test_killed_while_what_is_no_longer_shipped_goes(older, after):
    """A module that is gone, and recorded no more, leaves nothing behind either."""
    code = (
        KILLED.format(root=ROOT, after=after, arguments=[older])
        .replace(', os.fsync, os.remove', ', os.remove')
        .replace(', dying(os.fsync)', '')
    )
    assert subprocess.run([sys.executable, '-c', code], stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert run(older)[0] == 0 and run(older, '--status')[0] == 0
    assert not [path for path in snapshot(older) if '.crunet-' in path or 'foldnet' in path]


# ------------------------------------------------------------------------------------------ any config at all

with open(os.path.join(TEMPLATE, 'sample_config.py')) as _file:
    HEAD, TAIL = _file.read().split('# networks\n')
TAIL = TAIL[TAIL.index('# data sets') :]

names = st.from_regex(r'[a-z][a-z0-9_]{0,8}', fullmatch=True).filter(lambda name: name not in blocks.load_networks())
values = st.one_of(st.integers(), st.booleans(), st.text(max_size=12), st.lists(st.integers(), max_size=3)).map(repr)


@st.composite
def network_entries(draw):
    """The networks of a config, written as people write them."""
    lines = ['network = edict()']
    for name in draw(st.lists(names, max_size=4)):
        lines += draw(st.sampled_from([[], [''], ['', '# ' + name], ['if True:  # ' + name, '    pass']]))
        lines.append(draw(st.sampled_from(['network.%s = edict()', "network['%s'] = edict()"])) % name)
        lines.append(f"network['{name}'].net_name = 'fmini'")
        value = draw(values)
        lines.append(
            draw(st.sampled_from(['network.%s.x = %s', 'network.%s.x = (\n    %s\n)', 'network.%s.x = %s; y = 1']))
            % (name if not name[0].isdigit() else 'n', value)
        )
    return lines


@given(
    entries=network_entries(),
    eol=st.sampled_from(['\n', '\r\n']),
    bom=st.booleans(),
    newline=st.booleans(),
    tail=st.sampled_from([TAIL, '', '\n', '# end']),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_config(tmp_path_factory, entries, eol, bom, newline, tail):
    import keyword

    if any(keyword.iskeyword(word) for line in entries for word in re.findall(r'network\.(\w+)', line)):
        return
    text = HEAD + '\n'.join(entries) + '\n' + tail
    text = text if newline else text.rstrip('\n')
    root = str(tmp_path_factory.mktemp('any'))
    trainer = lay_out(root, 'A')[0]
    config = os.path.join(trainer, 'config.py')
    with open(config, 'wb') as file:
        file.write((b'\xef\xbb\xbf' if bom else b'') + text.replace('\n', eol).encode('utf-8'))
    before = snapshot(root)
    assert command.main([root]) == 0
    installed = snapshot(root)
    with open(config, encoding='utf-8-sig') as file:
        new = file.read()
    scope = {}
    exec(compile(new.split('\ndef generate_config')[0], config, 'exec'), scope)
    assert set(blocks.load_networks()) <= set(scope['network'])
    assert command.main([root]) == 0 and snapshot(root) == installed
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before


imports = st.lists(
    st.sampled_from(
        [
            'import fmini',
            'import os, fmini',
            'import fmini as net',
            'if True:\n    import fmini',
            'try:\n    import fmini\nexcept ImportError:\n    raise',
            'import os; import fmini',
            '# import fcrunet',
            "TEXT = '''\nimport fcrunet_\n'''",
        ]
    ),
    min_size=1,
    max_size=4,
)


@given(
    imports=imports,
    eol=st.sampled_from(['\n', '\r\n']),
    rest=st.sampled_from(['', '\n', '\n\ndef f():\n  pass\n', '  # end']),
)
@settings(max_examples=30, deadline=None)
def test_any_trainer(tmp_path_factory, imports, eol, rest):
    root = str(tmp_path_factory.mktemp('any'))
    trainer = lay_out(root, 'A')[0]
    script = os.path.join(trainer, 'train.py')
    text = "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'symbol'))\n"
    with open(script, 'wb') as file:
        file.write((text + '\n'.join(imports) + rest).replace('\n', eol).encode())
    before = snapshot(root)
    assert command.main([root]) == 0
    with open(script, newline='') as file:
        new = file.read()
    compile(new, script, 'exec')
    assert re.search(r'(?m)^import fcrunet\r?$', new)
    assert command.main([root, '--revert']) == 0 and snapshot(root) == before
