"""Part `memory`: what MXNet really takes for a training step, and the largest batch that fits."""

import functools
import gc

from netkit._mxnet import mx
from netkit.gpu.harness import Figure, not_measured
from netkit.gpu.mxnet_device import (
    DEVICE,
    IS_GPU,
    Sharing,
    Weights,
    default_batch,
    fits,
    label,
    release,
    shape,
    symbol,
    wait,
)
from netkit.gpu.peaks import Memory, figures_of
from netkit.gpu.sizes import measured
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


def taken(of, image_shape, weights):
    """Return the MB that binding a symbol and a training step take."""
    before = free()
    step = Sharing(of, image_shape, weights)
    step()
    wait()
    after = mx.context.gpu_memory_info(DEVICE.device_id)[0] / 2**20
    del step
    return before - after


def measure(name, ways):
    """Yield the Figures of a network, and what MXNet plans beside what it takes."""
    wanted, symbols = default_batch(name), {way: symbol(name, **WAYS[way]) for way in ways}
    for way, of in symbols.items():
        if 'float16' not in way:  # of which MXNet plans four bytes each
            planned = planned_memory(of, wanted, shape(name, 1)[2:])
            yield Figure(TAKEN, way, f'{label(name)}, batch {wanted}, as planned', round(planned))

    def trier(way):
        of = symbols[way]
        weights = Weights(name, of)

        def peak(batch):
            found = []
            return found[0] if fits(lambda: found.append(taken(of, shape(name, batch), weights))) else None

        return peak

    yield from figures_of(Memory(trier, free, TAKEN, LARGEST), label(name), ways, wanted)


def cases(quick):
    """Return {case: function that yields Figures}."""
    if not IS_GPU:
        return not_measured('cpu', TAKEN, 'MXNet tells it of GPUs only')
    ways = tuple(WAYS)[:2] if quick else tuple(WAYS)
    return {name: functools.partial(measure, name, ways) for name in measured(quick)}
