"""The measures of verification against scikit-learn and a literal re-statement of insightface's protocol."""

import json
import os

import numpy as np
import pytest

from netkit.evaluation import protocol


def scores(count=400, seed=0, decimals=None):
    """Return squared distances of pairs, and which are of the same person: these are nearer, usually."""
    rng = np.random.RandomState(seed)
    same = rng.uniform(size=count) < 0.5
    distance = np.where(same, rng.normal(1.0, 0.4, count), rng.normal(1.6, 0.4, count)).clip(0, 4)
    return distance if decimals is None else distance.round(decimals), same


@pytest.mark.parametrize('decimals', [None, 1], ids=['', 'with ties'])
def test_roc_and_auc_are_scikit_learns(decimals):
    """What scikit-learn 1.3.2 made of the same scores is in roc.json, by make_roc.py."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'roc.json'), encoding='utf-8') as file:
        expected = json.load(file)[str(decimals)]
    found = protocol.roc(*scores(decimals=decimals))
    np.testing.assert_allclose(found.far, expected['far'], atol=1e-12)
    np.testing.assert_allclose(found.tar, expected['tar'], atol=1e-12)
    assert found.auc == pytest.approx(expected['auc'], abs=1e-12)
    far, tar = np.array(expected['far']), np.array(expected['tar'])
    for limit in (0.01, 0.1, 1.0):
        assert found.tar_at(limit) == pytest.approx(tar[far <= limit].max(), abs=1e-12)


def test_a_rate_that_the_pairs_do_not_allow_is_none():
    distance, same = np.arange(200) / 100, np.arange(200) < 100
    found = protocol.roc(distance, same)
    assert found.different == 100 and found.tar_at(0.01) == 1.0 and found.tar_at(0.009) is None
    assert found.auc == 1.0


@pytest.mark.parametrize('same, words', [([True] * 3, 'the same person'), ([False] * 3, 'different people')])
def test_pairs_of_one_kind_have_no_roc(same, words):
    with pytest.raises(ValueError, match=words):
        protocol.roc(np.ones(3), np.array(same))


def by_the_letter(embeddings, same):
    """The protocol of insightface, written down once more: thresholds 0, 0.01, …, ten folds of consecutive pairs."""
    unit = [row / np.sqrt((row**2).sum()) for row in embeddings]
    distance = [((unit[2 * i] - unit[2 * i + 1]) ** 2).sum() for i in range(len(same))]
    edges = np.cumsum([0] + [len(same) // 10 + (fold < len(same) % 10) for fold in range(10)])
    results = []
    for fold in range(10):
        test = range(edges[fold], edges[fold + 1])
        train = [i for i in range(len(same)) if i not in test]
        best, threshold = -1, None
        for candidate in np.arange(0, 4, 0.01):
            right = sum((distance[i] < candidate) == same[i] for i in train) / len(train)
            if right > best:
                best, threshold = right, candidate
        results.append(sum((distance[i] < threshold) == same[i] for i in test) / len(test))
    return np.mean(results), np.std(results)


@pytest.mark.parametrize('count', [40, 57])
def test_accuracy_is_the_protocols(count):
    rng = np.random.RandomState(count)
    same = rng.uniform(size=count) < 0.5
    first = rng.normal(size=(count, 8))
    second = np.where(same[:, None], first + rng.normal(size=(count, 8)), rng.normal(size=(count, 8)))
    embeddings = np.stack([first, second], axis=1).reshape(-1, 8) * rng.uniform(1, 30, (2 * count, 1))
    found = protocol.accuracy(protocol.distances(embeddings), same)
    np.testing.assert_allclose(found[:2], by_the_letter(embeddings, same), atol=1e-9)
    assert 0.3 < found.mean < 1 and 0 < found.threshold < 4


@pytest.mark.parametrize('far', [0.3, 0.05, 0.011, 1e-4])
@pytest.mark.parametrize('block', [1 << 24, 100])
def test_thresholds_of_all_pairs_of_people(far, block, monkeypatch):
    """By counting: this number of different pairs is above the threshold, and one more would be too many."""
    monkeypatch.setattr(protocol, 'BLOCK', block)
    rng = np.random.RandomState(0)
    people = rng.randint(0, 9, 60)
    embeddings = 5 * (rng.randn(9, 16)[people] + rng.randn(60, 16))
    pairs = [(i, j) for i in range(60) for j in range(i)]
    cosine = np.array(
        [
            embeddings[i] @ embeddings[j] / np.linalg.norm(embeddings[i]) / np.linalg.norm(embeddings[j])
            for i, j in pairs
        ]
    )
    same = np.array([people[i] == people[j] for i, j in pairs])
    (found,) = protocol.thresholds(protocol.cosines_of_people(embeddings, people, far), [far])
    different = cosine[~same]
    if far * len(different) < 1:
        assert found is None
        return
    assert found.far == far and (different > found.cosine).mean() <= far
    # A threshold that is lower by more than its rounding accepts too many.
    assert (different > found.cosine - 2e-4).mean() > far or (different > found.cosine).sum() == int(
        far * len(different)
    )
    assert (different > found.cosine).sum() >= int(far * len(different)) - 1
    assert found.tar == (cosine[same] > found.cosine).mean() > 0.5 * (far > 0.04)


def test_thresholds_of_pairs_are_those_of_their_own_different_pairs():
    rng = np.random.RandomState(1)
    embeddings, same = rng.randn(800, 8), np.arange(400) % 2 == 0
    embeddings[1::2][same] += 2 * embeddings[0::2][same]
    pairs = protocol.cosines_of_pairs(embeddings, same)
    cosine = [
        first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        for first, second in embeddings.reshape(-1, 2, 8)
    ]
    highest = sorted(np.array(cosine)[~same])
    found = protocol.thresholds(pairs, [0.1, 0.005, 0.0049])
    assert pairs.different == 200 and found[2] is None
    for threshold, accepted in zip(found, (20, 1)):
        assert highest[-accepted - 1] <= threshold.cosine < highest[-accepted - 1] + 1e-4
        assert threshold.tar == (np.array(cosine)[same] > threshold.cosine).mean()
    for _ in range(50):  # products of some are above 1 by rounding
        copies = protocol.cosines_of_people(np.tile(rng.randn(1, 7), (40, 1)), np.arange(40) // 4, 0.3)
        assert protocol.thresholds(copies, [0.3])[0].cosine == 1.0 and (copies.highest > 1.0).sum() == 0
    same_everywhere = protocol.cosines_of_pairs(np.ones((20, 4)), np.arange(10) % 2 == 0)
    assert protocol.thresholds(same_everywhere, [0.3]) == [protocol.Threshold(0.3, 1.0, 0.0)]  # nothing separates them
