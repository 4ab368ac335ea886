"""Every program answers --help; those that no other file of tests runs are run here."""

import contextlib
import ctypes
import glob
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import demo
import measure
from helpers import FEW_FACES, PATIENCE, TINY, TOOLS
from netkit import cli, project
from netkit.errors import UserError

PROGRAMS = (
    'convert',
    'demo',
    'evaluate',
    'export',
    'import_weights',
    'launch_local',
    'measure',
    'pack',
    'summarize',
    'train',
    'train_imagenet',
    'visualize',
)  # worker passes all options on, extras has none
FORMER = {  # {former name: command of measure.py}
    'benchmark': 'networks',
    'benchmark_deployment': 'deployment',
    'check_gpu': 'gpu',
    'check_gpu_install': 'install',
    'gpu_env': 'libraries',
}


def test_these_are_all_programs():
    found = []
    for path in glob.glob(os.path.join(TOOLS, '*.py')):
        with open(path, encoding='utf-8') as file:
            if "__name__ == '__main__'" in file.read():
                found.append(os.path.basename(path)[:-3])
    assert sorted(found) == sorted([*PROGRAMS, *FORMER, 'worker', 'extras'])


@pytest.mark.parametrize('program', PROGRAMS)
def test_help(run_tool, program):
    code, out, err = run_tool(importlib.import_module(program), '--help')
    assert code == 0 and err == '' and out.startswith(f'usage: {program}.py') and 'None' not in out


@pytest.mark.parametrize('former', FORMER)
def test_former_names(run_tool, former):
    code, out, err = run_tool(measure, FORMER[former], '--help')
    assert code == 0 and err == '' and out.startswith(f'usage: measure.py {FORMER[former]} ') and 'None' not in out
    done = subprocess.run(
        [sys.executable, os.path.join(TOOLS, former + '.py'), '--help'], capture_output=True, text=True
    )
    assert ' '.join(done.stdout.split()) == ' '.join(out.split()) and done.returncode == 0


# ------------------------------------------------------------------------------------------------- run


def stops(main):
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code


