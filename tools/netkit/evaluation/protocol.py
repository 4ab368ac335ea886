"""The measures of face verification: accuracy as in LFW and insightface, ROC, TAR at FAR, AUC, thresholds.

Pairs are embeddings, (2n, size), pair i being rows 2i and 2i + 1, or their squared distances, (n,), after normalisation
to unit length; `same` is (n,) bool. `cosines_of_people` alone takes embeddings that are not in pairs.
"""

from typing import NamedTuple

import numpy as np

FOLDS = 10
THRESHOLDS = np.arange(0, 4, 0.01)  # of the squared distance of two unit vectors, 0…4
DIGITS = 4  # of a threshold of the cosine
BLOCK = 1 << 24  # cosines that are computed at a time


class Accuracy(NamedTuple):
    """The accuracy on verification pairs over the folds."""

    mean: float
    deviation: float  # standard deviation
    threshold: float  # mean of the folds' thresholds, a squared distance


def unit_length(embeddings):
    """Return embeddings, (n, size) of any length, as float64 of length one."""
    embeddings = np.asarray(embeddings, np.float64)  # early in training they can be 1e20 long
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def distances(embeddings):
    """Return the squared distances of pairs, (n,), of embeddings of any length."""
    unit = unit_length(embeddings)
    return np.sum((unit[0::2] - unit[1::2]) ** 2, axis=1)


def accuracy(distance, same, folds=FOLDS):
    """Return the Accuracy of pairs with these squared distances.

    The threshold for each fold is the best one of the other folds (LFW's "unrestricted" protocol). Raises ValueError
    for fewer pairs than folds.
    """
    if len(same) < folds:
        raise ValueError(f'{len(same)} pairs are not enough for {folds} folds')
    right = (distance[:, None] < THRESHOLDS) == np.asarray(same)[:, None]  # (pairs, thresholds)
    results, best = [], []
    for fold in np.array_split(np.arange(len(same)), folds):
        others = np.ones(len(same), bool)
        others[fold] = False
        best.append(right[others].mean(axis=0).argmax())
        results.append(right[fold, best[-1]].mean())
    return Accuracy(float(np.mean(results)), float(np.std(results)), float(THRESHOLDS[best].mean()))


def accepted_pairs(different, far):
    """Return how many of `different` pairs may be accepted at a false accept rate."""
    return int(different * far + 1e-9)


class Roc(NamedTuple):
    """The receiver operating characteristic: rates at all thresholds, from the strictest to the laxest."""

    far: np.ndarray  # false accept rate: share of different pairs that are accepted
    tar: np.ndarray  # true accept rate: share of same pairs that are accepted
    different: int  # number of pairs of different people

    def tar_at(self, far):
        """Return the largest true accept rate with a false accept rate of at most `far`.

        None where the different pairs are too few for that: less than 1/far.
        """
        if not accepted_pairs(self.different, far):
            return None
        return float(self.tar[self.far <= far].max())

    @property
    def auc(self):
        """The area under the curve."""
        return float(np.sum(np.diff(self.far) * (self.tar[1:] + self.tar[:-1]) / 2))


def roc(distance, same):
    """Return the Roc of pairs with these squared distances; raises ValueError unless there are both kinds of pairs."""
    same = np.asarray(same, bool)
    if same.all() or not same.any():
        raise ValueError(f'all pairs are of {"the same person" if same.all() else "different people"}')
    order = np.argsort(distance, kind='stable')
    accepted = np.cumsum(same[order]), np.cumsum(~same[order])
    last = np.append(np.diff(distance[order]) > 0, True)  # of pairs with equal distances, which no threshold separates
    tar, far = (np.concatenate([[0], count[last]]) / count[-1] for count in accepted)
    return Roc(far, tar, int((~same).sum()))


class Cosines(NamedTuple):
    """The cosines of pairs of people."""

    same: np.ndarray  # of all pairs of a person
    highest: np.ndarray  # the highest of different people, in any order
    different: int  # the number of all pairs of different people


class Threshold(NamedTuple):
    """A cosine above which two faces are taken for the same person."""

    far: float  # the false accept rate that was asked for
    cosine: float
    tar: float  # true accept rate


def thresholds(cosines, fars):
    """Return a Threshold for each false accept rate, None where the different pairs are too few: less than 1/far.

    No more than that share of the different pairs is above it. It has DIGITS digits, and `tar` is that of these.
    """
    found, step = [], 10.0**-DIGITS
    for far in fars:
        accepted = accepted_pairs(cosines.different, far)
        if not accepted:
            found.append(None)
            continue
        first_refused = -np.partition(-cosines.highest, accepted)[accepted]
        cosine = round(float(np.ceil(first_refused / step) * step), DIGITS)
        found.append(Threshold(far, cosine, float((cosines.same > cosine).mean())))
    return found


def cosines_of_pairs(embeddings, same):
    """Return the Cosines of the pairs of a verification set: embeddings (2n, size), `same` (n,) bool."""
    cosine, same = 1 - distances(embeddings) / 2, np.asarray(same, bool)  # never above 1
    return Cosines(cosine[same], cosine[~same], int((~same).sum()))


def cosines_of_people(embeddings, people, far):
    """Return the Cosines of all pairs of embeddings, (n, size), of `people`, (n,) integers.

    `highest` are as many as `thresholds` needs for rates up to `far`.
    """
    unit, people, same = unit_length(embeddings), np.asarray(people), []
    pairs_of_same = sum(count * (count - 1) // 2 for count in np.bincount(people))
    different = len(unit) * (len(unit) - 1) // 2 - pairs_of_same
    kept, highest = accepted_pairs(different, far) + 1, np.empty(0)
    for rows in np.array_split(np.arange(len(unit)), -(-(len(unit) ** 2) // BLOCK)):
        cosine = np.minimum(unit[rows] @ unit.T, 1)
        is_later, is_same = rows[:, None] < np.arange(len(unit)), people[rows][:, None] == people
        same.append(cosine[is_later & is_same])
        highest = np.concatenate([highest, cosine[is_later & ~is_same]])
        if len(highest) > kept:
            highest = -np.partition(-highest, kept)[:kept]
    return Cosines(np.concatenate(same), highest, different)
