"""Every program that writes files, killed at each change of a name: the next program finds all old, or all new."""

import os
import shutil
import sys

import numpy as np
import pytest
from kills import killed
from PIL import Image

import convert
import evaluate
import export
import pack
import train
import visualize
from helpers import bind, snapshot
from netkit import checkpoints, files, state_dict
from netkit.data import synthetic
from netkit.data.classes import ClassImages
from netkit.data.records import FaceRecords, image_shape_of
from netkit.measure import page
from netkit.measure.figures import Figure
from netkit.measure.running import Outcome
from netkit.networks import build


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    """A folder with two of everything that programs read: 0 and 1."""
    folder = tmp_path_factory.mktemp('given')
    for number in (0, 1):
        here, rng = folder / str(number), np.random.RandomState(number)
        for person in 'abcd':
            (here / 'people' / person).mkdir(parents=True)
            for picture in range(2):
                pixels = rng.randint(0, 256, (112, 112, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(str(here / 'people' / person / f'{picture}.png'))
        (here / 'people' / 'a' / 'broken.png').write_bytes(b'x')
        synthetic.write_synthetic(str(here / 'drawn'), identities=2, images=2, pairs=2, seed=number)
        symbol = build('cru56', net_multiplier=0.05, emb_size=8)
        executor = bind(symbol, batch=1, side=112)
        weights = {name: array.asnumpy() for name, array in {**executor.arg_dict, **executor.aux_dict}.items()}
        weights = {name: array * (1 + number / 100) for name, array in weights.items() if name != 'data'}
        checkpoints.save(str(here / 'x'), 0, symbol, weights)
        state_dict.write(str(here / 'x.pt'), weights)
    return str(folder)


def program(module, *options):
    """Return what runs a program on {given} and into {into}."""

    def run(given, into):
        sys.argv = [module.__name__, *(option.format(given=given, into=into) for option in options)]
        module.main()

    return run


def measured(given):
    """Return the Outcome of a part of the report on GPUs, with something to draw."""
    figures = [('a', Figure('training, images per second, batch 2', way, 'cru56', 1.5)) for way in ('float32', 'TF32')]
    return Outcome('speed', 'mxnet', 'a GPU', {'a': given}, figures, 1.0, [])


WRITERS = {
    'pack faces': program(pack, 'faces', '{given}/people', '--output', '{into}'),
    'pack classes': program(pack, 'classes', '{given}/people', '--output', '{into}/val.rec'),
    'synthetic faces': lambda given, into: synthetic.write_synthetic(
        into, identities=2, images=2, pairs=2, seed=int(given[-1])
    ),
    'export': program(export, '--model', '{given}/x,0', '--onnx', '--output', '{into}/x'),
    'convert': program(convert, '{given}/x.pt', '--output', '{into}/x'),
    'convert back': program(convert, '{given}/x,0', '--output', '{into}/x.pt'),
    'embed': program(evaluate, 'embed', '{given}/x,0', '{given}/people/b', '--output', '{into}/x.npz'),
    'visualize': program(visualize, 'network', '{given}/x,0', '-o', '{into}/x.svg'),
    'report': lambda given, into: page.save([measured(given)], given, 'today', into),
}


# What reads these is the next program; of the others any one is.
READERS = {
    'pack faces': lambda into: FaceRecords(into),
    'synthetic faces': lambda into: image_shape_of(into),
    'pack classes': lambda into: ClassImages(f'{into}/val.rec'),
    'export': lambda into: checkpoints.load(f'{into}/x', 0),
    'convert': lambda into: checkpoints.load_parameters(f'{into}/x-0000.params'),
}


@pytest.mark.parametrize('name', WRITERS)
def test_killed_at_any_change_of_a_name_the_next_program_finds_all_old_or_all_new(given, name, tmp_path):
    """And so where that one is killed at its first change, the next at its second, and so on."""
    write, read, into = WRITERS[name], READERS.get(name, files.settle), str(tmp_path / 'into')

    def begin():
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(str(tmp_path / 'old'), into)

    assert not killed(-1, write, given + '/0', str(tmp_path / 'old'))
    begin()
    old = snapshot(into)
    write(given + '/1', into)
    new, found, at = snapshot(into), [], 0
    assert old != new
    while begin() or killed(at, write, given + '/1', into):
        again = 0
        while killed(again, read, into):
            again += 1
        found.append(snapshot(into))
        assert found[-1] in (old, new), (at, again)
        at += 1
    assert snapshot(into) == new and old in found and new in found


def test_a_training_killed_at_any_change_of_a_name_goes_on_as_if_it_were_not(given, tmp_path):
    options = ['--network', 'cru56', '--multiplier', '0.05', '--steps', '2', '--per-batch-size', '2', '--resume']
    options += ['--state-every', '1', '--verbose', '1', '--no-verification', '--data', '{given}/drawn']
    run = program(train, *options, '--output', '{into}')
    whole, into = str(tmp_path / 'whole'), str(tmp_path / 'into')
    assert not killed(-1, run, given + '/0', whole)
    at = 0
    while killed(at, run, given + '/0', into):
        assert not killed(-1, run, given + '/0', into), at
        assert trained(into) == trained(whole), at
        shutil.rmtree(into)
        at += 8  # all of them take two minutes
    assert at > 40


def trained(folder):
    """Return the content of the checkpoints in a folder, and of the last state."""
    content = {os.path.relpath(path, folder): content for path, content in snapshot(folder).items()}
    return {name: content for name, content in content.items() if name != 'train.log'}
