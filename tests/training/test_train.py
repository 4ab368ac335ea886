"""The trainer on synthetic faces: what it leaves behind, that it repeats itself, and what it says to bad input."""

import filecmp
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import config as host
import train as tool
from helpers import FEW_FACES, PATIENCE, ROOT, TOOLS, nodes
from netkit._mxnet import mx
from netkit.data import drawn_faces as faces, pairs, synthetic
from netkit.data.batches import FaceBatches, Share
from netkit.data.records import FaceRecords
from netkit.errors import UserError
from netkit.evaluation import protocol as measures
from netkit.training import log as training_log, loop, losses, run as run_module, state as resume

TOOL = os.path.join(TOOLS, 'train.py')
QUICK = ['--network', 'cru56', '--multiplier', '0.1', '--steps', '2', '--per-batch-size', '4']
IMAGE_SHAPE = (112, 112, 3)
OUTPUT = ['cru56-0001.params', 'cru56-symbol.json']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('synthetic faces'))
    synthetic.write_synthetic(folder, identities=4, images=3, pairs=10, seed=1)
    return folder


def run(*options, cwd=None):
    return subprocess.run(
        [sys.executable, TOOL] + list(options), capture_output=True, text=True, timeout=PATIENCE, cwd=cwd
    )


# --------------------------------------------------------------------------------------------- the data


def test_data_is_in_the_hosts_format(data):
    assert sorted(os.listdir(data)) == ['drawn.bin', 'property', 'train.idx', 'train.rec']
    with open(os.path.join(data, 'property')) as file:
        assert file.read() == '4,112,112\n'
    record = mx.recordio.MXIndexedRecordIO(os.path.join(data, 'train.idx'), os.path.join(data, 'train.rec'), 'r')
    header, _ = mx.recordio.unpack(record.read_idx(0))
    assert header.flag == 2 and list(header.label) == [13, 17]
    for label, number in enumerate(range(13, 17)):
        header, _ = mx.recordio.unpack(record.read_idx(number))
        assert list(header.label) == [1 + 3 * label, 4 + 3 * label]
    header, content = mx.recordio.unpack(record.read_idx(12))
    assert header.label == 3 and mx.image.imdecode(content).shape == (112, 112, 3)


def test_records_and_pairs_are_read_back(data):
    records = FaceRecords(data, IMAGE_SHAPE)
    assert [records[i][0] for i in range(len(records))] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    images, same = pairs.read_pairs(os.path.join(data, 'drawn.bin'), IMAGE_SHAPE)
    assert len(images) == 20 and list(same) == [True, False] * 5
    assert all(image.shape == (112, 112, 3) and image.std() > 5 for image in images)


def test_a_person_looks_more_like_himself_than_like_others():
    rng = np.random.RandomState(3)
    people = [faces.draw_identity(rng) for _ in range(12)]
    halves = [
        [np.mean([faces.draw_face(identity, rng).astype(float) for _ in range(8)], axis=0) for _ in range(2)]
        for identity in people
    ]
    distance = np.array([[np.abs(first - second)[30:90, 30:80].mean() for _, second in halves] for first, _ in halves])
    own = np.diag(distance)
    assert (own > 0).all() and own.mean() < 0.7 * distance[~np.eye(12, dtype=bool)].mean()


def test_batches_are_shuffled_mirrored_and_repeatable(data):
    records = FaceRecords(data, IMAGE_SHAPE)
    batches = [FaceBatches(records, 12, Share(seed)) for seed in (0, 0, 1)]
    first, again, other = [stream.next() for stream in batches]
    np.testing.assert_array_equal(first.data[0].asnumpy(), again.data[0].asnumpy())
    assert not np.array_equal(first.label[0].asnumpy(), other.label[0].asnumpy())
    assert sorted(first.label[0].asnumpy()) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert not np.array_equal(first.label[0].asnumpy(), batches[0].next().label[0].asnumpy())


