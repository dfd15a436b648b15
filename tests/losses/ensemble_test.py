"""Ensemble loss: parts, divergence, gradients and replicas."""

import numpy as np
import pytest
import reference
import tensorflow as tf

from tf_triplet.losses import ensemble
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, Keys
from tf_triplet.losses.proxies import ProxyNCALoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training.learner import Learner


def batch(seed=0, size=8, learners=3, dim=4, products=3):
    """Returns labels, and embeddings with parts of length 1 / sqrt(M)."""
    random = np.random.default_rng(seed)
    parts = random.normal(size=(size, learners, dim))
    parts /= np.linalg.norm(parts, axis=-1, keepdims=True)
    labels = random.integers(0, products, size)
    return labels, parts.reshape(size, -1) / np.sqrt(learners)


def slow_divergence(embeddings, learners, margin):
    rows = []
    for row in np.float64(embeddings):
        parts = row.reshape(learners, -1) * np.sqrt(learners)
        rows.append(
            np.mean(
                [
                    max(0.0, margin - ((parts[i] - parts[j]) ** 2).sum())
                    for i in range(learners)
                    for j in range(i)
                ]
            )
        )
    return np.array(rows)


def slow_loss(labels, embeddings, learners, margin, weight, mining):
    parts = embeddings.reshape(len(labels), learners, -1) * np.sqrt(learners)
    own = np.mean(
        [
            reference.triplet_loss(
                labels, parts[:, i], mining, 0.2, False, "cosine", "mean"
            )
            for i in range(learners)
        ]
    )
    return own + weight * slow_divergence(embeddings, learners, margin).mean()


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard", "batch_all"])
@pytest.mark.parametrize("learners", [2, 3])
@pytest.mark.parametrize(
    "case", ["plain", "lone", "one_product", "equal", "duplicates"]
)
def test_equals_numpy(mining, learners, case):
    labels, embeddings = batch(learners, learners=learners)
    if case == "lone":
        labels = np.arange(8)
    if case == "one_product":
        labels = np.zeros(8, int)
    if case == "equal":
        embeddings[:] = embeddings[0]
    if case == "duplicates":
        embeddings[4:] = embeddings[:4]
    loss = ensemble.EnsembleLoss(
        TripletLoss(mining, margin=0.2), learners, 2.5, 0.7
    )
    got = loss.compute(labels, np.float32(embeddings))
    want = slow_loss(labels, embeddings, learners, 2.5, 0.7, mining)
    np.testing.assert_allclose(np.mean(got.values), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        got.metrics["divergence"],
        slow_divergence(embeddings, learners, 2.5).mean(),
        rtol=1e-5,
    )
    assert set(got.metrics) == set(loss.metric_names)


def test_divergence_of_equal_and_of_opposite_learners():
    same = tf.ones([2, 3, 1])
    np.testing.assert_array_equal(ensemble.divergence(same, 1.0), [1, 1])
    two = tf.constant([[[1.0], [-1.0]]])
    np.testing.assert_array_equal(ensemble.divergence(two, 1.0), [0])


def test_gradient_equals_finite_differences():
    labels, embeddings = batch(1)
    # batch_all mines nothing, so no choice of rows changes within a step.
    loss = ensemble.EnsembleLoss(TripletLoss("batch_all"), 3, 2.5)
    inputs = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss(labels, inputs)
    got = tape.gradient(value, inputs).numpy()
    step = 1e-5

    def slow(vectors):
        parts = vectors.reshape(len(labels), 3, -1) * np.sqrt(3)
        own = [
            reference.triplet_loss(
                labels, parts[:, i], "batch_all", 0.1, False, "cosine", "mean"
            )
            for i in range(3)
        ]
        return np.mean(own) + slow_divergence(vectors, 3, 2.5).mean()

    for at in [(0, 0), (3, 5), (6, 11), (7, 2)]:
        up, down = embeddings.copy(), embeddings.copy()
        up[at] += step
        down[at] -= step
        want = (slow(up) - slow(down)) / (2 * step)
        np.testing.assert_allclose(got[at], want, rtol=1e-3, atol=1e-5)


def test_collapsed_learners_have_finite_gradients():
    inputs = tf.fill([4, 6], 6**-0.5)
    loss = ensemble.EnsembleLoss(TripletLoss(distance="euclidean"), 2)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss([0, 0, 1, 1], inputs)
    assert float(value) == pytest.approx(0.1 + 1.0)
    assert np.isfinite(tape.gradient(value, inputs)).all()


def test_float16_is_cast_up():
    labels, embeddings = batch()
    loss = ensemble.EnsembleLoss(TripletLoss(), 3)
    half = tf.constant(embeddings, tf.float16)
    got = loss.compute(labels, half).values
    assert got.dtype == tf.float32
    want = loss.compute(labels, tf.cast(half, tf.float32)).values
    np.testing.assert_array_equal(got, want)


