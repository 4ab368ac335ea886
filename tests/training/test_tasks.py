"""What train.py learns and keeps: from pictures to a measured network."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import evaluate
import export
import pack
import train as tool
from helpers import PATIENCE, TOOLS, assert_trained_alike
from netkit._mxnet import mx
from netkit.data import drawn_faces as faces
from netkit.errors import UserError
from netkit.training import log, loop, schedule, state, tasks
from netkit.training.keeping import Keeper
from netkit.training.run import run_training
from netkit.training.trainer import Trainer

NARROW = ['--network', 'cru56', '--multiplier', '0.1', '--per-batch-size', '4', '--lr', '0.02']


def run(*options):
    return run_training(tool.parse_args([*NARROW, *options]))


def arrays(prefix, number):
    return {name: array.asnumpy() for name, array in mx.nd.load(f'{prefix}-{number:04d}.params').items()}


# ---------------------------------------------------------------------------------------- the whole way


def people_in(folder):
    """Write a folder of drawn people, and a CSV file of their landmarks; return its path."""
    rng, rows = np.random.RandomState(0), []
    for person in range(8):
        identity = faces.draw_identity(rng)
        os.makedirs(os.path.join(folder, f'person {person}'))
        for number in range(4):
            image, points = faces.draw_with_landmarks(identity, rng)
            name = os.path.join(f'person {person}', f'[{number}].png')
            Image.fromarray(image).save(os.path.join(folder, name))
            rows.append(','.join([name, *(f'{value:.2f}' for value in points.ravel())]))
    with open(os.path.join(folder, 'landmarks.csv'), 'w') as file:
        file.write('\n'.join(rows))
    return os.path.join(folder, 'landmarks.csv')


def test_from_a_folder_of_pictures_to_a_measured_onnx_file(run_tool, tmp_path):
    """Folder, pack, train, evaluate, export, evaluate: the accuracies are the same all the way."""
    pictures, data, output = (str(tmp_path / name) for name in ('pictures', 'data', 'out'))
    listing = people_in(pictures)
    options = ['--output', data, '--landmarks', listing, '--pairs', '12', '--share', '0.4']
    code, out, err = run_tool(pack, 'faces', pictures, *options)
    assert code == 0 and '20 images of 5 people' in out, err
    code, out, err = run_tool(tool, *NARROW, '--data', data, '--output', output, '--steps', '6')
    assert code == 0, err
    trained = log.read(os.path.join(output, log.FILE)).verification['pairs'][6]
    code, out, err = run_tool(
        export, '--model', f'{output}/cru56,1', '--fold-bn', '--onnx', '--output', f'{output}/light'
    )
    assert code == 0, err
    exported = [os.path.join(output, name) for name in os.listdir(output) if name.endswith('.onnx')]
    code, out, err = run_tool(evaluate, 'faces', f'{output}/cru56,1', *exported, '--data', data, '--json')
    assert code == 0 and len(exported) == 1, err
    found = json.loads(out)
    assert len(found) == 2 and all(row['pairs'] == 12 for row in found)
    for row in found:
        np.testing.assert_allclose((row['accuracy'], row['deviation']), trained, atol=1e-5)
    np.testing.assert_allclose(found[0]['mean_length'], found[1]['mean_length'], rtol=1e-4)
    assert onnxruntime.InferenceSession(exported[0]).get_inputs()[0].shape[1:] == [3, 112, 112]


# ------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize(
    'ckpt, accuracies, kept',
    [
        ('3', [0.5, 0.9, 0.7], [1]),
        ('2', [0.5, 0.9, 0.7], [1, 2, 3]),
        ('1', [0.5, 0.9, 0.7], [1, 2, 3]),  # the third is the last
        ('1', [0.9, 0.5, 0.7], [1, 3]),
        ('1', [0.9, 0.9, 0.2], [1, 2, 3]),
    ],
)
def test_checkpoints_are_counted_and_kept_as_the_host_does(data, tmp_path, monkeypatch, ckpt, accuracies, kept):
    found = iter(accuracies)
    monkeypatch.setattr(tasks.FaceTask, 'measure', lambda *_: ([tasks.Measured('drawn', next(found), 0.1)], None))
    at = {}
    keep = Trainer.parameters

    def parameters(self):
        at[self.steps] = keep(self)
        return at[self.steps]

    monkeypatch.setattr(Trainer, 'parameters', parameters)
    options = ['--data', data, '--output', str(tmp_path), '--steps', '5', '--verbose', '2', '--ckpt', ckpt]
    result = run(*options)
    names = sorted(name for name in os.listdir(str(tmp_path)) if name.endswith('.params'))
    assert names == [f'cru56-{number:04d}.params' for number in kept]
    assert result.measured[0].accuracy == accuracies[-1]
    assert list(log.read(str(tmp_path / log.FILE)).verification['drawn'].values()) == [(x, 0.1) for x in accuracies]
    for number in kept:  # each holds what was trained then
        step = 5 if ckpt == '3' else min(2 * number, 5)
        np.testing.assert_array_equal(arrays(str(tmp_path / 'cru56'), number)['arg:fc1_beta'], at[step]['fc1_beta'])


@pytest.mark.parametrize('version', ['now', 'before the state told how many'])
def test_checkpoints_go_on_being_counted_with_another_verbose(data, tmp_path, monkeypatch, version):
    """Else 0001 and 0002, of steps 1 and 2, would be those of steps 2 and 4."""
    options = ['--data', data, '--output', str(tmp_path), '--ckpt', '2', '--no-verification', '--state-every', '1']
    step = Trainer.step

    def interrupted(self, batch):
        if self.steps == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*options, '--steps', '6', '--verbose', '1')
    before = {number: arrays(str(tmp_path / 'cru56'), number)['arg:fc1_beta'] for number in (1, 2, 3)}
    verbose = '2'
    if version != 'now':
        verbose, load = '1', state.load

        def loaded(*arguments):
            arrays, progress = load(*arguments)
            return arrays, progress._replace(saved=None)

        monkeypatch.setattr(state, 'load', loaded)
    monkeypatch.setattr(Trainer, 'step', step)
    run(*options, '--steps', '6', '--verbose', verbose, '--resume')
    names = sorted(name for name in os.listdir(str(tmp_path)) if name.endswith('.params'))
    last = 5 if version == 'now' else 6  # step 4 and the last; or 4, 5 and the last
    assert names == [f'cru56-{number:04d}.params' for number in range(1, last + 1)]
    for number, values in before.items():
        np.testing.assert_array_equal(arrays(str(tmp_path / 'cru56'), number)['arg:fc1_beta'], values)


@pytest.mark.parametrize('steps', ['4', '3'])
def test_a_longer_training_goes_on_being_counted(data, tmp_path, steps):
    """As if it had been as long from the beginning; a last checkpoint that --verbose does not ask for is replaced."""
    options = ['--data', data, '--ckpt', '2', '--no-verification', '--state-every', '2', '--lr-steps', '100']
    options += ['--verbose', '2']
    run(*options, '--output', str(tmp_path / 'whole'), '--steps', '8')
    run(*options, '--output', str(tmp_path / 'parts'), '--steps', steps)
    last = sorted(os.listdir(str(tmp_path / 'parts')))
    run(*options, '--output', str(tmp_path / 'parts'), '--steps', steps, '--resume')
    assert sorted(os.listdir(str(tmp_path / 'parts'))) == last
    run(*options, '--output', str(tmp_path / 'parts'), '--steps', '8', '--resume')
    for number in (1, 2, 3, 4):  # of steps 2, 4, 6 and 8
        parts, whole = (arrays(str(tmp_path / name / 'cru56'), number) for name in ('parts', 'whole'))
        assert all(np.array_equal(parts[name], values) for name, values in whole.items()), number


def test_a_set_that_comes_during_the_training_is_not_measured(data, tmp_path, capsys, monkeypatch):
    """Its people may be in the training; the one that was there, and has five pairs, is reported first."""
    for name in os.listdir(data):
        (tmp_path / name).write_bytes(open(os.path.join(data, name), 'rb').read())
    images, same = pickle.loads((tmp_path / 'drawn.bin').read_bytes())
    (tmp_path / 'aa.bin').write_bytes(pickle.dumps((images[:10], same[:5])))
    save = Keeper._save

    def packed_meanwhile(*arguments):
        found = save(*arguments)
        (tmp_path / 'lfw.bin').write_bytes((tmp_path / 'drawn.bin').read_bytes())
        return found

    monkeypatch.setattr(Keeper, '_save', packed_meanwhile)
    result = run('--data', str(tmp_path), '--output', str(tmp_path / 'out'), '--steps', '1')
    assert [found.name for found in result.measured] == ['drawn']
    err = capsys.readouterr().err
    assert 'aa.bin: 5 pairs are not enough for 10 folds; there will be no verification of it' in err
    assert 'lfw.bin was written during this training, and may show people who are in it' in result.problem


def test_what_was_best_is_known_after_an_interruption(data, tmp_path, monkeypatch):
    """0001 was better than 0002 will be."""
    found = iter([0.9, 0.5, 0.4])
    monkeypatch.setattr(tasks.FaceTask, 'measure', lambda *_: ([tasks.Measured('drawn', next(found), 0.1)], None))
    options = ['--data', data, '--output', str(tmp_path), '--verbose', '2', '--ckpt', '1', '--state-every', '1']
    step = Trainer.step

    def interrupted(self, batch):
        if self.steps == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'step', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*options, '--steps', '5')
    run(*options, '--steps', '5', '--resume')
    names = sorted(name for name in os.listdir(str(tmp_path)) if name.endswith('.params'))
    assert names == ['cru56-0001.params', 'cru56-0003.params']


def test_several_sets_are_measured_or_those_that_are_named(data, tmp_path, capsys):
    for name in os.listdir(data):
        (tmp_path / name).write_bytes(open(os.path.join(data, name), 'rb').read())
    (tmp_path / 'agedb_30.bin').write_bytes((tmp_path / 'drawn.bin').read_bytes())
    options = ['--data', str(tmp_path), '--output', str(tmp_path / 'out'), '--steps', '1']
    result = run(*options)
    assert [found.name for found in result.measured] == ['agedb_30', 'drawn']
    assert result.measured[0][1:] == result.measured[1][1:]
    assert [found.name for found in run(*options, '--sets', 'drawn').measured] == ['drawn']
    (tmp_path / 'cfp_ff.bin').write_bytes(b'no set')
    result = run(*options, '--sets', 'cfp_ff,drawn')  # what can be measured is
    assert [found.name for found in result.measured] == ['drawn'] and 'cfp_ff.bin is not a verif' in result.problem
    result = run(*options, '--sets', 'drawn,cfp_fp')
    assert not result.measured and 'there is no cfp_fp.bin' in result.problem
    assert 'there is no cfp_fp.bin' in capsys.readouterr().err  # before the training, too


# ------------------------------------------------------------------------------------ learning rate, length


def test_lengths_in_steps_and_epochs(data, tmp_path, monkeypatch):
    """12 images in batches of 4: an epoch is 3 steps."""
    seen = []
    monkeypatch.setattr(loop, 'train', lambda trainer, batches, run, *_: seen.append(run) or ([1.0, 0.0], None))

    def lengths(*more):
        run('--data', data, '--output', str(tmp_path), '--no-verification', *more)
        descent = seen[-1].descent
        return seen[-1].steps, descent.lr_steps, descent.warmup, seen[-1].checkpoints.every

    in_epochs = ['--epochs', '2.5', '--lr-steps', '1e,2e', '--warmup', '0.5e', '--verbose', '1e', '--ckpt', '2']
    assert lengths(*in_epochs) == (8, [3, 6], 2, 3)
    in_steps = ['--steps', '7', '--lr-steps', '4,5', '--warmup', '1', '--verbose', '3', '--ckpt', '2']
    assert lengths(*in_steps) == (7, [4, 5], 1, 3)
    assert lengths('--steps', '7') == (7, None, 0, 0)
    assert (seen[-1].descent.mom, seen[-1].descent.wd) == (0.9, 0.0005)


def test_what_is_done_to_the_images_is_that_of_the_options(data, tmp_path, monkeypatch):
    seen = []
    stop = lambda *options: seen.append(options) or (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    monkeypatch.setattr(tasks, 'FaceBatches', stop)
    with pytest.raises(KeyboardInterrupt):
        run('--data', data, '--output', str(tmp_path), '--crop', '0.9', '--data-color', '0.1', '--cutoff', '30')
    assert seen[0][3] == (0.9, 0.1, 30)


def test_the_learning_rate_of_every_step():
    rates = schedule.schedule(0.1, 10, [4, 6], 2)
    np.testing.assert_allclose([rates(step) for step in range(1, 9)], [0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = schedule.schedule(1.0, 10)
    np.testing.assert_allclose([rates(step) for step in range(1, 11)], [1] * 7 + [0.1] * 2 + [0.01])


def test_momentum_and_decay_are_those_of_the_options(data, tmp_path, monkeypatch):
    """And the learning rate's."""
    seen = []
    monkeypatch.setattr(
        Trainer, '__init__', lambda self, *args, **sgd: seen.append(sgd) or (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(
            '--data',
            data,
            '--output',
            str(tmp_path),
            '--mom',
            '0.8',
            '--wd',
            '0.01',
            '--lr-steps',
            '5,9',
            '--warmup',
            '2',
        )
    rates = seen[0]['lr_scheduler']
    np.testing.assert_allclose([rates(step) for step in (1, 2, 5, 6, 10)], [0.01, 0.02, 0.02, 0.002, 0.0002])
    assert seen[0]['momentum'] == 0.8 and seen[0]['wd'] == 0.01 and seen[0]['learning_rate'] == 0.02


# -------------------------------------------------------------------------------------- other weights first


def test_training_starts_from_weights_that_fit(data, tmp_path, capsys):
    first, second = str(tmp_path / 'first'), str(tmp_path / 'second')
    run('--data', data, '--output', first, '--steps', '3', '--no-verification')
    given = arrays(f'{first}/cru56', 1)
    # A step that moves nothing: what is saved is what was set.
    options = ['--data', data, '--output', second, '--steps', '1', '--no-verification', '--lr', '1e-30']
    run(*options, '--pretrained', f'{first}/cru56,1')
    out = capsys.readouterr().out
    found = arrays(f'{second}/cru56', 1)
    for name in {name for name in given if name.startswith('arg:')} - {'arg:fc1_gamma'}:  # which is set to 1
        np.testing.assert_allclose(found[name], given[name], rtol=0, atol=1e-30, err_msg=name)
    assert f'{len(given)} of {len(given) + 1} parameters are those of' in out  # the classes are new
    assert 'not in it, begun again: fc7_weight\n' in out and 'of another shape' not in out
    run(*options)
    assert not np.array_equal(given['arg:fc1_beta'], arrays(f'{second}/cru56', 1)['arg:fc1_beta'])


def test_what_does_not_fit_is_told(data, tmp_path, capsys):
    path = str(tmp_path / 'net')
    mx.nd.save(
        path + '-0001.params',
        {'arg:fc1_beta': mx.nd.ones(256), 'arg:fc1_gamma': mx.nd.ones((2, 2)), 'arg:other': mx.nd.ones(3)},
    )
    options = ['--data', data, '--output', str(tmp_path / 'out'), '--steps', '1', '--no-verification']
    run(*options, '--pretrained', f'{path},1')
    lines = ' '.join(capsys.readouterr().out.split())
    assert ' 1 of ' in lines and 'in it, but not in this network: other' in lines
    assert 'of another shape, begun again: fc1_gamma not in it' in lines
    for content, words in (
        ({'arg:fc1_beta': mx.nd.ones(256) / 0}, 'has NaN or infinity in fc1_beta'),
        ({'arg:nothing': mx.nd.ones(3)}, 'no parameter of it has the name and shape'),
    ):
        mx.nd.save(path + '-0001.params', content)
        with pytest.raises(UserError, match=words):
            run(*options, '--pretrained', f'{path},1')


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    'options, words',
    [
        (['--dataset', 'imagenet'], 'in PyTorch: tools/train_imagenet.py --network cru56_imagenet --data FOLDER'),
        (['--dataset', 'emore'], '--dataset emore: the only one is faces; pass the folder of the data set as --data'),
        (['--steps', '3', '--epochs', '2'], 'not allowed with argument'),
        (['--lr-steps', '5,3'], "'5,3' are not lengths that grow"),
        (['--lr-steps', '5,2e'], "'5,2e' are not lengths that grow, all in steps or all in epochs"),
        (['--lr-steps', '0,4'], 'are not lengths that grow'),
        (['--warmup', '2.5'], "'2.5' is not a number of steps (2000) or epochs (1.5e)"),
        (['--ckpt', '1', '--no-verification'], '--ckpt 1 keeps what measures best'),
        (['--crop', '2'], "'2' is not a number of at least 0.1 and at most 1"),
        (['--pretrained', 'nothing'], 'is neither PREFIX,EPOCH'),
        (['--pretrained', 'nothing,1'], 'cannot read nothing-0001.params'),
    ],
)
def test_bad_options(data, run_tool, tmp_path, options, words, monkeypatch):
    monkeypatch.setattr(loop, 'train', lambda *_: pytest.fail('it trained first'))
    code, _, err = run_tool(tool, '--multiplier', '0.1', '--data', data, '--output', str(tmp_path / 'out'), *options)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_readers_end_with_the_program_and_train_alike(data, tmp_path):
    options = [*NARROW, '--steps', '3', '--data', data, '--no-verification', '--data-color', '0.1', '--crop', '0.9']
    for name, readers in (('none', '0'), ('two', '2')):
        done = subprocess.run(
            [sys.executable, os.path.join(TOOLS, 'train.py'), *options, '--readers', readers]
            + ['--output', str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
    none, two = (arrays(str(tmp_path / name / 'cru56'), 1) for name in ('none', 'two'))
    assert all(np.array_equal(values, two[name]) for name, values in none.items())
    run('--steps', '3', '--data', data, '--no-verification', '--output', str(tmp_path / 'plain'))
    plain = arrays(str(tmp_path / 'plain' / 'cru56'), 1)
    with pytest.raises(AssertionError):
        assert_trained_alike(none, plain, none)


def test_faces_want_a_face_network_and_a_state_that_is_missing_is_told(data, tmp_path, run_tool, capsys):
    options = ['--data', data, '--output', str(tmp_path)]
    code, _, err = run_tool(tool, '--network', 'cru56_imagenet', *options)
    assert code == 2 and 'is an ImageNet network, for tools/train_imagenet.py; for faces name cru56' in err
    run(*options, '--steps', '1', '--no-verification', '--resume')
    assert 'there is no state in' in capsys.readouterr().out


def test_ctrl_c_while_readers_start_is_one_word(data, tmp_path):
    """The signal goes to the whole group, as from a terminal."""
    process = subprocess.Popen(
        [sys.executable, os.path.join(TOOLS, 'train.py'), *NARROW, '--data', data, '--readers', '2', '--steps', '500']
        + ['--no-verification', '--output', str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & may have it ignored
    )
    while not readers_of(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)  # most often they import then; what is expected is the same at any other moment
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and 'Traceback' not in err and 'interrupted' in err, err


def readers_of(pid):
    """Return the processes that a process has started."""
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        return file.read().split()
