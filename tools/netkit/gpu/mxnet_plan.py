"""Part `plan`: what MXNet plans for a training step, the same on every device; nothing is computed."""

import functools

from netkit.gpu.harness import Figure
from netkit.gpu.sizes import batch_of, measured
from netkit.graph.memory import planned_memory
from netkit.networks import build, settings_of

TABLE = 'MB that MXNet plans for the feature maps of a training step and their gradients'
WAYS = {'kept': False, 'recomputed': True}  # memonger


def measure(name):
    """Yield the Figures of a network, at its whole width."""
    for way, memonger in WAYS.items():
        planned = planned_memory(build(name, memonger=memonger), batch_of(name), settings_of(name)['image_shape'])
        yield Figure(TABLE, way, f'{name}, batch {batch_of(name)}', round(planned))


def cases(quick):
    """Return {case: function that yields Figures}."""
    return {name: functools.partial(measure, name) for name in measured(quick)}
