"""Lengths in steps or epochs, and the learning rate of every step."""

import argparse
import math

from netkit._mxnet import mx
from netkit.training.options import Length

LR_STEPS = (0.7, 0.9)  # shares of the steps


def length(text):
    """Argparse type: a number of steps, or of epochs ending in `e`; returns a Length."""
    in_epochs = text.endswith('e')
    try:
        number = float(text[:-1]) if in_epochs else int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 1e12:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of steps (2000) or epochs (1.5e)')
    return Length(number, in_epochs)


def lengths(text):
    """Argparse type: lengths that grow, with commas; returns [Length, …]."""
    found = [length(part) for part in text.split(',')]
    if len({part.in_epochs for part in found}) > 1 or sorted(set(found)) != found or not found[0].number:
        raise argparse.ArgumentTypeError(f'{text!r} are not lengths that grow, all in steps or all in epochs')
    return found


def schedule(lr, steps, drops=None, warmup=0):
    """Return the learning rate of each of `steps` steps, as a scheduler of MXNet.

    It grows from 0 to `lr` during the first `warmup` steps, and is divided by 10 after each of the `drops`, by default
    after each of the LR_STEPS.
    """
    drops = drops or sorted({math.ceil(steps * share) for share in LR_STEPS})
    return mx.lr_scheduler.MultiFactorScheduler(drops, 0.1, base_lr=lr, warmup_steps=warmup)
