"""Data sets as insightface's own tools write them; what is in them, its own way of reading says."""

import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from PIL import Image

import train as tool
from netkit._mxnet import mx
from netkit.data.pairs import PairSet
from netkit.data.records import FaceRecords, image_shape_of
from netkit.errors import UserError

SHAPE = (16, 16, 3)


def pictures(count, side=16, seed=0):
    """Return pictures, encoded: smooth ones, so that JPEG and resizing keep them."""
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        colours = Image.fromarray(rng.randint(0, 256, (2, 2, 3), np.uint8))
        colours.resize((side, side), Image.BICUBIC).save(buffer, 'JPEG', quality=100)
        found.append(buffer.getvalue())
    return found


# ------------------------------------------------------------------------------------------------ verification


def load_bin(path, side):
    """Read a verification set as insightface's `load_bin` does; return (images, truth values)."""
    with open(path, 'rb') as file:
        bins, same = pickle.load(file, encoding='bytes')
    found = []
    for number in range(2 * len(same)):
        image = mx.image.imdecode(bytes(bytearray(bins[number])))
        if image.shape[1] != side:
            image = mx.image.resize_short(image, side)
        found.append(image.asnumpy())
    return np.stack(found), [bool(value) for value in same]


def as_array(content):
    """Return bytes as OpenCV's imencode returns them."""
    return np.frombuffer(content, np.uint8)