def test_batches_hold_every_image_under_its_own_label_half_of_them_mirrored(data):
    """As plain recordio reads them."""
    record = mx.recordio.MXIndexedRecordIO(os.path.join(data, 'train.idx'), os.path.join(data, 'train.rec'), 'r')
    known = {}
    for number in range(1, 13):
        header, content = mx.recordio.unpack(record.read_idx(number))
        image = mx.image.imdecode(content).asnumpy().transpose(2, 0, 1).astype(np.float32)
        known[image.tobytes()] = number, header.label, False
        known[image[:, :, ::-1].tobytes()] = number, header.label, True
    assert len(known) == 24
    batches = FaceBatches(FaceRecords(data, IMAGE_SHAPE), 12)
    mirrored = []
    for _ in range(10):
        batch = batches.next()
        found = [known[image.tobytes()] for image in batch.data[0].asnumpy()]
        assert sorted(number for number, _, _ in found) == list(range(1, 13))
        assert [label for _, label, _ in found] == list(batch.label[0].asnumpy())
        mirrored += [is_mirrored for _, _, is_mirrored in found]
    assert 0.35 < np.mean(mirrored) < 0.65


def test_workers_share_the_images_of_a_step(data):
    records = FaceRecords(data, IMAGE_SHAPE)
    whole = FaceBatches(records, 4)
    parts = [FaceBatches(records, 2, Share(0, part_index, 2)) for part_index in (0, 1)]
    for _ in range(5):
        expected, actual = whole.next(), [part.next() for part in parts]
        for kind in ('data', 'label'):
            halves = [getattr(batch, kind)[0].asnumpy() for batch in actual]
            np.testing.assert_array_equal(np.concatenate(halves), getattr(expected, kind)[0].asnumpy())
    later = FaceBatches(records, 4, Share(step=4))
    np.testing.assert_array_equal(later.next().data[0].asnumpy(), expected.data[0].asnumpy())


# --------------------------------------------------------------------------------------- loss, verification


@pytest.mark.parametrize(
    'm1, m2, m3', [(1.0, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.0, 0.3, 0.2), (1.2, 0.1, 0.1)]
)
def test_margin_logits(m1, m2, m3):
    rng = np.random.RandomState(0)
    embedding, weight, label = rng.normal(size=(5, 8)), rng.normal(size=(6, 8)), np.array([0, 1, 2, 5, 5])
    cosine = (embedding / np.linalg.norm(embedding, axis=1)[:, None]) @ (
        weight / np.linalg.norm(weight, axis=1)[:, None]
    ).T
    expected = 64 * cosine
    for row, column in enumerate(label):
        expected[row, column] = 64 * (np.cos(m1 * np.arccos(cosine[row, column]) + m2) - m3)
    symbol = losses.margin_logits(
        mx.sym.Variable('e'),
        mx.sym.Variable('l'),
        mx.sym.Variable('w', shape=(6, 8)),
        6,
        {'loss_s': 64.0, 'loss_m1': m1, 'loss_m2': m2, 'loss_m3': m3},
    )
    actual = symbol.eval(e=mx.nd.array(embedding), l=mx.nd.array(label), w=mx.nd.array(weight))[0]
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=1e-4, atol=1e-3)


def test_margin_stays_finite_where_the_angle_is_zero():
    symbol = losses.margin_logits(
        mx.sym.Variable('e'), mx.sym.Variable('l'), mx.sym.Variable('w', shape=(2, 3)), 2, host.loss.arcface
    )
    executor = symbol.simple_bind(mx.cpu(), e=(1, 3), l=(1,))
    executor.arg_dict['e'][:] = mx.nd.array([[1, 2, 3]])
    executor.arg_dict['w'][:] = mx.nd.array([[2, 4, 6], [1, 0, 0]])
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((1, 2)))
    assert all(np.isfinite(array.asnumpy()).all() for array in list(executor.grad_dict.values()) + executor.outputs)


def test_loss_and_accuracy_are_means():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    loss, accuracy = loop.loss_and_accuracy(probabilities, np.array([0, 2, 2, 0]))
    assert loss == pytest.approx(-np.log([0.5, 0.3, 0.5, 1.0]).mean()) and accuracy == 0.75
    assert np.isfinite(loop.loss_and_accuracy(probabilities, np.array([0, 2, 2, 1]))[0])


def accuracy(embeddings, same):
    found = measures.accuracy(measures.distances(embeddings), same)
    return found.mean, found.deviation


