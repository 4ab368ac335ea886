"""What is written is whole or not there, takes nobody's place by mistake, and leaves nothing behind."""

import errno
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import convert
import demo
import evaluate
import export
import import_weights
import summarize
import train as tool
import visualize
from helpers import PATIENCE, TINY, TOOLS
from netkit import checkpoints, files as files_module, params_file
from netkit._mxnet import mx
from netkit.data import pairs, synthetic
from netkit.deploy import exporting
from netkit.errors import UserError
from netkit.files import new_files
from netkit.training import state as resume
from netkit.training.trainer import Trainer

QUICK = [*TINY, '--pairs', '10', '--no-verification', '--state-every', '0']


def write_into(folder, **contents):
    with new_files(str(folder)) as scratch:
        for name, content in contents.items():
            with open(os.path.join(scratch, name), 'w') as file:
                file.write(content)


def contents_of(folder):
    return {path.name: path.read_text() if path.is_file() else None for path in folder.iterdir()}


# --------------------------------------------------------------------------------------------- all or none


@pytest.mark.parametrize('number', range(5))  # the journal's name, three files, and none of them
@pytest.mark.parametrize('error', [PermissionError(1, 'Operation not permitted'), KeyboardInterrupt()])
def test_where_one_file_cannot_take_its_place_all_stay(tmp_path, monkeypatch, number, error):
    write_into(tmp_path, b='old b', c='old c')
    real, calls = os.replace, []

    def refuse(source, target):
        calls.append(target)
        if len(calls) == number + 1:
            raise error
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', refuse)
        if number < 4:
            with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
                write_into(tmp_path, a='a', b='b', c='c')
            assert contents_of(tmp_path) == {'b': 'old b', 'c': 'old c'}
        else:
            write_into(tmp_path, a='a', b='b', c='c')
            assert contents_of(tmp_path) == {'a': 'a', 'b': 'b', 'c': 'c'}


def test_a_folder_of_that_name(tmp_path, run_tool):
    (tmp_path / 'net-symbol.json').mkdir()
    code, _, err = run_tool(export, '--network', 'cru56', '--output', str(tmp_path / 'net'))
    assert code == 2 and 'net-symbol.json: Is a directory; nothing was changed' in err
    (tmp_path / 'net.svg').mkdir()
    code, _, err = run_tool(visualize, 'sharing', 'cru56', '-o', str(tmp_path / 'net.svg'))
    assert code == 2 and 'net.svg: Is a directory; nothing was changed' in err
    assert contents_of(tmp_path) == {'net-symbol.json': None, 'net.svg': None}


def test_a_state_that_is_a_folder(tmp_path, run_tool):
    (tmp_path / resume.FILE).mkdir()
    code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path))
    assert code == 2 and resume.FILE in err and len(err.splitlines()) == 1


def test_what_is_written_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = files_module.sync, os.replace
    monkeypatch.setattr(
        files_module, 'sync', lambda path: (events.append(('sync', os.path.basename(path))), real_sync(path))
    )
    monkeypatch.setattr(
        os, 'replace', lambda *paths: (events.append(('name', os.path.basename(paths[1]))), real_replace(*paths))
    )
    write_into(tmp_path, a='a', b='b')
    scratch = events.pop(3)[1]  # and the journal, which is synced as it is written
    assert scratch.startswith(files_module.UNFINISHED) and events == [
        ('sync', 'a'),
        ('sync', 'b'),
        ('name', files_module.MOVING),
        ('name', 'a'),
        ('name', 'b'),
        ('sync', tmp_path.name),
    ]


# ---------------------------------------------------------------------------------------- what was left

UNFINISHED_RUN = f"""
import os, sys, time
sys.path.insert(0, {TOOLS!r})
from netkit.files import new_files
with new_files(sys.argv[1]) as scratch:
    open(os.path.join(scratch, 'half'), 'w').close()
    print('writing', flush=True)
    time.sleep({PATIENCE})
"""


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', UNFINISHED_RUN, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'writing\n'
    write_into(tmp_path, a='a')
    scratch = [path for path in tmp_path.iterdir() if path.name != 'a']
    assert len(scratch) == 1 and os.listdir(str(scratch[0])) == ['half']
    assert files_module.settle(str(tmp_path)) is True
    process.kill()
    process.wait()
    write_into(tmp_path, a='b')
    assert contents_of(tmp_path) == {'a': 'b'}


