"""Training in several processes, and runs that are killed; test_trainer.py has the devices of one process."""

import filecmp
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import launch_local
import train as tool
from helpers import PATIENCE, TOOLS, assert_gone, assert_trained_alike
from netkit._mxnet import mx
from netkit.data import synthetic
from netkit.measure import cuda
from netkit.networks import build, initializer
from netkit.training import log as training_log, state as resume

TRAIN = os.path.join(TOOLS, 'train.py')
LAUNCH = os.path.join(TOOLS, 'launch_local.py')
SMALL = ['--network', 'cru56', '--multiplier', '0.1', '--per-batch-size', '2', '--lr', '0.02', '--no-verification']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('synthetic faces'))
    synthetic.write_synthetic(folder, identities=4, images=4, pairs=10, seed=1)
    return folder


def run(*command):
    """Run a Python script; end one that takes too long by a signal, so that a launcher ends its children."""
    process = subprocess.Popen(
        [sys.executable] + list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
        pytest.fail('still running after %d seconds: %s' % (PATIENCE, err[-2000:]))
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def first_weights():
    """Return what the runs of SMALL start from, by plain MXNet: {name: array}."""
    symbol = build('cru56', net_multiplier=0.1, memonger=False)
    module = mx.mod.Module(symbol, context=mx.cpu(), label_names=None)
    module.bind([('data', (2, 3, 112, 112))])
    mx.random.seed(0)
    module.init_params(initializer())
    return read_arrays({'arg:' + name: array for name, array in module.get_params()[0].items()})


def read_arrays(arrays):
    """Return the parameters among the arrays of a checkpoint, without the moving statistics."""
    return {name[4:]: array.asnumpy() for name, array in arrays.items() if name.startswith('arg:')}


# ------------------------------------------------------------------------------------------ processes

WORKER = """
import os, sys
sys.path.insert(0, {tools!r})
from netkit.project import find_builders; find_builders()
import train as tool
from netkit._mxnet import mx

from netkit.training import loop, tasks, trainer
train, PairSet, probabilities = loop.train, tasks.PairSet, trainer.Trainer.probabilities
def train_and_keep(trainer, *rest):
    result = train(trainer, *rest)
    learnt = {{name: array for name, array in trainer.parameters().items() if 'moving' not in name}}
    arrays = {{'arg:' + name: mx.nd.array(array) for name, array in learnt.items()}}
    mx.nd.save(os.path.join({output!r}, 'rank-%d.params' % trainer.kvstore.rank), arrays)
    return result
def read_and_tell(*arguments):
    open(os.path.join({output!r}, 'pairs-%d' % os.getpid()), 'w').close()
    return PairSet(*arguments)
def stop_in_step_3(self):
    if self.steps == 3 and self.kvstore.rank == 0 and not os.path.exists(os.path.join({output!r}, 'stopped')):
        open(os.path.join({output!r}, 'stopped'), 'w').close()
        sys.exit(7)
    return probabilities(self)
loop.train, tasks.PairSet = train_and_keep, read_and_tell
trainer.Trainer.probabilities = stop_in_step_3
tool.run(tool.main)
"""


def test_two_workers_train_as_one_process(tmp_path):
    """They draw the data, are stopped in the third step, and continue.

    With Dropout, whose masks follow from the step and the device's number in the whole job. Only the first looks at the
    verification pairs.
    """
    script = tmp_path / 'worker script.py'
    script.write_text(WORKER.format(tools=TOOLS, output=str(tmp_path)))
    options = [option for option in SMALL if option != '--no-verification'] + [
        '--steps',
        '4',
        '--draw',
        '--data',
        str(tmp_path / 'data'),
        '--identities',
        '4',
        '--images',
        '4',
        '--pairs',
        '10',
        '--state-every',
        '2',
        '--lr',
        '0.001',
    ]
    job = [
        LAUNCH,
        '--workers',
        '2',
        '--servers',
        '1',
        '--',
        sys.executable,
        '-u',
        str(script),
        *options,
        '--kvstore',
        'dist_sync',
        '--output',
        str(tmp_path / 'two'),
    ]
    stopped = run(*job)
    assert stopped.returncode == 1 and 'ended with exit code 7; the job was stopped' in stopped.stderr
    for path in tmp_path.glob('pairs-*'):
        path.unlink()
    done = run(*job, '--resume')
    assert done.returncode == 0 and 'continuing after step 2 of 4' in done.stdout, done.stderr
    assert len(list(tmp_path.glob('pairs-*'))) == 1
    alone = run(TRAIN, *options, '--devices', '2', '--output', str(tmp_path / 'one'))
    assert alone.returncode == 0, alone.stderr
    workers = [read_arrays(mx.nd.load(str(tmp_path / ('rank-%d.params' % rank)))) for rank in (0, 1)]
    expected = read_arrays(mx.nd.load(str(tmp_path / 'one' / 'cru56-0001.params')))
    initial = first_weights()
    for worker in workers:
        assert_trained_alike({name: worker[name] for name in expected}, expected, initial)
        assert all(np.array_equal(worker[name], expected[name]) for name in expected)
    assert np.array_equal(workers[0]['fc7_weight'], workers[1]['fc7_weight'])
    written = read_arrays(mx.nd.load(str(tmp_path / 'two' / 'cru56-0001.params')))
    assert set(written) == set(expected) and all(np.array_equal(written[name], expected[name]) for name in expected)


def test_what_the_workers_started_ends_with_them(tmp_path):
    script = tmp_path / 'starts.py'
    script.write_text(
        'import os, subprocess, sys\n'
        'child = subprocess.Popen(["sleep", "300"])\n'
        f'open(os.path.join({str(tmp_path)!r}, str(child.pid)), "w").close()\n'
        'sys.exit(3)\n'
    )
    assert run(LAUNCH, '--workers', '2', '--', sys.executable, str(script)).returncode == 1
    children = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert children
    assert_gone(children)


@pytest.mark.parametrize(
    'options, ending, words',
    [
        ([], 'os.kill(os.getpid(), 9)', 'worker 1 was ended by signal 9'),
        ([], 'sys.exit(3)', 'worker 1 ended with exit code 3'),
        ([], '1 / 0', 'worker 1 ended with exit code 1'),
        (['-u'], '1 / 0', 'worker 1 ended with exit code 1'),
        (['-c'], '1 / 0', 'worker 1 ended with exit code 1'),
    ],
)
def test_a_worker_that_dies_ends_the_job(tmp_path, options, ending, words):
    code = (
        'import os, sys, mxnet as mx\n'
        "kvstore = mx.kv.create('dist_sync')\n"
        "kvstore.init('weight', mx.nd.ones((2,)))\n"
        f'if kvstore.rank == 1:\n    {ending}\n'
        "kvstore.push('weight', mx.nd.ones((2,)))\n"
        "kvstore.pull('weight', mx.nd.ones((2,)))\n"
        'mx.nd.waitall()\n'
    )
    (tmp_path / 'dies.py').write_text(code)
    what = code if options == ['-c'] else str(tmp_path / 'dies.py')
    done = run(LAUNCH, '--workers', '2', '--', sys.executable, *options, what)
    assert done.returncode == 1
    assert words.split(' ', 2)[2] in done.stderr and 'the job was stopped' in done.stderr


@pytest.mark.parametrize(
    'command, expected',
    [
        ('python train.py -u', 'python RUNNER train.py -u'),
        ('/usr/bin/python3.10 -u train.py --lr 1', '/usr/bin/python3.10 -u RUNNER train.py --lr 1'),
        (
            'python3 -uB -W ignore -Xdev -uX dev --check-hash-based-pycs never train.py',
            'python3 -uB -W ignore -Xdev -uX dev --check-hash-based-pycs never RUNNER train.py',
        ),
        ('python -O -m train -m', 'python -O RUNNER -m train -m'),
        ('python -uOm train', 'python -uO RUNNER -m train'),
        ('python -mtrain -c', 'python RUNNER -m train -c'),
        ('python -c pass', 'python RUNNER -c pass'),
        ('python -Bcpass -m', 'python -B RUNNER -c pass -m'),
        ('python -Wignore::m train.py', 'python -Wignore::m RUNNER train.py'),
        ('python -u', 'python -u RUNNER'),
        ('python', 'python RUNNER'),
        ('pypy3 train.py', 'pypy3 RUNNER train.py'),
        ('env A=1 B=2 python3.8d -u train.py', 'env A=1 B=2 python3.8d -u RUNNER train.py'),
        ('env', 'env'),
        ('env bash train.sh', 'env bash train.sh'),
        ('bash train.sh', 'bash train.sh'),
        ('./train.py', './train.py'),
        ('python-config a.py', 'python-config a.py'),
    ],
)
def test_the_runner_comes_behind_pythons_options(command, expected):
    expected = [launch_local.RUNNER if word == 'RUNNER' else word for word in expected.split()]
    assert launch_local.with_runner(command.split()) == expected


@pytest.mark.parametrize('options', [['SCRIPT'], ['-m', 'script'], ['-c', 'CODE']])
@pytest.mark.parametrize(
    'ending, status, words',
    [
        ('pass', 0, ''),
        ('sys.exit(0)', 0, ''),
        ('sys.exit(3)', 3, ''),
        ('sys.exit("a sentence")', 1, 'a sentence'),
        ('1 / 0', 1, 'ZeroDivisionError'),
    ],
)
def test_the_runner_runs_as_python_does(tmp_path, options, ending, status, words):
    """The same arguments, the same path to import from, the same output, the same exit code."""
    code = (
        'import sys, other\ndef f(): pass\nprint(__name__, sys.argv, sys.path[0], sys.modules["__main__"].f is f)\n'
        + ending
    )
    (tmp_path / 'script.py').write_text(code)
    (tmp_path / 'other.py').write_text('')
    options = [{'SCRIPT': str(tmp_path / 'script.py'), 'CODE': code}.get(option, option) for option in options]
    runner = launch_local.RUNNER
    ways = [
        subprocess.run(
            [sys.executable] + front + options + ['-x', 'y z'],
            capture_output=True,
            text=True,
            cwd=str(tmp_path),
            timeout=PATIENCE,
        )
        for front in ([], [runner])
    ]
    assert [way.returncode for way in ways] == [status] * 2
    assert ways[0].stdout == ways[1].stdout != '' and all(words in way.stderr for way in ways)


def test_the_runner_says_what_it_wants(tmp_path):
    for arguments in ([], ['-m'], ['-c']):
        done = run(launch_local.RUNNER, *arguments)
        assert done.returncode == 2 and done.stderr.startswith('worker.py: name what to run')
    path = str(tmp_path / 'none.py')
    done = run(launch_local.RUNNER, path)
    assert (done.returncode, done.stderr) == (2, f'worker.py: there is no file {path} to run\n')


def test_a_tool_that_gives_up_behind_its_kvstore_ends_the_job(data, tmp_path):
    """What only the first worker does is where the others would wait for it."""
    (tmp_path / training_log.FILE).mkdir()
    options = SMALL + ['--steps', '3', '--data', data, '--kvstore', 'dist_sync', '--output', str(tmp_path)]
    done = run(LAUNCH, '--workers', '2', '--', sys.executable, TRAIN, *options)
    assert done.returncode == 1
    assert 'cannot write to' in done.stderr and 'ended with exit code 2; the job was stopped' in done.stderr


@pytest.mark.parametrize(
    'tool, options, words',
    [
        (launch_local, [], 'say what the workers are to run'),
        (launch_local, ['--workers', '0', '--', 'true'], "'0' is not an integer of at least 1"),
        (launch_local, ['--', 'no-such-command'], 'cannot start no-such-command: No such file or directory'),
        (tool, ['--kvstore', 'dist_sync'], '--kvstore dist_sync needs DMLC_ROLE, DMLC_PS_ROOT_URI'),
        (tool, ['--kvstore', 'carrier_pigeon'], "invalid choice: 'carrier_pigeon'"),
        (tool, ['--kvstore', 'nccl'], '--kvstore nccl: this MXNet was built without it'),
        (tool, ['--fp16'], '--fp16 needs a GPU'),
        (tool, ['--on-bad-record', 'hope'], "invalid choice: 'hope'"),
    ],
)
def test_wrong_options(run_tool, tool, options, words):
    code, _, err = run_tool(tool, *options)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_a_port_in_use(run_tool):
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, _, err = run_tool(launch_local, '--port', str(port), '--', 'true')
    assert (code, err) == (2, f'launch_local.py: --port {port}: Address already in use; leave it out for a free one\n')


# -------------------------------------------------------------------------------------- interruptions


def test_killed_and_resumed_is_as_never_killed(data, tmp_path):
    options = SMALL + ['--steps', '8', '--data', data, '--state-every', '1']
    whole = run(TRAIN, *options, '--output', str(tmp_path / 'whole'))
    assert whole.returncode == 0, whole.stderr
    output, kills = str(tmp_path / 'killed'), 0
    state = os.path.join(output, resume.FILE)
    for delay in (0.0, 0.07, 0.2):
        process = subprocess.Popen(
            [sys.executable, TRAIN] + options + ['--output', output, '--resume'],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen = os.path.getmtime(state) if os.path.exists(state) else None
        while process.poll() is None and (not os.path.exists(state) or os.path.getmtime(state) == seen):
            time.sleep(0.01)
        time.sleep(delay)  # into the next step, or the writing of its state
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    done = run(TRAIN, *options, '--output', output, '--resume')
    assert done.returncode == 0, done.stderr
    assert 'continuing after step' in done.stdout
    names = ['cru56-0001.params', 'cru56-symbol.json']
    trained = read_arrays(mx.nd.load(os.path.join(output, names[0])))
    assert_trained_alike(trained, trained, first_weights())
    assert sorted(os.listdir(output)) == names + [resume.FILE, training_log.FILE]  # nothing unfinished is left
    assert filecmp.cmpfiles(output, str(tmp_path / 'whole'), names, shallow=False)[0] == names


# ----------------------------------------------------------------------------------- CUDA's libraries


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A site-packages folder with one of NVIDIA's wheels; return the folder of its library."""
    library = tmp_path / 'site packages' / 'nvidia' / 'cudnn' / 'lib'
    library.mkdir(parents=True)
    (library / 'libcudnn.so.8').write_bytes(b'')
    (tmp_path / 'site packages' / 'nvidia_cudnn_cu11-8.9.6.50.dist-info').mkdir()
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site packages'))
    monkeypatch.setenv('LD_LIBRARY_PATH', '/some/where')
    return str(library)


def test_the_gpu_table_tells_what_is_where_and_what_brings_the_rest(wheels):
    done = run(os.path.join(TOOLS, 'measure.py'), 'libraries')
    assert done.returncode == 1  # MXNet for CUDA is not installed here
    lines = {line.split()[1]: line for line in done.stderr.splitlines() if 'lib' in line and '.so' in line}
    assert set(lines) == set(cuda.LIBRARIES) | set(cuda.NEEDED_BY_OTHERS)
    assert '8.9.6.50' in lines['libcudnn.so.8'] and wheels in lines['libcudnn.so.8']
    assert 'pip install nvidia-nccl-cu11==2.21.5' in lines['libnccl.so.2']
    assert 'MXNet 1.9.1 sees no GPU' in done.stderr
    assert done.stdout == f"export LD_LIBRARY_PATH='{wheels}:/some/where'\n"


def test_a_command_runs_with_the_gpu_libraries(wheels):
    done = run(
        os.path.join(TOOLS, 'gpu_env.py'), '--', sys.executable, '-c', "import os; print(os.environ['LD_LIBRARY_PATH'])"
    )
    assert done.returncode == 0 and done.stdout == wheels + ':/some/where\n', done.stderr
    done = run(os.path.join(TOOLS, 'gpu_env.py'), '--', 'no-such-command')
    assert done.returncode == 2 and 'cannot run no-such-command' in done.stderr


def test_every_library_has_a_pinned_wheel():
    packages = dict(cuda.LIBRARIES, **cuda.NEEDED_BY_OTHERS)
    assert {package for package in packages.values() if package} == set(cuda.pinned())