def test_verification_accuracy():
    rng = np.random.RandomState(0)
    same = np.arange(200) % 2 == 0
    first = rng.normal(size=(200, 16))
    second = np.where(same[:, None], first * 3 + rng.normal(0, 0.01, (200, 16)), rng.normal(size=(200, 16)))
    pairs = np.stack([first, second], axis=1).reshape(400, 16)
    assert accuracy(pairs, same) == (1.0, 0.0)
    assert 0.35 < accuracy(rng.normal(size=(400, 16)), same)[0] < 0.65
    with pytest.raises(ValueError, match='5 pairs are not enough for 10 folds'):
        accuracy(pairs[:10], same[:5])


def test_verification_of_pairs_that_are_nearly_opposite_and_of_nothing():
    same = np.arange(40) % 2 == 0
    angles = np.where(same, 2.2, 2.8)  # squared distances of 3.18 and 3.88
    pairs = np.stack([np.tile([1, 0], (40, 1)), np.stack([np.cos(angles), np.sin(angles)], axis=1)], axis=1).reshape(
        80, 2
    )
    assert accuracy(pairs, same) == (1.0, 0.0)
    pairs[:2] = 0  # two embeddings of length 0: a distance of 0
    assert accuracy(pairs, same) == (1.0, 0.0)


# ----------------------------------------------------------------------------------------------- the tool


def test_training_leaves_a_checkpoint_and_repeats_itself(data, tmp_path):
    outputs = [str(tmp_path / name) for name in ('one', 'two')]
    for output in outputs:
        done = run(*QUICK + ['--data', data, '--output', output])
        assert done.returncode == 0, done.stderr
        assert 'verification' in done.stdout and os.path.join(output, 'cru56-0001.params') in done.stdout
    assert [sorted(os.listdir(output)) for output in outputs] == [OUTPUT + [resume.FILE, training_log.FILE]] * 2
    assert filecmp.cmpfiles(outputs[0], outputs[1], OUTPUT, shallow=False)[0] == OUTPUT
    symbol, arg_params, aux_params = mx.model.load_checkpoint(os.path.join(outputs[0], 'cru56'), 1)
    assert symbol.list_outputs() == ['fc1_output']
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())


def test_settings_behind_the_name_are_what_is_trained(data, tmp_path):
    changed = ['--network', 'ires50:net_origin=release,emb_size=16', '--steps', '1']
    done = run(*QUICK, *changed, '--data', data, '--output', str(tmp_path), '--no-verification')
    assert done.returncode == 0, done.stderr
    symbol, arguments, _ = mx.model.load_checkpoint(str(tmp_path / 'ires50'), 1)
    by_name = {node['name']: node['parents'] for node in nodes(symbol)}
    assert by_name['stage1_unit2_plus'][1].startswith('stage1_unit2_relu1')
    assert arguments['fc1_beta'].shape == (16,)
    others = ['--network', 'ires50:emb_size=16', '--steps', '2', '--resume']
    done = run(*QUICK, *others, '--data', data, '--output', str(tmp_path), '--no-verification')
    assert done.returncode == 2 and 'network' in done.stderr, done.stderr