KILLED = f"""
import itertools, os, signal, sys
sys.path.insert(0, {TOOLS!r})
at, number = int(sys.argv[2]), itertools.count()
def killing(function):
    def run(*arguments, **options):
        if next(number) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return run
for name in ('replace', 'link', 'remove', 'unlink', 'rmdir', 'mkdir'):
    setattr(os, name, killing(getattr(os, name)))
from netkit import files
if sys.argv[3] == 'write':
    refused = sys.argv[4:]
    move = files.move_rest
    def move_rest(scratch, folder, names):
        move(scratch, folder, names[:2] if refused else names)
        if refused:
            raise PermissionError(1, 'Operation not permitted', 'c')
    files.move_rest = move_rest
    with files.new_files(sys.argv[1]) as scratch:
        for name in 'abc':
            with open(os.path.join(scratch, name), 'w') as file:
                file.write('new')
else:
    files.settle(sys.argv[1])
"""
HALF = {'a': 'old', 'b': 'old', 'kept': 'old'}  # c is new
WHOLE = {'a': 'new', 'b': 'new', 'c': 'new', 'kept': 'old'}


def killed(folder, at, *what):
    """Run new_files, or settle, in a process that is killed at the `at`-th change of names; return whether it was."""
    done = subprocess.run([sys.executable, '-c', KILLED, str(folder), str(at), *what], stderr=subprocess.PIPE)
    return done.returncode == -signal.SIGKILL


@pytest.mark.parametrize('refused', [[], ['refused']], ids=['moving', 'undoing'])
def test_killed_at_any_change_of_a_name_files_are_all_old_or_all_new(tmp_path, refused):
    """And so after a second kill of the process that settles it; nothing else is touched, nothing left."""
    seen, at = [], 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        for name, content in HALF.items():
            (folder / name).write_text(content)
        if not killed(folder, at, 'write', *refused):
            break
        again = 0
        while killed(folder, again, 'settle'):
            again += 1
        found = contents_of(folder)
        assert found in (HALF, WHOLE), (at, again)
        seen.append(found)
        at += 1
    assert at > 8 and HALF in seen and WHOLE in seen
    assert contents_of(folder) == (HALF if refused else WHOLE)


def test_a_journal_of_elsewhere_moves_nothing(tmp_path):
    """As one in an archive from the net would be, which names the user's files."""
    (tmp_path / 'mine').write_text('mine')
    for name, journal in (
        ('moving', {'names': ['mine'], 'replaced': []}),
        ('undoing', {'names': ['mine'], 'replaced': []}),
    ):
        scratch = tmp_path / f'{files_module.UNFINISHED}{name}'
        scratch.mkdir()
        (scratch / 'mine').write_text('theirs')
        for folder in ([1, 2], None, [os.stat(str(scratch)).st_dev, os.stat(str(scratch)).st_ino]):
            names = ['mine'] if folder in ([1, 2], None) else ['../mine', '..', '']
            (scratch / f'.{name}').write_text(json.dumps({**journal, 'names': names, 'folder': folder}))
            assert files_module.read_journal(str(scratch), f'.{name}') is None
    assert files_module.settle(str(tmp_path)) is False and contents_of(tmp_path) == {'mine': 'mine'}


def test_a_set_that_is_moved_while_another_was_broken_off_is_whole(tmp_path):
    """The one that comes later finishes the other before it moves its own."""
    with files_module.new_files(str(tmp_path)) as later:
        for name in 'xyz':
            (pathlib.Path(later) / name).write_text('later')
        scratch, lock = files_module.new_scratch(str(tmp_path))
        for name in 'xyz':
            (pathlib.Path(scratch) / name).write_text('first')
        (pathlib.Path(scratch) / files_module.OLD).mkdir()
        files_module.write_journal(scratch, list('xyz'), [])
        os.replace(os.path.join(scratch, 'x'), str(tmp_path / 'x'))
        files_module.unlock(lock)  # as by a kill
    assert contents_of(tmp_path) == dict.fromkeys('xyz', 'later')
    assert files_module.settle(str(tmp_path)) is False
    assert contents_of(tmp_path) == dict.fromkeys('xyz', 'later')


