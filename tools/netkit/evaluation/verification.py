"""Evaluate a network on the pairs of a `.bin` file, like insightface, with additional measures."""

import glob
import os
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from netkit.data.pairs import PairSet
from netkit.errors import UserError
from netkit.evaluation import protocol, streams
from netkit.files import settle

FARS = (1e-2, 1e-3, 1e-4)
COLUMNS_OF_THRESHOLDS = ('set', 'FAR', 'cosine above', 'TAR')


class Result(NamedTuple):
    """The result of a network on a verification set."""

    set: str
    pairs: int
    accuracy: protocol.Accuracy
    tars: Dict[float, Optional[float]]  # TAR at each FAR; None where the pairs are too few
    thresholds: List[Optional[protocol.Threshold]]  # at each FAR, without mirror images, as applications embed
    auc: float
    length: float  # mean length of the embeddings before normalisation, insightface's XNorm
    roc: protocol.Roc


def sets_in(folder, names=None):
    """Return {name: path} of the verification sets `names` in a folder, by default all; raises UserError."""
    settle(folder)
    found = {
        os.path.basename(path)[:-4]: path for path in sorted(glob.glob(os.path.join(glob.escape(folder), '*.bin')))
    }
    if not found:
        raise UserError(f'there is no verification set (.bin) in {folder}')
    for name in names or ():
        if name not in found:
            raise UserError(f'there is no {name}.bin in {folder}; it has {", ".join(found)}')
    return {name: found[name] for name in names} if names else found


def columns(fars):
    """Return the titles of the columns of `texts_of`."""
    return ('set', 'pairs', 'accuracy', 'threshold', *(f'TAR at FAR {far:g}' for far in fars), 'AUC', 'mean length')


def evaluate(engine, name, path, fars=FARS):
    """Return the Result of a verification set; raises UserError for other files and too few pairs."""
    pairs = PairSet(path, engine.image_shape)
    embeddings = streams.run(engine, pairs.image, 2 * len(pairs), name, mirror=True)
    if not np.isfinite(embeddings).all():
        raise UserError(f'the embeddings of {engine.label} are not finite')
    length = float(np.linalg.norm(embeddings.astype(np.float64), axis=2).mean())
    distance = protocol.distances(embeddings.sum(axis=1, dtype=np.float64))
    try:
        roc = protocol.roc(distance, pairs.same)
        accuracy = protocol.accuracy(distance, pairs.same)
    except ValueError as error:
        raise UserError(f'{path}: {error}')
    tars = {far: roc.tar_at(far) for far in fars}
    thresholds = protocol.thresholds(protocol.cosines_of_pairs(embeddings[:, 0], pairs.same), fars)
    return Result(name, len(pairs), accuracy, tars, thresholds, roc.auc, length, roc)


def texts_of(result):
    """Return the texts of a Result, for the table with `columns`."""
    mean, deviation, threshold = result.accuracy
    tars = ('–' if tar is None else f'{tar:.5f}' for tar in result.tars.values())
    return (
        result.set,
        str(result.pairs),
        f'{mean:.5f} ± {deviation:.5f}',
        f'{threshold:.3f}',
        *tars,
        f'{result.auc:.5f}',
        f'{result.length:.4g}',
    )


def texts_of_thresholds(name, fars, thresholds):
    """Return the rows of Thresholds, for the table with COLUMNS_OF_THRESHOLDS."""
    return [
        (name, f'{far:g}', *((f'{found.cosine:.4f}', f'{found.tar:.5f}') if found else ('–', '–')))
        for far, found in zip(fars, thresholds)
    ]


def too_few(different):
    """Return a sentence for a set that has too few pairs of different people."""
    return f'–: {different:,} pairs of different people say nothing about rates below 1/{different:,}'


def as_json(results):
    """Return {label: [Result, …]} as a list that can be written as JSON."""
    return [
        {
            'model': label,
            'set': result.set,
            'pairs': result.pairs,
            'accuracy': result.accuracy.mean,
            'deviation': result.accuracy.deviation,
            'threshold': result.accuracy.threshold,
            'tar': {f'{far:g}': tar for far, tar in result.tars.items()},
            'thresholds': [threshold and threshold._asdict() for threshold in result.thresholds],
            'auc': result.auc,
            'mean_length': result.length,
        }
        for label, found in results.items()
        for result in found
    ]
