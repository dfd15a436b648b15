"""Training with branches: replicas, micro-batches, guard, a whole run."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.models import branches as br
from tf_triplet.models import build_branched_encoder
from tf_triplet.training import guards
from tf_triplet.training import loop as run
from tf_triplet.training.learner import Learner

KINDS = [("heads", 4), ("networks", 4), ("weights", 0)]


def network(seed):
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential(
        [
            tf.keras.Input([4, 4, 3]),
            tf.keras.layers.Conv2D(5, 3, activation="tanh"),
        ]
    )


def make(kind, size, micro_batch=0, optimizer=None):
    networks = [network(0), network(1)] if kind == "networks" else network(0)
    encoder = build_branched_encoder(
        networks, size, br.Branches("domain", ("street", "shop")), kind, seed=2
    )
    loss = TripletLoss("batch_hard", margin=0.4, soft=True)
    learner = Learner(encoder, loss, micro_batch=micro_batch)
    learner.compile(optimizer or tf.keras.optimizers.SGD(1.0))
    return learner


def data(size=16):
    random = np.random.default_rng(0)
    pixels = random.normal(size=(size, 4, 4, 3)).astype(np.float32)
    sides = np.arange(size, dtype=np.int32) % 2
    products = np.repeat(np.arange(size // 4, dtype=np.int32), 4)
    inputs = {"pixels": pixels, "branch": sides}
    return inputs, np.stack([products, sides], 1)


def weights(learner):
    return [w.copy() for w in learner.encoder.get_weights()]


def step_of(kind, size, micro_batch=0):
    """Returns what one step subtracts: at rate 1 the gradient."""
    learner = make(kind, size, micro_batch)
    before = weights(learner)
    learner.train_step(tf.nest.map_structure(tf.constant, data()))
    step = [a - b for a, b in zip(before, weights(learner))]
    return before, step


@pytest.mark.parametrize("kind,size", KINDS)
def test_two_replicas_equal_one_device(two_replicas, kind, size):
    before, wanted = step_of(kind, size)
    moved = [np.abs(step).max() > 1e-4 for step in wanted]
    # With feature weights, only these are trained.
    assert sum(moved) == (1 if kind == "weights" else len(moved))
    with two_replicas.scope():
        learner = make(kind, size)

    def shard(context):
        first = context.replica_id_in_sync_group == 0
        part = slice(0, 5) if first else slice(5, None)
        return tf.nest.map_structure(lambda v: tf.constant(v[part]), data())

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    got = [a - b for a, b in zip(before, weights(learner))]
    for one, want in zip(got, wanted):
        np.testing.assert_allclose(one, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind,size", KINDS)
def test_two_passes_equal_one(kind, size):
    _, wanted = step_of(kind, size)
    _, got = step_of(kind, size, micro_batch=5)
    for one, want in zip(got, wanted):
        np.testing.assert_allclose(one, want, rtol=1e-4, atol=1e-6)


def test_feature_weights_learn_and_the_backbone_rests():
    learner = make("weights", 0, optimizer=tf.keras.optimizers.Adam(0.05))
    trunk = learner.encoder.get_layer("network_0")
    before = trunk.get_weights()
    dataset = tf.data.Dataset.from_tensors(data())
    first = learner.fit(dataset, verbose=0).history["loss"][0]
    learner.fit(dataset.repeat(20), verbose=0)
    last = learner.fit(dataset, verbose=0).history["loss"][0]
    assert last < first - 0.01
    for got, want in zip(trunk.get_weights(), before):
        np.testing.assert_array_equal(got, want)


def test_a_run_resumes_and_is_guarded(tmp_path):
    def batches(start):
        return tf.data.Dataset.from_tensors(data()).repeat()

    def train(workdir, steps):
        learner = make("heads", 4, optimizer=tf.keras.optimizers.SGD(0.1))
        settings = run.Settings(
            steps=steps,
            checkpoint_every=2,
            log_every=1,
            evaluate_every=0,
            collapse_every=1,
            stop_on_collapse=True,
            monitor="recall@1",
        )
        run.train(
            learner,
            batches,
            lambda encoder: {"recall@1": 0.5},
            pipeline.BadImages(),
            workdir,
            settings,
            verbose=0,
        )
        return learner

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    resumed = train(tmp_path / "parts", 4)
    for got, want in zip(weights(resumed), weights(whole)):
        np.testing.assert_array_equal(got, want)
    path = tmp_path / "parts" / "encoder_last.keras"
    again = tf.keras.models.load_model(path, compile=False)
    assert br.find(again).names == ("street", "shop")


def test_a_collapse_is_seen_through_the_branches():
    learner = make("heads", 4)
    inputs, labels = data()
    for i in range(2):
        head = learner.encoder.get_layer(f"head_{i}")
        kernel, bias = head.get_weights()
        head.set_weights([kernel * 0, bias * 0 + 1])
    guard = guards.CollapseGuard(inputs, 1, np.log(1 + np.exp(0.4)), stop=True)
    with pytest.raises(guards.CollapseError, match="mean pairwise distance 0"):
        learner.fit(
            tf.data.Dataset.from_tensors((inputs, labels)).repeat(3),
            callbacks=[guard],
            verbose=0,
        )
