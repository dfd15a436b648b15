"""Supervised contrastive and Smooth-AP beside other formulations of them."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses import (
    Keys,
    MultiSimilarityLoss,
    NPairsLoss,
    SmoothAPLoss,
    SupervisedContrastiveLoss,
    smooth_ap_loss,
    supervised_contrastive_loss,
)

PRODUCTS, IMAGES = 4, 3
LABELS = np.repeat(np.arange(PRODUCTS), IMAGES)


def batch(seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(len(LABELS), 5)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mean(value):
    return float(tf.reduce_mean(value.values))


def peer_supcon(x, temperature):
    """The matrix form of PyTorch Metric Learning, in NumPy."""
    s = np.float64(x) @ np.float64(x).T / temperature
    same = LABELS[:, None] == LABELS[None]
    positive = same & ~np.eye(len(x), dtype=bool)
    s -= s.max(1, keepdims=True)
    kept = np.where(positive | ~same, np.exp(s), 0.0)
    log_share = s - np.log(kept.sum(1, keepdims=True))
    return -((positive * log_share).sum(1) / positive.sum(1)).mean()


def peer_smooth_ap(x, temperature):
    """That of PyTorch Metric Learning: an anchor is its own positive."""
    s = np.float64(x) @ np.float64(x).T
    losses = []
    for i in range(len(x)):
        first = i // IMAGES * IMAGES
        group = range(first, first + IMAGES)

        def rank(p, rows, i=i):
            gaps = np.array([s[i, k] - s[i, p] for k in rows if k != p])
            return 1 + (1 / (1 + np.exp(-gaps / temperature))).sum()

        shares = [rank(p, group) / rank(p, range(len(x))) for p in group]
        losses.append(1 - sum(shares) / IMAGES)
    return np.mean(losses)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_supcon_equals_its_peer(seed, temperature):
    x = batch(seed)
    got = supervised_contrastive_loss(LABELS, x, temperature=temperature)
    assert mean(got) == pytest.approx(peer_supcon(x, temperature), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_smooth_ap_of_a_batch_that_contains_the_anchor_equals_its_peer(
    seed, temperature
):
    x = batch(seed)
    # Among keys, the anchor is found like any other image.
    whole = Keys(tf.constant(LABELS), tf.constant(x), tf.fill([len(x)], True))
    got = smooth_ap_loss(LABELS, x, keys=whole, temperature=temperature)
    want = peer_smooth_ap(x, temperature)
    assert mean(got) == pytest.approx(want, rel=1e-5)


def test_a_low_temperature_gives_the_average_precision():
    x = batch(5)
    s = x @ x.T
    wanted = []
    for i in range(len(x)):
        order = [k for k in np.argsort(-s[i]) if k != i]
        hits = LABELS[order] == LABELS[i]
        ranks = np.flatnonzero(hits) + 1
        wanted.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    got = 1 - mean(smooth_ap_loss(LABELS, x, temperature=1e-5))
    assert got == pytest.approx(np.mean(wanted), rel=1e-5)


def test_with_one_positive_the_variants_agree():
    labels, x = np.repeat(np.arange(6), 2), batch(1)
    values = [
        supervised_contrastive_loss(labels, x, variant=variant).values
        for variant in ("supcon", "infonce")
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [SupervisedContrastiveLoss(), SmoothAPLoss(0.1)]
)
def test_active_is_one_minus_what_is_found(loss):
    x = batch(2)
    s = x @ x.T
    np.fill_diagonal(s, -9)
    same = LABELS[:, None] == LABELS[None]
    negative = np.where(same, -9, s).max(1)
    is_positive = same & ~np.eye(len(x), dtype=bool)
    positive = np.where(is_positive, s, -9).max(1)
    if isinstance(loss, SmoothAPLoss):
        positive = np.where(is_positive, s, 9).min(1)
    got = loss.compute(LABELS, x).metrics["active"]
    assert float(got) == pytest.approx((negative >= positive).mean())


def test_unequal_products_and_a_lone_image():
    """PyTorch Metric Learning refuses such batches for Smooth-AP."""
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 5])
    for loss in (SupervisedContrastiveLoss(), SmoothAPLoss()):
        value = loss.compute(labels, batch(3)).values.numpy()
        assert np.isfinite(value).all()
        assert (value[[6, 10, 11]] == 0).all()


@pytest.mark.parametrize("kind", [SupervisedContrastiveLoss, SmoothAPLoss])
@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(kind, temperature):
    with pytest.raises(ValueError, match="`temperature` must be above 0. Rec"):
        kind(temperature)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="one of supcon, infonce. Received"):
        SupervisedContrastiveLoss(variant="in")


def test_a_step_pulls_positives_nearer_than_negatives():
    for loss in (
        SupervisedContrastiveLoss(),
        SupervisedContrastiveLoss(variant="infonce"),
        SmoothAPLoss(0.1),
        MultiSimilarityLoss(),
        NPairsLoss(),
    ):
        labels = np.repeat(np.arange(6), 2)
        x = tf.Variable(batch(4))
        first = float(loss(labels, x))
        for _ in range(40):
            with tf.GradientTape() as tape:
                value = loss(labels, tf.math.l2_normalize(x, -1))
            x.assign_sub(0.3 * tape.gradient(value, x))
        assert float(loss(labels, tf.math.l2_normalize(x, -1))) < 0.7 * first
