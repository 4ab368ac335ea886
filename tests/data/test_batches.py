"""What a training reads: augmentation, and readers in processes."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from netkit.data import augment, synthetic
from netkit.data.augment import Augmentation
from netkit.data.batches import FaceBatches, Share
from netkit.data.records import FaceRecords
from netkit.errors import UserError

SHAPE = (112, 112, 3)
ALL = Augmentation(0.9, 0.1, 30)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('faces'))
    synthetic.write_synthetic(folder, identities=3, images=4, pairs=10, seed=2)
    return folder


def numbers(batch):
    return batch.data[0].asnumpy(), batch.label[0].asnumpy()


def assert_same(first, second):
    for one, other in zip(numbers(first), numbers(second)):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------ augmentation


@pytest.mark.parametrize('factors', [(1.3, 1, 1), (1, 0.6, 1), (1, 1, 1.5), (0.9, 1.1, 0.8)])
def test_colours_change_as_pillow_changes_them(factors):
    """One after the other, with its own rounding and its own limits."""
    image = np.random.RandomState(0).randint(60, 160, (16, 16, 3)).astype(np.uint8)
    expected = Image.fromarray(image)
    for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors):
        expected = kind(expected).enhance(factor)
    difference = np.asarray(augment.recoloured(Image.fromarray(image), *factors)).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 3
    assert np.abs(np.asarray(expected).astype(int) - image).mean() > 5  # it does change


def test_a_part_is_enlarged_to_the_whole():
    image = np.add.outer(np.arange(100) * 2, np.arange(100) / 2)[..., None].repeat(3, 2).astype(np.uint8)
    part = np.asarray(augment.cropped(Image.fromarray(image), 0.5, 1, 0))  # top, right
    assert part.shape == image.shape and np.abs(part[::2, ::2].astype(int) - image[:50, 50:]).max() <= 2


@pytest.mark.parametrize('row, column, area', [(0.5, 0.5, 100), (0, 0, 25), (0.999, 0.999, 30)])
def test_a_square_is_covered_even_at_the_edge(row, column, area):
    image = np.zeros((20, 20, 3), np.uint8)
    grey = augment.covered(image, 10, row, column) == augment.GREY
    assert grey.all(axis=2).sum() == grey.any(axis=2).sum() and abs(grey.all(axis=2).sum() - area) <= 6
    assert not image.any()  # of the caller


def drawn(number):
    return tuple(np.random.RandomState(number).uniform(size=augment.NUMBERS))


def test_augmentation_depends_on_the_image_and_the_numbers_only(faces):
    records = FaceRecords(faces, SHAPE)
    content = records.read(0)[1]
    plain = np.asarray(Image.open(io.BytesIO(content)))
    first = augment.prepared(content, False, ALL, drawn(1))
    np.testing.assert_array_equal(first, augment.prepared(content, False, ALL, drawn(1)))
    np.testing.assert_array_equal(first[:, ::-1], augment.prepared(content, True, ALL, drawn(1)))
    others = [augment.prepared(content, False, ALL, drawn(number)) for number in range(2, 60)]
    assert all(not np.array_equal(first, other) for other in others)
    covered = np.mean([(image == augment.GREY).all(axis=2).sum() > 100 for image in others])
    assert 0.25 < covered < 0.75  # half of them
    np.testing.assert_array_equal(augment.prepared(content, False, Augmentation(), drawn(1)), plain)


@pytest.mark.parametrize('option, most', [(Augmentation(crop=0.9), 40), (Augmentation(color=0.1), 45)])
def test_augmented_faces_stay_near_what_they_were(faces, option, most):
    content = FaceRecords(faces, SHAPE).read(0)[1]
    plain = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    changes = [np.abs(augment.prepared(content, False, option, drawn(seed)) - plain).mean() for seed in range(20)]
    assert np.mean(changes) > 0.5 and max(changes) < most


# ------------------------------------------------------------------------------------------------ readers


def test_readers_make_the_same_batches_and_end(faces):
    records = FaceRecords(faces, SHAPE)
    alone = FaceBatches(records, 5, Share(3, step=2), ALL)
    with_readers = FaceBatches(records, 5, Share(3, step=2), ALL, 2)
    for _ in range(6):  # through several passes
        assert_same(alone.next(), with_readers.next())
    processes = with_readers._readers.processes
    with_readers.close()
    assert len(processes) == 2 and not any(process.is_alive() for process in processes)


def test_readers_leave_out_what_is_bad(faces, tmp_path):
    """The same records as without them, and the next good image in their place."""
    for name in os.listdir(faces):
        (tmp_path / name).write_bytes(open(os.path.join(faces, name), 'rb').read())
    good = FaceRecords(faces, SHAPE)
    content = (tmp_path / 'train.rec').read_bytes()
    images = [good.read(position)[1] for position in (2, 7)]
    for image in images:
        content = content.replace(image, b'\0' * len(image))
    (tmp_path / 'train.rec').write_bytes(content)
    both = [FaceRecords(str(tmp_path), SHAPE, 'skip') for _ in range(2)]
    streams = [FaceBatches(records, 6, readers=readers) for records, readers in zip(both, (0, 1))]
    for _ in range(4):
        assert_same(*[stream.next() for stream in streams])
    streams[1].close()
    assert set(both[0].bad) == set(both[1].bad) == {3, 8}
    with pytest.raises(UserError, match='the image of record [38] cannot be decoded'):
        stream = FaceBatches(FaceRecords(str(tmp_path), SHAPE), 12)
        stream.next()


def test_a_reader_that_is_killed_is_one_sentence(faces):
    stream = FaceBatches(FaceRecords(faces, SHAPE), 8, readers=1)
    stream.next()
    for process in stream._readers.processes:
        os.kill(process.pid, 9)
    with pytest.raises(UserError, match='a process of --readers was ended from outside'):
        for _ in range(3):
            stream.next()
    stream.close()


def test_half_of_the_images_are_covered():
    image = Image.new('RGB', (40, 40))
    for last, is_covered in ((0.49, True), (0.51, False)):
        found = augment.augmented(image, Augmentation(cutoff=10), (0.5,) * 8 + (last,))
        assert bool(found.any()) is is_covered


def test_colours_change_both_ways():
    image = Image.new('RGB', (8, 8), (100, 120, 140))
    for factor, expected in ((0.0, 0.9), (0.5, 1.0), (1.0, 1.1)):
        found = augment.augmented(image, Augmentation(color=0.1), (0.5,) * 3 + (factor,) + (0.5,) * 5)
        np.testing.assert_allclose(found.mean(), 120 * expected, atol=1)


def test_every_image_of_a_batch_is_changed_in_its_own_way(faces):
    class Same(FaceRecords):
        def read(self, position):
            return super().read(0)

    batch = FaceBatches(Same(faces, SHAPE), 12, augmentation=Augmentation(0.8, 0.2)).next()
    assert len({image.tobytes() for image in batch.data[0].asnumpy()}) == 12