@pytest.mark.parametrize(
    'options, words',
    [
        (['--network', 'cru57'], "there is no network 'cru57'; choose from cru56, cru116"),
        (['--network', 'ires50:net_multiplier=0.5'], 'net_multiplier cannot be set there, since --multiplier'),
        (['--network', 'ires50:fp16=True'], 'fp16 cannot be set there, since --fp16 decides it'),
        (['--network', 'ires50:memonger=True'], 'memonger cannot be set there, since --memonger decides it'),
        (['--network', 'ires50:image_shape=(64,64,3)'], 'image_shape cannot be set there, since the data set decides'),
        (['--network', 'ires50:net_akt=relu'], "'net_akt' is not a setting"),
        (['--network', 'att128:net_origin=release'], "net_origin='release' is not known"),
        (['--loss', 'triplet'], "there is no loss 'triplet'; choose from"),
        (['--per-batch-size', '0'], "argument --per-batch-size: '0' is not an integer of at least 1"),
        (['--steps', 'many'], "argument --steps: 'many' is not an integer of at least 1"),
        (['--lr', '-1'], "argument --lr: '-1' is not a number of at least 1e-30 and at most 1000"),
        (['--multiplier', '1000'], 'net_multiplier=1000.0 is not legal'),
        (['--data', os.path.join(ROOT, 'tests')], 'is neither empty nor a data set'),
        (
            ['--data', os.path.join(ROOT, 'tests', 'misspelt')],
            'pass another --data, or add --draw to generate one there',
        ),
        (['--data', ''], 'the name of the folder is empty'),
        (['--output', ''], 'the name of the folder is empty'),
        (['--seed', '4294967296'], "'4294967296' is not an integer of at least 0 and at most 4294967295"),
        (['--lr', '1e300'], "'1e300' is not a number of at least 1e-30"),
        (['--output', os.path.join(TOOL, 'out')], 'cannot write to'),
        (['--no-such-option'], 'unrecognized arguments: --no-such-option'),
    ],
)
def test_bad_options(run_tool, options, words, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, 'train', lambda *_: pytest.fail('it trained first'))
    output = str(tmp_path / 'out')
    code, _, err = run_tool(
        tool, *QUICK, '--identities', '2', '--images', '1', '--pairs', '10', '--output', output, *options
    )
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert not os.path.exists(output) or os.listdir(output) == []


@pytest.mark.parametrize(
    'options, classes', [(['--per-batch-size', '100000000'], None), (['--devices', '99'], None), ([], 400000000)]
)
def test_what_has_no_room_in_memory_is_refused(data, tmp_path, run_tool, monkeypatch, options, classes):
    monkeypatch.setattr(run_module, 'make_trainer', lambda *_: pytest.fail('it went on'))
    folder = damaged(
        data, str(tmp_path / 'damaged'), 'property', lambda content: b'%d,112,112' % classes if classes else content
    )
    code, _, err = run_tool(
        tool, *QUICK, '--no-verification', '--data', folder, '--output', str(tmp_path / 'out'), *options
    )
    assert code == 2 and 'and this machine has' in err and len(err.splitlines()) == 1, err


def test_a_mistyped_folder_stays_as_it_is(tmp_path, run_tool):
    for folder in (tmp_path / 'misspelt', tmp_path / 'empty'):
        if folder.name == 'empty':
            folder.mkdir()
        code, _, err = run_tool(tool, *QUICK, '--data', str(folder), '--output', str(tmp_path / 'out'))
        assert code == 2 and f'there is no data set in {folder}' in err
        assert not folder.exists() or os.listdir(str(folder)) == []
    code, _, err = run_tool(
        tool,
        *QUICK,
        *FEW_FACES,
        '--pairs',
        '10',
        '--no-verification',
        '--draw',
        '--data',
        str(folder),
        '--output',
        str(tmp_path / 'out'),
    )
    assert code == 0 and 'property' in os.listdir(str(folder)), err


def test_pairs_as_numpy_arrays_are_read(data, tmp_path):
    with open(os.path.join(data, 'drawn.bin'), 'rb') as file:
        encoded, same = pickle.load(file, encoding='bytes')
    path = str(tmp_path / 'arrays.bin')
    expected = pairs.read_pairs(os.path.join(data, 'drawn.bin'), IMAGE_SHAPE)
    for images in ([np.frombuffer(content, np.uint8) for content in encoded], np.array([*encoded, None], object)[:-1]):
        for protocol in (2, 4):
            with open(path, 'wb') as file:
                pickle.dump((images, np.array(same)), file, protocol)
            found = pairs.read_pairs(path, IMAGE_SHAPE)
            assert (
                all((one == other).all() for one, other in zip(found[0], expected[0]))
                and (found[1] == expected[1]).all()
            )


def damaged(data, folder, name, change):
    shutil.copytree(data, folder)
    path = os.path.join(folder, name)
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(change(content))
    return folder


