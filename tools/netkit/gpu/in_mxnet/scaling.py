"""Part `scaling`: training steps on several devices, their gradients summed by MXNet's kvstores."""

import functools

import numpy as np

from netkit._mxnet import mx
from netkit.gpu.figures import Figure, in_turns
from netkit.gpu.in_mxnet.device import IS_GPU, default_batch, label, measured, shape, symbol, wait
from netkit.gpu.in_mxnet.speed import TF32
from netkit.gpu.sizes import counts
from netkit.networks import initializer
from netkit.training.losses import classification
from netkit.training.trainer import Trainer

SPEED = f'training on several devices{TF32}, images per second in all'
KVSTORES = ('device', 'nccl') if IS_GPU else ('device',)
SHARE = 'training on several devices, share of a step for summing gradients, %'


def trainer(name, devices, kvstore):
    """Return (Trainer, batch) on so many devices, each with the default batch."""
    contexts = [mx.gpu(number) if IS_GPU else mx.cpu(number) for number in range(devices)]
    batch = default_batch(name) * devices
    made = Trainer(
        classification(symbol(name)),
        contexts,
        shape(name, batch),
        mx.kv.create(kvstore),
        learning_rate=1e-6,
        momentum=0.9,
        wd=5e-4,
    )
    made.initialize(initializer())
    random = np.random.RandomState(0)
    images = mx.nd.array(random.randint(0, 256, shape(name, batch)))
    return made, mx.io.DataBatch([images], [mx.nd.zeros((batch,))])


def measure(name, devices, kvstore):
    """Yield the Figures of a network."""
    column = f'{label(name)}, float32, batch {default_batch(name)} each, kvstore {kvstore}'
    for number in counts(devices):
        row = f'{number} × {"GPU" if IS_GPU else "CPU context"}'
        made, batch = trainer(name, number, kvstore)

        def alone(made=made, batch=batch):
            """Do a step in which each device applies its own gradients."""
            made.sums, before = False, made.sums
            made.step(batch)
            made.sums = before

        seconds = in_turns({'summed': lambda made=made, batch=batch: made.step(batch), 'alone': alone}, wait)
        yield Figure(SPEED, row, column, round(len(batch.label[0]) / seconds['summed'], 1))
        if number > 1:
            yield Figure(SHARE, row, column, round(100 * (1 - seconds['alone'] / seconds['summed']), 1))


def not_measured():
    """Yield that there is nothing to measure."""
    yield Figure(SPEED, 'all', 'all', 'not measured: there is one GPU')


def cases(quick):
    """Return {case: function that yields Figures}."""
    devices = mx.context.num_gpus() if IS_GPU else 2
    if devices == 1:
        return {'one': not_measured}
    return {
        f'{name}, {kvstore}': functools.partial(measure, name, devices, kvstore)
        for name in measured(True)
        for kvstore in KVSTORES
    }
