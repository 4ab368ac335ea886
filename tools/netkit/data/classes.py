"""Labelled images: a folder with one subfolder per class, or a `.rec` file of pack.py."""

import json
import os

import numpy as np

from netkit.data.folders import classes_in
from netkit.data.images import Unusable, open_picture
from netkit.data.recordio import RecordFile
from netkit.errors import UserError


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
        raise UserError(f'{names_path(path)} is not a list of names: {error}')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{names_path(path)} is not a list of names')
    return names


def labels_of(records):
    """Return the labels of a RecordFile as integers; raises UserError for one that is not a class."""
    labels = np.array([records.label(number) for number in range(len(records))])
    wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**24)))
    if len(wrong):
        raise UserError(f'{records.path}: record {wrong[0]} has label {labels[wrong[0]]:g}, which is not a class')
    return labels.astype(int)


class ClassImages:
    """The images at a path: `len(images)`, `images.labels` (integers from 0), `images.picture(number)`.

    `classes` is the number of subfolders, or the largest label and 1; `names` are those of the classes, None where they
    are not known; `skipped` is {name: why} of the folder's other files.
    """

    def __init__(self, path):
        """List the images; raises UserError for a path without images, and for labels that are not classes."""
        self.path, self.records, self.files, self.skipped = path, None, [], {}
        if os.path.isdir(path):
            classes, self.skipped = classes_in(path)
            self.files = [file for files in classes.values() for file in files]
            if not self.files:
                raise UserError(f'{path} has no subfolders with images')
            self.labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
            self.classes, self.names = len(classes), list(classes)
        else:
            self.records, self.names = RecordFile(path), class_names(path)
            self.labels = labels_of(self.records)
            self.classes = int(self.labels.max()) + 1
            if self.names is not None and len(self.names) != self.classes:
                raise UserError(
                    f'{names_path(path)} has {len(self.names)} names, and {path} labels of {self.classes} classes; '
                    'they do not belong together'
                )

    def __len__(self):
        return len(self.labels)

    def picture(self, number):
        """Return an image as a PIL image in RGB; raises UserError if it cannot be decoded."""
        try:
            return open_picture(self.records[number][1] if self.records else self.files[number])
        except Unusable as error:
            raise UserError(f'{self.place(number)} {error}')

    def place(self, number):
        """Return where an image is, for a message."""
        return f'{self.path}: record {number}' if self.records else self.files[number]