@pytest.mark.parametrize(
    'name, change, words',
    [
        ('train.rec', lambda content: content[: len(content) // 2], 'is truncated: it has'),
        ('train.rec', lambda content: content[:-8], 'is truncated: it has'),
        ('train.rec', lambda content: b'', 'is truncated: it has 0 bytes'),
        ('train.rec', lambda content: bytes(len(content)), 'there is no record at offset'),
        ('train.idx', lambda content: b'zero one two', 'is not an index'),
        ('train.idx', lambda content: b'', 'lists no records'),
        ('train.idx', lambda content: content[: content.rstrip().rindex(b'\t')], 'is not an index'),
        ('train.idx', lambda content: content.rstrip() + b'9' * 30, 'names offsets that no file has'),
        ('train.idx', lambda content: content.replace(b'\t', b'\t-'), 'names offsets that no file has'),
        ('property', lambda content: b'4,112', 'is not readable as "classes,height,width"'),
        ('property', lambda content: b'4,0,112', 'has a number below 1'),
        ('property', lambda content: b'2,112,112', 'has label 2.0; "property" allows 0 to 1'),
        ('drawn.bin', lambda content: content[:100], 'is not a verification set'),
        (
            'drawn.bin',
            lambda content: pickle.dumps(([b'no image'] * 20, [True] * 10)),
            'list): an image cannot be decoded',
        ),
        ('drawn.bin', lambda content: pickle.dumps(([b''] * 20, [True] * 10), 4), 'list): an image is empty'),
        ('drawn.bin', lambda content: b'cos\nsystem\n(S"true"\ntR.', 'it names os.system'),
    ],
)
def test_damaged_data(data, tmp_path, name, change, words):
    folder = damaged(data, str(tmp_path / 'damaged'), name, change)
    with pytest.raises(UserError) as caught:
        records = FaceRecords(folder, IMAGE_SHAPE)
        for position in range(len(records)):
            records[position]
        pairs.read_pairs(os.path.join(folder, 'drawn.bin'), IMAGE_SHAPE)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_a_missing_file_is_named(data, tmp_path):
    folder = str(tmp_path / 'damaged')
    shutil.copytree(data, folder)
    os.remove(os.path.join(folder, 'train.rec'))
    with pytest.raises(UserError, match='train.rec is missing$'):
        FaceRecords(folder, IMAGE_SHAPE)


def test_a_record_that_says_it_has_megabytes(tmp_path):
    image = synthetic._encode(np.zeros(IMAGE_SHAPE, np.uint8))
    write_records(str(tmp_path), [([3, 4], b''), (0.0, image), (1.0, image), ([1, 3], b'')])
    with open(str(tmp_path / 'train.idx')) as index:
        last = int(index.read().split()[-1])
    with open(str(tmp_path / 'train.rec'), 'r+b') as file:
        file.seek(last + 4)
        file.write(struct.pack('<I', 1 << 28))
    with pytest.raises(UserError, match='is truncated: it has'):
        FaceRecords(str(tmp_path), IMAGE_SHAPE)


def test_of_several_labels_the_first_is_the_identity(tmp_path):
    image = synthetic._encode(np.zeros(IMAGE_SHAPE, np.uint8))
    write_records(str(tmp_path), [([3, 4], b''), ([0, 7], image), ([1, 7], image), ([1, 3], b'')])
    records = FaceRecords(str(tmp_path), IMAGE_SHAPE)
    assert [records[i][0] for i in range(2)] == [0, 1]


def test_a_data_set_without_images(tmp_path):
    write_records(str(tmp_path), [([1, 1], b'')])
    with pytest.raises(UserError, match='train.rec holds no images$'):
        FaceRecords(str(tmp_path), IMAGE_SHAPE)


def test_a_verification_set_of_hundreds_of_pairs(tmp_path):
    path, image = str(tmp_path / 'many.bin'), synthetic._encode(np.zeros((8, 8, 3), np.uint8))
    for count, fits in ((600, True), (599, False)):
        with open(path, 'wb') as file:
            pickle.dump(([image] * count, [True] * 300), file)
        if fits:
            images, same = pairs.read_pairs(path, (8, 8, 3))
            assert len(images) == 600 and len(same) == 300
        else:
            with pytest.raises(UserError, match='has 599 images for 300 pairs'):
                pairs.read_pairs(path, (8, 8, 3))


def overwrite_image(folder, number, content):
    """Write `content` over the image in a record, whose length stays."""
    with open(os.path.join(folder, 'train.idx')) as index:
        offset = dict(map(int, line.split()) for line in index)[number]
    with open(os.path.join(folder, 'train.rec'), 'r+b') as file:
        file.seek(offset + 8 + 24)
        file.write(content)


def test_a_bad_image_is_refused_or_left_out(data, tmp_path):
    folder = str(tmp_path / 'damaged')
    shutil.copytree(data, folder)
    overwrite_image(folder, 5, b'no image at all' * 20)
    with pytest.raises(UserError, match='the image of record 5 cannot be decoded'):
        records = FaceRecords(folder, IMAGE_SHAPE)
        records[4]
    records, whole = FaceRecords(folder, IMAGE_SHAPE, 'skip'), FaceRecords(data, IMAGE_SHAPE)
    assert [records[i] is None for i in range(12)] == [i == 4 for i in range(12)]
    assert [records[i][0] for i in range(12) if i != 4] == [whole[i][0] for i in range(12) if i != 4]
    batches = FaceBatches(records, 12)
    batch, order = batches.next(), [batches._order(number) for number in range(13)]
    place = next(place for place, (position, _) in enumerate(order) if position == 4)
    for row in (place, place + 1):  # the next one stands in its place, too
        if row < 12:
            label, image = whole[order[place + 1][0]]
            assert batch.label[0].asnumpy()[row] == label
            image = image[:, ::-1] if order[place + 1][1] else image
            np.testing.assert_array_equal(batch.data[0].asnumpy()[row], image.transpose(2, 0, 1))
    assert list(records.bad) == [5]


def shorten(content):
    return content[:-40]  # the last identity's record


def without_line(content):
    return b''.join(line for line in content.splitlines(True) if not line.startswith(b'7\t'))


def shifted(content):
    lines = [line.split(b'\t') for line in content.splitlines()]
    return b''.join(b'%s\t%d\n' % (number, int(offset) + (4 if number == b'7' else 0)) for number, offset in lines)


@pytest.mark.parametrize(
    'name, change, number, words',
    [
        ('train.rec', shorten, 16, 'is truncated'),
        ('train.idx', without_line, 7, 'has no record 7'),
        ('train.idx', shifted, 7, 'record 7 is not readable'),
    ],
)
def test_files_that_do_not_fit_each_other(data, tmp_path, name, change, number, words):
    folder = damaged(data, str(tmp_path / 'damaged'), name, change)
    with pytest.raises(UserError, match=words):
        records = FaceRecords(folder, IMAGE_SHAPE)
        for position in range(len(records)):
            records[position]
    records = FaceRecords(folder, IMAGE_SHAPE, 'skip')
    labels = [found[0] for found in (records[position] for position in range(len(records))) if found]
    assert labels == [label for position, label in enumerate(np.repeat(range(4), 3), 1) if position != number]
    assert list(records.bad) == [number]


def test_every_missing_record_counts(data, tmp_path):
    def without(content):
        return b''.join(
            line for line in content.splitlines(True) if line.split(b'\t')[0] not in (b'3', b'7', b'8', b'15')
        )

    folder = damaged(data, str(tmp_path / 'damaged'), 'train.idx', without)
    with pytest.raises(UserError, match='has no record 3'):
        FaceRecords(folder, IMAGE_SHAPE)
    records = FaceRecords(folder, IMAGE_SHAPE, 'skip')
    assert len(records) == 9 and records.count_bad() == 4 and list(records.bad) == [3, 15]


def write_records(folder, records):
    """Write a data set of records (label, content) into a folder."""
    record = mx.recordio.MXIndexedRecordIO(os.path.join(folder, 'train.idx'), os.path.join(folder, 'train.rec'), 'w')
    for number, (label, content) in enumerate(records):
        record.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), content))
    record.close()
    with open(os.path.join(folder, 'property'), 'w') as file:
        file.write('2,112,112')


