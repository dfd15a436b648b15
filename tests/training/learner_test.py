"""N replicas equal one device: loss, gradients and uneven shards."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training.learner import Learner


def make(mining):
    tf.keras.utils.set_random_seed(3)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(5, activation="tanh"),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    learner = Learner(encoder, TripletLoss(mining, margin=0.4))
    learner.compile(tf.keras.optimizers.SGD(1.0))
    return learner


def data(size=16):
    random = np.random.default_rng(0)
    images = random.normal(size=(size, 6)).astype(np.float32)
    return images, np.repeat(np.arange(size // 4), 4).astype(np.int32)


@pytest.mark.parametrize("domains", [1, 2])
@pytest.mark.parametrize(
    "mining", ["paper", "random", "batch_hard", "semi_hard"]
)
@pytest.mark.parametrize("first_shard", [5, 14])
def test_two_replicas_equal_one_device(
    two_replicas, mining, first_shard, domains
):
    images, labels = data()
    if domains == 2:
        labels = np.stack([labels, np.arange(len(labels)) % 2], 1)
    single = make(mining)
    before = [w.copy() for w in single.encoder.get_weights()]
    want = single.train_step((tf.constant(images), tf.constant(labels)))
    # At rate 1 the step is minus the gradient.
    wanted_step = [a - b for a, b in zip(before, single.encoder.get_weights())]
    with two_replicas.scope():
        learner = make(mining)

    def shard(context):
        i = context.replica_id_in_sync_group
        part = slice(0, first_shard) if i == 0 else slice(first_shard, None)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    got_step = [a - b for a, b in zip(before, learner.encoder.get_weights())]
    for got, wanted in zip(got_step, wanted_step):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    got = {m.name: float(m.result()) for m in learner.metrics}
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=1e-5)
    assert got["loss"] > 0


def test_fit_under_a_strategy_learns_the_same(two_replicas):
    images, labels = data()
    dataset = tf.data.Dataset.from_tensors((images, labels)).repeat(5)
    single = make("batch_hard")
    single.fit(dataset, verbose=0)
    with two_replicas.scope():
        learner = make("batch_hard")
    learner.fit(dataset, verbose=0)
    for got, want in zip(
        learner.encoder.get_weights(), single.encoder.get_weights()
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_float16_gradients_do_not_become_zero(micro_batch):
    class Faint(TripletLoss):
        def compute(self, labels, embeddings, keys=None):
            value = super().compute(labels, embeddings, keys)
            return value._replace(values=1e-6 * value.values)

    images, labels = data()
    steps = {}
    for policy in ("float32", "mixed_float16"):
        tf.keras.utils.set_random_seed(3)
        dense = tf.keras.layers.Dense(4, dtype=policy)
        unit = tf.keras.layers.UnitNormalization(dtype="float32")
        encoder = tf.keras.Sequential([tf.keras.Input([6]), dense, unit])
        learner = Learner(
            encoder, Faint("batch_hard", 0.4), micro_batch=micro_batch
        )
        learner.compile(tf.keras.optimizers.SGD(1e6))
        before = encoder.get_weights()[0]
        learner.train_step((tf.constant(images), tf.constant(labels)))
        steps[policy] = encoder.get_weights()[0] - before
    half, whole = steps["mixed_float16"], steps["float32"]
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(half, whole, atol=0.05 * np.abs(whole).max())


def half_precision(loss=None, **kwargs):
    tf.keras.utils.set_random_seed(3)
    dense = tf.keras.layers.Dense(4, dtype="mixed_float16")
    unit = tf.keras.layers.UnitNormalization(dtype="float32")
    encoder = tf.keras.Sequential([tf.keras.Input([6]), dense, unit])
    loss = loss or TripletLoss("batch_hard", 0.4)
    learner = Learner(encoder, loss, **kwargs)
    learner.compile(tf.keras.optimizers.SGD(1.0))
    return learner


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_an_overflow_of_float16_adds_no_gradient(micro_batch):
    images, labels = data()
    learner = half_precision(micro_batch=micro_batch)
    learner._loss_scale = 1e8
    before = learner.encoder.get_weights()
    found = learner.train_step((tf.constant(images), tf.constant(labels)))
    assert found["overflowed"] == 1 and np.isfinite(found["loss"])
    for got, want in zip(learner.encoder.get_weights(), before):
        np.testing.assert_array_equal(got, want)
    # The step counts, so the next batch is a new one.
    assert learner.optimizer.iterations == 1
    learner._loss_scale = 1024.0
    found = learner.train_step((tf.constant(images), tf.constant(labels)))
    assert found["overflowed"] == 0.5
    assert np.abs(learner.encoder.get_weights()[0] - before[0]).max() > 0


def test_an_overflow_of_one_replica_is_one_of_all(two_replicas):
    class Steep(TripletLoss):
        def compute(self, labels, embeddings, keys=None):
            value = super().compute(labels, embeddings, keys)
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            steep = tf.where(first, 1.0, 1e6)
            return value._replace(values=steep * value.values)

    images, labels = data()
    with two_replicas.scope():
        learner = half_precision(Steep("batch_hard", 0.4), scope="replica")

    def shard(context):
        return tf.constant(images), tf.constant(labels)

    values = two_replicas.experimental_distribute_values_from_function(shard)
    before = learner.encoder.get_weights()
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    for got, want in zip(learner.encoder.get_weights(), before):
        np.testing.assert_array_equal(got, want)
    got = {m.name: float(m.result()) for m in learner.metrics}
    assert got["overflowed"] == 1 and np.isfinite(got["loss"])
