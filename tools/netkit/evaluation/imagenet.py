"""Classification: top-1 and top-5 error on a folder with one subfolder per class, or on a RecordIO file."""

from typing import Dict, NamedTuple

import numpy as np

from netkit.data.classes import ClassImages
from netkit.data.images import Unusable, centre, open_picture
from netkit.errors import UserError
from netkit.evaluation import streams

TOPS = (1, 5)
SIDE, RESIZE = 224, 256  # pixels: of the square that is cut out of the middle, and of the shorter side before


def resize_for(side):
    """Return the pixels of the shorter side from whose middle a square of `side` pixels is cut."""
    return round(side * RESIZE / SIDE) if side < SIDE else max(side, RESIZE)


def read_picture(path):
    """Return the centre of a picture, (1, 3, SIDE, SIDE) raw RGB; raises UserError."""
    try:
        image = centre(open_picture(path), RESIZE, SIDE)
    except Unusable as error:
        raise UserError(f'--image {path} {error}')
    return image.transpose(2, 0, 1)[None]


def likeliest(engine, picture, count):
    """Return the `count` likeliest classes of a picture, (number, probability) each, by an engine of logits."""
    (outputs,) = engine(picture).astype(np.float64)
    likelihoods = np.exp(outputs - outputs.max())
    likelihoods /= likelihoods.sum()
    return [(number, likelihoods[number]) for number in np.argsort(-likelihoods, kind='stable')[:count]]


class Images(ClassImages):
    """The images of a classification set as networks are measured on them: `images.load(number)`."""

    def __init__(self, path, resize, crop):
        """List the images; raises UserError for a path without labelled images."""
        super().__init__(path)
        self.resize, self.crop = resize, crop

    def load(self, number):
        """Return the centre of an image, (crop, crop, 3) uint8 RGB; raises UserError if it cannot be decoded."""
        picture = self.picture(number)
        try:
            return centre(picture, self.resize, self.crop)
        except Unusable as error:
            raise UserError(f'{self.place(number)} {error}')


class Result(NamedTuple):
    """The result of a network."""

    images: int
    errors: Dict[int, float]  # {k: share of images whose label is not among the k largest outputs}


def evaluate(engine, images):
    """Return the Result of an engine on Images; raises UserError for labels that the network does not have."""
    outputs = streams.run(engine, images.load, len(images), 'imagenet')
    labels, count = images.labels, outputs.shape[1]
    if images.classes > count or images.names and images.classes < count:
        raise UserError(f'{images.path} has {images.classes} classes, {engine.label} has {count}')
    if not np.isfinite(outputs).all():
        raise UserError(f'the outputs of {engine.label} are not finite')
    of_label = outputs[np.arange(len(labels)), labels][:, None]
    # The rank of the label: how many outputs are larger, or equal and in front of it. Without the latter a network
    # whose outputs are all the same would be right about everything.
    in_front = np.arange(count) < labels[:, None]
    rank = ((outputs > of_label) | (outputs == of_label) & in_front).sum(axis=1)
    return Result(len(images), {k: float((rank >= k).mean()) for k in TOPS if k < count})
