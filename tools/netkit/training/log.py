"""The log of a training, in the format of insightface's trainer: ours is written, both are read."""
import os
import re
import time
from typing import NamedTuple

from netkit.errors import UserError

FILE = 'train.log'
EVERY = 10  # steps from one line to the next
# MXNet's Speedometer, of all versions, behind whatever logging puts in front.
SPEEDOMETER = re.compile(r'(?:Epoch|Iter)\[(\d{1,9})\] Batch \[(?:\d+-)?(\d{1,9})\]\s+Speed: ([\d.]+) samples/sec(.*)')
METRIC = re.compile(r'([\w-]+)=([-+]?\d[\d.]*(?:e[-+]?\d{1,2})?|-?nan|-?inf)\b')
VERIFICATION = re.compile(r'\[([^\]\s]+)\]\[(\d{1,9})\]Accuracy-Flip: ([\d.]+)\+-([\d.]+)')
PARTIAL_FC = re.compile(r'Iter:(\d{1,9}) Rank:[\d.]+ it/sec Total:([\d.]+) it/sec \[\d+\]\[loss\]:([\d.]+)')  # images
PARALLEL_ACCURACY = re.compile(r'\{fc7_acc\} (\d{1,9}) ([\d.]+)')  # of train_parall.py, which has no other


class Writer:
    """Writes the lines of a run as they come, means over the steps since the last line; a context manager."""

    def __init__(self, path, last_step, goes_on=False):
        """Open the log of a run to `last_step`; one that `goes_on` after an interruption keeps the lines it has."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.file = open(path, 'a' if goes_on else 'w', encoding='utf-8', buffering=1)
        except OSError as error:
            raise UserError(f'cannot write to {path}: {error.strerror}')
        self.last_step = last_step
        self._start_line()

    def _start_line(self):
        self.images, self.losses, self.accuracies, self.start = 0, [], [], time.time()

    def add(self, step, images, loss, accuracy):
        """Take note of one step; at every tenth and the last, write the line."""
        self.images += images
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        if step % EVERY == 0 or step == self.last_step:
            count, seconds = len(self.losses), time.time() - self.start
            self.file.write(f'Epoch[0] Batch [{step - count}-{step}]\tSpeed: {self.images / seconds:.2f} '
                            f'samples/sec\tacc={sum(self.accuracies) / count:f}\tlossvalue={sum(self.losses) / count:f}\n')
            self._start_line()

    def verified(self, name, step, mean, deviation):
        """Write the result of a verification set."""
        self.file.write(f'[{name}][{step}]Accuracy-Flip: {mean:1.5f}+-{deviation:1.5f}\n')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class Curves(NamedTuple):
    """What a log tells, each curve as {step: value}."""
    loss: dict
    accuracy: dict
    speed: dict  # images per second
    verification: dict  # {name of the set: {step: (mean, standard deviation)}}


def read(path):
    """Return the Curves of a log; raises UserError for a file that has none.

    Where a run was interrupted and went on in the same file, the later lines of a step hold. The log does not say how
    many batches an epoch has; it is taken to end with the line that would have come next, which puts later epochs
    at most one line's distance too far to the right. Steps of verifications are exact.
    """
    rows, curves = [], Curves({}, {}, {}, {})
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            for line in file:
                speedometer, verification = SPEEDOMETER.search(line), VERIFICATION.search(line)
                partial_fc, parallel = PARTIAL_FC.search(line), PARALLEL_ACCURACY.search(line)
                if speedometer:
                    epoch, batch, speed, metrics = speedometer.groups()
                    metrics = {name: float(value) for name, value in METRIC.findall(metrics)}
                    rows.append((int(epoch), int(batch), float(speed), metrics))
                elif verification:
                    name, step, mean, deviation = verification.groups()
                    curves.verification.setdefault(name, {})[int(step)] = float(mean), float(deviation)
                elif partial_fc:
                    step, speed, loss = partial_fc.groups()
                    curves.speed[int(step)], curves.loss[int(step)] = float(speed), float(loss)
                elif parallel:
                    curves.accuracy[int(parallel[1])] = float(parallel[2])
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}')
    except ValueError:
        raise UserError(f'{path} has numbers that are none, in {line.strip()[:80]!r}')
    if not rows and not any(curves):
        raise UserError(f'{path} has no line of a training log ("Epoch[0] Batch [20] Speed: … samples/sec"); is it the '
                        'output of a trainer?')
    length = epoch_length(rows)
    for epoch, batch, speed, metrics in rows:
        step = epoch * length + batch
        curves.speed[step] = speed
        for name, value in metrics.items():
            curve = curves.loss if 'loss' in name else curves.accuracy if 'acc' in name else None
            if curve is not None:
                curve[step] = value
    return curves


def epoch_length(rows):
    """Return how many batches an epoch has, at most, from the (epoch, batch, …) of the lines in it."""
    last_epoch = max((row[0] for row in rows), default=0)
    batches = sorted({row[1] for row in rows if row[0] < last_epoch}) or [0]
    distances = [after - before for before, after in zip(batches, batches[1:])]
    return batches[-1] + min(distances, default=batches[-1])  # with one line in an epoch, as far again
