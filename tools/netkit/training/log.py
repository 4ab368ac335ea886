"""Write our training log, in insightface's format; read both ours and insightface's."""

import math
import os
import re
import time
from typing import NamedTuple

from netkit.errors import UserError

FILE = 'train.log'
EVERY = 10  # steps per line
# A line of MXNet's Speedometer, of all versions, after any prefix of the logging module.
SPEEDOMETER = re.compile(r'(?:Epoch|Iter)\[(\d{1,9})\] Batch \[(?:\d+-)?(\d{1,9})\]\s+Speed: ([\d.]+) samples/sec(.*)')
LENGTH = re.compile(r'^An epoch has ([\d.e+-]{1,25}) batches$')  # which insightface's do not tell
METRIC = re.compile(r'([\w-]+)=([-+]?\d[\d.]*(?:e[-+]?\d{1,2})?|-?nan|-?inf)\b')
VERIFICATION = re.compile(r'\[([^\]\s]+)\]\[(\d{1,9})\]Accuracy-Flip: ([\d.]+)\+-([\d.]+)')
CLASSIFICATION = re.compile(r'\[(top-\d)\]\[(\d{1,9})\]Accuracy: ([\d.]+)')
PARTIAL_FC = re.compile(r'Iter:(\d{1,9}) Rank:[\d.]+ it/sec Total:([\d.]+) it/sec \[\d+\]\[loss\]:([\d.]+)')
PARALLEL_ACCURACY = re.compile(r'\{fc7_acc\} (\d{1,9}) ([\d.]+)')  # of train_parall.py


class Writer:
    """Writes a line every few steps, with means over the steps since the last line; a context manager."""

    def __init__(self, path, last_step, epoch=math.inf, goes_on=False):
        """Open the log of a run of `last_step` steps, of which an epoch has `epoch`, with the fraction of the last.

        The log of a run that `goes_on` after an interruption is kept.
        """
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.file = open(path, 'a' if goes_on else 'w', encoding='utf-8', buffering=1)
        except OSError as error:
            raise UserError(f'cannot write to {path}: {error.strerror}')
        self.last_step, self.epoch = last_step, epoch
        if epoch < math.inf and not goes_on:
            self.file.write(f'An epoch has {epoch!r} batches\n')
        self._start_line()

    def _start_line(self):
        """Begin the means of the next line."""
        self.images, self.losses, self.accuracies, self.start = 0, [], [], time.time()

    def add(self, step, images, loss, accuracy):
        """Add a step; after every tenth and the last, write a line."""
        self.images += images
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        if step % EVERY == 0 or step == self.last_step:
            count, seconds = len(self.losses), time.time() - self.start
            accuracy, loss = sum(self.accuracies) / count, sum(self.losses) / count
            epoch = int((step - 1) / self.epoch)
            batch = step - first_of(epoch, self.epoch)
            self.file.write(
                f'Epoch[{epoch}] Batch [{max(batch - count, 0)}-{batch}]\t'
                f'Speed: {self.images / seconds:.2f} samples/sec\tacc={accuracy:f}\tlossvalue={loss:f}\n'
            )
            self._start_line()

    def measured(self, step, name, mean, deviation=None):
        """Write an accuracy: of a verification set with its deviation, as insightface does; else without."""
        if deviation is None:
            self.file.write(f'[{name}][{step}]Accuracy: {mean:1.5f}\n')
        else:
            self.file.write(f'[{name}][{step}]Accuracy-Flip: {mean:1.5f}+-{deviation:1.5f}\n')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def first_of(epoch, length):
    """Return the number of steps before an epoch, of which each has `length` steps, with the fraction of the last."""
    return int(epoch * length) if epoch else 0


class Curves(NamedTuple):
    """The curves in a log, each {step: value}."""

    loss: dict
    accuracy: dict
    speed: dict  # images per second
    verification: dict  # {name of the set: {step: (mean, standard deviation)}}


def read(path):
    """Return the Curves of a log; raises UserError for a file without any.

    In the log of an interrupted and resumed run, the later of two lines about a step counts. insightface's logs do not
    say how many batches an epoch has; it is assumed to end where the next line would have come, which shifts later
    epochs to the right by at most the distance of two lines. The steps of verifications are exact.
    """
    rows, curves, length = [], Curves({}, {}, {}, {}), None
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                told = LENGTH.match(line)
                length = float(told[1]) if told else length
                speedometer, verification = SPEEDOMETER.search(line), VERIFICATION.search(line)
                classification = CLASSIFICATION.search(line)
                partial_fc, parallel = PARTIAL_FC.search(line), PARALLEL_ACCURACY.search(line)
                if speedometer:
                    epoch, batch, speed, metrics = speedometer.groups()
                    metrics = {name: float(value) for name, value in METRIC.findall(metrics)}
                    rows.append((int(epoch), int(batch), float(speed), metrics))
                elif verification:
                    name, step, mean, deviation = verification.groups()
                    curves.verification.setdefault(name, {})[int(step)] = float(mean), float(deviation)
                elif classification:
                    name, step, mean = classification.groups()
                    curves.verification.setdefault(name, {})[int(step)] = float(mean), 0.0
                elif partial_fc:
                    step, speed, loss = partial_fc.groups()
                    curves.speed[int(step)], curves.loss[int(step)] = float(speed), float(loss)
                elif parallel:
                    curves.accuracy[int(parallel[1])] = float(parallel[2])
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except ValueError:
        raise UserError(f'{path} contains malformed numbers, in {line.strip()[:80]!r}')
    if not rows and not any(curves):
        raise UserError(
            f'{path} has no line of a training log ("Epoch[0] Batch [20] Speed: … samples/sec"); is it the '
            'output of a trainer?'
        )
    length = length or epoch_length(rows)
    for epoch, batch, speed, metrics in rows:
        step = first_of(epoch, length) + batch
        curves.speed[step] = speed
        for name, value in metrics.items():
            curve = curves.loss if 'loss' in name else curves.accuracy if 'acc' in name else None
            if curve is not None:
                curve[step] = value
    return curves


def epoch_length(rows):
    """Return the number of batches in an epoch, at most, from the (epoch, batch, …) of its lines."""
    last_epoch = max((row[0] for row in rows), default=0)
    batches = sorted({row[1] for row in rows if row[0] < last_epoch}) or [0]
    distances = [after - before for before, after in zip(batches, batches[1:])]
    return batches[-1] + min(distances, default=batches[-1])  # one line: as far again