@pytest.mark.parametrize(
    'label', [[-1, 3], [4, 3], [float('nan'), 3], [1, float('nan')], [1, float('inf')], [1, 2, 3], [3], 3.0]
)
def test_a_range_with_one_bad_end(tmp_path, label):
    image = synthetic._encode(np.zeros(IMAGE_SHAPE, np.uint8))
    for whole in (True, False):  # the range of the set, the range of an identity
        first = [label if whole else [3, 5], [1, 3] if whole else label]
        write_records(str(tmp_path), [(first[0], b''), (0.0, image), (1.0, image), (first[1], b''), ([1, 3], b'')])
        with pytest.raises(UserError, match='record %d should hold a range of records' % (0 if whole else 3)):
            FaceRecords(str(tmp_path), IMAGE_SHAPE)


def test_a_range_of_billions_is_not_walked(tmp_path):
    image = synthetic._encode(np.zeros(IMAGE_SHAPE, np.uint8))
    write_records(str(tmp_path), [([3, 1e30], b''), (0.0, image), (1.0, image), ([1, 3], b'')])
    with pytest.raises(UserError, match='has no record 4'):
        FaceRecords(str(tmp_path), IMAGE_SHAPE)
    records = FaceRecords(str(tmp_path), IMAGE_SHAPE, 'skip')
    assert len(records) == 2 and records.count_bad() == int(np.float32(1e30)) - 4


