"""The trainer against plain MXNet: one device, several, interrupted; what is on the disk is what was trained."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import config as host
import train as tool
from helpers import NARROW, TOOLS, assert_trained_alike, with_global_statistics
from netkit._mxnet import mx
from netkit.data import drawn_faces as faces, pairs, synthetic
from netkit.data.batches import FaceBatches
from netkit.data.records import FaceRecords
from netkit.errors import UserError
from netkit.evaluation import streams
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.nodes import Graph, Node
from netkit.networks import build, initializer
from netkit.training import (
    log as training_log,
    loop,
    losses,
    run as run_module,
    starting,
    state as resume,
    tasks,
    trainer as trainer_module,
    workers,
)
from netkit.training.keeping import Keeper
from netkit.training.trainer import Trainer

SGD = {'learning_rate': 0.1, 'momentum': 0.9, 'wd': 5e-4}
SHAPE = (48, 48, 3)


def training_symbol(network, **changes):
    """Return a narrow network with its loss."""
    return losses.classifier(build(network, **dict(NARROW, **changes)), NARROW['emb_size'], 4, host.loss.arcface)


def make(symbol, devices=1, batch_size=16, **options):
    """Return a Trainer with its first weights, always the same."""
    trainer = Trainer(
        symbol,
        [mx.cpu(i) for i in range(devices)],
        (batch_size, 3, *SHAPE[:2]),
        mx.kv.create('local'),
        **dict(SGD, **options),
    )
    mx.random.seed(0)
    trainer.initialize(initializer())
    return trainer


def batch(seed, size=16):
    random = np.random.RandomState(seed)
    return mx.io.DataBatch(
        [mx.nd.array(random.randint(0, 256, (size, 3) + SHAPE[:2]))], [mx.nd.array(random.randint(0, 4, size))]
    )


def make_module(symbol, data_shape, devices=1, **options):
    """Return plain MXNet's Module for the same training, with the same first weights: what is not ours to get wrong."""
    module = mx.mod.Module(symbol, context=[mx.cpu(i) for i in range(devices)])
    module.bind([('data', data_shape)], [('softmax_label', data_shape[:1])])
    mx.random.seed(0)
    module.init_params(initializer())
    module.init_optimizer(optimizer='sgd', optimizer_params=dict(dict(SGD, rescale_grad=1 / devices), **options))
    return module


def values(module):
    """Return {name: array} of a Module's parameters and moving statistics."""
    mx.nd.waitall()
    arg_params, aux_params = module.get_params()
    return {name: array.asnumpy() for name, array in dict(arg_params, **aux_params).items()}


def equal(one, other):
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


# --------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize('network', ['cru56', 'att56', 'ires50'])
def test_steps_are_those_of_plain_mxnet(network):
    symbol = training_symbol(network, net_output='FC')  # without Dropout, whose seeds are the trainer's own
    trainer, module = make(symbol), make_module(symbol, (16, 3) + SHAPE[:2])
    initial = trainer.parameters()
    assert equal(initial, values(module))
    for seed in range(3):
        assert trainer.step(batch(seed))
        module.forward_backward(batch(seed))
        module.update()
    np.testing.assert_array_equal(trainer.probabilities(), module.get_outputs()[1].asnumpy())
    assert_trained_alike(trainer.parameters(), values(module), initial)
    assert equal(trainer.parameters(), values(module))


def test_two_devices_are_those_of_plain_mxnet(monkeypatch):
    """The gradients are summed, and the statistics that are saved are the mean of the devices' own."""
    monkeypatch.setenv('MXNET_UPDATE_ON_KVSTORE', '0')  # on a kvstore Module's arithmetic rounds in another way
    symbol = training_symbol('cru56', net_output='FC')
    trainer, module = make(symbol, devices=2), make_module(symbol, (16, 3) + SHAPE[:2], devices=2)
    initial = trainer.parameters()
    for seed in range(2):
        trainer.step(batch(seed))
        module.forward_backward(batch(seed))
        module.update()
    assert_trained_alike(trainer.parameters(), values(module), initial)
    assert equal(trainer.parameters(), values(module))
    of_devices = [executor.aux_dict['bn0_moving_mean'].asnumpy() for executor in trainer.executors]
    assert np.abs(of_devices[0] - of_devices[1]).max() > 1e-3 * np.abs(of_devices[0]).max()


