"""Labelled images for PyTorch: folders with a subfolder per class, or the `.rec` files of pack.py."""

import os

import numpy as np
from PIL import Image

from netkit.data.classes import ClassImages
from netkit.errors import UserError


class Pictures(ClassImages):
    """A data set of PyTorch, of (image, label); `transform` is what timm's loader sets."""

    def __init__(self, path):
        """List the images; raises UserError for a path without images, and for classes without one."""
        super().__init__(path)
        self.transform = None
        empty = np.flatnonzero(np.bincount(self.labels, minlength=self.classes) == 0)
        if len(empty):
            name = f' ({self.names[empty[0]]})' if self.names else ''
            raise UserError(f'{path} has {self.classes} classes, and no image of class {empty[0]}{name}')

    def __getitem__(self, number):
        image = self.picture(number)
        return (self.transform(image) if self.transform else image), int(self.labels[number])


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
