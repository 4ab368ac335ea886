"""The benchmark: what it prints, what it refuses. How fast anything is, no test says."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import config as host
import measure
from helpers import NETWORKS, TOOLS, markdown, nodes, run_here, shape_of
from netkit._mxnet import mx
from netkit.graph.counts import count_macs, count_parameters
from netkit.graph.cpu_forms import for_cpu
from netkit.graph.memory import planned_memory
from netkit.measure import choices, mxnet_engine, plans
from netkit.networks import build

SMALL = 'net_multiplier=0.1,emb_size=16,image_shape=(64,64,3)'


def run(*arguments, **kwargs):
    """Run the program; return the finished process."""
    return subprocess.run(
        [sys.executable, os.path.join(TOOLS, 'measure.py'), 'networks'] + list(arguments),
        capture_output=True,
        text=True,
        **kwargs,
    )


def test_times_side_by_side(tmp_path):
    picture = tmp_path / 'a folder' / 'times.png'
    choices = ['cru56:plain,' + SMALL, 'cru56:' + SMALL]
    done = run(*choices, '--per-batch-size', '2', '--repetitions', '2', '--markdown', '--plot', str(picture))
    assert done.returncode == 0, done.stderr
    training, inference = markdown(done.stdout)
    for rows in (training, inference):
        assert [row['choice'] for row in rows] == choices + ['cru56, convolutions and FCs alone']
        assert rows[0]['ratio'] == '1.00×' and rows[2]['over the floor'] == '1.00×'
        for row in rows:
            # Both are rounded, the milliseconds to a tenth, which is much of the little that a small layer takes.
            assert float(row['ms/image']) == pytest.approx(1000 / float(row['images/s']), rel=0.01, abs=0.06)
    assert float(training[0]['plan MB/image']) > float(inference[0]['plan MB/image']) > 0
    assert 100 < float(training[1]['peak RSS MB']) < 8000
    width, height = Image.open(str(picture)).size
    assert width > 1000 and height > 200
    assert len(set(Image.open(str(picture)).convert('RGB').getdata())) > 10
    assert os.listdir(str(picture.parent)) == ['times.png']


def test_the_peer():
    done = run(
        'cru56_imagenet',
        '--peer',
        'gluoncv2',
        '--per-batch-size',
        '1',
        '--repetitions',
        '1',
        '--only',
        'inference',
        '--markdown',
    )
    assert done.returncode == 0, done.stderr
    (rows,) = markdown(done.stdout)
    assert [row['choice'] for row in rows][1:] == ['cru56_imagenet, convolutions and FCs alone', 'gluoncv2 crunet56']


def test_the_floor_is_every_learnt_layer_once():
    symbol = build('att56', image_shape=(64, 64, 3), net_multiplier=0.1, memonger=True)
    symbol = for_cpu(symbol, (64, 64), training=True)
    floor = mxnet_engine.Floor(symbol, (1, 3, 64, 64), mx.cpu(), training=True)
    macs = sum(count * layer_macs(step) for count, step in floor.steps)
    assert macs == count_macs(symbol, (64, 64, 3))
    for _, step in floor.steps:
        assert '__force_mirroring__' not in step.executor._symbol.tojson()
        reads_the_image = step.data.shape[1] == 3
        assert (step.executor.grad_dict['data'] is None) == reads_the_image


def layer_macs(step):
    """Return the multiply-adds of a step's single layer."""
    weight, output = step.executor.arg_dict['layer_weight'].shape, step.executor.outputs[0].shape
    return int(np.prod(weight)) * int(np.prod(output[2:]))


@pytest.mark.parametrize('network', ['cru116', 'att56', 'ires50_imagenet'])
def test_memory_table(network):
    _, _, (row,) = plans.memory([choices.parse_choice(network)], plans.BATCHES)
    of_choice = host.network[network]
    assert row[:3] == (network, str(of_choice.per_batch_size), 'on' if of_choice.get('memonger') else 'off')
    assert row[3] == f'{count_parameters(build(network), shape_of(network)) / 2**18:,.0f}'
    for place, (memonger, batch) in enumerate(
        (memonger, batch) for memonger in (False, True) for batch in plans.BATCHES
    ):
        planned = planned_memory(build(network, memonger=memonger), batch, shape_of(network))
        assert row[4 + place] == f'{planned:,.0f}'


