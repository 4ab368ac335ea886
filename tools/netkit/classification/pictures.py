"""Labelled images for PyTorch: folders with a subfolder per class, or the `.rec` files of pack.py."""

import os

import numpy as np
from PIL import Image

from netkit.data.folders import classes_in
from netkit.data.images import Unusable, open_picture
from netkit.data.recordio import RecordFile
from netkit.errors import UserError


class Pictures:
    """A data set of (image of Pillow's, label); `classes` is how many, `transform` what timm's loader sets.

    Raises UserError for a path without images.
    """

    def __init__(self, path):
        self.path, self.transform, self.names = path, None, None  # `names` of the classes, None for records
        self.records, self.files = None, []
        if os.path.isdir(path):
            classes, _ = classes_in(path)
            self.files = [(file, label) for label, files in enumerate(classes.values()) for file in files]
            self.classes, self.names = len(classes), list(classes)
            if not self.files:
                raise UserError(f'{path} has no subfolders with images')
        else:
            self.records = RecordFile(path)
            labels = [self.records.label(number) for number in range(len(self.records))]
            wrong = next((number for number, label in enumerate(labels) if label < 0 or label != int(label)), None)
            if wrong is not None:
                raise UserError(f'{path}: record {wrong} has the label {labels[wrong]:g}, not an integer from 0 on')
            self.classes = int(max(labels)) + 1

    def __len__(self):
        return len(self.records or self.files)

    def __getitem__(self, number):
        if self.records:
            label, content = self.records[number]
            source, where = content, f'{self.path}: record {number}'
        else:
            source, label = self.files[number]
            where = source
        try:
            image = open_picture(source)
        except Unusable as error:
            raise UserError(f'{where} is not an image that can be used: it {error}')
        return (self.transform(image) if self.transform else image), int(label)


def set_in(folder, name):
    """Return the path of the set `train` or `val` in a folder: a folder, or a `.rec` file; raises UserError."""
    for path in (os.path.join(folder, name), os.path.join(folder, f'{name}.rec')):
        if os.path.exists(path):
            return path
    raise UserError(f'{folder} has neither {name}/ with a subfolder per class nor {name}.rec (tools/pack.py classes)')


class Hsl:
    """Changes hue, saturation and lightness of an image at random, each by up to a number of steps.

    Hue has 180 steps, the others 255, as in the MXNet code of CRU-Net's authors.
    """

    def __init__(self, hue, saturation, lightness):
        self.most = hue, lightness, saturation  # in the order of OpenCV's HLS

    def __call__(self, image):
        import cv2

        planes = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2HLS).astype(np.int16)
        change = [np.random.randint(-most, most + 1) for most in self.most]
        planes = planes + np.array(change, np.int16)
        planes[..., 0] %= 180
        planes = np.clip(planes, 0, 255).astype(np.uint8)
        return Image.fromarray(cv2.cvtColor(planes, cv2.COLOR_HLS2RGB))
