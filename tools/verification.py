"""Face verification as LFW and insightface measure it: are two images of the same person?"""
import numpy as np

FOLDS = 10
THRESHOLDS = np.arange(0, 4, 0.01)  # squared distance of two unit vectors, 0…4


def accuracy(embeddings, same, folds=FOLDS):
    """Return mean and standard deviation, over `folds`, of the accuracy on verification pairs.

    `embeddings` is (2n, size), pair i being rows 2i and 2i + 1; `same` is (n,) bool. Every fold is judged
    by the threshold that is best on the other folds (LFW's "unrestricted" protocol). Raises ValueError for
    fewer pairs than folds.
    """
    if len(same) < folds:
        raise ValueError('%d pairs are not enough for %d folds' % (len(same), folds))
    embeddings = np.asarray(embeddings, np.float64)  # of a network that has hardly begun they can be 1e20 long
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(length, 1e-12)
    distance = np.sum((unit[0::2] - unit[1::2]) ** 2, axis=1)
    right = (distance[:, None] < THRESHOLDS) == np.asarray(same)[:, None]  # (pairs, thresholds)
    results = []
    for fold in np.array_split(np.arange(len(same)), folds):
        others = np.ones(len(same), bool)
        others[fold] = False
        best = right[others].mean(axis=0).argmax()
        results.append(right[fold, best].mean())
    return float(np.mean(results)), float(np.std(results))
