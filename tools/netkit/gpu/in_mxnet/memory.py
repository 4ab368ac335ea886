"""Part `memory`: what MXNet really takes for a training step, and the largest batch that fits."""

import functools
import gc

from netkit._mxnet import mx
from netkit.gpu.figures import Figure, Problems, largest_batch, largest_that_fits, note_of
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
    """Yield the Figures of a network."""
    wanted, problems = default_batch(name), Problems()
    for row in ways:
        of = symbol(name, **WAYS[row])
        with problems.caught(row):
            yield from measure_way(name, row, of, wanted)
    problems.check()


def measure_way(name, row, of, wanted):
    """Yield the Figures of a symbol."""
    weights, column = Weights(name, of), f'{label(name)}, batch {wanted}'

    def make(batch):
        return Sharing(of, shape(name, batch), weights)

    def tried(batch):
        return fits(lambda: make(batch)())

    if 'float16' not in row:  # of which MXNet plans four bytes each
        planned = planned_memory(of, wanted, shape(name, 1)[2:])
        yield Figure(TAKEN, row, f'{column}, as planned', round(planned))
    batch = largest_that_fits(wanted, tried)  # cuDNN chooses and loads, too
    if not batch:
        yield Figure(TAKEN, row, column, 'not one image fits')
        return
    found = {size: taken(make, size) for size in (max(batch // 2, 1), batch)}
    yield Figure(TAKEN, row, column, round(found[batch]), note_of(batch, wanted))
    if len(found) > 1:
        largest = largest_batch(found, free(), tried)
        note = f'{taken(make, largest):,.0f} MB' if largest else ''
        yield Figure(LARGEST, row, label(name), largest, note)


def not_measured():
    """Yield that there is nothing to measure."""
    yield Figure(TAKEN, 'all', 'all', 'not measured: MXNet tells it of GPUs only')


def cases(quick):
    """Return {case: function that yields Figures}."""
    if not IS_GPU:
        return {'cpu': not_measured}
    ways = tuple(WAYS)[:2] if quick else tuple(WAYS)
    return {name: functools.partial(measure, name, ways) for name in measured(quick)}