def smooth_symbol(network):
    """Return a network whose gradients rounding changes little: without kinks, with fixed statistics."""
    return with_global_statistics(training_symbol(network, net_output='FC', net_act='tanh'))


@pytest.mark.parametrize('network', ['cru56', 'att56', 'attnext56', 'ires50'])
def test_eight_devices_train_as_one(network):
    symbol = smooth_symbol(network)
    trained = []
    for devices in (1, 8):
        trainer = make(symbol, devices)
        initial = trainer.parameters()
        trainer.step(batch(0))
        trained.append({name: array for name, array in trainer.parameters().items() if 'moving' not in name})
    assert_trained_alike(*trained[::-1], initial)


def test_shared_weights_get_the_gradients_of_all_uses_from_all_devices():
    """Untied, every use has its weight, and the sum of their gradients is the shared one's."""
    symbol = smooth_symbol('cru56')
    graph, copies = Graph.of(symbol), {}
    for shared, readers in list(graph.readers().items()):
        if shared.op == 'null' and shared.name.endswith('_weight') and len(readers) > 1:
            for number, reader in enumerate(readers):  # by way of a reshape, where groups are merged
                own = Node('null', 'copy%d_%s' % (number, shared.name), shared.attrs)
                reader.inputs = [(own, 0) if source is shared else (source, output) for source, output in reader.inputs]
                copies.setdefault(shared.name, []).append(own.name)
    assert len(copies) > 2
    trainer, untied = make(symbol, devices=8), make(graph.symbol(), devices=8)
    of_copy = {copy: name for name, names in copies.items() for copy in names}
    before = trainer.parameters()
    for executor in untied.executors:
        for name, array in list(executor.arg_dict.items()) + list(executor.aux_dict.items()):
            if name not in ('data', 'softmax_label'):
                array[:] = before[of_copy.get(name, name)]
    for one in (trainer, untied):
        one.step(batch(0))
    after, apart = trainer.parameters(), untied.parameters()
    decay = SGD['learning_rate'] * SGD['wd']
    for name, names in copies.items():
        gradients = [before[name] * (1 - decay) - apart[copy] for copy in names]
        gradient = before[name] * (1 - decay) - after[name]
        assert np.abs(gradient).max() > 1e-3 * np.abs(before[name]).max()
        np.testing.assert_allclose(gradient, sum(gradients), rtol=0, atol=1e-3 * np.abs(gradient).max(), err_msg=name)


def test_dropout_differs_between_steps_and_devices_and_follows_from_the_seed():
    symbol = training_symbol('cru56')
    symbol = mx.sym.Group([mx.sym.BlockGrad(symbol.get_internals()['dropout0_output']), symbol[1]])
    half = batch(0, 8)
    twice = mx.io.DataBatch(*[[mx.nd.concat(arrays[0], arrays[0], dim=0)] for arrays in (half.data, half.label)])

    def masks(seed, devices, steps=2):
        trainer, found = make(symbol, devices, seed=seed, learning_rate=1e-12), []
        for _ in range(steps):
            trainer.step(twice)
            found.append([executor.outputs[0].asnumpy() != 0 for executor in trainer.executors])
        return found

    ((first, second),) = [masks(0, 2)]
    assert 0.5 < np.mean(first) < 0.7
    for one, other in ((first[0], first[1]), (first[0], second[0]), (first[1], second[1])):
        assert 0.3 < np.mean(one != other) < 0.7
    assert np.array_equal(masks(0, 2), [first, second]) and not np.array_equal(masks(1, 2), [first, second])


# ---------------------------------------------------------------------------------------- loss scale


def test_the_loss_scale_changes_nothing_but_the_gradients():
    embedding, trained = build('ires50', **NARROW), []
    for loss_scale in (1.0, 128.0):
        symbol = losses.classifier(embedding, NARROW['emb_size'], 4, host.loss.arcface, loss_scale)
        trainer = make(symbol, 2, loss_scale=loss_scale)
        initial = trainer.parameters()
        assert trainer.step(batch(0))
        trained.append((trainer.parameters(), trainer.executors[0].grad_dict['conv0_weight'].asnumpy()))
    np.testing.assert_array_equal(trained[1][1], 128 * trained[0][1])
    assert_trained_alike(trained[1][0], trained[0][0], initial)
    assert equal(trained[1][0], trained[0][0])