def test_keys_are_split_and_have_no_divergence():
    labels, embeddings = batch(2)
    others, key_embeddings = batch(3, size=5)
    keys = Keys(
        tf.constant(others),
        tf.constant(key_embeddings, tf.float32),
        tf.constant([True] * 4 + [False]),
    )
    base = TripletLoss("batch_all", 0.4)
    got = ensemble.EnsembleLoss(base, 3).compute(
        labels, tf.constant(embeddings, tf.float32), keys
    )
    want = []
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        value = base.compute(
            labels,
            tf.constant(embeddings[:, part] * 3**0.5, tf.float32),
            keys._replace(embeddings=keys.embeddings[:, part] * 3**0.5),
        )
        want.append(value.values)
    assert np.mean(want) > 0
    np.testing.assert_allclose(got.values, np.mean(want, 0), rtol=1e-4)


@tf.keras.utils.register_keras_serializable("tests")
class ToProxies(BatchLoss):
    """The squared distance to the proxy of the product."""

    def __init__(self, scale=1.0, name="to_proxies"):
        super().__init__(name=name)
        self.scale = scale

    def build(self, products, embedding_size):
        self.parameters = tf.keras.layers.Embedding(products, embedding_size)
        self.parameters.build(None)

    def compute(self, labels, embeddings, keys=None):
        gap = embeddings - self.parameters(labels)
        values = self.scale * tf.reduce_sum(tf.square(gap), -1)
        return BatchValue(values, {})

    def get_config(self):
        return {"scale": self.scale, "name": self.name}


def test_each_learner_has_variables_of_its_own():
    loss = ensemble.EnsembleLoss(ToProxies(2.0), 3, divergence_weight=0.0)
    assert loss.parameters is None
    loss.build(products=5, embedding_size=12)
    variables = loss.parameters.trainable_variables
    assert [tuple(v.shape) for v in variables] == [(5, 4)] * 3
    labels, embeddings = batch()
    with tf.GradientTape() as tape:
        value = loss(labels, tf.constant(embeddings, tf.float32))
    want = [
        2.0 * ((embeddings[:, 4 * i : 4 * i + 4] * 3**0.5 - v) ** 2).sum(1)
        for i, v in enumerate(
            variable.numpy()[labels] for variable in variables
        )
    ]
    np.testing.assert_allclose(value, np.mean(want), rtol=1e-5)
    assert all(g is not None for g in tape.gradient(value, variables))
    saved = tf.train.Checkpoint(loss=loss.parameters)
    assert len(tf.nest.flatten(saved.loss.learners)) == 3


def test_serializes():
    loss = ensemble.EnsembleLoss(TripletLoss("semi_hard", 0.3), 2, 0.5, 0.25)
    text = tf.keras.losses.serialize(loss)
    again = tf.keras.losses.deserialize(text)
    assert again.get_config() == loss.get_config()
    assert again.metric_names == (
        "active",
        "positive",
        "negative",
        "divergence",
    )
    labels, embeddings = batch(learners=2)
    embeddings = np.float32(embeddings)
    assert float(again(labels, embeddings)) == float(loss(labels, embeddings))


def test_collapse_is_known_without_divergence_only():
    base = TripletLoss(margin=0.3)
    assert ensemble.EnsembleLoss(base, 2).loss_at_collapse is None
    quiet = ensemble.EnsembleLoss(base, 2, divergence_weight=0.0)
    assert quiet.loss_at_collapse == 0.3
    paired = ensemble.EnsembleLoss(TripletLoss("paper"), 2)
    assert paired.in_pairs and paired.takes_keys


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: ensemble.EnsembleLoss(TripletLoss(), 1), "at least 2.*1"),
        (
            lambda: ensemble.EnsembleLoss(TripletLoss(), 2, -1.0),
            "`divergence_margin` must be at least 0. Received: -1",
        ),
        (
            lambda: ensemble.EnsembleLoss(TripletLoss(), 2)([0], [[1.0] * 5]),
            "`learners` must divide.*learners=2",
        ),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def learner():
    tf.keras.utils.set_random_seed(3)
    layers = tf.keras.layers
    encoder = tf.keras.Sequential([tf.keras.Input([6]), layers.Dense(4)])
    made = Learner(
        encoder,
        ensemble.EnsembleLoss(TripletLoss("batch_hard", 0.4), 2, 3.0),
    )
    made.compile(tf.keras.optimizers.SGD(1.0))
    return made


def test_two_replicas_equal_one_device(two_replicas, first_shard=3):
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 6)).astype(np.float32)
    labels = np.repeat(np.arange(4), 2).astype(np.int32)
    single = learner()
    want = single.train_step((tf.constant(images), tf.constant(labels)))
    with two_replicas.scope():
        double = learner()

    def shard(context):
        i = context.replica_id_in_sync_group
        part = slice(0, first_shard) if i == 0 else slice(first_shard, None)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda data: double.train_step(data))
    two_replicas.run(step, args=(values,))
    for got, wanted in zip(
        double.encoder.get_weights(), single.encoder.get_weights()
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    got = {m.name: float(m.result()) for m in double.metrics}
    assert got["divergence"] > 0
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=1e-5)


def test_proxies_of_learners_do_not_start_alike():
    loss = ensemble.EnsembleLoss(ProxyNCALoss(), 2)
    loss.build(3, 8)
    first, second = (copy.parameters.get_weights()[0] for copy in loss.copies)
    assert first.shape == second.shape == (3, 4)
    assert np.abs(first - second).max() > 0.1
