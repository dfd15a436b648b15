"""Requirements on all losses over pairs."""

import functools

import numpy as np
import pair_reference
import pytest
import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import Keys
from tf_triplet.losses.contrastive import ContrastiveLoss
from tf_triplet.losses.lifted import LiftedStructureLoss
from tf_triplet.losses.margin import MarginLoss
from tf_triplet.losses.multi_similarity import MultiSimilarityLoss
from tf_triplet.losses.npairs import NPairsLoss
from tf_triplet.losses.smooth_ap import SmoothAPLoss
from tf_triplet.losses.supervised_contrastive import SupervisedContrastiveLoss

LOSSES = {
    "contrastive": ContrastiveLoss(margin=1.1),
    "balanced": ContrastiveLoss(reduction="balanced"),
    "lifted": LiftedStructureLoss("original"),
    "generalized": LiftedStructureLoss("generalized"),
    "margin_all": MarginLoss(learn_beta=False, sampling="all"),
    "margin": MarginLoss(learn_beta=False),
    "n_pairs": NPairsLoss(scale=5.0),
    "multi_similarity": MultiSimilarityLoss(),
    "supcon": SupervisedContrastiveLoss(),
    "infonce": SupervisedContrastiveLoss(0.2, "infonce"),
    # Wider than the default, so that the sigmoids of the tests have gradients.
    "smooth_ap": SmoothAPLoss(temperature=0.1),
}
ORACLES = {
    "contrastive": functools.partial(pair_reference.contrastive, margin=1.1),
    "balanced": functools.partial(
        pair_reference.contrastive, reduction="balanced"
    ),
    "lifted": functools.partial(pair_reference.lifted, variant="original"),
    "generalized": pair_reference.lifted,
    "margin_all": pair_reference.margin,
    "n_pairs": functools.partial(pair_reference.n_pairs, scale=5.0),
    "multi_similarity": pair_reference.multi_similarity,
    "supcon": pair_reference.supcon,
    "infonce": functools.partial(
        pair_reference.supcon, temperature=0.2, variant="infonce"
    ),
    "smooth_ap": functools.partial(pair_reference.smooth_ap, temperature=0.1),
}
# In these losses each pair counts by itself.
LONE_PAIRS = ("contrastive", "balanced", "margin_all")


def batch(seed, name):
    labels, vectors = pair_reference.batch(seed)
    if name == "n_pairs":
        labels = np.repeat(labels[: len(labels) // 2], 2)
    return labels, vectors


def value_and_gradient(name, labels, vectors, keys=None):
    vectors = tf.convert_to_tensor(vectors)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        value = LOSSES[name].compute(tf.constant(labels), vectors, keys)
        loss = tf.reduce_mean(value.values)
    assert set(value.metrics) == set(LOSSES[name].metric_names)
    assert all(np.isfinite(metric) for metric in value.metrics.values())
    assert value.values.dtype == tf.float32
    assert value.values.shape == [len(labels)]
    gradient = tf.convert_to_tensor(tape.gradient(loss, vectors)).numpy()
    assert np.isfinite(gradient.astype(np.float32)).all()
    return float(loss), gradient


def memory(seed, sides=False):
    """Returns twelve keys, some of them invalid, also for the oracle."""
    labels, vectors = pair_reference.batch(seed, size=12)
    valid = np.random.default_rng(seed).random(12) < 0.7
    if sides:
        labels = np.stack([labels, np.arange(12) % 2], 1)
    # The memory holds labels as [keys, width].
    column = labels.reshape(12, -1)
    keys = Keys(tf.constant(column), tf.constant(vectors), tf.constant(valid))
    return keys, (labels, vectors, valid)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ORACLES)
def test_equals_the_loops(name, seed):
    labels, vectors = batch(seed, name)
    got, gradient = value_and_gradient(name, labels, vectors)
    oracle = functools.partial(ORACLES[name], labels)
    assert got == pytest.approx(oracle(vectors), rel=2e-5)
    assert got > 0
    numeric = pair_reference.finite_differences(oracle, vectors)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ORACLES)
def test_two_domains_equal_the_loops(name, seed):
    labels, vectors = batch(seed, name)
    sides = np.random.default_rng(seed).integers(0, 2, len(labels))
    if name == "n_pairs":
        # One pair has its sides swapped, one consists of street images only.
        # Neither query counts.
        sides = np.array([0, 1, 0, 1, 1, 0, 0, 0, 0, 1])
    labels = np.stack([labels, sides], 1)
    got, _ = value_and_gradient(name, labels, vectors)
    assert got == pytest.approx(ORACLES[name](labels, vectors), rel=2e-5)