def test_files_within_a_scratch_folder(tmp_path):
    """As of a picture in a report; a lock that waits for itself would wait for ever."""
    code = f'import sys; sys.path.insert(0, {TOOLS!r})\nfrom netkit.files import new_files\nimport os\n'
    code += 'with new_files(sys.argv[1]) as outer:\n    with new_files(outer) as inner:\n'
    code += '        open(os.path.join(inner, "a"), "w").close()\n'
    subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=True, timeout=PATIENCE)
    assert contents_of(tmp_path) == {'a': ''}


def test_two_sets_are_not_moved_at_once(tmp_path):
    """Not even where one of them is named by a link."""
    link = tmp_path / 'link'
    tmp_path = tmp_path / 'folder'
    tmp_path.mkdir()
    link.symlink_to(tmp_path)
    with files_module.alone(str(link)):
        code = f'import sys; sys.path.insert(0, {TOOLS!r})\nfrom netkit.files import new_files\nimport os\n'
        code += 'print("here", flush=True)\n'
        code += 'with new_files(sys.argv[1]) as scratch:\n    open(os.path.join(scratch, "a"), "w").close()\n'
        process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b'here\n'
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert not (tmp_path / 'a').exists()
    assert process.wait() == 0 and (tmp_path / 'a').exists()


def test_what_cannot_be_restored_is_not_lost(tmp_path, monkeypatch):
    """It waits for the next program."""
    write_into(tmp_path, a='old', b='old')
    real = os.replace

    def refuse(source, target):
        if target in (str(tmp_path / 'b'), str(tmp_path / 'a')) and (target.endswith('b') or '.old' in source):
            raise OSError(5, 'Input/output error', target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', refuse)
        with pytest.raises(UserError, match='a, b could not be restored in .* the old files are in'):
            write_into(tmp_path, a='new', b='new')
    assert (tmp_path / 'a').read_text() == 'new'
    assert files_module.settle(str(tmp_path)) is False
    assert contents_of(tmp_path) == {'a': 'old', 'b': 'old'}


def test_without_locks_what_another_writes_stays(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(files_module.fcntl, 'flock', flock)
    with files_module.new_files(str(tmp_path)) as scratch:
        assert files_module.settle(str(tmp_path)) is True
        (pathlib.Path(scratch) / 'a').write_text('a')
    assert contents_of(tmp_path) == {'a': 'a'}


def test_what_is_no_folder_does_not_stop_a_reader(tmp_path):
    """As an archive may bring it: a pipe, for whose writer one would wait, and a link to itself."""
    os.mkfifo(str(tmp_path / f'{files_module.UNFINISHED}pipe'))
    os.symlink('.unfinished-link', str(tmp_path / '.unfinished-link'))
    os.symlink(str(tmp_path), str(tmp_path / '.unfinished-home'))
    (tmp_path / 'a').write_text('a')
    files_module.settle(str(tmp_path))
    assert (tmp_path / 'a').read_text() == 'a'


def test_a_data_set_that_was_written_in_part_is_whole_for_its_reader(tmp_path, run_tool):
    """Else the pairs would be of people in the old training."""
    for seed in (1, 2):
        synthetic.write_synthetic(str(tmp_path / str(seed)), identities=2, images=2, pairs=10, seed=seed)
    new = {name: (tmp_path / '2' / name).read_bytes() for name in os.listdir(str(tmp_path / '2'))}
    scratch = tmp_path / '1' / f'{files_module.UNFINISHED}x'
    os.renames(str(tmp_path / '2'), str(scratch))
    (scratch / files_module.OLD).mkdir()
    files_module.write_journal(str(scratch), sorted(new), sorted(new))
    os.replace(str(scratch / 'drawn.bin'), str(tmp_path / '1' / 'drawn.bin'))  # and then it was killed
    code, _, err = run_tool(evaluate, 'faces', 'x,1', '--data', str(tmp_path / '1'))
    assert code == 2 and 'x-symbol.json' in err
    assert {name: (tmp_path / '1' / name).read_bytes() for name in os.listdir(str(tmp_path / '1'))} == new


def test_many_processes_write_into_one_folder(tmp_path):
    """Different files; none of them takes the scratch folder of another for one of a killed process."""
    code = f'import sys; sys.path.insert(0, {TOOLS!r})\nfrom netkit.files import new_files\nimport os\n'
    code += 'for number in range(50):\n'
    code += (
        '    with new_files(sys.argv[1]) as scratch: open(os.path.join(scratch, sys.argv[2]), "w").write(str(number))'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'out')]
    processes = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in 'abc']
    assert [process.communicate()[1] for process in processes] == [b''] * 3
    assert contents_of(tmp_path / 'out') == dict.fromkeys('abc', '49')