def test_what_the_user_can_put_right_is_a_sentence(capsys):
    def main():
        raise UserError('a file is missing')

    assert stops(main) == 2
    assert capsys.readouterr().err.endswith(': a file is missing\n')
    assert stops(lambda: None) == 0 and stops(lambda: 1) == 1

    def interrupted():
        raise KeyboardInterrupt

    assert stops(interrupted) == 130
    assert stops(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    if hasattr(signal, 'SIGHUP'):  # of a lost ssh; nohup, and CI perhaps, has it ignored
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            assert stops(lambda: signal.raise_signal(signal.SIGHUP)) == 129
        finally:
            signal.signal(signal.SIGHUP, before)


def run_program(name, *options, **variables):
    return subprocess.run(
        [sys.executable, os.path.join(TOOLS, name + '.py')] + list(options),
        capture_output=True,
        env=dict(os.environ, **variables),
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    'program, options',
    [
        ('summarize', ['cru56']),
        ('export', ['--network', 'cru56', '--output', '{folder}/net']),
        ('benchmark', ['cru56', '--building']),
    ],
)
def test_output_that_nobody_takes_is_a_sentence(tmp_path, program, options):
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [sys.executable, os.path.join(TOOLS, program + '.py')]
            + [option.replace('{folder}', str(tmp_path)) for option in options],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert done.returncode == 2
    assert (
        done.stderr.decode() == f'{program}.py: what this program prints cannot be written: No space left on device\n'
    )


def test_a_terminal_without_our_letters(tmp_path):
    done = run_program('export', '--network', 'cru56', '--output', str(tmp_path / 'näme'), PYTHONIOENCODING='ascii')
    assert done.returncode == 0 and b'n?me-symbol.json' in done.stdout, done.stderr
    assert b'\r' not in done.stderr + done.stdout


def test_bars_stay_out_of_logs(tmp_path):
    done = run_program(
        'train',
        '--multiplier',
        '0.05',
        '--steps',
        '2',
        '--per-batch-size',
        '2',
        *FEW_FACES,
        '--pairs',
        '10',
        '--output',
        str(tmp_path),
    )
    assert done.returncode == 0 and b'\r' not in done.stderr and b'it/s' not in done.stderr, done.stderr


def test_a_python_without_mxnet_is_told():
    for program in ('summarize', 'train', 'export', 'visualize', 'demo'):
        done = subprocess.run(
            [sys.executable, '-S', os.path.join(TOOLS, program + '.py')], capture_output=True, text=True
        )
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(f'{program}.py: this Python has no mxnet; run "make demo" once, then')


HIDING = """
import importlib.abc, sys
class Hiding(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError('No module named ' + name, name=name)
sys.meta_path.insert(0, Hiding())
import importlib.util
found, importlib.util.find_spec = importlib.util.find_spec, lambda name: None if name == {name!r} else found(name)
"""


@pytest.mark.parametrize(
    'name, package, arguments',
    [
        ('rich', 'rich', ['train.py', '--help']),
        ('PIL', 'pillow', ['evaluate.py', '--help']),
        ('matplotlib', 'matplotlib', ['visualize.py', 'network', 'cru56', '-o', 'x.svg']),
        ('onnx', 'onnx', ['evaluate.py', 'faces', 'x.onnx', '--data', '.']),
    ],
)
def test_a_package_that_is_missing_is_told(tmp_path, name, package, arguments):
    """At once, or where only a part of a program needs it, there."""
    (tmp_path / 'sitecustomize.py').write_text(HIDING.format(name=name))
    (tmp_path / 'lfw.bin').write_bytes(b'')
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    command = [sys.executable, os.path.join(TOOLS, arguments[0]), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=str(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f'{arguments[0]}: this Python has no {package}; run "make demo" once')


@pytest.mark.parametrize('is_mended', [False, True])
def test_a_numpy_that_mxnet_does_not_start_with(monkeypatch, capsys, is_mended):
    """MXNet uses names that numpy 1.24 took away; some have mended theirs."""

    def imported(name):
        if not is_mended:
            raise AttributeError("module 'numpy' has no attribute 'bool'")

    monkeypatch.setattr(project.importlib.metadata, 'version', lambda package: '1.26.4')
    monkeypatch.setattr(project.importlib, 'import_module', imported)
    with contextlib.nullcontext() if is_mended else pytest.raises(SystemExit, match='2'):
        project.need(*project.NEEDED)
    assert (
        is_mended
        or f'MXNet 1.9.1 does not start with numpy 1.26.4; run {sys.executable} -m pip' in capsys.readouterr().err
    )


def test_ctrl_c_during_the_imports_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, os.path.join(TOOLS, 'summarize.py'), 'att452'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with open('/proc/%d/maps' % process.pid) as maps:
        while 'libmxnet' not in maps.read() and process.poll() is None:
            time.sleep(0.01)
            maps.seek(0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert out == b'' and b'Traceback' not in err and process.returncode in (-signal.SIGINT, 130)


def test_ctrl_c_that_is_ignored_stays_so():
    code = (
        'import signal, sys; sys.path.insert(0, %r); from netkit import cli; '
        'cli.run(lambda: print(signal.getsignal(2)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code % TOOLS],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, f'{signal.SIG_IGN}\n')


def small_disk(*command):
    """Run a command with a separate disk at `$1`, which it sees as {disk}; skip if that cannot be."""
    if not shutil.which('unshare') or subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL).returncode:
        pytest.skip('no mount namespaces here')
    return subprocess.run(['unshare', '-m', 'sh', '-c', *command], capture_output=True, text=True, timeout=PATIENCE)


FULL_DISK = """
mount -t tmpfs -o size=$3 tmpfs "$1" || exit 99
disk=$1 kept=$2; shift 3
"$@"
status=$?
cp -r "$disk/." "$kept"
exit $status
"""


@pytest.mark.parametrize(
    'size, program, options',
    [
        ('16k', 'export', ['--network', 'cru56', '--output', '{disk}/net']),
        ('8k', 'visualize', ['network', 'cru56', '-o', '{disk}/net.svg']),
        ('400k', 'train', [*TINY, '--no-verification', '--state-every', '0', '--output', '{disk}']),
        ('1200k', 'train', [*TINY, '--pairs', '10', '--no-verification', '--output', '{disk}']),
        (
            '40k',
            'train',
            [
                '--multiplier',
                '0.05',
                '--steps',
                '1',
                '--per-batch-size',
                '2',
                '--identities',
                '40',
                '--output',
                '{disk}',
            ],
        ),
    ],
)
def test_a_full_disk_is_a_sentence_and_leaves_nothing_broken(tmp_path, size, program, options):
    disk, kept = tmp_path / 'disk', tmp_path / 'kept'
    disk.mkdir()
    kept.mkdir()
    done = small_disk(
        FULL_DISK,
        'sh',
        str(disk),
        str(kept),
        size,
        sys.executable,
        os.path.join(TOOLS, program + '.py'),
        *[option.replace('{disk}', str(disk)) for option in options],
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert 'Traceback' not in done.stderr and re.search('No space left on device|is the disk full', done.stderr), (
        done.stderr
    )
    left = [path.name for path in kept.rglob('*') if path.is_file()]
    assert not [name for name in left if name.endswith(('.params', '.svg', 'symbol.json'))], left
    assert not any('unfinished' in str(path) for path in kept.rglob('*')), left


def test_a_reader_who_has_had_enough_ends_it():
    code = 'import sys; sys.path.insert(0, %r); from netkit import cli\ncli.run(lambda: print("x" * 10 ** 7))'
    process = subprocess.Popen([sys.executable, '-c', code % TOOLS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait(30) == 141


@pytest.mark.parametrize('error', [ValueError, TypeError, KeyError, ZeroDivisionError, OSError])
def test_an_error_of_the_program_is_shown_as_one(error):
    def main():
        raise error('operands could not be broadcast together')

    with pytest.raises(error):
        cli.run(main)


# -------------------------------------------------------------------------------------------- programs


def test_the_demo(run_tool, monkeypatch, tmp_path):
    assert demo.LEAST == 0.85
    monkeypatch.setattr(demo, 'OUTPUT', str(tmp_path))
    small = ['--multiplier', '0.1', '--steps', '2', '--lr', '0.001', '--per-batch-size', '2', '--identities', '2']
    small += ['--images', '2', '--pairs', '20']
    monkeypatch.setattr(demo, 'LEARNS', demo.LEARNS + small)
    monkeypatch.setattr(demo, 'FULL', demo.FULL + small)
    monkeypatch.setattr(demo, 'LEAST', 0.0)
    code, _, err = run_tool(demo)
    assert code == 0, err
    for name in ('cru56-quarter/cru56', 'cru116/cru116'):
        assert os.path.isfile(str(tmp_path / (name + '-0001.params')))
    assert not os.path.exists(str(tmp_path / 'cru116' / 'resume.npz'))
    # What it read of the verification decides.
    monkeypatch.setattr(demo, 'train', lambda options: 0)
    monkeypatch.setattr(demo, 'LEAST', 1.01)
    code, _, err = run_tool(demo)
    assert code == 1 and 'tells faces apart with' in err and '1.01 at least' in err.replace('\n', ' ')


def test_a_sentence_is_one_line_of_letters(capsys):
    """Whatever a damaged file says of itself."""

    def main():
        raise UserError('x.bin is none: ' + 'a\x00\x1b[31m\n' * 500)

    assert stops(main) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and said[:-1].isprintable() and len(said) < 1400 and 'x.bin is none: a??[31m?' in said


def test_the_demo_ends_with_the_training_that_failed(run_tool, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(demo, 'OUTPUT', str(tmp_path))
    monkeypatch.setattr(demo, 'train', lambda options: started.append(options) or 2)
    code, _, _ = run_tool(demo)
    assert code == 2 and len(started) == 1


PYTHON = """#!/bin/sh
# Stands in for an interpreter: makes an environment without packages, and keeps what it is called with.
echo "$LD_LIBRARY_PATH|$@" >> '{log}'
case "$1 $2" in
  '-m venv') mkdir -p "$3/bin" "$3/lib/python3/site-packages/mxnet"
             cp '{mxnet}' "$3/lib/python3/site-packages/mxnet/libmxnet.so"; cp "$0" "$3/bin/python";;
  *measure.py*) cp "$LD_LIBRARY_PATH/libcuda.so.1" '{driver}'; exit {status};;
esac
"""


@pytest.mark.parametrize('status', [0, 1])
def test_the_gpu_install_is_tried_with_a_driver_that_stands_in(run_tool, tmp_path, status):
    """Up to the 2.5 GB of packages: a library that needs functions of a driver stands for MXNet's."""
    files = {name: str(tmp_path / name) for name in ('log', 'mxnet', 'driver')}
    source = tmp_path / 'mxnet.c'
    source.write_text(
        'int cuFooBar(void); int cuDeviceGetCount(int *); int other(void);\n'
        'int needs(void) { int n; return cuFooBar() + cuDeviceGetCount(&n) + other(); }\n'
    )
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', files['mxnet'], str(source)], check=True)
    python = tmp_path / 'python'
    python.write_text(PYTHON.format(status=status, **files))
    python.chmod(0o755)
    code, _, err = run_tool(measure, 'install', '--python', str(python))
    assert code == (2 if status else 0) and ('this failed: ' in err) == bool(status)
    driver, count = ctypes.CDLL(files['driver']), ctypes.c_int(7)
    assert driver.cuDeviceGetCount(ctypes.byref(count)) == 100 and count.value == 0 and driver.cuFooBar() == 100
    assert not hasattr(driver, 'other')
    calls = (tmp_path / 'log').read_text().split('\n')
    assert '-m venv' in calls[0] and 'extras.py mxnet-gpu tools' in calls[1] and '-m pip install' in calls[2]
    assert 'measure.py libraries' in calls[3]
    if not status:
        assert 'measure.py libraries -- ' in calls[4] and "build('cru56', " in '\n'.join(calls[4:])


def test_the_gpu_install_without_an_interpreter(run_tool):
    code, _, err = run_tool(measure, 'install', '--python', 'no-such-python')
    assert code == 2 and 'cannot run no-such-python: No such file or directory' in err
