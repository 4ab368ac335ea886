"""Figures, and the ways to measure them that the engines share."""

import contextlib
import math
import statistics
import time
from typing import NamedTuple, Optional

import numpy as np

from netkit.errors import UserError, reason

ROUNDS, SECONDS, MOST = 3, 0.3, 20  # turns of each way to compute, how long each lasts about, and its steps at most
MULTIPLE = 8  # of which the largest batches are, as half-precision kernels want it
ENOUGH = 0.02  # of a batch: how much smaller the next guess at the largest is
LARGEST = 2048  # images: no larger batch is looked for, at which cuDNN's indices may end
# {what a way is compared in: the sign of its bound}
COMPARED = (
    ('inference: largest difference of the embeddings from the CPU, of their range', '≤'),
    ('gradients of a training step: cosine with the CPU', '≥'),
    (
        'moving statistics after a training step: largest difference from the CPU, of the deviation and the variance '
        'there',
        '≤',
    ),
)
# Titles of tables that several engines have.
MACHINE = 'the machine'
FACES = 'a training on drawn faces, verified on drawn pairs of other people'
SHARE = 'training on several devices, share of a step for summing gradients, %'
EMBEDDINGS, GRADIENTS, STATISTICS = (table for table, _ in COMPARED)


class Figure(NamedTuple):
    """A figure: the table that it belongs to, with its unit, its row and its column there."""

    table: str
    row: str
    column: str
    value: object  # number or text
    note: str = ''


def not_measured(case, table, why):
    """Return the cases of a part that has nothing to measure here: one, which says so."""
    return {case: lambda: iter([Figure(table, 'all', 'all', f'not measured: {why}')])}


class Problems:
    """The failures of some ways to compute, of which each is to stop no other."""

    def __init__(self):
        self.found = []

    @contextlib.contextmanager
    def caught(self, row):
        """Keep an error in the block, as one of a row."""
        try:
            yield
        except Exception as error:
            self.found.append(f'{row}: {reason(error)}')

    def check(self):
        """Raise UserError if there were any."""
        if self.found:
            raise UserError('; '.join(self.found))


class Bounds(NamedTuple):
    """What a way to compute has to keep: differences at most, and a cosine at least; None: whatever it is."""

    embeddings: Optional[float]
    cosine: Optional[float]
    statistics: Optional[float]


# By the digits of the products: 24 bits, 11 (TF32 and float16), 8. Moving statistics that move twice differ by more
# than a twentieth (tests/gpu), which bfloat16 may do by itself.
FLOAT32, HALF, BFLOAT16 = Bounds(1e-3, 0.999, 0.02), Bounds(0.02, 0.98, 0.05), Bounds(0.1, 0.85, 0.2)
NONE = Bounds(None, None, None)


def judged(row, column, bounds, measured, problems):
    """Yield the Figures of a way that is compared with the CPU, each with its bound; what is beyond is a problem.

    `measured` are the differences of the embeddings, the cosine of the gradients and those of the moving statistics.
    """
    for (table, sign), bound, value in zip(COMPARED, bounds, measured):
        if bound is None:
            yield Figure(table, row, column, value)
            continue
        is_kept = value <= bound if sign == '≤' else value >= bound
        if not is_kept:  # NaN is not
            problems.found.append(f'{row}: {text_of(value)}, which should be {sign} {bound:g} ({table.split(":")[0]})')
        yield Figure(table, row, column, value, f'{sign} {bound:g}' if is_kept else f'NOT {sign} {bound:g}')


def distance(found, expected):
    """Return the largest difference relative to the range of what is expected, over {name: array} of float64."""
    differences = [
        np.abs(found[name] - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-30) for name in expected
    ]
    return float(np.max(differences))  # NaN if there is one, where Python's max might pass it over


def moved(found, expected):
    """Return the largest difference of moving statistics, {…moving_mean or …moving_var: array}.

    That of a mean relative to the deviation of its layer, since the mean itself may be next to nothing; that of a
    variance relative to the variance.
    """
    differences = []
    for name, variance in expected.items():
        if name.endswith('moving_var'):
            mean = name[: -len('var')] + 'mean'
            differences.append((np.abs(found[mean] - expected[mean]) / np.sqrt(variance)).max())
            differences.append((np.abs(found[name] - variance) / variance).max())
    return float(np.max(differences))


def cosine(found, expected):
    """Return the cosine between two sets of arrays, {name: array}, each taken as one vector."""
    first, second = (np.concatenate([values[name].ravel() for name in expected]) for values in (found, expected))
    with np.errstate(invalid='ignore'):  # of infinite ones there is none
        return float(first @ second / np.maximum(np.linalg.norm(first) * np.linalg.norm(second), 1e-300))


def in_turns(functions, wait, problems, warm_up=2):
    """Yield {label: median seconds of a run so far} of {label: function} after each round of turns (A B A B …).

    `wait` ends their work. One that fails is left out of further rounds, and is one of the `problems`.
    """
    makers = {}
    for label, function in functions.items():
        with problems.caught(label):
            for _ in range(warm_up):
                function()
            makers[label] = lambda function=function: function
    yield from in_turns_anew(makers, wait, problems, 0)


def in_turns_anew(makers, wait, problems, warm_up=1):
    """Yield the same of {label: maker}, which makes a function for every turn: where there is no memory for all."""
    seconds, left = {}, dict(makers)
    for _ in range(ROUNDS):
        for label in list(left):
            make = left.pop(label)
            with problems.caught(label):
                seconds.setdefault(label, []).append(turn(make(), wait, warm_up))
                left[label] = make
        yield {label: statistics.median(times) for label, times in seconds.items() if times}


def turn(function, wait, warm_up):
    """Return the seconds of a run of a function, from as many as SECONDS have room for."""
    for _ in range(warm_up):
        function()
    steps = int(min(max(SECONDS / seconds_of(function, 1, wait), 1), MOST))
    return seconds_of(function, steps, wait) / steps


def seconds_of(function, steps, wait):
    """Return the seconds of so many runs of a function."""
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        function()
    wait()
    return time.perf_counter() - start


def largest_that_fits(batch, fits):
    """Return the largest batch up to `batch` for which `fits(batch)`, halving it until one does; 0 if none."""
    while batch and not fits(batch):
        batch //= 2
    return batch


def largest_batch(taken, free, fits):
    """Return the largest batch that fits into `free` MB, a multiple of MULTIPLE or less than that; 0 if none does.

    `taken` is {batch: MB} of two batches, from which a third is guessed, the batch being what memory grows with;
    `fits(batch)` tries it. Where the guess does not fit, the next is smaller by ENOUGH.
    """
    (small, of_small), (large, of_large) = sorted(taken.items())
    per_image = max((of_large - of_small) / (large - small), 1e-9)
    batch = min(int((free - of_large) / per_image) + large, LARGEST)
    while batch > 0:
        batch -= batch % MULTIPLE if batch > MULTIPLE else 0
        if fits(batch):
            return batch
        batch -= max(int(batch * ENOUGH), 1)
    return 0


def note_of(batch, wanted):
    """Return the note on a figure that was measured with `batch` images where `wanted` ones did not fit."""
    return '' if batch == wanted else f'batch {batch}'


def text_of(value):
    """Return a figure as a text: numbers with few digits, small and large ones with an exponent."""
    if isinstance(value, float) and not math.isfinite(value):
        return 'not a number' if math.isnan(value) else 'infinite'
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e6:
        return f'{value:.1e}'
    return f'{value:,.6g}' if isinstance(value, float) else f'{value:,}' if isinstance(value, int) else str(value)