@pytest.mark.parametrize('other', ['removed it', 'is about to'])
def test_a_folder_that_another_takes_before_it_is_locked(tmp_path, monkeypatch, other):
    """As one of a killed process; then there is another."""
    taken, real = [], files_module.tempfile.mkdtemp

    def mkdtemp(**options):
        path = real(**options)
        if len(taken) < 3:
            taken.append(files_module.lock_of(path))
            if other == 'removed it':
                os.rmdir(path)
                os.close(taken[-1])
        return path

    monkeypatch.setattr(files_module.tempfile, 'mkdtemp', mkdtemp)
    write_into(tmp_path, a='a')
    assert (tmp_path / 'a').read_text() == 'a' and len(taken) == 3
    monkeypatch.undo()
    if other != 'removed it':
        assert files_module.settle(str(tmp_path)) is True
        for lock in taken:
            os.close(lock)
    assert files_module.settle(str(tmp_path)) is False and contents_of(tmp_path) == {'a': 'a'}


def test_a_folder_that_is_removed_while_it_is_locked(tmp_path, monkeypatch):
    """Opened before, locked after another process has removed it: then there is another."""
    real, removed = files_module.lock_of, []

    def lock_of(path):
        lock = real(path)
        if not removed:
            os.rmdir(path)
            removed.append(path)
        return lock

    monkeypatch.setattr(files_module, 'lock_of', lock_of)
    write_into(tmp_path, a='a')
    assert contents_of(tmp_path) == {'a': 'a'} and removed


def test_two_trainings_into_one_output_are_one_sentence(tmp_path, run_tool):
    with files_module.claimed(str(tmp_path / 'out'), 'training'):
        code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path / 'out'))
    assert code == 2 and f'another training is writing into {tmp_path}/out; wait until it has ended' in err
    assert not (tmp_path / 'out').exists()


def test_another_run_that_draws_is_not_disturbed(tmp_path, run_tool):
    process = subprocess.Popen([sys.executable, '-c', UNFINISHED_RUN, str(tmp_path / 'data')], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'writing\n'
    code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path))
    process.kill()
    process.wait()
    assert code == 2 and 'another run is writing into %s; wait' % (tmp_path / 'data') in err


# ------------------------------------------------------------------------------------------- read back


def cut_off(path, count):
    with open(path, 'r+b') as file:
        file.truncate(max(0, os.path.getsize(path) - count))


@pytest.mark.parametrize('count', [1, 100, 10**9])
def test_a_checkpoint_of_which_the_end_is_missing(tmp_path, run_tool, monkeypatch, count):
    real = params_file.write
    monkeypatch.setattr(params_file, 'write', lambda path, arrays: (real(path, arrays), cut_off(path, count)))
    code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path))
    assert code == 2 and 'cru56-0001.params could not be written completely; is the disk full?' in err
    assert not list(tmp_path.glob('cru56*'))


def test_a_checkpoint_with_another_number(tmp_path, monkeypatch):
    real = params_file.write
    monkeypatch.setattr(
        params_file, 'write', lambda path, arrays: real(path, {name: array + 1 for name, array in arrays.items()})
    )
    with pytest.raises(UserError, match='could not be written completely'):
        checkpoints.save(
            str(tmp_path / 'x'),
            0,
            mx.sym.FullyConnected(name='fc1', num_hidden=2),
            {'fc1_weight': np.ones((2, 2), np.float32)},
        )


def test_a_drawn_data_set_of_which_the_end_is_missing(tmp_path, run_tool, monkeypatch):
    real = mx.recordio.MXIndexedRecordIO.close

    def close(record):
        real(record)
        if record.flag == 'w':
            cut_off(record.uri.value, 8)

    monkeypatch.setattr(mx.recordio.MXIndexedRecordIO, 'close', close)
    code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path))
    assert code == 2 and 'could not be written completely' in err and not (tmp_path / 'data').exists()


