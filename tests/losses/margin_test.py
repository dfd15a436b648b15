"""Margin loss: the drawn negatives and the learned boundary."""

import numpy as np
import pair_reference
import pytest
import scipy.stats
import tensorflow as tf

from tf_triplet.losses import batch_loss, mining, pairs
from tf_triplet.losses.margin import MarginLoss, margin_loss


def drawn(labels, vectors):
    """Returns the negatives that the loss draws."""
    _, negatives = mining.pair_masks(labels)
    return mining.distance_weighted_negatives(
        pairs.pairwise(tf.constant(vectors), "euclidean"),
        negatives,
        vectors.shape[1],
        batch_loss.batch_seed(tf.constant(labels)),
    ).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_drawn_negatives_equal_the_loop(seed):
    labels, vectors = pair_reference.batch(seed)
    chosen = drawn(labels, vectors)
    x = tf.constant(vectors)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = margin_loss(labels, x, alpha=0.3, beta=1.1)
        loss = tf.reduce_mean(value.values)

    def oracle(moved):
        return pair_reference.margin(labels, moved, None, 0.3, 1.1, chosen)

    assert float(loss) == pytest.approx(oracle(vectors), rel=2e-5)
    np.testing.assert_allclose(
        tape.gradient(loss, x),
        pair_reference.finite_differences(oracle, vectors),
        rtol=1e-3,
        atol=2e-5,
    )


def test_weights_are_the_inverse_density_on_the_sphere():
    n = 4
    d = np.array([0.2, 0.5, 0.8, 1.2])
    got = np.exp(mining.distance_log_weights(tf.constant(d, tf.float32), n))
    held = np.maximum(d, 0.5)
    want = 1 / (held ** (n - 2) * (1 - held**2 / 4) ** ((n - 3) / 2))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def on_a_circle(gaps):
    """Returns a row, and one row at each Euclidean distance from it."""
    angles = 2 * np.arcsin(np.array([0.0, *gaps]) / 2)
    return np.float32(np.stack([np.cos(angles), np.sin(angles)], 1))


def draw_many(gaps, negatives, size, draws=4000):
    """Counts how often row 0 draws each row, with `size` dimensions."""
    distances = np.tile(np.float32([0.0, *gaps]), [draws, 1])
    allowed = np.tile([False, *negatives], [draws, 1])
    chosen = mining.distance_weighted_negatives(
        distances, tf.constant(allowed), size, tf.constant([3, 4])
    )
    return np.bincount(np.ravel(chosen), minlength=len(gaps) + 1)


def test_draws_follow_the_weights():
    gaps = [0.1, 0.5, 0.9, 0.95, 1.3, 1.6]
    counts = draw_many(gaps, [True] * 3 + [False] + [True] * 2, size=4)
    # Not itself, no row that is not a negative, and none beyond 1.4.
    assert counts[[0, 4, 6]].tolist() == [0, 0, 0]
    held = np.array([0.5, 0.5, 0.9, 1.3])
    weights = held**-2.0 * (1 - held**2 / 4) ** -0.5
    seen = counts[[1, 2, 3, 5]]
    wanted = weights / weights.sum() * seen.sum()
    assert scipy.stats.chisquare(seen, wanted).pvalue > 0.01


def test_draws_do_not_overflow_in_many_dimensions():
    """0.5^-2046 overflows even float64."""
    counts = draw_many([0.5, 0.5, 0.9], [True] * 3, size=2048, draws=500)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert scipy.stats.chisquare(counts[1:3]).pvalue > 0.01


