"""Lifted structure loss: variants, pairs, and another library's values."""

import numpy as np
import pair_reference
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

from tf_triplet.losses import distances, lifted
from tf_triplet.losses.lifted import LiftedStructureLoss


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant", lifted.VARIANTS)
@pytest.mark.parametrize("distance", distances.DISTANCES)
def test_equals_the_triple_loop(distance, variant, seed):
    labels, vectors = pair_reference.batch(seed)
    loss = LiftedStructureLoss(variant, 0.3, distance)
    want = pair_reference.lifted(labels, vectors, None, 0.3, distance, variant)
    assert float(loss(labels, vectors)) == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_tf_addons(seed):
    """The values agree if every product has a pair and a negative.

    In TF Addons a batch of one product costs something, unlike here, and a
    batch without a positive pair is 0 / 0.
    """
    _, vectors = pair_reference.batch(seed, size=12)
    labels = np.repeat(np.arange(4), 3).astype(np.int32)
    results = []
    for loss in (
        LiftedStructureLoss("original", margin=0.7),
        tfa.losses.LiftedStructLoss(margin=0.7),
    ):
        x = tf.constant(vectors)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(tf.constant(labels), x)
        results.append((float(value), tape.gradient(value, x).numpy()))
    (got, gradient), (want, wanted_gradient) = results
    assert got == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-6)


def test_original_by_hand():
    # One positive pair at 1; the negative lies at 3 and 2 from the two.
    vectors = np.float32([[0.0], [1.0], [3.0]])
    loss = LiftedStructureLoss("original", margin=2.0)
    value = loss.compute([0, 0, 1], vectors)
    hinge = np.log(np.exp(2.0 - 3.0) + np.exp(2.0 - 2.0)) + 1.0
    got = float(tf.reduce_mean(value.values))
    assert got == pytest.approx(0.5 * hinge**2, rel=1e-5)
    assert float(value.metrics["active"]) == 1.0


def test_generalized_by_hand_and_its_active_share():
    # Anchor 0 costs 0, anchor 1 more, and anchor 2 has no positive.
    vectors = np.float32([[0.0], [1.0], [3.0]])
    value = LiftedStructureLoss("generalized", 1.5).compute([0, 0, 1], vectors)
    np.testing.assert_allclose(
        value.values, np.array([0.0, 1.0 + 1.5 - 2.0, 0.0]) * 3 / 2, rtol=1e-5
    )
    assert float(value.metrics["active"]) == 0.5
    assert float(value.metrics["positive"]) == pytest.approx(1.0)
    assert float(value.metrics["negative"]) == pytest.approx(2.5)


@pytest.mark.parametrize("variant", lifted.VARIANTS)
def test_far_apart_neither_overflows_nor_vanishes(variant):
    """exp(2000) is infinite even in float64, and exp(-2000) is 0."""
    vectors = np.float32([[0.0], [2000.0], [900.0], [5000.0]])
    x = tf.constant(vectors)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = LiftedStructureLoss(variant)([0, 0, 1, 1], x)
    # Anchor by anchor: the farthest positive against the nearest negative.
    hinges = np.array([2000 - 899, 2000 - 1099, 4100 - 899, 4100 - 2999.0])
    if variant == "original":
        # Pair by pair, against the negative nearest to either.
        hinges = np.array([2000 - 899, 4100 - 899.0]) ** 2 / 2
    assert float(value) == pytest.approx(hinges.mean(), rel=1e-5)
    assert np.isfinite(tape.gradient(value, x)).all()


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            {"variant": "soft"},
            "`variant` must be one of original, generalized. Received: 'soft'",
        ),
        ({"margin": -1.0}, "`margin` must be at least 0. Received: -1.0"),
        ({"distance": "l2"}, "`distance` must be one of.*Received: 'l2'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LiftedStructureLoss(**arguments)
