"""Data-parallel training: devices, processes, interruptions."""
import argparse
import filecmp
import json
import os
import signal
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest

import config as host
import datasets
import face_losses
import gpu_env
import resume
import train_synthetic
import training_log
from conftest import ROOT
from graph import Graph, Node
from network import build, choose
from project import UserError
from test_networks import NARROW, with_global_statistics

TRAIN = os.path.join(ROOT, 'tools', 'train_synthetic.py')
LAUNCH = os.path.join(ROOT, 'tools', 'launch_local.py')
SMALL = ['--network', 'cru56', '--multiplier', '0.1', '--per-batch-size', '2', '--no-verification']
ARGS = argparse.Namespace(steps=10, lr=0.01, loss_scale=1.0, fp16=False, seed=0)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('drawn faces'))
    datasets.write_synthetic(folder, identities=4, images=4, pairs=10, seed=1)
    return folder


def run(*command, timeout=200):
    return subprocess.run([sys.executable] + list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=timeout)


# ------------------------------------------------------------------------------------------ devices

def training_symbol(network):
    """Return a network with its loss, with BatchNorm's statistics fixed and no Dropout."""
    config = choose(network)
    config.update(dict(NARROW, net_output='FC'))  # EasyDict would write keywords into NARROW
    return with_global_statistics(face_losses.classifier(build(config), 4, config))


def make(symbol, devices, values, loss_scale=1.0):
    """Return a module for 16 images on so many devices, with the given parameters, or its own for None."""
    mx.random.seed(0)
    args = argparse.Namespace(**dict(vars(ARGS), loss_scale=loss_scale))
    module = train_synthetic.make_module(symbol, [mx.cpu(i) for i in range(devices)], 16, (64, 64, 3), args,
                                         mx.kv.create('local'))
    if values:
        module.set_params(*values)
    return module


def batch(seed=0):
    random = np.random.RandomState(seed)
    return mx.io.DataBatch([mx.nd.array(random.randint(0, 256, (16, 3, 64, 64)))],
                           [mx.nd.array(random.randint(0, 4, 16))])


def step(module, data, may_overflow=False):
    """Train a step; return whether the gradients were applied.

    It waits: MXNet does not know that BatchNorm's backward pass writes statistics, and a module that is dropped while
    one still does brings the process down.
    """
    module.forward_backward(data)
    applied = train_synthetic.update(module, may_overflow)
    mx.nd.waitall()
    return applied


def initial(symbol):
    """Return parameters whose PReLUs are straight: at a kink rounding decides which way a gradient goes."""
    arg_params, aux_params = make(symbol, 1, None).get_params()
    for name, array in arg_params.items():
        if 'relu' in name:
            array[:] = 1
    return arg_params, aux_params


@pytest.mark.parametrize('network', ['cru56', 'att56', 'attnext56', 'ires50'])
def test_eight_devices_train_as_one(network):
    symbol = training_symbol(network)
    values = initial(symbol)
    trained = []
    for devices in (1, 8):
        module = make(symbol, devices, values)
        for number in range(3):
            step(module, batch(number))
        trained.append(module.get_params()[0])
    for name, expected in trained[0].items():
        change = np.abs((expected - values[0][name]).asnumpy()).max()
        difference = np.abs((trained[1][name] - expected).asnumpy()).max()
        scale = np.abs(expected.asnumpy()).max()
        assert difference <= 1e-5 * scale + 1e-3 * change, (name, difference, change, scale)


