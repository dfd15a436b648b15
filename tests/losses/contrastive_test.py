"""Contrastive loss: reductions, units, and another library's values."""

import numpy as np
import pair_reference
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

from tf_triplet.losses import contrastive, distances
from tf_triplet.losses.contrastive import ContrastiveLoss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reduction", contrastive.REDUCTIONS)
@pytest.mark.parametrize("distance", distances.DISTANCES)
def test_equals_the_double_loop(distance, reduction, seed):
    labels, vectors = pair_reference.batch(seed)
    loss = ContrastiveLoss(0.9, distance, reduction)
    want = pair_reference.contrastive(
        labels, vectors, None, 0.9, distance, reduction
    )
    assert float(loss(labels, vectors)) == pytest.approx(want, rel=2e-5)


def test_reductions_by_hand():
    # Distances: a positive pair at 0.6, negative ones at 0.8 and 0.2.
    vectors = np.float32([[0.0], [0.6], [0.8]])
    labels = [0, 0, 1]
    whole = ContrastiveLoss(1.0)(labels, vectors)
    balanced = ContrastiveLoss(1.0, reduction="balanced")(labels, vectors)
    pull, pushes = 0.36, [0.04, 0.64]
    assert float(whole) == pytest.approx((pull + sum(pushes)) / 3, rel=1e-5)
    assert float(balanced) == pytest.approx(pull + sum(pushes) / 2, rel=1e-5)


def test_metrics_by_hand():
    vectors = np.float32([[0.0], [0.6], [0.8]])
    metrics = ContrastiveLoss(0.5).compute([0, 0, 1], vectors).metrics
    assert float(metrics["active"]) == pytest.approx(0.5)
    assert float(metrics["positive"]) == pytest.approx(0.6)
    assert float(metrics["negative"]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_tf_addons_on_the_list_of_pairs(seed):
    """TF Addons scores given pairs; this package forms all of a batch."""
    labels, vectors = pair_reference.batch(seed)
    rows, columns = np.triu_indices(len(labels), 1)
    gaps = np.linalg.norm(vectors[rows] - vectors[columns], axis=1)
    same = (labels[rows] == labels[columns]).astype(np.int32)
    theirs = tfa.losses.contrastive_loss(same, gaps, margin=1.1)
    ours = ContrastiveLoss(1.1)(labels, vectors)
    assert float(ours) == pytest.approx(float(np.mean(theirs)), rel=1e-5)


def test_nearly_equal_vectors_keep_their_distance():
    """At 1e-3 apart, |a|² + |b|² - 2ab has few digits left in float32."""
    random = np.random.default_rng(0)
    center = np.ones([1, 8]) / np.sqrt(8)
    vectors = np.float32(center + random.normal(size=[12, 8]) * 4e-4)
    labels = np.repeat(np.arange(4), 3)
    for margin in (1e-3, 1.0):
        got = float(ContrastiveLoss(margin)(labels, vectors))
        want = pair_reference.contrastive(labels, vectors, margin=margin)
        assert got == pytest.approx(want, rel=1e-4)


def test_sample_weights_weigh_rows():
    labels, vectors = pair_reference.batch(0)
    weights = np.zeros(len(labels), np.float32)
    weights[2] = 1.0
    loss = ContrastiveLoss()
    got = loss(labels, vectors, sample_weight=weights)
    values = loss.compute(labels, tf.constant(vectors)).values
    assert float(got) == pytest.approx(float(values[2]) / len(labels))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"margin": 0.0}, "`margin` must be above 0.*Received: 0.0"),
        ({"distance": "l2"}, "`distance` must be one of.*Received: 'l2'"),
        (
            {"reduction": "sum"},
            "`reduction` must be one of mean, balanced. Received: 'sum'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(**arguments)