@pytest.mark.parametrize('loss_scale', [1.0, 128.0])
def test_gradients_that_overflow_are_dropped_where_they_may(loss_scale):
    trainer = make(training_symbol('ires50'), 2, loss_scale=loss_scale)
    trainer.step(batch(0))
    before = trainer.parameters()
    trainer.executors[1].grad_dict['fc7_weight'][:] = np.inf  # the last of the arrays, on the second device
    assert trainer._apply_gradients() == (loss_scale == 1)
    after = trainer.parameters()
    assert np.isfinite(after['fc7_weight']).all() == (loss_scale != 1)
    assert all(np.array_equal(before[name], after[name]) for name in before) == (loss_scale != 1)
    assert trainer.state()['updates'] == (2 if loss_scale == 1 else 1)


DROPPED = """
import sys
sys.path.insert(0, %r)
from netkit.project import find_builders; find_builders()
from netkit._mxnet import mx
from netkit.training.keeping import Keeper
from netkit.training.trainer import Trainer
symbol = mx.sym.Flatten(mx.sym.Variable('data'))
for number in range(12):
    symbol = mx.sym.FullyConnected(symbol, num_hidden=256, name='fc%%d' %% number)
symbol = mx.sym.Group([mx.sym.BlockGrad(symbol), mx.sym.SoftmaxOutput(symbol, name='softmax')])
batch = mx.io.DataBatch([mx.nd.ones((16, 3, 8, 8))], [mx.nd.zeros(16)])
for _ in range(200):
    trainer = Trainer(symbol, [mx.cpu(0), mx.cpu(1)], (16, 3, 8, 8), mx.kv.create('local'), learning_rate=0.1)
    trainer.initialize(mx.init.Xavier())
    trainer.step(batch)
    del trainer
"""


def test_a_trainer_may_go_while_mxnet_computes():
    """MXNet frees a kvstore without waiting for its sums: one time in a hundred SIGFPE ended the process."""
    done = subprocess.run([sys.executable, '-c', DROPPED % TOOLS], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b'')


def test_a_store_that_this_mxnet_does_not_have():
    with pytest.raises(UserError, match='--kvstore nccl: this MXNet was built without it'):
        workers.create_kvstore('nccl')


def test_another_mxnet_is_refused(monkeypatch):
    monkeypatch.setattr(mx, '__version__', '1.8.0')
    with pytest.raises(UserError, match=r'is written for MXNet 1\.9\.1, this is 1\.8\.0'):
        make(training_symbol('cru56'))


# ------------------------------------------------------------------------------------- interruptions


def steps_of(trainer, first, last):
    for seed in range(first, last):
        trainer.step(batch(seed))
    return trainer


def with_schedule(symbol, devices, **options):
    """Return a trainer whose learning rate falls behind its second step."""
    schedule = mx.lr_scheduler.MultiFactorScheduler([2], 0.1, base_lr=SGD['learning_rate'])
    return make(symbol, devices, lr_scheduler=schedule, **options)


@pytest.mark.parametrize('devices', [1, 3])
@pytest.mark.parametrize('stop', [1, 3])
def test_resumed_is_as_never_interrupted(devices, stop, tmp_path):
    """With momentum, moving statistics of every device, Dropout, and a learning rate that falls."""
    symbol = training_symbol('cru56', net_multiplier=0.1)
    whole = steps_of(with_schedule(symbol, devices, batch_size=18), 0, 0)
    initial = whole.parameters()
    for seed in range(4):
        whole.step(batch(seed, 18))
    part = with_schedule(symbol, devices, batch_size=18)
    for seed in range(stop):
        part.step(batch(seed, 18))
    resume.save(str(tmp_path), part.state(), {'lr': 0.1}, resume.Progress([3.0, 0.5], 0.75, 2, 4))
    state, progress = resume.load(str(tmp_path), {'lr': 0.1})
    assert progress == ([3.0, 0.5], 0.75, 2, 4)
    resumed = with_schedule(symbol, devices, batch_size=18)
    resumed.step(batch(9, 18))  # it may have been anywhere
    resumed.load_state(state, 'the file')
    assert resumed.steps == stop
    for seed in range(stop, 4):
        resumed.step(batch(seed, 18))
    assert_trained_alike(resumed.parameters(), whole.parameters(), initial)
    assert equal(resumed.state(), whole.state())


