"""The learning rate of every step."""

import math

from netkit._mxnet import mx

LR_STEPS = (0.7, 0.9)  # shares of the steps


def schedule(lr, steps):
    """Return the learning rate of each of `steps` steps, as a scheduler of MXNet.

    It begins with `lr`, and is divided by 10 after each of the LR_STEPS.
    """
    drops = sorted({math.ceil(steps * share) for share in LR_STEPS})
    return mx.lr_scheduler.MultiFactorScheduler(drops, 0.1, base_lr=lr)