def test_a_symbol_of_which_the_end_is_missing(tmp_path, run_tool, monkeypatch):
    real = checkpoints.save_symbol
    monkeypatch.setattr(exporting, 'save_symbol', lambda path, symbol: (real(path, symbol), cut_off(path, 10)))
    code, _, err = run_tool(export, '--network', 'cru56', '--output', str(tmp_path / 'net'))
    assert code == 2 and 'is not a symbol JSON' in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_takes_no_more(tmp_path, number):
    with pytest.raises(UserError, match=f'cannot write to .*: {os.strerror(number)}$'), new_files(str(tmp_path)):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------- what is read stays


def test_the_weights_to_import_stay(tmp_path, run_tool):
    path = tmp_path / 'x-0000.params'
    path.write_bytes(b'weights')
    code, _, err = run_tool(import_weights, str(path), '--network', 'cru56_imagenet', '--output', str(tmp_path / 'x'))
    assert code == 2 and 'is read, and would be overwritten' in err and path.read_bytes() == b'weights'


def test_the_picture_to_look_at_stays(tmp_path, run_tool):
    path, link = tmp_path / 'me.png', tmp_path / 'link.png'
    path.write_bytes(b'a picture')
    link.symlink_to(path)
    for name in (path, link):
        code, _, err = run_tool(visualize, 'attention', '--network', 'att56', '--image', str(path), '-o', str(name))
        assert code == 2 and 'is read, and would be overwritten' in err and path.read_bytes() == b'a picture'
    code, _, err = run_tool(visualize, 'training', str(path), '-o', str(path))
    assert code == 2 and 'is read, and would be overwritten' in err


def test_the_demo_leaves_what_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'OUTPUT', str(tmp_path))
    monkeypatch.setattr(demo, 'train', lambda options: 0)
    monkeypatch.setattr(demo, 'accuracy', lambda folder: 1.0)
    monkeypatch.setattr(sys, 'argv', ['demo.py'])
    for folder in ('mine', *demo.OWN):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'file').write_text('mine')
    (tmp_path / 'data' / 'train.rec').write_text('drawn before')
    assert demo.main() == 0
    assert all((tmp_path / folder / 'file').read_text() == 'mine' for folder in ('mine', *demo.OWN))
    assert not (tmp_path / 'data' / 'train.rec').exists()


# ----------------------------------------------------------------------------------------- hostile pickles


class Call:
    """Is called, when it is read from a pickle, as `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    'same', [3, None, 'text', {1: 2}, np.bool_(True), [[True], [True, False]], [np.array([1, 2])] * 10, ['yes'] * 10]
)
def test_answers_that_are_none(tmp_path, same):
    image = synthetic._encode(np.zeros((8, 8, 3), np.uint8))
    path = tmp_path / 'pairs.bin'
    path.write_bytes(pickle.dumps(([image] * 20, same), protocol=2))
    with pytest.raises(UserError, match='is not a verification set'):
        pairs.read_pairs(str(path), (8, 8, 3))


ADDRESSES = [
    Call(np.ndarray, (8,), 'O', b'ABCDEFGH' * 8),
    Call(np.ndarray, (8,), np.dtype('O'), b'ABCDEFGH' * 8),
    Call(np.dtype, 'O'),
    Call(eval, '1'),
]


READ_ALL = (
    """
import sys
sys.path.insert(0, %r)
from netkit.project import find_builders; find_builders()
from netkit.data import pairs
from netkit.errors import UserError
for path in sys.argv[1:]:
    try:
        pairs.read_pairs(path, (8, 8, 3))
    except UserError as error:
        assert 'is not a verification set' in str(error)
        print(path)