def test_resumed_behind_a_step_that_was_dropped_keeps_the_learning_rate(tmp_path):
    symbol = training_symbol('cru56', net_multiplier=0.1)
    whole, resumed = with_schedule(symbol, 1), with_schedule(symbol, 1)
    for seed in range(2):
        whole.step(batch(seed))
    whole.steps += 1  # as a step is whose gradients overflow
    resumed.load_state(whole.state(), 'the file')
    assert resumed.steps == 3
    for one in (whole, resumed):
        one.step(batch(2))
        assert one.updater.optimizer.num_update == 3
    assert equal(resumed.state(), whole.state())


def spoil(state, key, value):
    """Return a state with another value for a key, or without it for None."""
    state = dict(state)
    state.pop(key, None)
    return state if value is None else dict(state, **{key: value})


@pytest.mark.parametrize(
    'key, value',
    [
        ('arg:fc7_weight', np.zeros((5, 32), np.float32)),
        ('arg:conv0_weight', None),
        ('arg:conv9_weight', np.zeros(3)),
        ('aux:0:bn0_moving_mean', None),
        ('aux:1:bn0_moving_mean', np.zeros(3)),
        ('state:fc7_weight:0', np.zeros(3)),
        ('state:fc8_weight:0', np.zeros(3)),
        ('steps', None),
        ('updates', np.zeros(2)),
    ],
)
def test_a_state_of_another_network_is_refused_and_changes_nothing(key, value):
    trainer = make(training_symbol('cru56', net_multiplier=0.1))
    trainer.step(batch(0))
    before = trainer.state()
    with pytest.raises(UserError, match=f'the file does not fit the network: {key}'):
        trainer.load_state(spoil(before, key, value), 'the file')
    assert equal(trainer.state(), before)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda path: open(path, 'r+b').truncate(100), 'is not the state of a training run'),
        (lambda path: open(path, 'wb').write(b'nonsense'), 'is not the state of a training run'),
        (lambda path: np.savez(path, run=np.array('{"settings": {"lr": 0.1}}')), 'is not the state of a training run'),
        (
            lambda path: np.savez(
                path, run=np.array(json.dumps({'loss': [1, 0], 'best': None, 'settings': {'lr': 0.2}}))
            ),
            'was made with lr 0.2, not 0.1',
        ),
        (lambda path: np.savez(path, run=np.array(['an object'], object)), 'is not the state of a training run'),
        (lambda path: np.savez_compressed(path, x=np.zeros(10**5)), 'it is compressed, or has members within members'),
    ],
)
def test_a_state_that_does_not_fit(tmp_path, change, words):
    resume.save(str(tmp_path), {'steps': np.array(1)}, {'lr': 0.1}, resume.Progress([2.0, 0.0], None, 3, None))
    assert resume.load(str(tmp_path), {'lr': 0.1}) == ({'steps': 1}, ([2.0, 0.0], None, 3, None))
    change(str(tmp_path / resume.FILE))
    with pytest.raises(UserError, match=words):
        resume.load(str(tmp_path), {'lr': 0.1})


# ------------------------------------------------------------------------------------- what is on the disk

RUN = ['--network', 'cru56', '--multiplier', '0.1', '--per-batch-size', '4', '--lr', '0.02']


def train(*options):
    """Run the tool in this process; return its row."""
    return run_module.run_training(tool.parse_args(RUN + list(options)))


def on_disk(output):
    """Return what plain MXNet finds in the checkpoint of a run: symbol, and {name: array}."""
    symbol, arg_params, aux_params = mx.model.load_checkpoint(os.path.join(str(output), 'cru56'), 1)
    return symbol, {name: array.asnumpy() for name, array in dict(arg_params, **aux_params).items()}


