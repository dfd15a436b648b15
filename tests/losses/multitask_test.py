"""Attribute and landmark losses against loops, and edge cases."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses import multitask

NAN = np.nan


def reference_attributes(attributes, logits, positive_weight):
    total, count = 0.0, 0
    for row, scores in zip(attributes, np.float64(logits)):
        for value, score in zip(row, scores):
            if value == -1:
                continue
            chance = 1 / (1 + np.exp(-score))
            count += 1
            if value == 1:
                total -= positive_weight * np.log(chance)
            else:
                total -= np.log(1 - chance)
    return total, count


def reference_landmarks(landmarks, places, logits):
    squared, visible, entropy, annotated = 0.0, 0, 0.0, 0
    for marks, found, scores in zip(landmarks, places, np.float64(logits)):
        for (x, y, visibility), place, score in zip(marks, found, scores):
            if np.isnan(visibility):
                continue
            chance = 1 / (1 + np.exp(-score))
            annotated += 1
            if visibility == 0:
                visible += 1
                squared += (place[0] - x) ** 2 + (place[1] - y) ** 2
                entropy -= np.log(chance)
            else:
                entropy -= np.log(1 - chance)
    return (squared, visible), (entropy, annotated)


def data(seed=0, batch=5, attributes=4, landmarks=3):
    random = np.random.default_rng(seed)
    marks = random.random((batch, landmarks, 3)).astype(np.float32)
    marks[..., 2] = random.integers(0, 3, (batch, landmarks))
    marks[0, 0] = NAN
    # This landmark is cut off and has no place.
    marks[1, 1] = NAN, NAN, 2
    return (
        random.integers(-1, 2, (batch, attributes)).astype(np.int8),
        random.normal(size=(batch, attributes)).astype(np.float32),
        marks,
        random.random((batch, landmarks, 2)).astype(np.float32),
        random.normal(size=(batch, landmarks)).astype(np.float32),
    )


@pytest.mark.parametrize("dtype,rtol", [("float32", 1e-5), ("float16", 1e-2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_sums_are_the_loops(seed, dtype, rtol):
    attributes, scores, marks, places, logits = data(seed)
    got = multitask.attribute_loss(attributes, tf.cast(scores, dtype), 2.5)
    want = reference_attributes(attributes, scores, 2.5)
    np.testing.assert_allclose(got, want, rtol=rtol)
    placed, seen = reference_landmarks(marks, places, logits)
    got = multitask.place_loss(marks, tf.cast(places, dtype))
    np.testing.assert_allclose(got, placed, rtol=rtol)
    got = multitask.visibility_loss(marks, tf.cast(logits, dtype))
    np.testing.assert_allclose(got, seen, rtol=rtol)
    assert got.total.dtype == tf.float32


def gradients(function, values, step=1e-2):
    """Returns the finite differences of a scalar."""
    found = np.zeros(values.shape)
    for at in np.ndindex(*values.shape):
        moved = [values.copy(), values.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        up, down = (float(function(tf.constant(one))) for one in moved)
        found[at] = (up - down) / (2 * step)
    return found


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_are_finite_differences(which):
    attributes, scores, marks, places, logits = data(batch=2)
    function, values = [
        (lambda v: multitask.attribute_loss(attributes, v, 2.0)[0], scores),
        (lambda v: multitask.place_loss(marks, v)[0], places),
        (lambda v: multitask.visibility_loss(marks, v)[0], logits),
    ][which]
    variable = tf.Variable(values)
    with tf.GradientTape() as tape:
        loss = function(variable)
    got = tape.gradient(loss, variable).numpy()
    np.testing.assert_allclose(got, gradients(function, values), atol=2e-3)
    # Unknown annotations have no gradient.
    if which == 0:
        assert (got[attributes == -1] == 0).all()
    elif which == 1:
        assert (got[marks[..., 2] != 0] == 0).all()


def test_nothing_annotated_is_zero_over_zero_terms():
    marks = np.full([2, 3, 3], NAN, np.float32)
    places, logits = (
        tf.Variable(tf.ones([2, 3, 2])),
        tf.Variable(tf.ones([2, 3])),
    )
    with tf.GradientTape() as tape:
        sums = [
            multitask.place_loss(marks, places),
            multitask.visibility_loss(marks, logits),
            multitask.attribute_loss(np.full([2, 3], -1, np.int8), logits),
        ]
        total = tf.add_n([one.total for one in sums])
    assert float(total) == 0
    assert [float(one.count) for one in sums] == [0, 0, 0]
    for gradient in tape.gradient(total, [places, logits]):
        assert (gradient.numpy() == 0).all()


def test_no_row_at_all():
    got = multitask.place_loss(tf.zeros([0, 3, 3]), tf.zeros([0, 3, 2]))
    assert float(got.total) == 0 and float(got.count) == 0


def test_sure_and_wrong_is_finite():
    got = multitask.attribute_loss(
        tf.constant([[1, 0]]), tf.constant([[-1e4, 1e4]]), 3.0
    )
    assert float(got.total) == pytest.approx(4e4)
