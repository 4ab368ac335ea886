"""Check that written files compute the same as the trained network."""

import os

import numpy as np

from netkit._mxnet import mx
from netkit.onnx_session import open_session

# Largest allowed difference of embeddings, as a share of the range of their values.
TOLERANCES = {'float32': 1e-4, 'float16': 1e-2}
RANDOM_IMAGES = 3


class Different(Exception):
    """A written file differs from the network; the message has the difference."""


def comparison_images(image_shape, pixels=None):
    """Return images to compare on, (n, 3, height, width) float32 of 0…255: noise, and `pixels`, (height, width, 3)."""
    height, width, _ = image_shape
    images = np.random.RandomState(0).randint(0, 256, (RANDOM_IMAGES, 3, height, width)).astype(np.float32)
    if pixels is None:
        return images
    return np.concatenate([images, pixels.transpose(2, 0, 1)[None].astype(np.float32)])


def compute(symbol, parameters, images):
    """Return the output of a symbol for images, in inference."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            array[:] = images if name == 'data' else parameters[name]
    return executor.forward(is_train=False)[0].asnumpy()


def compute_onnx(path, images, batch, optimised=True):
    """Return the output of an ONNX file for images in onnxruntime, in batches of `batch` (None: all at once)."""
    session = open_session(path, optimised=optimised)
    (given,), parts = session.get_inputs(), in_batches(images, batch or len(images))
    return np.concatenate([session.run(None, {given.name: part})[0] for part in parts])[: len(images)]


def in_batches(images, batch):
    """Return images as float32 batches of exactly `batch`; the last one is filled with the first images."""
    places = np.arange(-(-len(images) // batch) * batch).reshape(-1, batch) % len(images)
    return (np.asarray(images[row], np.float32) for row in places)


def cosines(actual, expected):
    """Return the cosine of each embedding with the expected one, (n,)."""
    rows = [array.reshape(len(array), -1).astype(np.float64) for array in (actual, expected)]
    lengths = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    return np.sum(rows[0] * rows[1], axis=1) / lengths


def compare(actual, expected, tolerance, path):
    """Return (largest difference as a share of the range, minimum cosine); raises Different above `tolerance`."""
    difference = np.abs(actual - expected).max() / np.ptp(expected)
    cosine = cosines(actual, expected).min()
    if not difference <= tolerance:  # also where it is NaN
        raise Different(
            f'{os.path.basename(path)} differs from the network by {difference:.1e} of the range of its '
            f'values, more than {tolerance:.0e}'
        )
    return difference, cosine
