"""Part `scaling`: training steps on several devices, their gradients summed by MXNet's kvstores."""

import functools

import numpy as np

from netkit._mxnet import mx
from netkit.gpu.harness import SHARE, Figure, Problems, in_turns, largest_that_fits, not_measured, note_of
from netkit.gpu.mxnet_device import IS_GPU, default_batch, fits, label, release, shape, symbol, wait
from netkit.gpu.mxnet_speed import TF32
from netkit.gpu.sizes import counts, measured
from netkit.networks import initializer
from netkit.training.losses import classification
from netkit.training.trainer import Trainer

SPEED = f'training on several devices{TF32}, images per second in all, with their copies to the devices'
KVSTORES = ('device', 'nccl') if IS_GPU else ('device',)


def trainer(name, batch, devices, kvstore):
    """Return (Trainer, images and labels) on so many devices, each with `batch` images."""
    contexts = [mx.gpu(number) if IS_GPU else mx.cpu(number) for number in range(devices)]
    made = Trainer(
        classification(symbol(name)),
        contexts,
        shape(name, batch * devices),
        mx.kv.create(kvstore),
        learning_rate=1e-6,
        momentum=0.9,
        wd=5e-4,
    )
    made.initialize(initializer())
    images = mx.nd.array(np.random.RandomState(0).randint(0, 256, shape(name, batch * devices)))
    return made, mx.io.DataBatch([images], [mx.nd.zeros((batch * devices,))])


def first_step(*options):
    """Do the first step of a `trainer`, and forget it."""
    made, images = trainer(*options)
    made.step(images)
    wait()


def measure(name, devices, kvstore):
    """Yield the Figures of a network, each device with the default batch, or with what fits on one."""
    wanted, problems = default_batch(name), Problems()
    batch = largest_that_fits(wanted, lambda batch: fits(first_step, name, batch, 1, kvstore))
    column = f'{label(name)}, float32, batch {wanted} each, kvstore {kvstore}'
    if not batch:
        yield Figure(SPEED, 'one', column, 'not one image fits')
    for number in counts(devices) if batch else ():
        row = f'{number} × {"GPU" if IS_GPU else "CPU context"}'
        for found in turns(trainer(name, batch, number, kvstore), problems):
            if 'summed' in found:
                yield Figure(SPEED, row, column, round(number * batch / found['summed'], 1), note_of(batch, wanted))
            if len(found) == 2 and number > 1:
                share = round(100 * (1 - found['alone'] / found['summed']), 1)
                yield Figure(SHARE, row, column, share, note_of(batch, wanted))
        release()
    problems.check()


def turns(pair, problems):
    """Yield the seconds of a step, with the sum of the gradients and without, of a `trainer`."""
    made, images = pair

    def alone():
        """Do a step in which each device applies its own gradients."""
        made.sums, before = False, made.sums
        made.step(images)
        made.sums = before

    yield from in_turns({'summed': lambda: made.step(images), 'alone': alone}, wait, problems)


def cases(quick):
    """Return {case: function that yields Figures}."""
    devices = mx.context.num_gpus() if IS_GPU else 2
    if devices == 1:
        return not_measured('one', SPEED, 'there is one GPU')
    return {
        f'{name}, {kvstore}': functools.partial(measure, name, devices, kvstore)
        for name in measured(True)
        for kvstore in KVSTORES
    }