def python_2(content):
    """Return a pickle by Python 2 of an array of bytes: its texts are bytes, without a name for their encoding."""
    size = struct.pack('<i', len(content))
    return (
        b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(J'
        + size
        + b'tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T'
        + size
        + content
        + b'tb'
    )


SETS = {
    'build_eval_pack': lambda images, same: pickle.dumps((list(map(as_array, images)), same), pickle.HIGHEST_PROTOCOL),
    'columns': lambda images, same: pickle.dumps(([as_array(one)[:, None] for one in images], same), 5),
    'arrays, protocol 2': lambda images, same: pickle.dumps((list(map(as_array, images)), same), 2),
    'truth in an array': lambda images, same: pickle.dumps((images, np.array(same)), 4),
    'truth in numbers': lambda images, same: pickle.dumps((images, np.array(same, np.float32)), 5),
    'truth in a list of floats': lambda images, same: pickle.dumps((images, [float(value) for value in same]), 2),
    'truth in numpy numbers': lambda images, same: pickle.dumps((images, list(np.array(same, np.int64))), 5),
    'Python 2': lambda images, same: (
        b'\x80\x02(]('
        + b''.join(map(python_2, images))
        + b'e]('
        + b''.join(b'\x89\x88'[of : of + 1] for of in same)
        + b'et.'
    ),
}


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('kind', SETS)
def test_a_verification_set(kind, package, tmp_path):
    """As numpy before 2 and since names its modules."""
    images, same, path = pictures(4), [True, False], str(tmp_path / 'lfw.bin')
    content = SETS[kind](images, same)
    with open(path, 'wb') as file:
        file.write(content)
    expected, truth = load_bin(path, SHAPE[0])
    other = 'numpy.core' if package == 'numpy._core' else 'numpy._core'
    names = {arg for _, arg, _ in pickletools.genops(content) if isinstance(arg, str) and arg.startswith(other)}
    if names:  # written by a numpy of the other age
        content = renamed(content, other, package)
        with open(path, 'wb') as file:
            file.write(content)
    pairs = PairSet(path, SHAPE)
    assert pairs.same.tolist() == truth == same
    np.testing.assert_array_equal([pairs.image(number) for number in range(4)], expected)


def renamed(content, before, after):
    """Return a pickle with another name of numpy's package; the lengths of texts are part of some."""
    longer = len(after) - len(before)
    for tail in ('.multiarray', '.numeric'):
        old, new = (before + tail).encode(), (after + tail).encode()
        content = content.replace(bytes([len(old)]) + old, bytes([len(old) + longer]) + new)
        content = content.replace(b'c' + old + b'\n', b'c' + new + b'\n')
    at = content.find(b'\x95') if content[1] > 3 else -1
    if at == 2:  # the frame says how long it is; without it a pickle is as good
        content = content[:2] + content[11:]
    return content


def nested(depth):
    """Return a tuple of a tuple twice, and so on: its text would not end in a lifetime."""
    found = ()
    for _ in range(depth):
        found = found, found
    return found


def test_an_image_that_is_a_number(tmp_path):
    """Of which Python would make as many bytes."""
    (tmp_path / 'lfw.bin').write_bytes(pickle.dumps(([10**30] * 2, [True])))
    with pytest.raises(UserError, match='an image is a int'):
        PairSet(str(tmp_path / 'lfw.bin'), SHAPE).image(0)


@pytest.mark.parametrize('side, words', [(4097, 'a side of more than 4096'), (3, '3×3 pixels, which is no 16×16 one')])
def test_pictures_that_are_too_large_or_too_small(side, words, tmp_path):
    with open(str(tmp_path / 'lfw.bin'), 'wb') as file:
        pickle.dump((pictures(2, side), [True]), file)
    with pytest.raises(UserError, match=words):
        PairSet(str(tmp_path / 'lfw.bin'), SHAPE).image(0)


@pytest.mark.parametrize('side', [8, 24, 40])
def test_pictures_of_another_size_are_resized_as_by_insightface(side, tmp_path):
    path = str(tmp_path / 'lfw.bin')
    with open(path, 'wb') as file:
        pickle.dump((pictures(4, side), [True, False]), file)
    pairs = PairSet(path, SHAPE)
    np.testing.assert_array_equal([pairs.image(number) for number in range(4)], load_bin(path, SHAPE[0])[0])


@pytest.mark.parametrize(
    'content, words',
    [
        (pickle.dumps(([b'x'] * 2, [0.5])), '0.5 is neither true nor false'),
        (pickle.dumps(([b'x'] * 2, [float('nan')])), 'nan is neither true nor false'),
        (pickle.dumps(([np.array([1.5 + 1j])] * 2, [True]), 5), 'it holds an array of c16'),
        (b'\x80\x02})' + b'2\x86' * 60 + b'Ns.', 'it holds a dict or a set'),
        (b'\x80\x04(' + b')' + b'2\x86' * 60 + b'\x91.', 'it holds a dict or a set'),
        (pickle.dumps(([b'x'] * 2, [nested(60)]), 4), 'a tuple is neither true nor false'),
        (
            b'\x80\x05(cnumpy.core.numeric\n_frombuffer\n(C\x01xcnumpy\ndtype\nC\x02u1\x85RK\x09\x85C\x01CtR]t.',
            'reshape',
        ),
        (b'\x80\x05(cnumpy.core.numeric\nload\nC\x01x\x85R]t.', 'it names numpy.core.numeric.load'),
    ],
)
def test_what_is_none(content, words, tmp_path):
    (tmp_path / 'lfw.bin').write_bytes(content)
    with pytest.raises(UserError, match=words):
        PairSet(str(tmp_path / 'lfw.bin'), SHAPE)


# --------------------------------------------------------------------------------------------------- training

LABELS = [0, 2, 1, 2, 0, 1]


def record(label, number, image):
    return mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), image)


def write(folder, images, labels=LABELS, index=True, first=0, lines=None):
    """Write records, one for each image, and perhaps an index and a `property` of some lines."""
    path, keys = (os.path.join(str(folder), 'train' + end) for end in ('.rec', '.idx'))
    writer = mx.recordio.MXIndexedRecordIO(keys, path, 'w') if index else mx.recordio.MXRecordIO(path, 'w')
    for number, (label, image) in enumerate(zip(labels, images), first):
        packed = record(label, number, image)
        writer.write_idx(number, packed) if index else writer.write(packed)
    writer.close()
    if lines is not None:
        with open(os.path.join(str(folder), 'property'), 'w', encoding='utf-8') as file:
            file.write(lines)


SOURCES = {
    'RecBuilder': dict(lines='3,16,16\n6\n'),
    'RecBuilder with lists of labels': dict(lines='3,16,16\n6\n', labels=[[label, 7, 9] for label in LABELS]),
    'two labels': dict(lines='3,16,16\n6\n', labels=[[label, 5] for label in LABELS]),
    'im2rec': dict(),
    'keys that begin at 1': dict(first=1),
    'rec2shufrec': dict(lines='3,112,112\n6\nshuffled\n2021-01-01 10:00:00\n'.replace('112', '16'), index=False),
    'no index and no property': dict(index=False),
    'a BOM': dict(lines='\ufeff3,16,16\n'),
}


