"""NMI and F1 against their formulas, pair by pair."""

import itertools

import numpy as np
import pytest

from tf_triplet.retrieval import clustering


def entropy(labels):
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return -(shares * np.log(shares)).sum()


def slow_nmi(labels, clusters):
    joint = entropy([f"{a} {b}" for a, b in zip(labels, clusters)])
    total = entropy(labels) + entropy(clusters)
    return 2 * (total - joint) / total


def slow_f1(labels, clusters):
    pairs = list(itertools.combinations(range(len(labels)), 2))
    same = [labels[i] == labels[j] for i, j in pairs]
    together = [clusters[i] == clusters[j] for i, j in pairs]
    right = sum(a and b for a, b in zip(same, together))
    if not sum(same) + sum(together):
        return 1.0
    return 2 * right / (sum(same) + sum(together))


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_f1_equals_the_count_over_pairs(seed):
    random = np.random.default_rng(seed)
    labels, clusters = random.integers(0, 5, (2, 30))
    got = clustering.pairwise_f1(labels, clusters)
    assert got == pytest.approx(slow_f1(labels, clusters))
    assert clustering.pairwise_f1(labels, labels) == 1
    alone = np.arange(30)
    assert clustering.pairwise_f1(alone, alone) == slow_f1(alone, alone) == 1


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_nmi_and_f1_describe_the_clusters_found(noise, monkeypatch):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    vectors = np.eye(6)[labels] + noise * random.normal(size=(30, 6))
    # The length of a vector must not matter.
    vectors *= random.uniform(0.5, 9, (30, 1))
    seen = []
    fit = clustering.cluster.KMeans.fit_predict

    def watch(self, *arguments):
        seen.append(fit(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(clustering.cluster.KMeans, "fit_predict", watch)
    got = clustering.evaluate_clusters(vectors, labels)
    assert len(set(seen[0])) == 6
    assert got["nmi"] == pytest.approx(slow_nmi(labels, seen[0]))
    assert got["f1"] == pytest.approx(slow_f1(labels, seen[0]))
    assert (got["nmi"] > 0.999) == (noise == 0)


def test_one_image_cannot_be_clustered():
    with pytest.raises(ValueError, match="two images or more"):
        clustering.evaluate_clusters(np.ones((1, 4)), np.zeros(1))