def run_plain_mxnet(data, steps, devices=1):
    """Return (first, last) parameters of the same run by mx.mod.Module, without Dropout, seed 0."""
    embedding = build('cru56', net_multiplier=0.1, net_output='FC', memonger=False)
    embedding = for_cpu(embedding, (112, 112), training=True)  # as the trainer binds it
    symbol = losses.classifier(embedding, 256, 4, host.loss.arcface)
    module = make_module(
        symbol,
        (4 * devices, 3, 112, 112),
        devices,
        learning_rate=0.02,
        lr_scheduler=mx.lr_scheduler.MultiFactorScheduler([3, 4], 0.1, base_lr=0.02),
    )  # of four steps
    batches = FaceBatches(FaceRecords(data, (112, 112, 3)), 4 * devices)
    initial = values(module)
    for _ in range(steps):
        module.forward_backward(batches.next())
        module.update()
    return initial, values(module)


@pytest.mark.parametrize('devices', [1, 2])
def test_the_checkpoint_is_what_plain_mxnet_trains(data, tmp_path, monkeypatch, devices):
    monkeypatch.setenv('MXNET_UPDATE_ON_KVSTORE', '0')
    monkeypatch.setitem(host.network.cru56, 'net_output', 'FC')  # without Dropout, whose seeds are the trainer's own
    train('--steps', '4', '--devices', str(devices), '--data', data, '--output', str(tmp_path), '--no-verification')
    initial, expected = run_plain_mxnet(data, 4, devices)
    symbol, actual = on_disk(tmp_path)
    assert symbol.list_outputs() == ['fc1_output']
    names = set(symbol.list_arguments() + symbol.list_auxiliary_states()) - {'data'}
    assert set(actual) == names and names == {name for name in expected if not name.startswith('fc7')}
    assert_trained_alike(actual, {name: expected[name] for name in names}, initial)
    assert equal(actual, {name: expected[name] for name in names})


def embeddings_by_plain_mxnet(output, images):
    symbol, parameters = on_disk(output)
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    for name, array in list(executor.arg_dict.items()) + list(executor.aux_dict.items()):
        array[:] = images if name == 'data' else parameters[name]
    return executor.forward(is_train=False)[0].asnumpy().astype(np.float64)


def accuracy_by_hand(embeddings, same):
    """LFW's protocol once more: in each of ten parts the threshold that is best on the other nine."""
    unit = embeddings / np.sqrt((embeddings**2).sum(axis=1))[:, None]
    distances = [((unit[2 * pair] - unit[2 * pair + 1]) ** 2).sum() for pair in range(len(same))]
    scores = []
    for part in np.array_split(np.arange(len(same)), 10):

        def score(threshold, pairs):
            return np.mean([(distances[pair] < threshold) == same[pair] for pair in pairs])

        rest = [pair for pair in range(len(same)) if pair not in part]
        best = max(np.arange(400) / 100, key=lambda threshold: score(threshold, rest))
        scores.append(score(best, part))
    return np.mean(scores), np.std(scores)


def test_the_printed_verification_is_the_files(data, tmp_path):
    row = train('--steps', '4', '--data', data, '--output', str(tmp_path))
    images, same = pairs.read_pairs(os.path.join(data, 'drawn.bin'), (112, 112, 3))
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
    views = [embeddings_by_plain_mxnet(tmp_path, view) for view in (pixels, pixels[..., ::-1])]
    assert np.abs(views[0] - views[1]).max() > 1e-3 * np.abs(views[0]).max()
    np.testing.assert_allclose(row.measured[0][1:], accuracy_by_hand(views[0] + views[1], same), rtol=1e-9)
    curves = training_log.read(str(tmp_path / training_log.FILE))
    assert curves.verification == {'drawn': {4: tuple(round(part, 5) for part in row.measured[0][1:])}}


def no_pairs(path):
    os.remove(path)


def five_pairs(path):
    synthetic._write_pairs(path, 5, 0, bar=type('Bar', (), {'update': lambda *_: None}))


def small_pairs(path, monkeypatch=pytest.MonkeyPatch()):
    with monkeypatch.context() as smaller:
        smaller.setattr(faces, 'draw_face', lambda *_: np.zeros((96, 112, 3), np.uint8))
        synthetic._write_pairs(path, 12, 0, bar=type('Bar', (), {'update': lambda *_: None}))


