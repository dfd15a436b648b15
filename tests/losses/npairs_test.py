"""N-pairs loss: targets, columns, and another library's values."""

import numpy as np
import pair_reference
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

from tf_triplet.losses.batch_loss import Keys
from tf_triplet.losses.npairs import NPairsLoss


def batch(seed, products):
    """Returns products in pairs; some have several pairs."""
    _, vectors = pair_reference.batch(seed, size=2 * len(products))
    return np.repeat(products, 2).astype(np.int32), vectors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("products", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1, 0]])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_tf_addons_on_the_matrix_of_similarities(seed, products, scale):
    """TF Addons takes the matrix, and counts queries without negatives."""
    labels, vectors = batch(seed, products)
    results = []
    for ours in (True, False):
        x = tf.constant(vectors)
        with tf.GradientTape() as tape:
            tape.watch(x)
            if ours:
                value = NPairsLoss(scale)(labels, x)
            else:
                logits = scale * tf.matmul(x[0::2], x[1::2], transpose_b=True)
                value = tfa.losses.npairs_loss(np.array(products), logits)
        results.append((float(value), tape.gradient(value, x).numpy()))
    (got, gradient), (want, wanted_gradient) = results
    assert got == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-4, atol=1e-6)


def test_keys_stand_beside_the_own_positive_by_hand():
    vectors = np.float32([[1, 0], [0.6, 0.8], [0, 1], [0, 1]])
    keys = Keys(
        tf.constant([[0], [1], [2], [1]]),
        tf.constant([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]),
        tf.constant([True, True, True, False]),
    )
    value = NPairsLoss(scale=2.0).compute([0, 0, 1, 1], vectors, keys)
    # Query 0: 0.6 (its positive), 0.8 (its product), 0 and 1.
    logits = 2 * np.array([0.6, 0.8, 0.0, 1.0])
    first = np.log(np.exp(logits).sum()) - logits[:2].mean()
    # Query 2: 1 (its positive), 0.6, 1 (its product) and 0.
    logits = 2 * np.array([1.0, 1.0, 0.6, 0.0])
    second = np.log(np.exp(logits).sum()) - logits[:2].mean()
    np.testing.assert_allclose(
        value.values, [2 * first, 0, 2 * second, 0], rtol=1e-5
    )
    assert float(value.metrics["active"]) == 0.5
    assert float(value.metrics["positive"]) == pytest.approx((0.4 + 0) / 2)
    negatives = [1 - 0, 1 - 1, 1 - 0.6, 1 - 0]
    assert float(value.metrics["negative"]) == pytest.approx(np.mean(negatives))


def test_without_a_scale_unit_vectors_cannot_be_right():
    """A perfect answer among 64 is the reason for the default scale."""
    labels = np.repeat(np.arange(64), 2)
    perfect = np.eye(64, dtype=np.float32)[labels]
    assert float(NPairsLoss(1.0)(labels, perfect)) > 3
    assert float(NPairsLoss()(labels, perfect)) < 1e-5


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 1]])
def test_refuses_a_batch_without_pairs(labels):
    vectors = np.eye(4, dtype=np.float32)[: len(labels)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="same product"):
        NPairsLoss()(labels, vectors)


def test_asks_for_pairs():
    assert NPairsLoss().in_pairs


def test_bad_scale_is_named():
    with pytest.raises(ValueError, match="`scale` must be above 0. Received"):
        NPairsLoss(scale=0.0)
