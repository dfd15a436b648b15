"""Multi-Similarity loss: mining, and another library's values."""

import numpy as np
import pair_reference
import pytest
import tensorflow as tf
import tensorflow_similarity as tfsim

from tf_triplet.losses.multi_similarity import MultiSimilarityLoss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0])
def test_equals_the_loop(seed, epsilon):
    labels, vectors = pair_reference.batch(seed)
    arguments = {"alpha": 3.0, "beta": 20.0, "base": 0.3, "epsilon": epsilon}
    got = MultiSimilarityLoss(**arguments)(labels, 2.0 * vectors)
    want = pair_reference.multi_similarity(labels, vectors, **arguments)
    assert float(got) == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_tf_similarity(seed):
    """The values agree if every row has a positive and a negative.

    TF Similarity averages over all rows, this package over those with both.
    """
    _, vectors = pair_reference.batch(seed, size=12)
    labels = np.repeat(np.arange(4), 3).astype(np.int32)
    results = []
    for loss in (
        MultiSimilarityLoss(beta=40.0),
        tfsim.losses.MultiSimilarityLoss(beta=40.0, lmda=0.5),
    ):
        x = tf.constant(vectors)
        with tf.GradientTape() as tape:
            tape.watch(x)
            unit = tf.math.l2_normalize(x, -1)
            value = tf.reduce_mean(loss(tf.constant(labels), unit))
        results.append((float(value), tape.gradient(value, x).numpy()))
    (got, gradient), (want, wanted_gradient) = results
    assert got == pytest.approx(want, rel=1e-4)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-5)


def test_mined_pairs_by_hand():
    # Row 0 has positives at cosine 0.95 and 0.6, and a negative at 0.8.
    cosines = np.array([1.0, 0.95, 0.6, 0.8])
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], 1)
    value = MultiSimilarityLoss(epsilon=0.1).compute([0, 0, 0, 1], vectors)
    # 0.95 is more than 0.8 + 0.1, so only the positive at 0.6 is mined.
    pull = np.log(1 + np.exp(-2 * (0.6 - 0.5))) / 2
    push = np.log(1 + np.exp(50 * (0.8 - 0.5))) / 50
    # Row 3 has no positive, so the mean is over three rows.
    got = float(value.values[0]) * 3 / 4
    assert got == pytest.approx(pull + push, rel=1e-4)


def test_anchor_with_nothing_mined_counts_with_0():
    angles = np.array([0.0, 0.01, np.pi, np.pi + 0.01])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    value = MultiSimilarityLoss().compute([0, 0, 1, 1], vectors)
    assert float(tf.reduce_sum(value.values)) == 0
    assert float(value.metrics["active"]) == 0
    # One more row, near product 0. Rows 0, 1 and 4 have mined pairs; two of
    # them have a positive.
    near = np.concatenate([vectors, vectors[:1]])
    value = MultiSimilarityLoss().compute([0, 0, 1, 1, 2], near)
    assert float(value.metrics["active"]) == 0.5


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"alpha": 0.0}, "`alpha` must be above 0. Received: 0.0"),
        ({"beta": -1.0}, "`beta` must be above 0. Received: -1.0"),
        ({"base": 1.5}, "`base` must be a cosine similarity.*Received: 1.5"),
        ({"epsilon": -0.1}, "`epsilon` must be at least 0. Received: -0.1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiSimilarityLoss(**arguments)