@pytest.mark.parametrize(
    'change, words',
    [
        (no_pairs, r'there is no verification set \(.bin\) in'),
        (five_pairs, '5 pairs are not enough for 10 folds'),
        (small_pairs, 'has an image of 96×112 pixels, which is no 112×112 one in another size'),
    ],
)
@pytest.mark.parametrize('when', ['before', 'while it trains'])
def test_without_a_verification_the_checkpoint_is_there(tmp_path, capsys, monkeypatch, change, words, when):
    folder, output = str(tmp_path / 'data'), str(tmp_path / 'out')
    synthetic.write_synthetic(folder, identities=2, images=2, pairs=10, seed=1)
    pairs = os.path.join(folder, 'drawn.bin')
    if when == 'while it trains' and change is not no_pairs:
        words = 'drawn.bin was written during this training, and may show people who are in it'
    save = Keeper._save
    with monkeypatch.context() as patch:
        if when == 'before':
            change(pairs)
        else:
            patch.setattr(Keeper, '_save', lambda *arguments: [save(*arguments), change(pairs)][0])
        row = train('--steps', '2', '--data', folder, '--output', output)
    early = capsys.readouterr().err
    assert ('there will be no verification' in early) == (when == 'before')
    assert row.measured == [] and on_disk(output)[0].list_outputs() == ['fc1_output']
    assert tool.show(row) == 2
    out, err = capsys.readouterr()
    assert 'cru56-0001.params is written, but not verified: ' in err and re.search(words, err)
    assert 'cru56-0001.params' in out
    synthetic._write_pairs(pairs, 12, 0, bar=type('Bar', (), {'update': lambda *_: None}))
    before = on_disk(output)[1]
    row = train('--steps', '2', '--data', folder, '--output', output, '--resume')
    assert row.measured and row.speed is None and tool.show(row) == 0
    assert (
        'after 2 steps the moving statistics, by which a network is verified, are not settled'
        in capsys.readouterr().out
    )
    assert tool.show(row._replace(steps=tool.SETTLED)) == 0 and 'not settled' not in capsys.readouterr().out
    assert equal(on_disk(output)[1], before)


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError])
def test_interrupted_while_it_verifies_the_checkpoint_is_there(data, tmp_path, capsys, monkeypatch, error):
    with monkeypatch.context() as interrupted:
        interrupted.setattr(tasks.faces, 'evaluate', lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(error):
            train('--steps', '2', '--data', data, '--output', str(tmp_path))
    assert 'cru56-0001.params is written, but not verified; --resume does that' in capsys.readouterr().err
    before = on_disk(tmp_path)[1]
    row = train('--steps', '2', '--data', data, '--output', str(tmp_path), '--resume')
    assert row.measured and row.last_loss > 0
    assert equal(on_disk(tmp_path)[1], before)


def test_without_verification_nobody_looks_at_pairs(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, 'PairSet', lambda *_: pytest.fail('it looked'))
    monkeypatch.setattr(tasks.faces, 'PairSet', lambda *_: pytest.fail('it looked'))
    row = train('--steps', '1', '--data', data, '--output', str(tmp_path), '--no-verification')
    assert row.measured == [] and row.problem is None and tool.show(row) == 0
    assert capsys.readouterr().err.count('verif') == 0


def test_resumed_is_as_never_interrupted_with_all_that_is_printed(data, tmp_path, monkeypatch):
    options = ['--steps', '4', '--data', data, '--no-verification']
    whole = train(*options, '--output', str(tmp_path / 'whole'))
    log = training_log.Writer.add

    def interrupted(self, step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        log(self, step, *rest)

    monkeypatch.setattr(training_log, 'EVERY', 1)
    with monkeypatch.context() as patch:
        patch.setattr(training_log.Writer, 'add', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(*options, '--state-every', '1', '--output', str(tmp_path / 'part'))
    part = train(*options, '--state-every', '1', '--output', str(tmp_path / 'part'), '--resume')
    assert part.last_loss == whole.last_loss
    assert sorted(training_log.read(str(tmp_path / 'part' / training_log.FILE)).loss) == [1, 2, 3, 4]
    initial = run_plain_mxnet(data, 0)[0]
    assert_trained_alike(on_disk(tmp_path / 'part')[1], on_disk(tmp_path / 'whole')[1], initial)
    assert equal(on_disk(tmp_path / 'part')[1], on_disk(tmp_path / 'whole')[1])


def test_the_state_is_written_after_every_so_many_steps_and_the_last(data, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(resume, 'save', lambda folder, state, *_: saved.append(int(state['steps'])))
    train('--steps', '5', '--data', data, '--output', str(tmp_path), '--no-verification', '--state-every', '2')
    assert saved == [2, 4, 5]


@pytest.mark.parametrize(
    'options, words',
    [
        (['--network', 'cru116'], 'network cru56, not cru116'),
        (['--loss', 'cosface'], 'loss arcface, not cosface'),
        (['--per-batch-size', '5'], 'per_batch_size 4, not 5'),
        (['--devices', '2'], 'devices 1, not 2'),
        (['--lr', '0.03'], r'lr 0\.02, not 0\.03'),
        (['--multiplier', '0.2'], r'multiplier 0\.1, not 0\.2'),
        (['--loss-scale', '2'], r'loss_scale 1\.0, not 2\.0'),
        (['--seed', '1'], 'seed 0, not 1'),
        (['--cutoff', '8'], 'cutoff 0, not 8'),
        (['--crop', '0.9'], r'crop 1\.0, not 0\.9'),
        (['--data-color', '0.1'], r'data_color 0\.0, not 0\.1'),
        (['--lr-steps', '2'], 'lr_steps None, not 2'),
        (['--warmup', '1'], 'warmup 0, not 1'),
        (['--mom', '0.8'], r'mom None, not 0\.8'),
        (['--wd', '0.1'], r'wd None, not 0\.1'),
        (['--on-bad-record', 'skip'], 'on_bad_record stop, not skip'),
    ],
)
def test_other_options_do_not_go_on(finished, data, options, words):
    with pytest.raises(UserError, match=f'was made with {words}; repeat the options of that run'):
        train('--steps', '2', '--data', data, '--output', finished, '--no-verification', '--resume', *options)


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    output = str(tmp_path_factory.mktemp('finished'))
    train('--steps', '2', '--data', data, '--output', output, '--no-verification')
    return output


def test_a_finished_run_goes_on_to_more_steps_and_not_to_fewer(data, tmp_path, capsys):
    output = str(tmp_path)
    train('--steps', '3', '--data', data, '--output', output, '--no-verification')
    before = on_disk(output)[1]
    train('--steps', '5', '--data', data, '--output', output, '--no-verification', '--resume')
    assert 'continuing after step 3 of 5' in capsys.readouterr().out
    after = on_disk(output)[1]
    assert all((after[name] != before[name]).any() for name in after if name.endswith('_weight'))
    with pytest.raises(UserError, match='is of step 5, behind the last of --steps 4; ask for more'):
        train('--steps', '4', '--data', data, '--output', output, '--no-verification', '--resume')


def test_steps_that_are_left_out_are_told(data, tmp_path, monkeypatch, capsys):
    applied, real = iter([True, False, True]), trainer_module.all_finite
    monkeypatch.setattr(trainer_module, 'all_finite', lambda arrays: real(arrays) and next(applied))
    train('--steps', '3', '--loss-scale', '2', '--data', data, '--output', str(tmp_path), '--no-verification')
    assert '1 of 3 steps were left out: their gradients were not finite' in capsys.readouterr().out


def test_a_run_that_left_out_every_step_has_failed(data, tmp_path):
    with pytest.raises(UserError, match='not finite any more; try a smaller --lr or --loss-scale'):
        train('--steps', '2', '--loss-scale', '1e38', '--data', data, '--output', str(tmp_path), '--no-verification')
    assert not os.path.exists(str(tmp_path / 'cru56-0001.params'))


def test_other_data_do_not_go_on(finished, tmp_path):
    """As many images of other people."""
    synthetic.write_synthetic(str(tmp_path), identities=4, images=3, pairs=10, seed=2)
    with pytest.raises(UserError, match=r'was made with data \d+, not \d+'):
        train('--steps', '2', '--data', str(tmp_path), '--output', finished, '--no-verification', '--resume')


def test_workers_that_see_other_states_do_not_go_on(finished, data, monkeypatch):
    monkeypatch.setattr(starting, 'first_workers', lambda kvstore, number: 1)
    with pytest.raises(
        UserError, match='the first worker continues after step 1, this one after step 2; all have to see'
    ):
        train('--steps', '2', '--data', data, '--output', finished, '--no-verification', '--resume')


def test_a_new_run_forgets_the_state_of_the_last(data, tmp_path, monkeypatch):
    """Else a resumed one could come to what another run had trained."""
    train('--steps', '2', '--data', data, '--output', str(tmp_path), '--no-verification')
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'probabilities', lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train('--steps', '2', '--data', data, '--output', str(tmp_path), '--no-verification')
    assert not os.path.exists(str(tmp_path / resume.FILE))
    assert resume.load(str(tmp_path), {}) is None


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / '.unfinished-x').mkdir()
    (tmp_path / '.unfinished-x' / 'resume.npz').write_bytes(b'x')
    assert resume.load(str(tmp_path), {}) is None and os.listdir(str(tmp_path)) == []


def test_speed_counts_the_images_of_all_workers(monkeypatch):
    class Batches:
        batch_size, num_parts = 4, 3

        def next(self):
            return mx.io.DataBatch([], [mx.nd.zeros(4)])

    class Log:
        def add(self, step, images, loss, accuracy):
            seen.append(images)

    class Keeping:
        log, is_due = Log(), staticmethod(lambda step: False)

    class Steps:
        steps = 0

        def step(self, batch):
            now[0] += 2
            return True

        def probabilities(self):
            return np.full((4, 2), 0.5)

    seen, now = [], [0.0]
    monkeypatch.setattr(loop.time, 'time', lambda: now[0])
    args = tool.parse_args(['--steps', '5', '--state-every', '0'])
    assert loop.train(Steps(), Batches(), args, {}, Keeping())[1] == 6 and seen == [12] * 5


@pytest.mark.parametrize('option, expected', [('on', True), ('off', False)])
def test_memonger_is_an_option(monkeypatch, option, expected):
    args = tool.parse_args(['--memonger', option, '--multiplier', '0.5'])
    settings = starting.settings_with(args.network, [mx.cpu()], {})
    assert settings['memonger'] is expected and settings['net_multiplier'] == 0.5
    assert starting.settings_with(tool.parse_args([]).network, [mx.cpu()], {})['memonger'] is False
    assert starting.settings_with(tool.parse_args([]).network, [mx.gpu()], {})['memonger'] is True


def test_embeddings_that_are_not_finite_are_no_verification(data, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, 'run', lambda *_, **__: np.full((120, 2, 4), np.inf))
    row = train('--steps', '1', '--data', data, '--output', str(tmp_path))
    assert row.measured == [] and 'are not finite' in row.problem


def test_with_state_every_0_no_state_is_written(data, tmp_path):
    train('--steps', '2', '--data', data, '--output', str(tmp_path), '--no-verification', '--state-every', '0')
    assert sorted(os.listdir(str(tmp_path))) == ['cru56-0001.params', 'cru56-symbol.json', training_log.FILE]


@pytest.mark.parametrize(
    'applied, ends',
    [([False, False, True, False, False, True], False), ([True, False, False, False], True), ([False] * 3, True)],
)
def test_overflows_in_a_row_end_the_run(data, tmp_path, monkeypatch, applied, ends):
    steps = len(applied)
    monkeypatch.setattr(loop, 'OVERFLOWS', 3)
    monkeypatch.setattr(Trainer, 'step', lambda self, batch: applied.pop(0))
    monkeypatch.setattr(Trainer, 'probabilities', lambda self: np.full((4, 4), 0.25))
    options = [
        '--steps',
        str(steps),
        '--loss-scale',
        '2',
        '--data',
        data,
        '--output',
        str(tmp_path),
        '--no-verification',
    ]
    if ends:
        with pytest.raises(UserError, match='not finite any more; try a smaller --lr or --loss-scale'):
            train(*options)
        assert applied == []
    else:
        assert round(train(*options).last_loss, 4) == round(float(np.log(4)), 4)


def test_the_log_is_closed_where_training_fails(data, tmp_path, monkeypatch):
    opened = []
    enter = training_log.Writer.__enter__
    monkeypatch.setattr(training_log.Writer, '__enter__', lambda self: opened.append(self) or enter(self))
    monkeypatch.setattr(trainer_module.Trainer, 'probabilities', lambda self: np.full((4, 4), np.nan))
    with pytest.raises(UserError, match='not finite any more; try a smaller --lr$'):
        train('--steps', '2', '--data', data, '--output', str(tmp_path))
    assert [log.file.closed for log in opened] == [True]