def test_an_identity_without_images(tmp_path):
    folder, image = str(tmp_path), synthetic._encode(np.zeros(IMAGE_SHAPE, np.uint8))
    write_records(folder, [([3, 5], b''), (0.0, image), (1.0, image), ([1, 3], b''), ([3, 3], b'')])
    with pytest.raises(UserError, match='the identity of record 4 has no images'):
        FaceRecords(folder, IMAGE_SHAPE)
    records = FaceRecords(folder, IMAGE_SHAPE, 'skip')
    assert list(records.bad) == [4] and [records[i][0] for i in range(2)] == [0, 1]


def test_the_tool_leaves_bad_records_out_and_says_how_many(data, tmp_path, run_tool):
    folder = damaged(data, str(tmp_path / 'damaged'), 'train.idx', without_line)
    overwrite_image(folder, 5, b'no image at all' * 20)
    options = QUICK + [
        '--steps',
        '4',
        '--lr',
        '0.01',
        '--data',
        folder,
        '--no-verification',
        '--output',
        str(tmp_path / 'out'),
    ]
    code, out, err = run_tool(tool, *options)
    assert code == 2 and 'has no record 7' in err
    code, out, _ = run_tool(tool, *options, '--on-bad-record', 'skip')
    assert code == 0 and 'worker 0 left out 2 records; the first: ' in out and 'has no record 7' in out


def test_nothing_usable(data, tmp_path):
    folder = damaged(data, str(tmp_path / 'damaged'), 'property', lambda content: b'4,64,64')
    records = FaceRecords(folder, (64, 64, 3), 'skip')
    with pytest.raises(UserError, match='not one of its 12 images is usable; the first: .* is an image of'):
        FaceBatches(records, 2).next()


def test_what_a_killed_run_was_drawing_is_drawn_anew(tmp_path, run_tool):
    unfinished = tmp_path / 'out' / 'data' / '.unfinished-x'
    unfinished.mkdir(parents=True)
    (unfinished / 'train.rec').write_bytes(b'x' * 100)
    code, _, err = run_tool(
        tool, *QUICK, '--lr', '0.01', *FEW_FACES, '--no-verification', '--output', str(tmp_path / 'out')
    )
    assert code == 0, err
    assert sorted(os.listdir(str(unfinished.parent))) == ['drawn.bin', 'property', 'train.idx', 'train.rec']


def test_sigterm_while_it_draws_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, TOOL] + QUICK + ['--identities', '200', '--output', str(tmp_path / 'out')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not os.path.isdir(str(tmp_path / 'out' / 'data')) or os.listdir(str(tmp_path / 'out' / 'data')) == []:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert os.listdir(str(tmp_path)) == []


def test_damaged_data_stops_the_tool(data, tmp_path):
    folder = damaged(data, str(tmp_path / 'damaged'), 'train.rec', lambda content: content[:9000])
    done = run(*QUICK + ['--data', folder, '--output', str(tmp_path / 'out')])
    assert done.returncode == 2 and 'is truncated' in done.stderr and 'Traceback' not in done.stderr
    assert not os.path.exists(str(tmp_path / 'out'))