@pytest.mark.parametrize("sides", [False, True])
@pytest.mark.parametrize("name", ORACLES)
def test_keys_equal_the_loops(name, sides):
    labels, vectors = batch(5, name)
    if sides:
        labels = np.stack([labels, np.arange(len(labels)) % 2], 1)
    keys, plain = memory(6, sides)
    got, gradient = value_and_gradient(name, labels, vectors, keys)
    oracle = functools.partial(ORACLES[name], labels, keys=plain)
    assert got == pytest.approx(oracle(vectors), rel=2e-5)
    assert got > 0
    numeric = pair_reference.finite_differences(oracle, vectors)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    "name",
    ["generalized", "multi_similarity", "supcon", "infonce", "smooth_ap"],
)
def test_the_batch_itself_as_keys_gives_the_same_anchor_by_anchor(name):
    labels, vectors = batch(2, name)
    whole = LOSSES[name].compute(tf.constant(labels), tf.constant(vectors))
    alone = []
    for i in range(len(labels)):
        keys = Keys(
            tf.constant(labels),
            tf.constant(vectors),
            tf.range(len(labels)) != i,
        )
        one = slice(i, i + 1)
        alone += list(
            LOSSES[name].compute(labels[one], vectors[one], keys).values
        )
    counted = sum(
        (labels == label).sum() > 1 and (labels != label).any()
        for label in labels
    )
    got = whole.values.numpy() * counted / len(labels)
    np.testing.assert_allclose(got, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_into_keys(name):
    labels, vectors = batch(5, name)
    keys, _ = memory(6)
    with tf.GradientTape() as tape:
        tape.watch(keys.embeddings)
        value = LOSSES[name].compute(labels, tf.constant(vectors), keys)
    assert tf.reduce_mean(value.values) > 0
    assert tape.gradient(value.values, keys.embeddings) is None


@pytest.mark.parametrize("name", LOSSES)
def test_cold_memory_costs_nothing(name):
    labels, vectors = batch(1, name)
    keys, _ = memory(6)
    keys = keys._replace(valid=tf.zeros_like(keys.valid))
    loss, gradient = value_and_gradient(name, labels, vectors, keys)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_all_equal_embeddings_have_a_finite_gradient(name):
    labels = np.repeat(np.arange(4), 2)
    vectors = np.tile(np.float32([[0.6, 0.8]]), (8, 1))
    loss, gradient = value_and_gradient(name, labels, vectors)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
    at_collapse = LOSSES[name].loss_at_collapse
    assert (at_collapse is not None) == (
        name in ("balanced", "margin", "margin_all")
    )
    if at_collapse is not None:
        assert loss == pytest.approx(at_collapse, rel=1e-5)
    if name in ORACLES:
        want = ORACLES[name](labels, vectors)
        assert loss == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_exact_duplicates_and_ties(name):
    labels = np.repeat(np.arange(3), 4)
    vectors = np.tile(np.eye(4, dtype=np.float32), (3, 1))
    loss, _ = value_and_gradient(name, labels, vectors)
    assert np.isfinite(loss)
    if name in ORACLES:
        want = ORACLES[name](labels, vectors)
        assert loss == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "n_pairs"])
def test_one_image_a_product(name):
    _, vectors = batch(1, name)
    loss, gradient = value_and_gradient(name, np.arange(10), vectors)
    assert (loss > 0) == (name in LONE_PAIRS)
    assert gradient.any() == (name in LONE_PAIRS)


@pytest.mark.parametrize("name", LOSSES)
def test_no_negative(name):
    _, vectors = batch(1, name)
    labels = np.zeros(10, int)
    loss, gradient = value_and_gradient(name, labels, vectors)
    assert (loss > 0) == (name in LONE_PAIRS)
    assert gradient.any() == (name in LONE_PAIRS)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("side", [0, 1])
def test_one_side_only_has_no_loss(name, side):
    labels, vectors = batch(3, name)
    labels = np.stack([labels, np.full_like(labels, side)], 1)
    loss, gradient = value_and_gradient(name, labels, vectors)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_cast_up(name, dtype):
    labels, vectors = batch(3, name)
    low = tf.cast(vectors, dtype)
    got, _ = value_and_gradient(name, labels, low)
    want, _ = value_and_gradient(name, labels, tf.cast(low, tf.float32))
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_large_embeddings_do_not_overflow(name):
    """exp(300) is infinite in float32."""
    labels, vectors = batch(3, name)
    loss, _ = value_and_gradient(name, labels, vectors * 300)
    assert np.isfinite(loss)


@pytest.mark.parametrize("name", LOSSES)
def test_empty_batch_has_no_values(name):
    value = LOSSES[name].compute(
        tf.zeros([0], tf.int32), tf.zeros([0, 4], tf.float32)
    )
    assert value.values.shape == [0]


@pytest.mark.parametrize("name", LOSSES)
def test_config_round_trip(name):
    loss = LOSSES[name]
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize("name", LOSSES)
def test_is_a_keras_loss_inside_a_graph(name):
    labels, vectors = batch(3, name)
    in_graph = tf.function(lambda y, x: LOSSES[name](y, x))
    got = in_graph(tf.constant(labels[:, None]), tf.constant(vectors))
    want, _ = value_and_gradient(name, labels, vectors)
    assert float(got) == pytest.approx(want, rel=1e-5)


def test_logsumexp_of_nothing_is_minus_infinity_without_gradient():
    values = tf.constant([[1000.0, 1000.0, 5.0], [1.0, 2.0, 3.0]])
    mask = tf.constant([[True, True, False], [False, False, False]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = pairs.logsumexp(values, mask)
    np.testing.assert_allclose(result, [1000 + np.log(2), -np.inf], rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(result, values), [[0.5, 0.5, 0], [0, 0, 0]]
    )
