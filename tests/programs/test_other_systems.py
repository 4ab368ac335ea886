"""macOS and Windows have less than Linux: the programs without what these lack."""

import os
import subprocess
import sys

import onnxruntime
import pytest

from helpers import FEW_FACES, PATIENCE, ROOT, snapshot
from host.layouts import lay_out
from netkit._mxnet import mx

# Run by Python before a program, in its process and in those that it starts (as the module sitecustomize).
LIKE_WINDOWS = """
import builtins, os, signal

lacking = ((os, ("sched_getaffinity", "sysconf", "chown", "killpg", "fork", "getuid")), (signal, ("SIGHUP",)))
for module, names in lacking:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
real_import, real_open, real_fsync = builtins.__import__, os.open, os.fsync
real_exists, real_file = os.path.exists, builtins.open
opened_to_read = set()

def no_unix_modules(name, *rest, **kwargs):
    if name in ("fcntl", "resource"):
        raise ImportError("No module named %r" % name)
    return real_import(name, *rest, **kwargs)

def no_folders(path, flags, *rest, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    handle = real_open(path, flags, *rest, **kwargs)
    (opened_to_read.discard if flags & (os.O_RDWR | os.O_WRONLY) else opened_to_read.add)(handle)
    return handle

def no_reading_handles(handle):
    if handle in opened_to_read:
        raise OSError(9, "Bad file descriptor")
    return real_fsync(handle)

builtins.__import__, os.open, os.fsync = no_unix_modules, no_folders, no_reading_handles
os.path.exists = lambda path: not str(path).startswith("/proc") and real_exists(path)
"""


@pytest.fixture
def run_there(tmp_path):
    """Return a function that runs a file of the project as another system would; it returns its output."""
    system = tmp_path / 'system'
    system.mkdir()
    (system / 'sitecustomize.py').write_text(LIKE_WINDOWS)

    def run(program, *options, code=0):
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, program)] + list(options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            env=dict(os.environ, PYTHONPATH=str(system)),
        )
        assert done.returncode == code and 'Traceback' not in done.stdout, done.stdout
        return done.stdout

    return run


def test_export_and_summary(run_there, tmp_path):
    prefix = str(tmp_path / 'net')
    run_there('tools/export.py', '--network', 'cru56', '--output', prefix)
    assert mx.sym.load(prefix + '-symbol.json').list_outputs() == ['fc1_output']
    assert '49,307,008' in run_there('tools/summarize.py', 'cru56', '--markdown')


def test_training_and_what_comes_of_it(run_there, tmp_path):
    output = str(tmp_path / 'run')
    options = [
        '--network',
        'cru56',
        '--multiplier',
        '0.25',
        '--per-batch-size',
        '2',
        *FEW_FACES,
        '--pairs',
        '10',
        '--output',
        output,
        '--state-every',
        '1',
        '--lr',
        '0.001',
    ]
    run_there('tools/train.py', '--steps', '1', *options)
    assert 'continuing after step 1 of 2' in run_there('tools/train.py', '--steps', '2', '--resume', *options)
    model = os.path.join(output, 'cru56,1')
    run_there('tools/export.py', '--model', model, '--onnx', '--output', str(tmp_path / 'net'))
    assert onnxruntime.InferenceSession(str(tmp_path / 'net.onnx')).get_outputs()[0].name == 'fc1'
    run_there('tools/visualize.py', 'training', os.path.join(output, 'train.log'), '-o', str(tmp_path / 'curves.png'))
    assert (tmp_path / 'curves.png').stat().st_size > 1000


def test_benchmark_without_the_peak_of_the_memory(run_there):
    output = run_there(
        'tools/measure.py',
        'networks',
        'cru56:net_multiplier=0.25',
        '--per-batch-size',
        '1',
        '--repetitions',
        '1',
        '--only',
        'inference',
        '--markdown',
    )
    row = next(line for line in output.splitlines() if line.startswith('| cru56:'))
    assert row.split('|')[-3].strip() == '–'


def test_several_processes_are_refused_in_a_sentence(run_there):
    output = run_there('tools/launch_local.py', '--', 'python', 'train.py', code=2)
    assert output.splitlines() == [
        'launch_local.py: MXNet has no parameter server on this system; use Linux or macOS (see --help)'
    ]


def test_patcher(run_there, tmp_path):
    root = str(tmp_path / 'checkout')
    lay_out(root, 'C')
    before = snapshot(root)
    run_there('patch_insightface.py', root)
    run_there('patch_insightface.py', root, '--status')
    run_there('patch_insightface.py', root, '--revert')
    assert snapshot(root) == before
