"""Compare the speed of the image readers with that of the training steps."""

import functools
import os
import statistics
import tempfile

from netkit._mxnet import mx
from netkit.data.augment import Augmentation
from netkit.data.batches import FaceBatches
from netkit.data.records import FaceRecords
from netkit.data.synthetic import write_synthetic
from netkit.measure.mxnet_engine import Step, wait
from netkit.measure.timing import in_turns

COLUMNS = 'what', 'images/s', 'spread'
BATCH, BATCHES = 64, 8  # images in a batch, batches in a measurement
PUBLISHED = Augmentation(0.9, 0.1)  # of the training of 2018


def readers(folder):
    """Return {what: stream of batches}."""
    cores = os.cpu_count() or 1
    faces = FaceRecords(folder, (112, 112, 3))
    return {
        'faces, by the training itself': FaceBatches(faces, BATCH),
        'faces, augmented as published': FaceBatches(faces, BATCH, augmentation=PUBLISHED),
        f'the same, {cores} readers': FaceBatches(faces, BATCH, augmentation=PUBLISHED, readers=cores),
    }


def measure(choices, repetitions, batch, device):
    """Return the rows of the table: the readers', then the training steps' of `choices`, `batch` images each."""
    context = mx.gpu(0) if device == 'gpu' else mx.cpu(0)
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(folder, identities=16, images=16, pairs=10, seed=0)
        streams = readers(folder)
        images = dict.fromkeys(streams, BATCHES * BATCH)
        timed = {what: functools.partial(read, stream) for what, stream in streams.items()}
        for choice in choices:
            symbol, image_shape = choice.build(device)
            label = f'{choice.label}, training step on the {device.upper()}'
            timed[label] = Step(symbol, (batch, 3, *image_shape[:2]), context, training=True)
            images[label] = batch
        makers = {what: lambda run=run: run for what, run in timed.items()}
        *_, seconds = in_turns(makers, wait, None, repetitions, 0)
        for stream in streams.values():
            stream.close()
    rates = {what: [images[what] / second for second in seconds[what]] for what in timed}
    return [
        (what, f'{statistics.median(found):,.1f}', f'{min(found):,.1f}…{max(found):,.1f}')
        for what, found in rates.items()
    ]


def read(stream):
    """Read BATCHES batches."""
    for _ in range(BATCHES):
        stream.next()