def test_shared_weights_get_the_gradients_of_all_uses_from_all_devices():
    symbol = training_symbol('cru56')
    values = initial(symbol)
    graph, copies = Graph.of(symbol), {}
    for shared, readers in list(graph.readers().items()):
        if shared.op == 'null' and shared.name.endswith('_weight') and len(readers) > 1:
            for number, reader in enumerate(readers):  # by way of a reshape, where groups are merged
                own = Node('null', 'copy%d_%s' % (number, shared.name), shared.attrs)
                reader.inputs = [(own, 0) if source is shared else (source, output) for source, output in reader.inputs]
                copies.setdefault(shared.name, []).append(own.name)
    assert len(copies) > 2
    untied = dict(values[0])
    for name, names in copies.items():
        untied.update(dict.fromkeys(names, untied.pop(name)))
    gradients = []
    for symbol, parameters in ((symbol, values[0]), (graph.symbol(), untied)):
        module = make(symbol, 8, (parameters, values[1]))
        module.forward_backward(batch())
        mx.nd.waitall()
        group = module._exec_group
        gradients.append({name: sum(array.asnumpy() for array in arrays)
                          for name, arrays in zip(group.param_names, group.grad_arrays)})
    for name, names in copies.items():
        expected = sum(gradients[1][copy] for copy in names)
        np.testing.assert_allclose(gradients[0][name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


# ---------------------------------------------------------------------------------------- loss scale

def test_the_loss_scale_changes_nothing_but_the_gradients():
    symbol = training_symbol('ires50')
    values = initial(symbol)
    config = host.config
    scaled = with_global_statistics(face_losses.classifier(build(config), 4, config, loss_scale=128.0))
    trained = []
    for symbol, loss_scale in ((symbol, 1.0), (scaled, 128.0)):
        module = make(symbol, 2, values, loss_scale)
        assert step(module, batch(), may_overflow=True)
        gradient = module._exec_group.grad_arrays[0][0].asnumpy()
        trained.append((module.get_params()[0], gradient))
    np.testing.assert_array_equal(trained[1][1], 128 * trained[0][1])
    for name, expected in trained[0][0].items():
        np.testing.assert_array_equal(trained[1][0][name].asnumpy(), expected.asnumpy())


def test_gradients_that_overflow_are_dropped():
    symbol = training_symbol('ires50')
    module = make(symbol, 2, None)
    before = {name: array.asnumpy() for name, array in module.get_params()[0].items()}
    module.forward_backward(batch())
    module._exec_group.grad_arrays[-1][1][:] = np.inf  # the last of the arrays, on the second device
    assert not train_synthetic.update(module, may_overflow=True)
    mx.nd.waitall()
    module._params_dirty = True
    for name, array in module.get_params()[0].items():
        np.testing.assert_array_equal(array.asnumpy(), before[name])


# ------------------------------------------------------------------------------------------ processes

WORKER = '''
import os, sys
sys.path.insert(0, {tools!r})
import train_synthetic
import mxnet as mx
train = train_synthetic.train
def train_and_keep(module, *rest):
    result = train(module, *rest)
    mx.nd.save(os.path.join({output!r}, 'rank-%d.params' % rest[0].part_index), module.get_params()[0])
    return result
train_synthetic.train = train_and_keep
train_synthetic.run(lambda: train_synthetic.report(list(filter(None, [train_synthetic.main()]))))
'''


def test_two_workers_train_as_one_process(data, tmp_path):
    script = tmp_path / 'worker script.py'
    script.write_text(WORKER.format(tools=os.path.join(ROOT, 'tools'), output=str(tmp_path)))
    options = SMALL + ['--steps', '3', '--data', data]
    done = run(LAUNCH, '--workers', '2', '--servers', '1', '--', sys.executable, str(script), *options,
               '--kvstore', 'dist_sync', '--output', str(tmp_path / 'two'))
    assert done.returncode == 0, done.stderr
    alone = run(TRAIN, *options, '--devices', '2', '--output', str(tmp_path / 'one'))
    assert alone.returncode == 0, alone.stderr
    first, second = (mx.nd.load(str(tmp_path / ('rank-%d.params' % rank))) for rank in (0, 1))
    expected = mx.nd.load(str(tmp_path / 'one' / 'cru56-0001.params'))
    for name in first:
        np.testing.assert_array_equal(first[name].asnumpy(), second[name].asnumpy())
    for name, array in expected.items():
        if name.startswith('arg:'):  # each device has BatchNorm statistics of its own, here as there
            actual, scale = first[name[4:]].asnumpy(), np.abs(array.asnumpy()).max()
            np.testing.assert_allclose(actual, array.asnumpy(), rtol=0, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize('ending, words', [
    ('os.kill(os.getpid(), 9)', 'worker 1 was ended by signal 9'),
    ('sys.exit(3)', 'worker 1 ended with exit code 3'),
    ('1 / 0', 'worker 1 ended with exit code 1'),
])
def test_a_worker_that_dies_ends_the_job(tmp_path, ending, words):
    script = tmp_path / 'dies.py'
    script.write_text('import os, sys, mxnet as mx\n'
                      "kvstore = mx.kv.create('dist_sync')\n"
                      "kvstore.init('weight', mx.nd.ones((2,)))\n"
                      'if kvstore.rank == 1:\n    %s\n'
                      "kvstore.push('weight', mx.nd.ones((2,)))\n"
                      "kvstore.pull('weight', mx.nd.ones((2,)))\n"
                      'mx.nd.waitall()\n' % ending)
    done = run(LAUNCH, '--workers', '2', '--', sys.executable, str(script), timeout=60)
    assert done.returncode == 1
    assert words.split(' ', 2)[2] in done.stderr and 'the job was stopped' in done.stderr


def test_a_tool_that_gives_up_behind_its_kvstore_ends_the_job(data, tmp_path):
    """What only the first worker does is where the others would wait for it."""
    (tmp_path / training_log.FILE).mkdir()
    options = SMALL + ['--steps', '3', '--data', data, '--kvstore', 'dist_sync', '--output', str(tmp_path)]
    done = run(LAUNCH, '--workers', '2', '--', sys.executable, TRAIN, *options, timeout=100)
    assert done.returncode == 1
    assert 'cannot write to' in done.stderr and 'ended with exit code 2; the job was stopped' in done.stderr


@pytest.mark.parametrize('command, words', [
    ([LAUNCH], 'say what the workers are to run'),
    ([LAUNCH, '--workers', '0', '--', 'true'], "'0' is not a whole number of at least 1"),
    ([LAUNCH, '--', 'no-such-command'], 'cannot start no-such-command: No such file or directory'),
    ([TRAIN, '--kvstore', 'dist_sync'], '--kvstore dist_sync wants DMLC_ROLE, DMLC_PS_ROOT_URI'),
    ([TRAIN, '--kvstore', 'carrier_pigeon'], "invalid choice: 'carrier_pigeon'"),
    ([TRAIN, '--kvstore', 'nccl'], '--kvstore nccl: this MXNet was built without it'),
    ([TRAIN, '--fp16'], '--fp16 wants a GPU'),
    ([TRAIN, '--on-bad-record', 'hope'], "invalid choice: 'hope'"),
])
def test_wrong_options(command, words):
    done = run(*command)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


# -------------------------------------------------------------------------------------- interruptions

def test_killed_and_resumed_is_as_never_killed(data, tmp_path):
    options = SMALL + ['--steps', '8', '--data', data, '--state-every', '1']
    whole = run(TRAIN, *options, '--output', str(tmp_path / 'whole'))
    assert whole.returncode == 0, whole.stderr
    output, kills = str(tmp_path / 'killed'), 0
    state = os.path.join(output, resume.FILE)
    for delay in (0.0, 0.07, 0.2):
        process = subprocess.Popen([sys.executable, TRAIN] + options + ['--output', output, '--resume'],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    assert 'going on behind step' in done.stdout
    names = ['cru56-0001.params', 'cru56-symbol.json']
    assert sorted(os.listdir(output)) == names + [resume.FILE, training_log.FILE]  # nothing unfinished is left
    assert filecmp.cmpfiles(output, str(tmp_path / 'whole'), names, shallow=False)[0] == names


@pytest.mark.parametrize('change, words', [
    (lambda path: open(path, 'r+b').truncate(100), 'is not the state of a training run'),
    (lambda path: open(path, 'wb').write(b'nonsense'), 'is not the state of a training run'),
    (lambda path: np.savez(path, run=np.array(json.dumps(dict(step=1, settings={'lr': 0.2})))), 'was made with lr 0.2, not 0.1'),
    (lambda path: np.savez(path, run=np.array(['an object'], object)), 'is not the state of a training run'),
])
def test_a_state_that_does_not_fit(tmp_path, change, words):
    path = str(tmp_path / resume.FILE)
    np.savez(path, run=np.array(json.dumps(dict(step=1, settings={'lr': 0.1}))))
    assert resume.load(str(tmp_path), {'lr': 0.1}) == (1, {})
    change(path)
    with pytest.raises(UserError, match=words):
        resume.load(str(tmp_path), {'lr': 0.1})


# ----------------------------------------------------------------------------------- CUDA's libraries

@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A site-packages folder with one of NVIDIA's wheels, as far as the tool looks; return the folder of its library."""
    library = tmp_path / 'site packages' / 'nvidia' / 'cudnn' / 'lib'
    library.mkdir(parents=True)
    (library / 'libcudnn.so.8').write_bytes(b'')
    (tmp_path / 'site packages' / 'nvidia_cudnn_cu11-8.9.6.50.dist-info').mkdir()
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site packages'))
    monkeypatch.setenv('LD_LIBRARY_PATH', '/some/where')
    return str(library)


def test_the_gpu_table_tells_what_is_where_and_what_brings_the_rest(wheels):
    done = run(os.path.join(ROOT, 'tools', 'gpu_env.py'))
    assert done.returncode == 1  # MXNet for CUDA is not installed here
    lines = {line.split()[1]: line for line in done.stderr.splitlines() if 'lib' in line and '.so' in line}
    assert set(lines) == set(gpu_env.LIBRARIES) | set(gpu_env.NEEDED_BY_OTHERS)
    assert '8.9.6.50' in lines['libcudnn.so.8'] and wheels in lines['libcudnn.so.8']
    assert 'pip install nvidia-nccl-cu11==2.21.5' in lines['libnccl.so.2']
    assert 'MXNet 1.9.1 sees no GPU' in done.stderr
    assert done.stdout == "export LD_LIBRARY_PATH='%s:/some/where'\n" % wheels


def test_a_command_runs_with_the_gpu_libraries(wheels):
    done = run(os.path.join(ROOT, 'tools', 'gpu_env.py'), '--', sys.executable, '-c',
               "import os; print(os.environ['LD_LIBRARY_PATH'])")
    assert done.returncode == 0 and done.stdout == wheels + ':/some/where\n', done.stderr
    done = run(os.path.join(ROOT, 'tools', 'gpu_env.py'), '--', 'no-such-command')
    assert done.returncode == 2 and 'cannot run no-such-command' in done.stderr


def test_every_library_has_a_pinned_wheel():
    packages = dict(gpu_env.LIBRARIES, **gpu_env.NEEDED_BY_OTHERS)
    assert {package for package in packages.values() if package} == set(gpu_env.pinned())
