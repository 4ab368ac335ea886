"""Labelled images for training a classifier, from a RecordIO file, through MXNet's own reader."""

import json
import math
import os
import zlib

import numpy as np

from netkit._mxnet import mx
from netkit.data.augment import Augmentation
from netkit.data.batches import ALONE, ORDER
from netkit.data.images import Unusable, open_picture
from netkit.data.recordio import RecordFile
from netkit.errors import UserError, reason

# Szegedy et al., "Going deeper with convolutions", section 6: a random part of 8 to 100 % of the image, of an aspect
# ratio between 3/4 and 4/3. Colours: Krizhevsky et al., "ImageNet classification with deep CNNs", section 4.1.
CROP, ASPECT, LIGHTING = math.sqrt(0.08), (3 / 4, 4 / 3), 0.1
COLOR = 0.4  # share by which brightness, contrast and saturation change, as is usual since fb.resnet.torch
USUAL = Augmentation(CROP, COLOR)


def names_path(path):
    """Return the path of the names of the classes of a RecordIO file, as `pack.py` writes them."""
    return path[: -len('.rec')] + '.classes.json'


def class_names(path):
    """Return the names of the classes of a RecordIO file, None where they are not known; raises UserError."""
    try:
        with open(names_path(path), encoding='utf-8') as file:
            names = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f'{names_path(path)} is no list of names: {error}')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{names_path(path)} is no list of names')
    return names


class ClassRecords:
    """The labels of a RecordIO file: `len(records)` images of `records.classes` classes."""

    def __init__(self, path):
        """Read the labels; raises UserError for another file, and for labels that are not whole numbers from 0."""
        file = RecordFile(path)
        labels = np.array([file.label(number) for number in range(len(file))])
        wrong = np.flatnonzero((labels < 0) | (labels != np.floor(labels)) | (labels >= 2**24))
        if len(wrong):
            raise UserError(f'{path}: record {wrong[0]} has label {labels[wrong[0]]:g}, which is no class')
        self.path, self.images, self.classes = path, len(labels), int(labels.max()) + 1
        self._labels = zlib.crc32(labels.astype('<i4').tobytes())
        self.names = class_names(path)
        if self.names is not None and len(self.names) != self.classes:
            raise UserError(
                f'{names_path(path)} has {len(self.names)} names, and {path} labels of {self.classes} classes; '
                'they do not belong together'
            )
        missing = sorted(set(range(self.classes)) - set(labels.astype(int).tolist()))
        if missing:
            raise UserError(
                f'{path} has labels up to {self.classes - 1}, but no image with label {missing[0]}; pack it again with '
                'pictures in every folder'
            )

    def __len__(self):
        return self.images

    def steps_per_epoch(self, batch_size):
        """Return the steps in which every image is seen once, but for those that do not fill the last batch."""
        return max(1, len(self) // batch_size)

    def first_bad(self):
        """Return what is wrong with the first record whose image cannot be decoded, None if all can."""
        file = RecordFile(self.path)
        for number in range(len(file)):
            try:
                open_picture(file[number][1])
            except Unusable as error:
                return f'record {number} {error}'
        return None

    def checksum(self):
        """Return a checksum of the file: of its size and its labels in their order."""
        return zlib.crc32(b'%d' % os.path.getsize(self.path), self._labels)


class ClassBatches:
    """An endless stream of training batches: a random part of each image, mirrored and recoloured at random.

    To begin within an epoch, what comes before is read and left out.
    """

    def __init__(self, records, image_shape, batch_size, share=ALONE, augmentation=USUAL, threads=4):
        """Read images of `image_shape` with so many threads. `augmentation.crop` is of a square part."""
        self.records, self.batch_size = records, batch_size
        self.seed, part_index, self.num_parts, self.step = share
        self._epoch = self._reader = None
        self._options = dict(
            path_imgrec=records.path,
            data_shape=(3, *image_shape[:2]),
            batch_size=batch_size,
            shuffle=True,
            part_index=part_index,
            num_parts=self.num_parts,
            preprocess_threads=threads,
            random_resized_crop=True,
            min_random_area=augmentation.crop**2,
            max_random_area=1.0,
            min_aspect_ratio=ASPECT[0],
            max_aspect_ratio=ASPECT[1],
            rand_mirror=True,
            brightness=augmentation.color,
            contrast=augmentation.color,
            saturation=augmentation.color,
            pca_noise=LIGHTING if augmentation.color else 0.0,
            verbose=False,
        )

    @property
    def steps_per_epoch(self):
        """The steps of an epoch."""
        return self.records.steps_per_epoch(self.batch_size * self.num_parts)

    def close(self):
        """End the reader."""
        self._reader = None

    def next(self):
        """Return an mx.io.DataBatch: data (batch, 3, h, w) 0…255, label (batch,)."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        try:
            if epoch != self._epoch:
                self._open(epoch)
                for _ in range(place):
                    self._read()
            self.step += 1
            return self._read()
        except mx.MXNetError as error:
            raise UserError(f'MXNet cannot read {self.records.path}: {self.records.first_bad() or reason(error)}')

    def _open(self, epoch):
        """Begin an epoch, in an order of its own."""
        seed = int(np.random.RandomState([self.seed, ORDER, epoch]).randint(2**31 - 1))
        self._epoch, self._reader = epoch, mx.io.ImageRecordIter(seed=seed, seed_aug=seed, **self._options)

    def _read(self):
        """Return the next batch of the reader, which begins anew where this worker's part is shorter than others'."""
        for _ in range(2):
            for batch in self._reader:
                return batch
            self._reader.reset()
        raise UserError(f'{self.records.path} has no images for one of the {self.num_parts} workers')