@pytest.mark.parametrize('source', SOURCES)
def test_a_training_set(source, tmp_path):
    """Of which insightface's trainers take all records, and the first label of each."""
    images = pictures(6)
    write(tmp_path, images, **SOURCES[source])
    assert image_shape_of(str(tmp_path)) == SHAPE
    records = FaceRecords(str(tmp_path), SHAPE)
    assert (len(records), records.classes, records.note, records.bad) == (6, 3, None, {})
    for number, (label, image) in enumerate(records[number] for number in range(6)):
        assert label == LABELS[number]
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(images[number]))))
    sums = {records.checksum()}
    write(tmp_path, [*images[:5], images[0] + b'more'], **SOURCES[source])
    assert len(sums | {FaceRecords(str(tmp_path), SHAPE).checksum()}) == 2


def test_an_index_is_made_of_a_set_of_ranges_too(tmp_path):
    """It is in the order of its keys."""
    images = pictures(3)
    write(tmp_path, [b'', *images, b'', b''], [[4, 6], 0, 0, 1, [1, 3], [3, 4]], index=False)
    records = FaceRecords(str(tmp_path), SHAPE)
    assert [records[number][0] for number in range(len(records))] == [0, 0, 1] and records.classes == 2


def test_labels_and_property_that_disagree(tmp_path):
    write(tmp_path, pictures(6), lines='5,16,16\n')
    assert FaceRecords(str(tmp_path), SHAPE).note.endswith('train.rec has 3 people, and "property" says 5')
    (tmp_path / 'property').unlink()
    write(tmp_path, pictures(6), [0, 2, 1, 2, 0, 5])
    assert FaceRecords(str(tmp_path), SHAPE).note.endswith('has pictures of 4 people, and labels up to 5')
    write(tmp_path, [b'', *pictures(3), b'', b''], [[4, 6], 0, 0, 1, [1, 3], [3, 4]], lines='9,16,16\n')
    records = FaceRecords(str(tmp_path), SHAPE)
    assert records.note.endswith('train.rec has 2 people, and "property" says 9') and records.classes == 9
    write(tmp_path, pictures(6), lines='2,16,16\n')
    with pytest.raises(UserError, match='record 1 has label 2.0; "property" allows 0 to 1'):
        FaceRecords(str(tmp_path), SHAPE)
    records = FaceRecords(str(tmp_path), SHAPE, 'skip')
    assert sorted(records.bad) == [1, 3] and records[1] is None and records[2][0] == 1
    (tmp_path / 'property').unlink()
    write(tmp_path, pictures(6), [0, 1, 2.5, 3, 1e30, float('nan')])
    records = FaceRecords(str(tmp_path), SHAPE, 'skip')
    assert records.classes == 4 and sorted(records.bad) == [2, 4, 5]


def test_the_size_is_that_of_the_first_good_image(tmp_path):
    write(tmp_path, [b'no image', *pictures(5)])
    assert image_shape_of(str(tmp_path)) == SHAPE
    write(tmp_path, pictures(6), [0.5] * 6)
    with pytest.raises(UserError, match='record 0 has label 0.5; a label is 0 to .*, and no other is good'):
        image_shape_of(str(tmp_path))
    write(tmp_path, [b'no image'] * 6)
    with pytest.raises(UserError, match='the image of record 0 cannot be decoded, nor any other'):
        image_shape_of(str(tmp_path))


@pytest.mark.parametrize('source', ['RecBuilder', 'im2rec', 'rec2shufrec'])
def test_a_training_on_it(source, run_tool, tmp_path):
    lines = SOURCES[source].get('lines', '').replace('16', '32') or None
    folder = tmp_path / 'set'
    folder.mkdir()
    write(folder, pictures(6, 32), **{**SOURCES[source], 'lines': lines})
    options = ['--multiplier', '0.05', '--steps', '2', '--per-batch-size', '2', '--no-verification']
    code, out, err = run_tool(tool, '--data', str(folder), *options, '--output', str(tmp_path / 'out'))
    assert code == 0 and f'using the data set that is in {folder}' in out, err
    assert os.path.exists(str(tmp_path / 'out' / 'cru56-0001.params'))