"""
    % TOOLS
)


def test_addresses_in_a_pickle_are_not_followed(tmp_path):
    """In a separate process: what is tried here has ended one."""
    paths = []
    for number, address in enumerate(ADDRESSES):
        for place, content in enumerate((([b''], address), (address, [True]))):
            paths.append(tmp_path / f'pairs-{number}-{place}.bin')
            paths[-1].write_bytes(pickle.dumps(content, protocol=2))
    done = subprocess.run([sys.executable, '-c', READ_ALL, *map(str, paths)], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stdout.split() == list(map(str, paths))


# ------------------------------------------------------------------------------------- damaged parameters


def test_any_byte_of_a_checkpoint_may_be_another(tmp_path):
    path = str(tmp_path / 'x.params')
    mx.nd.save(path, {'arg:a': mx.nd.ones((2, 3)), 'aux:b': mx.nd.zeros((4,))})
    with open(path, 'rb') as file:
        content = file.read()
    for place in range(24, len(content)):
        for value in (0, 1, 255):
            with open(path, 'wb') as file:
                file.write(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                checkpoints.load_parameters(path)
            except UserError as error:
                assert '\n' not in str(error)


def test_any_byte_of_a_state_may_be_another(tmp_path):
    resume.save(str(tmp_path), {'arg:a': np.ones((2, 3), np.float32)}, {'seed': 0}, resume.Progress([1.0, 0.5], None))
    path = tmp_path / resume.FILE
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            resume.load(str(tmp_path), {'seed': 0})
        except UserError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 100


# ----------------------------------------------------------------------------------------- names and streams


@pytest.mark.parametrize('name', [b'latin\xe4', 'é'.encode()])
@pytest.mark.parametrize('program, option', [('export', b'--output'), ('train', b'--output')])
def test_names_that_are_not_in_the_letters_of_the_system(tmp_path, program, option, name):
    done = subprocess.run(
        [
            sys.executable.encode(),
            os.path.join(TOOLS, program + '.py').encode(),
            b'--network',
            b'cru56',
            option,
            os.fsencode(str(tmp_path)) + b'/' + name + b'/x',
        ],
        stderr=subprocess.PIPE,
        env=dict(os.environ, LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0'),
    )
    assert done.returncode == 2 and b'is not in the letters of this system' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize('how, code', [('>&-', 0), ('2>&-', 0), ('>&- 2>&-', 0)])
def test_closed_output(tmp_path, how, code):
    done = subprocess.run(
        '"{}" "{}" --network cru56 --output "{}" {}'.format(
            sys.executable, os.path.join(TOOLS, 'export.py'), tmp_path / 'net', how
        ),
        shell=True,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr) == (code, b'')
    assert mx.sym.load(str(tmp_path / 'net-symbol.json')).name == 'fc1'


@pytest.mark.parametrize('buffered', [False, True])
@pytest.mark.parametrize('options, code', [(['--network', 'nope', '--output', 'x'], 2), (['--help'], 2)])
def test_output_that_is_full(options, code, buffered):
    variables = dict(os.environ, PYTHONUNBUFFERED='' if buffered else '1')
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [sys.executable, os.path.join(TOOLS, 'export.py')] + options,
            env=variables,
            **({'stdout': full, 'stderr': subprocess.PIPE} if '--help' in options else {'stderr': full}),
        )
    assert done.returncode == code
    if done.stderr is not None:
        assert done.stderr == b'export.py: what this program prints cannot be written: No space left on device\n'


TWICE = """
import os, signal, sys, time
sys.path.insert(0, %r)
from netkit.project import find_builders; find_builders()
from netkit import cli
def main():
    try:
        os.kill(os.getpid(), signal.%s)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        print('cleaned up')