def test_without_a_near_negative_the_nearest_is_taken():
    counts = draw_many([0.3, 1.7, 1.5, 1.9], [False, True, True, True], 8, 50)
    assert counts[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    assert counts[3] > 0


def test_the_same_batch_draws_the_same_and_another_differs():
    random = np.random.default_rng(0)
    vectors = random.normal(size=[24, 16]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.repeat(np.arange(6), 4)
    first = drawn(labels, vectors)
    np.testing.assert_array_equal(first, drawn(labels, vectors))
    assert (first != drawn(labels + 1, vectors)).any()


def test_by_hand_and_its_metrics():
    vectors = on_a_circle([1.3, 0.7])
    loss = MarginLoss(learn_beta=False, sampling="all")
    value = loss.compute([0, 0, 1], vectors)
    gap = np.linalg.norm(vectors[1] - vectors[2])
    pull, pushes = 0.2 + 1.3 - 1.2, [1.4 - 0.7, 1.4 - gap]
    got = float(tf.reduce_mean(value.values))
    # All pairs are active, with either row as the anchor.
    assert got == pytest.approx((pull + sum(pushes)) / 3, rel=1e-5)
    assert float(value.metrics["active"]) == 1.0
    assert float(value.metrics["positive"]) == pytest.approx(1.3)
    assert float(value.metrics["negative"]) == pytest.approx((0.7 + gap) / 2)
    assert float(value.metrics["beta"]) == pytest.approx(1.2)
    # Further inside the boundary, the positive pair costs nothing.
    value = loss.compute([0, 0, 1], on_a_circle([0.7, 1.3]))
    assert float(value.metrics["active"]) == pytest.approx(4 / 6)


def gradient_of_beta(loss, labels, vectors, keys=None):
    variable = loss.parameters.beta
    with tf.GradientTape() as tape:
        value = loss.compute(labels, vectors, keys)
        total = tf.reduce_mean(value.values)
    gradient = tf.convert_to_tensor(tape.gradient(total, variable))
    return float(total), gradient.numpy()


@pytest.mark.parametrize("beta_per", ["all", "product"])
@pytest.mark.parametrize("nu", [0.0, 0.3])
def test_gradient_of_the_boundary(beta_per, nu):
    labels, vectors = pair_reference.batch(1)
    loss = MarginLoss(beta_per=beta_per, beta_regularization=nu, sampling="all")
    loss.build(products=6, embedding_size=4)
    variable = loss.parameters.beta
    size = {"all": 1, "product": 6}[beta_per]
    start = 1.0 + 0.05 * np.arange(size)
    variable.assign(start)
    got, gradient = gradient_of_beta(loss, labels, vectors)

    def oracle(beta):
        beta = beta[labels if beta_per == "product" else 0 * labels]
        want = pair_reference.margin(labels, vectors, beta=beta)
        return want + nu * beta.mean()

    assert got == pytest.approx(oracle(start), rel=2e-5)
    numeric = pair_reference.finite_differences(oracle, start)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)
    assert np.abs(gradient).max() > 0.01


def test_keys_are_not_regularized_again():
    labels, vectors = pair_reference.batch(1)
    loss = MarginLoss(beta_regularization=0.3)
    loss.build(6, 4)
    keys = batch_loss.Keys(labels, vectors, tf.zeros([len(labels)], tf.bool))
    total, gradient = gradient_of_beta(loss, labels, vectors, keys)
    assert total == 0 and not gradient.any()


def test_boundary_starts_at_beta_and_is_trainable():
    loss = MarginLoss(beta=0.9, beta_per="product")
    loss.build(3, 8)
    (variable,) = loss.parameters.trainable_variables
    np.testing.assert_allclose(variable, [0.9] * 3)
    fixed = MarginLoss(learn_beta=False)
    fixed.build(3, 8)
    assert fixed.parameters is None


def test_unbuilt_boundary_says_what_to_do():
    with pytest.raises(ValueError, match="Call `build.*learn_beta=False"):
        MarginLoss()([0, 0], np.eye(2, dtype=np.float32))


def test_label_without_a_boundary_is_named():
    loss = MarginLoss(beta_per="product")
    loss.build(2, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="products 0.*1"):
        loss([0, 2], np.eye(2, dtype=np.float32))


def test_config_of_a_learned_boundary_round_trips():
    loss = MarginLoss(0.1, 1.1, True, "product", 0.5, "all")
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.get_config()["beta_per"] == "product"


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"alpha": -0.1}, "`alpha` must be at least 0. Received: -0.1"),
        ({"beta": 2.5}, "`beta` must be between 0 and 2.*Received: 2.5"),
        ({"beta_per": "image"}, "`beta_per` must be one of all, product"),
        ({"sampling": "hard"}, "`sampling` must be one of.*'hard'"),
        ({"beta_regularization": -1.0}, "at least 0. Received: -1.0"),
        (
            {"learn_beta": False, "beta_per": "product"},
            "no meaning with `learn_beta=False`",
        ),
        (
            {"learn_beta": False, "beta_regularization": 0.1},
            "no meaning with `learn_beta=False`.*beta_regularization=0.1",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarginLoss(**arguments)
