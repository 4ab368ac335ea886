"""train_imagenet.py on a tiny ImageNet of drawn shapes. Skipped without timm; `make test-torch-newest` has it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import shapes
import train_imagenet

torch = pytest.importorskip('torch')
pytest.importorskip('timm')

from netkit.classification import learning, pictures  # noqa: E402
from netkit.classification.recipes import RECIPES, recipe_of  # noqa: E402
from netkit.errors import UserError  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, 'tools', 'train_imagenet.py')
NETWORK = 'ires18_imagenet:net_multiplier=0.25'
ALL_OPTIONS = [
    '--ema',
    '0.9',
    '--mixup',
    '0.2',
    '--smoothing',
    '0.1',
    '--color',
    '0.4',
    '--warmup',
    '1',
    '--bfloat16',
    '--recompute',
    '--zero-init-last',
]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A tiny ImageNet: 1,500 images of ten classes, and 300 others."""
    folder = tmp_path_factory.mktemp('shapes')
    for name, count, seed in (('train', 150, 0), ('val', 30, 1)):
        shapes.write(str(folder / name), count, seed)
    return str(folder)


def command(images, output, *options, network=NETWORK):
    """Return the command of a run of quick steps."""
    quick = ['--batch-size', '50', '--lr', '0.05', '--image-size', '32', '--workers', '2']
    return [PROGRAM, '--network', network, '--data', images, '--output', str(output), *quick, *options]


def started(arguments, processes=1):
    launcher = ['-m', 'torch.distributed.run', f'--nproc_per_node={processes}'] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )


def ended(arguments, processes=1):
    """Return the (exit code, output, errors) of a run."""
    process = started(arguments, processes)
    output, errors = process.communicate(timeout=900)
    return process.returncode, output, errors


def top_1(output):
    """Return the accuracies after the epochs."""
    return [float(line.split('top-1 ')[1].split(',')[0]) for line in output.splitlines() if 'top-1' in line]


@pytest.mark.parametrize('processes', [1, 2])
def test_ten_classes_are_learnt(images, tmp_path, processes):
    code, output, errors = ended(command(images, tmp_path / 'run', '--epochs', '3', '--lr-steps', '2'), processes)
    assert code == 0, errors
    assert len(top_1(output)) == 3 and top_1(output)[-1] > 0.8
    state = torch.load(str(tmp_path / 'run' / 'model.pt'), weights_only=True)
    import crunet

    model = crunet.create_model('ires18_imagenet', num_features=10, net_multiplier=0.25, image_shape=(32, 32, 3)).eval()
    model.load_state_dict(state)
    right = []
    for label, kind in enumerate(sorted(shapes.KINDS)):
        for number in range(30):
            image = pictures.Image.open(os.path.join(images, 'val', kind, f'{number}.png')).convert('RGB')
            side = round(min(image.size) * 37 / min(image.size))
            image = image.resize((side, side), pictures.Image.BILINEAR)
            left = (side - 32) // 2
            pixels = torch.tensor(np.asarray(image.crop((left, left, left + 32, left + 32)))).permute(2, 0, 1).float()
            right.append(int(model((pixels[None] - 127.5) / 127.5).argmax()) == label)
    assert np.mean(right) == pytest.approx(top_1(output)[-1], abs=0.005)  # of one more or less, at most
    log = (tmp_path / 'run' / 'train.log').read_text()
    assert f'[top-1][90]Accuracy: {top_1(output)[-1]:.4f}' in log and 'Epoch[2] Batch [20-30]' in log


def test_a_killed_run_continues_to_the_bit(images, tmp_path):
    """It is killed in its second epoch, with every option."""
    options = ['--epochs', '2', '--lr-steps', '1', *ALL_OPTIONS]
    assert ended(command(images, tmp_path / 'whole', *options))[0] == 0
    process = started(command(images, tmp_path / 'killed', *options))
    while not (tmp_path / 'killed' / 'last.pt').exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, output, errors = ended(command(images, tmp_path / 'killed', *options))
    assert code == 0 and output.startswith('epoch 1: '), (output, errors)
    states = [torch.load(str(tmp_path / name / 'last.pt'), weights_only=True) for name in ('whole', 'killed')]
    assert same(*states)
    weights = torch.load(str(tmp_path / 'whole' / 'model.pt'), weights_only=True)
    assert same({f'module.{name}': of for name, of in weights.items()}, states[0]['averaged'])  # what is shared
    assert not torch.equal(states[0]['model']['conv0.weight'], states[0]['averaged']['module.conv0.weight'])


