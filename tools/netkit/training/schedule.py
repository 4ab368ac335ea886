"""The learning rate of every step."""
import math

from netkit._mxnet import mx

LR_STEPS = (0.7, 0.9)  # shares of the run after which the learning rate is divided by 10


def schedule(lr, steps):
    """Return the learning rates of a training of so many `steps`, as a scheduler of MXNet: `lr`, and a tenth of it after
    each of the LR_STEPS.
    """
    return mx.lr_scheduler.MultiFactorScheduler(sorted({math.ceil(steps * share) for share in LR_STEPS}), 0.1, base_lr=lr)
