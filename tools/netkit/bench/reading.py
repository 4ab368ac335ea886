"""How fast images are read for a training: the readers alone, against the training steps that they feed."""

import os
import statistics
import tempfile
import time

import numpy as np
from PIL import Image
from tqdm import tqdm

from netkit._mxnet import mx
from netkit.bench.mxnet_steps import Step
from netkit.data import packing
from netkit.data.augment import Augmentation
from netkit.data.batches import FaceBatches
from netkit.data.classes import ClassBatches, ClassRecords
from netkit.data.records import FaceRecords
from netkit.data.synthetic import write_synthetic

COLUMNS = 'what', 'images/s', 'spread'
BATCH, BATCHES = 64, 8  # images in a batch, batches in a measurement
PUBLISHED = Augmentation(0.9, 0.1)  # of the training of 2018
PICTURES, SIDE = 64, 256  # of classes: their number, and the pixels of a side, as ImageNet is packed


def draw(folder):
    """Draw faces into a folder, and pictures of classes into `classes.rec` there."""
    write_synthetic(os.path.join(folder, 'faces'), identities=16, images=16, pairs=10, seed=0)
    rng = np.random.RandomState(0)
    for number in range(PICTURES):
        path = os.path.join(folder, 'pictures', str(number % 2))
        os.makedirs(path, exist_ok=True)
        noise = Image.fromarray(rng.randint(0, 256, (SIDE // 8, SIDE // 8, 3)).astype(np.uint8))
        noise.resize((SIDE, SIDE), Image.BICUBIC).save(os.path.join(path, f'{number}.png'))
    packing.pack_classes(os.path.join(folder, 'pictures'), os.path.join(folder, 'classes.rec'), SIDE)


def readers(folder):
    """Return {what: stream of batches}."""
    cores = os.cpu_count() or 1
    faces = FaceRecords(os.path.join(folder, 'faces'), (112, 112, 3))
    streams = {
        'faces, by the training itself': FaceBatches(faces, BATCH),
        'faces, augmented as published': FaceBatches(faces, BATCH, augmentation=PUBLISHED),
        f'the same, {cores} readers': FaceBatches(faces, BATCH, augmentation=PUBLISHED, readers=cores),
    }
    classes = ClassRecords(os.path.join(folder, 'classes.rec'))
    streams[f'classes, {cores} threads'] = ClassBatches(classes, (224, 224, 3), BATCH, threads=cores)
    return streams


def measure(choices, repetitions, batch, device):
    """Return the rows of the table: the readers', then the training steps' of `choices`, `batch` images each."""
    context = mx.gpu(0) if device == 'gpu' else mx.cpu(0)
    with tempfile.TemporaryDirectory() as folder:
        draw(folder)
        streams = readers(folder)
        timed = {what: (stream.next, BATCHES, BATCH) for what, stream in streams.items()}
        for choice in choices:
            symbol, image_shape = choice.build(device)
            step = Step(symbol, (batch, 3, *image_shape[:2]), context, training=True)
            timed[f'{choice.label}, training step on the {device.upper()}'] = (waited(step), 1, batch)
        rates = {what: [] for what in timed}
        for function, _, _ in timed.values():
            function()  # begins, and fills what is read ahead
        for _ in tqdm(range(repetitions), unit='round', leave=False, disable=None):
            for what, (function, times, images) in timed.items():
                start = time.time()
                for _ in range(times):
                    function()
                rates[what].append(times * images / (time.time() - start))
        for stream in streams.values():
            stream.close()
    return [
        (what, f'{statistics.median(found):,.1f}', f'{min(found):,.1f}…{max(found):,.1f}')
        for what, found in rates.items()
    ]


def waited(step):
    """Return a function that runs a step and returns when it is computed."""

    def run():
        step()
        mx.nd.waitall()

    return run