cli.run(main)
"""


@pytest.mark.parametrize('name, status', [('SIGTERM', 143), ('SIGINT', 130)])
def test_a_second_signal_changes_nothing(name, status):
    done = subprocess.run(
        [sys.executable, '-c', TWICE % (TOOLS, name)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (status, 'cleaned up\n')
    assert done.stderr in ('', '-c: interrupted\n')


# --------------------------------------------------------------------------------------------- odd numbers


@pytest.mark.parametrize(
    'program, options, words',
    [
        (tool, ['--devices', '99999999999'], 'at most 1024'),
        (tool, ['--loss-scale', '1e-300'], 'is not a number of at least 1e-06'),
        (tool, ['--lr', '3e38'], 'and at most 1000'),
        (export, ['--network', 'cru56', '--output', 'x' * 240], 'longer than the'),
        (export, ['--model', 'a,' + '1' * 5000, '--output', 'x'], 'is neither PREFIX,EPOCH'),
        (export, ['--model', 'a,1', '--onnx', '--batch-size', '1' + '0' * 15, '--output', 'x'], 'at most 4096'),
        (visualize, ['network', 'cru56', '-o', 'x' * 252 + '.svg'], 'longer than the'),
        (visualize, ['network', 'cru56', '--image-size', '99999,99999', '-o', 'x.svg'], 'of at most 4096'),
    ],
)
def test_numbers_and_names_that_are_too_large(run_tool, tmp_path, monkeypatch, program, options, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_tool(program, *options)
    assert code == 2 and words in err and len(err.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'arguments',
    [
        ['benchmark', 'ires50', '--per-batch-size', '100000000', '--repetitions', '1', '--only', 'inference'],
        ['visualize', 'attention', '--network', 'att92', '--image-size', '4096,4096', '-o', 'x.png'],
        ['visualize', 'attention', '--network', 'att92_imagenet', '--image-size', '4096,4096', '-o', 'x.png'],
    ],
)
def test_what_has_no_room_in_memory(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, os.path.join(TOOLS, arguments[0] + '.py')] + arguments[1:],
        cwd=str(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (
        done.returncode == 2
        and re.search('and this machine has|more than 2.31 weights', done.stderr)
        and len(done.stderr.splitlines()) == 1
    ), done.stderr


def test_weights_that_are_not_finite_are_not_saved(tmp_path, run_tool, monkeypatch):
    real = Trainer.parameters

    def infinite(trainer):
        values = real(trainer)
        values['fc1_beta'][0] = np.inf
        return values

    monkeypatch.setattr(Trainer, 'parameters', infinite)
    code, _, err = run_tool(tool, *QUICK, '--output', str(tmp_path))
    assert code == 2 and 'fc1_beta is not finite after step 1' in err and not list(tmp_path.glob('cru56*'))


@pytest.mark.parametrize('names', [['a\x01b.log', '_u.log'], ['x\x7f\x9by.log', 'two\nlines.log']])
def test_any_name_of_a_log(tmp_path, run_tool, names):
    import xml.etree.ElementTree

    line = 'Epoch[0] Batch [0-10]\tSpeed: 10.00 samples/sec\tacc=0.5\tlossvalue=3.0\n'
    for name in names:
        (tmp_path / name).write_text(line)
    output = tmp_path / 'curves.svg'
    code, _, err = run_tool(visualize, 'training', *[str(tmp_path / name) for name in names], '-o', str(output))
    assert code == 0, err
    text = ''.join(xml.etree.ElementTree.parse(str(output)).getroot().itertext())
    assert ('_u.log' in text) == ('_u.log' in names)


# ------------------------------------------------------------------------------------- what is named otherwise


@pytest.mark.parametrize(
    'program, options',
    [
        (summarize, []),
        *[
            (program, ['--output', 'x', *last])
            for program, last in ((export, ['--model']), (convert, []), (import_weights, []))
        ],
    ],
)
def test_an_onnx_file_where_a_checkpoint_is_wanted(run_tool, program, options):
    code, _, err = run_tool(program, *options, 'net.onnx')
    assert code == 2 and 'it is an ONNX file, which tools/evaluate.py takes' in err and err.count('\n') == 1


@pytest.mark.parametrize('ending', ['', '-0007.params', '-symbol.json'])
@pytest.mark.parametrize(
    'program, options',
    [
        (summarize, []),
        (visualize, ['network', '-o', '{folder}/x.svg']),
        (evaluate, ['faces', '--data', '{folder}']),
        (export, ['--output', 'x', '--model']),
        (convert, ['--output', 'x.pt']),
        (tool, [*QUICK, '--output', '{folder}/out', '--pretrained']),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_a_checkpoint_by_another_name_is_told_its_own(run_tool, tmp_path, program, options, ending):
    """As most people name it at first: the prefix alone, or one of its files."""
    if ending.endswith('.json') and program in (summarize, visualize):
        pytest.skip('they take a symbol')
    for name in ('net-0002.params', 'net-0007.params', 'net-symbol.json', 'lfw.bin'):
        (tmp_path / name).write_bytes(b'')
    code, _, err = run_tool(program, *(word.format(folder=tmp_path) for word in options), f'{tmp_path}/net{ending}')
    assert code == 2 and err.count('\n') == 1 and f'did you mean {tmp_path}/net,7?' in err, err
    assert program is not tool or 'train.py: --pretrained: ' in err
