"""The cross-batch memory against a deque, on one and on two replicas."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.proxies import NormSoftmaxLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import build_optimizer
from tf_triplet.training import loop as run
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

DIM = 3


def drawn(seed, size, sides=False):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, size).astype(np.int32)
    if sides:
        labels = np.stack([labels, random.integers(0, 2, size)], 1)
    return labels.astype(np.int32), random.normal(size=(size, DIM)).astype(
        np.float32
    )


def held(memory, step=10**6):
    """Returns the valid rows, sorted because their place is irrelevant."""
    keys = memory.read(tf.constant(step))
    rows = zip(keys.labels.numpy(), keys.embeddings.numpy())
    return sorted(
        (label.tolist(), vector.tolist())
        for (label, vector), valid in zip(rows, keys.valid.numpy())
        if valid
    )


@pytest.mark.parametrize("sides", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        [4, 4],  # Not full.
        [4, 3, 5, 7, 1, 7],  # Over the end, by parts of a batch.
        [7, 7],  # A batch as large as the memory.
    ],
)
def test_holds_what_a_deque_holds(sizes, sides):
    memory = CrossBatchMemory(7, DIM, warmup_steps=0, sides=sides)
    deque = collections.deque(maxlen=7)
    for seed, size in enumerate(sizes):
        labels, vectors = drawn(seed, size, sides)
        memory.enqueue(tf.constant(labels), tf.constant(vectors))
        for label, vector in zip(labels, vectors):
            deque.append((np.atleast_1d(label).tolist(), vector.tolist()))
        assert held(memory) == sorted(deque)
    assert int(memory.written) == sum(sizes)


def test_takes_labels_in_a_column_floats_and_half_precision():
    memory = CrossBatchMemory(4, DIM, warmup_steps=0)
    vectors = np.full([2, DIM], 0.5, np.float16)
    memory.enqueue(tf.constant([[3.0], [1.0]]), tf.constant(vectors))
    assert held(memory) == [([1], [0.5] * 3), ([3], [0.5] * 3)]


def test_nothing_is_valid_before_the_warm_up_is_over():
    memory = CrossBatchMemory(6, DIM, warmup_steps=5)
    memory.enqueue(*map(tf.constant, drawn(0, 4)))
    assert held(memory, step=4) == []
    assert len(held(memory, step=5)) == 4


def test_no_gradient_flows_into_it():
    memory = CrossBatchMemory(4, DIM, warmup_steps=0)
    vectors = tf.Variable(drawn(0, 4)[1])
    with tf.GradientTape() as tape:
        memory.enqueue(tf.constant([0, 1, 2, 3]), vectors * 2.0)
        value = tf.reduce_sum(memory.read(tf.constant(0)).embeddings)
    assert float(value) != 0
    assert tape.gradient(value, vectors) is None


@pytest.mark.parametrize("graph", [False, True])
def test_too_large_a_batch_is_refused(graph):
    memory = CrossBatchMemory(3, DIM)
    enqueue = tf.function(memory.enqueue) if graph else memory.enqueue
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must hold at least one batch"
    ):
        enqueue(*map(tf.constant, drawn(0, 4)))
    assert int(memory.written) == 0


@pytest.mark.parametrize(
    "made,given,message",
    [
        (False, True, "created with sides=False, but the labels have 2 column"),
        (True, False, "created with sides=True, but the labels have 1 column"),
    ],
)
def test_labels_of_another_width_are_refused(made, given, message):
    memory = CrossBatchMemory(8, DIM, sides=made)
    with pytest.raises(ValueError, match=message):
        memory.enqueue(*map(tf.constant, drawn(0, 4, given)))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"size": 0}, "`size` must be at least 1. Received: 0"),
        (
            {"size": 1, "warmup_steps": -1},
            "`warmup_steps` must be at least 0. Received: -1",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossBatchMemory(embedding_size=DIM, **arguments)


def make(size=14, warmup=2, sides=False, weight=1.0, rate=0.3):
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(DIM),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    learner = Learner(
        encoder,
        TripletLoss("batch_hard", margin=0.5),
        memory=CrossBatchMemory(size, DIM, warmup, sides),
        memory_weight=weight,
    )
    learner.compile(tf.keras.optimizers.SGD(rate, momentum=0.9))
    return learner


def batch_of(step, sides=False):
    random = np.random.default_rng(int(step))
    images = random.normal(size=[12, 6]).astype(np.float32)
    labels = np.repeat(np.arange(4), 3).astype(np.int32)
    if sides:
        labels = np.stack([labels, np.arange(12) % 2], 1).astype(np.int32)
    return images, labels


def batches(start, sides=False):
    steps = tf.data.Dataset.range(start, 1 << 40)
    shape = [12, 2] if sides else [12]

    def draw(step):
        x, y = tf.numpy_function(
            lambda s: batch_of(s, sides), [step], [tf.float32, tf.int32]
        )
        return tf.ensure_shape(x, [12, 6]), tf.ensure_shape(y, shape)

    return steps.map(draw)


@pytest.mark.parametrize("sides", [False, True])
def test_the_learner_adds_the_loss_against_past_batches(sides):
    learner = make(size=24, warmup=1, sides=sides, weight=0.5)
    loss = learner.batch_loss
    past = []
    for step in range(4):
        images, labels = batch_of(step, sides)
        fresh = learner.encoder(images)
        want = float(loss(labels, fresh))
        want_past = 0.0
        if step >= 1:
            # The keys of the anchors are the last two batches, nothing else.
            old = [np.concatenate(part) for part in zip(*past[-2:])]
            batch_and_old = tf.concat([fresh, old[1]], 0)
            want_past = against(loss, labels, old[0], batch_and_old)
        past.append((labels, fresh.numpy()))
        learner.reset_metrics()
        got = learner.train_step((tf.constant(images), tf.constant(labels)))
        assert float(got["loss"]) == pytest.approx(
            want + 0.5 * want_past, rel=1e-5
        )
        assert float(got["memory_loss"]) == pytest.approx(want_past, rel=1e-5)
    assert want_past > 0


def against(loss, labels, old_labels, vectors):
    """Computes batch hard of the first rows and the others, by two loops."""
    margin = loss.get_config()["margin"]
    vectors = np.float64(vectors)
    n = len(labels)
    columns = np.atleast_2d(labels.T)
    old = np.atleast_2d(old_labels.T)
    losses = []
    for i in range(n):
        shop = np.full(old.shape[1], True)
        if len(columns) == 2:
            if columns[1, i] != 0:
                continue
            shop = old[1] == 1
        distances = 1 - vectors[n:] @ vectors[i]
        same = old[0] == columns[0, i]
        far = distances[same & shop]
        near = distances[~same & shop]
        if len(far) and len(near):
            losses.append(max(0, far.max() - near.min() + margin))
    return float(np.mean(losses)) if losses else 0.0


def test_gradient_is_of_both_losses_with_the_memory_constant():
    learner = make(size=24, warmup=0, rate=1.0)
    learner.train_step(tuple(map(tf.constant, batch_of(0))))
    before = [w.copy() for w in learner.encoder.get_weights()]
    # Momentum would add the previous step.
    learner.compile(tf.keras.optimizers.SGD(1.0))
    images, labels = batch_of(1)
    keys = learner.memory.read(tf.constant(0))
    with tf.GradientTape() as tape:
        fresh = learner.encoder(images)
        value = tf.reduce_mean(learner.batch_loss.compute(labels, fresh).values)
        value += tf.reduce_mean(
            learner.batch_loss.compute(labels, fresh, keys).values
        )
    want = tape.gradient(value, learner.encoder.trainable_variables)
    learner.train_step((tf.constant(images), tf.constant(labels)))
    for old, new, gradient in zip(before, learner.encoder.get_weights(), want):
        np.testing.assert_allclose(old - new, gradient, rtol=1e-4, atol=1e-6)


def test_two_replicas_equal_one_device(two_replicas):
    dataset = batches(0, sides=True).take(5)
    single = make(sides=True)
    single.fit(dataset, verbose=0)
    with two_replicas.scope():
        learner = make(sides=True)
    learner.fit(dataset, verbose=0)
    for variable, want in zip(learner.memory.weights, single.memory.weights):
        copies = two_replicas.experimental_local_results(variable)
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0], copies[1])
        np.testing.assert_allclose(copies[0], want, rtol=1e-4, atol=1e-6)
    for got, want in zip(
        learner.encoder.get_weights(), single.encoder.get_weights()
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert float(single.get_metrics_result()["memory_loss"]) > 0


def test_an_optimizer_of_tf_addons_trains_on_two_replicas(two_replicas):
    """Its variables exist before the step, which has a branch."""
    with two_replicas.scope():
        learner = make()
        learner.compile(build_optimizer("lamb", 0.05))
    before = learner.encoder.get_weights()
    learner.fit(batches(0).take(2), verbose=0)
    assert learner.memory.written.numpy() == 24
    assert not np.allclose(before[0], learner.encoder.get_weights()[0])


def train(learner, workdir, steps):
    run.train(
        learner,
        batches,
        lambda encoder: {"recall@1": 0.5},
        pipeline.BadImages(),
        workdir,
        run.Settings(
            steps=steps,
            checkpoint_every=100,
            log_every=100,
            evaluate_every=0,
            collapse_every=0,
            stop_on_collapse=True,
            monitor="recall@1",
        ),
        verbose=0,
    )
    return learner


@pytest.mark.parametrize("replicas", [1, 2])
def test_resumed_equals_uninterrupted(tmp_path, replicas, two_replicas):
    def fresh():
        if replicas == 1:
            return make()
        with two_replicas.scope():
            return make()

    whole = train(fresh(), tmp_path / "whole", 6)
    train(fresh(), tmp_path / "parts", 3)
    resumed = train(fresh(), tmp_path / "parts", 6)
    assert resumed.memory.get_weights()[-1] == 6 * 12
    for part in ("encoder", "memory"):
        got, want = getattr(resumed, part), getattr(whole, part)
        for a, b in zip(got.get_weights(), want.get_weights()):
            np.testing.assert_array_equal(a, b)
    encoder = tf.keras.models.load_model(tmp_path / "parts/encoder.keras")
    assert [w.shape for w in encoder.get_weights()] == [(6, DIM), (DIM,)]


def test_memory_needs_pairs_and_the_global_batch():
    encoder = make().encoder
    memory = CrossBatchMemory(8, DIM)
    proxies = NormSoftmaxLoss()
    proxies.build(4, DIM)
    with pytest.raises(
        ValueError, match="`memory` needs a loss that accepts keys"
    ):
        Learner(encoder, proxies, memory=memory)
    with pytest.raises(ValueError, match="Received: 'replica'"):
        Learner(encoder, TripletLoss(), scope="replica", memory=memory)
