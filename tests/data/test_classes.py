"""Labelled images: labels and names that do not belong together, in `.rec` files."""

import os

import numpy as np
import pytest

import shapes
from netkit._mxnet import mx
from netkit.classification.pictures import Pictures
from netkit.data import packing
from netkit.data.classes import ClassImages
from netkit.errors import UserError
from netkit.evaluation import imagenet


def write(path, labels, flag=0):
    """Write records with MXNet."""
    record = mx.recordio.MXRecordIO(str(path), 'w')
    for number, label in enumerate(labels):
        record.write(mx.recordio.pack(mx.recordio.IRHeader(flag, label, number, 0), b'image'))
    record.close()
    return str(path)


def test_records_of_pack_are_the_images_of_the_folder(tmp_path):
    """In the order of the file; MXNet reads the same labels."""
    pictures, packed = str(tmp_path / 'pictures'), str(tmp_path / 'train.rec')
    shapes.write(pictures, images=2, seed=0)
    packing.pack_classes(pictures, packed, 40)
    (tmp_path / 'train.idx').write_text('0\t0\n1\t99999999\n')  # of something else; it is not read
    found, expected = ClassImages(packed), ClassImages(pictures)
    assert found.names == expected.names and found.classes == expected.classes == 10 and len(found) == 20
    record, labels = mx.recordio.MXRecordIO(packed, 'r'), []
    for _ in range(20):
        labels.append(mx.recordio.unpack(record.read())[0].label)
    assert found.labels.tolist() == labels and record.read() is None
    for label in range(10):
        images = [
            sorted(np.asarray(of.picture(number)).mean() for number in np.flatnonzero(of.labels == label))
            for of in (found, expected)
        ]
        np.testing.assert_allclose(*images, atol=2)  # a JPEG of it


@pytest.mark.parametrize('label', [1.5, -1, float('nan'), 2**25])
def test_labels_that_are_not_classes(tmp_path, label):
    path = write(tmp_path / 'train.rec', [0, label])
    for reader in (ClassImages, Pictures, lambda path: imagenet.Images(path, 36, 32)):
        with pytest.raises(UserError, match=r'record 1 has label .*, which is not a class'):
            reader(path)


def test_a_class_without_images_is_for_measuring_only(tmp_path):
    path = write(tmp_path / 'train.rec', [0, 1, 3])
    with pytest.raises(UserError, match='has 4 classes, and no image of class 2$'):
        Pictures(path)
    assert imagenet.Images(path, 36, 32).classes == 4
    shapes.write(str(tmp_path / 'pictures'), images=1, seed=0)
    os.remove(str(tmp_path / 'pictures' / 'disc' / '0.png'))
    with pytest.raises(UserError, match=r'has 10 classes, and no image of class \d \(disc\)'):
        Pictures(str(tmp_path / 'pictures'))


def test_the_first_of_several_labels_is_the_class(tmp_path):
    """im2rec writes several with a label width above 1."""
    path = write(tmp_path / 'train.rec', np.array([[1, 7], [0, 9]], np.float32), flag=2)
    assert ClassImages(path).labels.tolist() == [1, 0]


def test_folders_without_images_and_images_that_are_none(tmp_path):
    with pytest.raises(UserError, match='has no subfolders with images'):
        ClassImages(str(tmp_path))
    shapes.write(str(tmp_path), images=1, seed=0)
    (tmp_path / 'zero').mkdir()
    found = ClassImages(str(tmp_path))
    assert found.classes == 11 and len(found) == 10 and found.names[-1] == 'zero'
    (tmp_path / 'bar' / '0.png').write_text('nope')
    number = found.files.index(str(tmp_path / 'bar' / '0.png'))
    with pytest.raises(UserError, match='bar/0.png is not readable as an image'):
        found.picture(number)
    with pytest.raises(UserError, match='train.rec: record 1 is not readable as an image'):
        ClassImages(write(tmp_path / 'train.rec', [0, 1])).picture(1)
    (tmp_path / 'train.classes.json').mkdir()
    with pytest.raises(UserError, match=r'train\.classes\.json is not a list of names'):
        ClassImages(str(tmp_path / 'train.rec'))


@pytest.mark.parametrize(
    'content, words',
    [
        ('3', 'is not a list of names'),
        ('{"a": 1}', 'is not a list of names'),
        ('[1]', 'is not a list of names'),
        ('[', 'is not a list of names'),
        ('["a"]', 'has 1 names, and .*train.rec labels of 2 classes; they do not belong together'),
        ('["a", "b", "c"]', 'has 3 names, and .*train.rec labels of 2 classes; they do not belong together'),
    ],
)
def test_names_that_do_not_belong_to_the_records(tmp_path, content, words):
    path = write(tmp_path / 'train.rec', [0, 1])
    (tmp_path / 'train.classes.json').write_text(content)
    with pytest.raises(UserError, match=r'train\.classes\.json ' + words):
        ClassImages(path)