@pytest.mark.parametrize(
    'word, memonger, prelu',
    [('', False, 'Convolution'), (':insightface', True, 'broadcast_mul'), (':plain', False, 'LeakyReLU')],
)
def test_what_the_words_of_a_choice_build(word, memonger, prelu):
    """On a CPU: what our programs bind, what insightface does, and MXNet's own operators."""
    symbol, _ = choices.parse_choice('cru56' + word).build('cpu')
    assert ('__force_mirroring__' in symbol.tojson()) == memonger
    kinds = {node['name']: node['op'] for node in nodes(symbol)}
    assert kinds.get('relu0_bend', kinds['relu0']) == prelu


def test_building_table():
    _, _, rows = plans.building([choices.parse_choice(network) for network in NETWORKS])
    assert [row[0] for row in rows] == list(NETWORKS)
    assert all(float(cell.replace(',', '')) >= 0 for row in rows for cell in row[1:])


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['cru57'], ["'cru57'", 'cru56']),
        (['cru56', 'cru56'], ['once']),
        (['cru56:width=2'], ["'width'", 'net_multiplier']),
        (['cru56:net_prelu=fast'], ['net_prelu', "'op'"]),
        (['att56', '--peer', 'gluoncv2'], ['att56', 'cru56_imagenet']),
        (['cru56', '--peer', 'timm'], ['timm', 'gluoncv2']),
        (['cru116', '--peer', 'by_hand'], ['by_hand', '--engine torch']),
        (['cru56_imagenet', '--peer', 'gluoncv2', '--engine', 'torch'], ['gluoncv2', '--engine mxnet']),
        (['cru56', '--engine', 'torch', '--device', 'gpu'], ['CPU', 'measure.py gpu']),
        (['cru56', '--compile'], ['--engine torch']),
        (['cru56', '--repetitions', '0'], ['0', 'at least 1']),
        (['cru56', '--memory', '--building'], ['--memory']),
        (['cru56', '--memory', '--plot', 'x.png'], ['--plot']),
        (['cru56', '--memory', '--only', 'training'], ['--only', '--memory']),
        (['cru56', '--building', '--per-batch-size', '8'], ['--per-batch-size', '--building']),
        (['cru56', '--scaling', '--per-batch-size', '8'], ['--per-batch-size', '--scaling']),
        (['cru56', '--plot', 'x.jpeg'], ['x.jpeg', '.png']),
        (['cru56', '--device', 'gpu'], ['GPU']),
        (['cru56', '--plot', '/dev/null/times.png'], ['/dev/null']),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_here(measure, 'networks', *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr
    assert os.listdir(str(tmp_path)) == []


def test_memory_of_one_batch():
    done = run_here(measure, 'networks', 'cru56:net_multiplier=0.25', '--memory', '--markdown', '--per-batch-size', '2')
    ((row,),) = markdown(done.stdout)
    assert 'off 2' in row and 'on 2' in row and 'off 32' not in row


def test_scaling():
    done = run_here(measure, 'networks', '--scaling', 'cru116', 'ires50:per_batch_size=3', '--markdown')
    assert done.returncode == 2 and "'per_batch_size' is not a setting" in done.stderr
    done = run_here(measure, 'networks', '--scaling', 'cru116', 'ires50', '--markdown')
    assert done.returncode == 0, done.stderr
    ((shared, unshared),) = markdown(done.stdout)
    assert [shared[f'images, {count} GPU{"s" * (count > 1)}'] for count in (1, 8, 64)] == ['80', '640', '5,120']
    assert shared['gradients MB'] == f'{4 * 67433568 / 2**20:.0f}'
    assert float(shared['unshared MB']) > 1.1 * float(shared['gradients MB'])
    assert unshared['gradients MB'] == unshared['unshared MB'] and unshared['saved'] == '0 %'
