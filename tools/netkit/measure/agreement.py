"""Compare a device with the CPU: embeddings, gradients and moving statistics, each with its bound."""

from typing import NamedTuple, Optional

import numpy as np

from netkit.measure.figures import Figure, text_of

# {what a way is compared in: the sign of its bound}
TABLES = (
    ('inference: largest difference of the embeddings from the CPU, of their range', '≤'),
    ('gradients of a training step: cosine with the CPU', '≥'),
    (
        'moving statistics after a training step: largest difference from the CPU, of the deviation and the variance '
        'there',
        '≤',
    ),
)
EMBEDDINGS, GRADIENTS, STATISTICS = (table for table, _ in TABLES)


class Computed(NamedTuple):
    """The results of a training step and a forward pass, each {name: float64 array}."""

    embeddings: dict  # with the weights before the step, and the moving statistics that the reference's step moved
    gradients: dict
    statistics: dict
    state: object  # the weights and statistics for `embeddings`, as the engine has them


class Bounds(NamedTuple):
    """Bounds of a way to compute: maximum differences and a minimum cosine; None: no bound."""

    embeddings: Optional[float]
    cosine: Optional[float]
    statistics: Optional[float]


# By the bits of the products: 24, 11 (TF32 and float16), 8. Moving statistics that are updated twice differ by more
# than a twentieth (tests/measure); bfloat16 may differ by as much without an error.
FLOAT32, HALF, BFLOAT16 = Bounds(1e-3, 0.999, 0.02), Bounds(0.02, 0.98, 0.05), Bounds(0.1, 0.85, 0.2)
NONE = Bounds(None, None, None)


def judged(row, column, bounds, differences, problems):
    """Yield the Figures of a way, each with its bound; add values out of bounds to `problems`."""
    for (table, sign), bound, value in zip(TABLES, bounds, differences):
        if bound is None:
            yield Figure(table, row, column, value)
            continue
        is_kept = value <= bound if sign == '≤' else value >= bound
        if not is_kept:  # NaN is not
            problems.found.append(f'{row}: {text_of(value)}, which should be {sign} {bound:g} ({table.split(":")[0]})')
        yield Figure(table, row, column, value, f'{sign} {bound:g}' if is_kept else f'NOT {sign} {bound:g}')


def differences(found, expected):
    """Return what `judged` needs, of two Computed."""
    return (
        distance(found.embeddings, expected.embeddings),
        cosine(found.gradients, expected.gradients),
        moved(found.statistics, expected.statistics),
    )


def distance(found, expected):
    """Return the largest difference relative to the range of what is expected, over {name: array} of float64."""
    return float(  # NaN if there is one, where Python's max might pass it over
        np.max(
            [np.abs(found[name] - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-30) for name in expected]
        )
    )


def moved(found, expected):
    """Return the largest difference of moving statistics, {…moving_mean or …moving_var: array}.

    That of a mean relative to the deviation of its layer, since the mean itself may be next to nothing; that of a
    variance relative to the variance.
    """
    largest = []
    for name, variance in expected.items():
        if name.endswith('moving_var'):
            mean = name[: -len('var')] + 'mean'
            largest.append((np.abs(found[mean] - expected[mean]) / np.sqrt(variance)).max())
            largest.append((np.abs(found[name] - variance) / variance).max())
    return float(np.max(largest))


def cosine(found, expected):
    """Return the cosine between two sets of arrays, {name: array}, each taken as one vector."""
    first, second = (np.concatenate([values[name].ravel() for name in expected]) for values in (found, expected))
    with np.errstate(invalid='ignore'):  # of infinite ones there is none
        return float(first @ second / np.maximum(np.linalg.norm(first) * np.linalg.norm(second), 1e-300))
