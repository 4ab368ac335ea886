"""Print what scikit-learn makes of the scores of test_protocol.py, as JSON: `python make_roc.py > roc.json`.

In a separate environment, with scikit-learn 1.3.2: where that is installed, MXNet imports it, which takes more than
a second of every process.
"""

import json

import numpy as np
from sklearn import metrics


def scores(count=400, seed=0, decimals=None):
    """Return squared distances of pairs, and which are of the same person: these are nearer, usually."""
    rng = np.random.RandomState(seed)
    same = rng.uniform(size=count) < 0.5
    distance = np.where(same, rng.normal(1.0, 0.4, count), rng.normal(1.6, 0.4, count)).clip(0, 4)
    return distance if decimals is None else distance.round(decimals), same


def main():
    found = {}
    for decimals in (None, 1):
        distance, same = scores(decimals=decimals)
        far, tar, _ = metrics.roc_curve(same, -distance, drop_intermediate=False)
        auc = metrics.roc_auc_score(same, -distance)
        found[str(decimals)] = {'far': list(far), 'tar': list(tar), 'auc': auc}
    print(json.dumps(found))


if __name__ == '__main__':
    main()
