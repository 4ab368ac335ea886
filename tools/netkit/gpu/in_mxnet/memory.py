"""Part `memory`: what MXNet really takes for a training step, and the largest batch that fits."""

import functools
import gc

from netkit._mxnet import mx
from netkit.gpu.figures import Figure, Problems, largest_batch, largest_that_fits, note_of, note_on_largest
from netkit.gpu.in_mxnet.device import (
    DEVICE,
    IS_GPU,
    Sharing,
    Weights,
    default_batch,
    fits,
    label,
    measured,
    release,
    shape,
    symbol,
    wait,
)
from netkit.graph.memory import planned_memory

TAKEN = 'MB that the card has less while a training step is computed, besides weights and gradients'
LARGEST = 'largest batch that was found to fit, without momentum, and its MB, likewise'
WAYS = {
    'float32': {'memonger': False},
    'float32, recomputed': {'memonger': True},
    'float16': {'memonger': False, 'fp16': True},
    'float16, recomputed': {'memonger': True, 'fp16': True},
}


def free():
    """Return the MB (2^20 bytes) that are free on the card, with nothing kept for further use."""
    gc.collect()
    wait()
    release()
    return mx.context.gpu_memory_info(DEVICE.device_id)[0] / 2**20


def taken(make, batch):
    """Return the MB that binding a symbol for `batch` images and a training step take; `make(batch)` binds it."""
    before = free()
    step = make(batch)
    step()
    wait()
    after = mx.context.gpu_memory_info(DEVICE.device_id)[0] / 2**20
    del step
    return before - after


def measure(name, ways):
    """Yield the Figures of a network: all ways with the default batch, then the largest ones."""
    wanted, problems, peaks = default_batch(name), Problems(), {}
    column, symbols = f'{label(name)}, batch {wanted}', {row: symbol(name, **WAYS[row]) for row in ways}

    def trier(row):
        """Return the function that tells whether a step fits, and keeps the MB that it takes."""
        weights = Weights(name, symbols[row])

        def make(batch):
            return Sharing(symbols[row], shape(name, batch), weights)

        return lambda batch: fits(lambda: peaks.update({(row, batch): taken(make, batch)}))

    for row in ways:
        with problems.caught(row):
            if 'float16' not in row:  # of which MXNet plans four bytes each
                planned = planned_memory(symbols[row], wanted, shape(name, 1)[2:])
                yield Figure(TAKEN, row, f'{column}, as planned', round(planned))
            tried = trier(row)
            batch = largest_that_fits(wanted, tried)
            if batch and tried(batch):  # again, since the first time cuDNN has chosen and loaded
                yield Figure(TAKEN, row, column, round(peaks[row, batch]), note_of(batch, wanted))
            else:
                yield Figure(TAKEN, row, column, 'not one image fits')
    for row in ways:
        with problems.caught(row):
            known = {batch: peak for (of, batch), peak in peaks.items() if of == row}
            if not known or max(known) == 1:
                continue
            tried = trier(row)
            tried(max(known) // 2)
            two = {batch: peaks[row, batch] for batch in (max(known) // 2, max(known))}
            largest = largest_batch(two, free(), tried)
            if largest:
                yield Figure(LARGEST, row, label(name), largest, note_on_largest(largest, peaks[row, largest]))
    problems.check()


def not_measured():
    """Yield that there is nothing to measure."""
    yield Figure(TAKEN, 'all', 'all', 'not measured: MXNet tells it of GPUs only')


def cases(quick):
    """Return {case: function that yields Figures}."""
    if not IS_GPU:
        return {'cpu': not_measured}
    ways = tuple(WAYS)[:2] if quick else tuple(WAYS)
    return {name: functools.partial(measure, name, ways) for name in measured(quick)}
