"""The same losses of TF Similarity and TF Addons give the same values."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa
import tensorflow_similarity as tfsim

from tf_triplet.losses.triplet import TripletLoss

MARGIN = 0.3


def batch(seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=[20, 6]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.repeat(np.arange(5), 4).astype(np.int32), vectors


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("soft", [False, True])
def test_tf_similarity_batch_hard(seed, soft):
    labels, vectors = batch(seed)
    # Without a margin, TF Similarity uses the soft margin.
    peer = tfsim.losses.TripletLoss(
        distance="cosine",
        positive_mining_strategy="hard",
        negative_mining_strategy="hard",
        margin=None if soft else MARGIN,
    )
    ours = TripletLoss("batch_hard", margin=0.0 if soft else MARGIN, soft=soft)
    got = _with_gradient(ours, labels, vectors)
    want = _with_gradient(peer, labels, vectors)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "ours,theirs", [("euclidean", "L2"), ("squared_euclidean", "squared-L2")]
)
def test_tf_addons_batch_hard(seed, soft, ours, theirs):
    labels, vectors = batch(seed)
    loss = TripletLoss("batch_hard", margin=MARGIN, soft=soft, distance=ours)
    if soft:
        loss = TripletLoss("batch_hard", margin=0.0, soft=True, distance=ours)
    peer = tfa.losses.TripletHardLoss(
        margin=MARGIN, soft=soft, distance_metric=theirs
    )
    got = _with_gradient(loss, labels, vectors)
    want = _with_gradient(peer, labels, vectors)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_tf_addons_semi_hard(seed):
    labels, vectors = batch(seed)
    ours = TripletLoss("semi_hard", MARGIN, distance="squared_euclidean")
    peer = tfa.losses.TripletSemiHardLoss(
        margin=MARGIN, distance_metric="squared-L2"
    )
    got = _with_gradient(ours, labels, vectors)
    want = _with_gradient(peer, labels, vectors)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-3, atol=1e-5)


def _with_gradient(loss, labels, vectors):
    vectors = tf.Variable(vectors)
    with tf.GradientTape() as tape:
        # The other libraries assume unit vectors, also in their gradients.
        unit = tf.math.l2_normalize(vectors, axis=1)
        value = loss(tf.constant(labels), unit)
    return float(value), tape.gradient(value, vectors).numpy()