def same(one, other):
    """Return whether two states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_what_is_refused(images, tmp_path, run_tool):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for arguments, words in (
        (command(images, tmp_path / 'a', network='cru116'), 'cru116 is not an ImageNet network'),
        (
            command(images, tmp_path / 'a', network='ires18_imagenet:net_mulitplier=1'),
            'net_mulitplier is not a setting',
        ),
        (command(images, tmp_path / 'a', '--lr-steps', 'x'), '--lr-steps x is not a list of epochs'),
        (command(images, tmp_path / 'a', '--lr-steps', '0'), '--lr-steps 0 is not a list of epochs'),
        (command(images, tmp_path / 'a', network=NETWORK + ',num_classes=10'), 'num_classes: the data and the options'),
        (command(images, tmp_path / 'a', '--batch-size', '25', '--mixup', '1'), '--mixup takes images in pairs'),
        (command(str(empty), tmp_path / 'a'), 'has neither train/ with a subfolder per class nor train.rec'),
        (command(images, tmp_path / 'a', '--batch-size', '2000'), 'has 1500 images, fewer than a batch of 2000'),
    ):
        code, _, errors = run_tool(train_imagenet, *arguments[1:])
        assert code == 2 and words in errors and 'Traceback' not in errors, errors


def test_data_that_do_not_fit(images, tmp_path):
    """A file that is not an image, a class under another name, too few images for the processes, a label of none."""
    import shutil

    folder = tmp_path / 'shapes'
    shutil.copytree(images, str(folder))
    (folder / 'train' / 'disc' / '3.png').write_text('nope')
    code, _, errors = ended(command(str(folder), tmp_path / 'a', '--epochs', '1'))
    assert code == 2 and 'Traceback' not in errors and len(errors.strip().splitlines()[-1]) < 300
    assert 'disc/3.png is not readable as an image' in errors.strip().splitlines()[-1]
    (folder / 'val' / 'disc').rename(folder / 'val' / 'zzz')
    code, _, errors = ended(command(str(folder), tmp_path / 'a'))
    assert code == 2 and 'do not have the same classes: disc is in one of them only' in errors
    (folder / 'val' / 'zzz').rename(folder / 'val' / 'disc')
    (folder / 'val' / 'zzzz').mkdir()
    code, _, errors = ended(command(str(folder), tmp_path / 'a'))
    assert code == 2 and f'val has 11 classes, {folder}/train 10' in errors
    run = learning.Run('ires18_imagenet', images, str(tmp_path), RECIPES['iresnet']._replace(batch=301), {}, 32)
    with pytest.raises(UserError, match='has 300 images, fewer than there are processes'):
        learning.Learner(run, learning.Processes(0, 301, torch.device('cpu')))


def test_a_finished_run_says_so(images, tmp_path):
    """Also where it was killed between its two files: the weights are written first."""
    arguments = command(images, tmp_path / 'a', '--epochs', '1')
    assert ended(arguments)[0] == 0
    code, output, _ = ended(arguments)
    assert code == 0 and 'has 1 epochs: the run is finished, top-1 ' in output
    times = [os.stat(str(tmp_path / 'a' / name)).st_mtime_ns for name in ('model.pt', 'last.pt')]
    assert times[0] < times[1]


def test_an_image_of_the_validation_that_is_none_does_not_cost_the_epoch(images, tmp_path):
    import shutil

    folder, arguments = tmp_path / 'shapes', command(str(tmp_path / 'shapes'), tmp_path / 'a', '--epochs', '1')
    shutil.copytree(images, str(folder))
    (folder / 'val' / 'bar' / '3.png').write_text('nope')
    code, _, errors = ended(arguments)
    assert code == 2 and 'bar/3.png is not readable as an image' in errors.splitlines()[-1]
    (folder / 'val' / 'bar' / '3.png').unlink()
    code, output, _ = ended(arguments)
    assert code == 0 and 'has 1 epochs: the run is finished, top-1 ' in output


def test_processes_draw_other_random_numbers(images, tmp_path):
    run = learning.Run('ires18_imagenet', images, str(tmp_path), RECIPES['iresnet'], {'net_multiplier': 0.25}, 32)
    drawn = set()
    for epoch in range(3):
        for rank in range(2):
            learner = learning.Learner(run, learning.Processes(0, 1, torch.device('cpu')))
            learner.among = learning.Processes(rank, 2, torch.device('cpu'))
            learner.loader = type('Loader', (), {'sampler': type('Sampler', (), {'set_epoch': lambda *_: None})()})()
            learner.seed(epoch)
            drawn.add((float(torch.rand(1)), float(np.random.rand())))
    assert len({pair[0] for pair in drawn}) == len({pair[1] for pair in drawn}) == 6


def test_a_run_of_other_options_is_not_continued(images, tmp_path):
    output = str(tmp_path)
    run = learning.Run('ires18_imagenet', images, output, RECIPES['iresnet'], {'net_multiplier': 0.25}, 32)
    alone = learning.Processes(0, 1, torch.device('cpu'))
    learning.Learner(run, alone).save(1)
    assert learning.Learner(run._replace(workers=1), alone).restore() == 1
    with pytest.raises(UserError, match='last.pt is of another run'):
        learning.Learner(run._replace(mixup=0.2), alone).restore()
    (tmp_path / 'last.pt').write_bytes(b'PK')
    with pytest.raises(UserError, match='last.pt is not the state of a run'):
        learning.Learner(run, alone).restore()


def test_learning_rates_are_those_of_the_recipes(images, tmp_path):
    """As `adjust_learning_rate` of iResNet's authors has them: a tenth from epoch 30 on."""
    run = learning.Run('ires18_imagenet', images, str(tmp_path), RECIPES['iresnet'], {'net_multiplier': 0.25}, 32)
    learner = learning.Learner(run, learning.Processes(0, 1, torch.device('cpu')))
    rates = [learner.rate(epoch) for epoch in (0, 29, 30, 59, 60, 79, 80, 89)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    warm = learning.Learner(run._replace(warmup=4), learning.Processes(0, 1, torch.device('cpu')))
    assert [warm.rate(epoch) for epoch in range(6)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    group = learner.optimiser.param_groups[0]
    assert (group['nesterov'], group['momentum'], group['weight_decay']) == (False, 0.9, 1e-4)
    assert len(learner.optimiser.param_groups) == 1  # biases and BatchNorms decay as well
    assert [recipe_of(name) for name in ('cru116_imagenet', 'att92_imagenet', 'resnet50_imagenet')] == [
        'crunet',
        'attention',
        'iresnet',
    ]


def test_labels_are_smoothed(images, tmp_path):
    """By hand: nine tenths of the label and a hundredth of each of ten classes."""
    run = learning.Run('ires18_imagenet', images, str(tmp_path), RECIPES['iresnet'], {'net_multiplier': 0.25}, 32)
    alone, x = learning.Processes(0, 1, torch.device('cpu')), torch.rand(4, 3, 32, 32)
    labels, found = torch.tensor([0, 3, 3, 9]), []
    for smoothing in (0.0, 0.1):
        learner = learning.Learner(run._replace(smoothing=smoothing), alone)
        logs = torch.log_softmax(learner.model.train()(x).detach().double(), 1)
        right = logs[range(4), labels]
        expected = -((1 - smoothing) * right + smoothing * logs.mean(1)).mean()
        loss, _ = learning.Learner(run._replace(smoothing=smoothing), alone).step(x, labels)
        assert loss == pytest.approx(float(expected), rel=1e-5)
        found.append(loss)
    assert abs(found[0] - found[1]) > 1e-3


def test_colours_change_in_hue_saturation_and_lightness():
    cv2 = pytest.importorskip('cv2')
    image = pictures.Image.new('RGB', (4, 4), (180, 90, 60))
    before = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HLS)[0, 0].astype(int)
    np.random.seed(0)
    changed = [np.asarray(pictures.Hsl(10, 20, 30)(image)) for _ in range(200)]
    planes = np.array([cv2.cvtColor(of, cv2.COLOR_RGB2HLS)[0, 0] for of in changed]).astype(int) - before
    planes[:, 0] = (planes[:, 0] + 90) % 180 - 90  # hue is a circle
    for change, most in zip(planes.T, (10, 30, 20)):  # hue, lightness, saturation; within the rounding of RGB
        assert most * 0.7 < np.abs(change).max() <= most + 4
        assert change.min() < -most * 0.7 and change.max() > most * 0.7  # also where the hue passes 0
    assert np.abs(np.asarray(pictures.Hsl(0, 0, 0)(image)).astype(int) - np.asarray(image)).max() < 3


def test_records_of_pack_are_read(tmp_path, images):
    """The same images as folders give, in the order of pack.py."""
    from netkit.data import rec_format
    from netkit.data.recordio import HEADER

    with open(str(tmp_path / 'train.rec'), 'wb') as file:
        for label, kind in enumerate(sorted(shapes.KINDS)):
            with open(os.path.join(images, 'val', kind, '0.png'), 'rb') as picture:
                file.write(rec_format.record_of(HEADER.pack(0, label, label, 0) + picture.read()))
    found, expected = pictures.Pictures(str(tmp_path / 'train.rec')), pictures.Pictures(os.path.join(images, 'val'))
    assert len(found) == found.classes == expected.classes == 10
    for number in range(10):
        (image, label), (other, wanted) = found[number], expected[30 * number]
        assert label == wanted == number and np.array_equal(image, other)
    with open(str(tmp_path / 'train.rec'), 'ab') as file:
        file.write(rec_format.record_of(HEADER.pack(0, 1.5, 0, 0)))
    with pytest.raises(UserError, match='record 10 has label 1.5, which is not a class'):
        pictures.Pictures(str(tmp_path / 'train.rec'))
    (tmp_path / 'val').mkdir()
    with pytest.raises(UserError, match='val has no subfolders with images'):
        pictures.Pictures(pictures.set_in(str(tmp_path), 'val'))
