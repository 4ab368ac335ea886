"""Images through an engine: decoded ahead in threads, embedded in batches, with progress, in flat memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

AHEAD = 3  # batches that are decoded while one is computed


def in_batches(load, count, batch):
    """Yield (start, images): `load(i)`, (height, width, 3) uint8, of `batch` consecutive i each, as a stacked array.

    `load` runs in threads, a few batches ahead; its exceptions are raised here, in order.
    """
    starts = list(range(0, count, batch))
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        pending = []
        try:
            for place, start in enumerate(starts):
                for ahead in starts[place + len(pending) : place + AHEAD]:
                    pending.append([pool.submit(load, i) for i in range(ahead, min(ahead + batch, count))])
                yield start, np.stack([future.result() for future in pending.pop(0)])
        finally:
            for futures in pending:
                for future in futures:
                    future.cancel()


def planes(images):
    """Return images, (n, height, width, 3), as (n, 3, height, width) float32."""
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def run(engine, load, count, title, mirror=False):
    """Return the outputs of an engine for `count` images, (count, size).

    With `mirror`, (count, 2, size): of each image and of its mirror image.
    """
    rows = np.empty(0, np.float32)
    with tqdm(total=count, unit='images', desc=title, leave=False, disable=None) as bar:
        for start, images in in_batches(load, count, engine.batch):
            views = [images, images[:, :, ::-1]] if mirror else [images]
            outputs = np.stack([engine(planes(view)) for view in views], axis=1)
            if not len(rows):
                rows = np.empty((count, *outputs.shape[1:]), np.float32)
            rows[start : start + len(images)] = outputs
            bar.update(len(images))
    return rows if mirror else rows[:, 0]
