"""Tasks besides the metric loss: replicas, gradients, checkpoints, errors."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses import multitask as losses
from tf_triplet.losses.contrastive import ContrastiveLoss
from tf_triplet.losses.proxies import ProxyNCALoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.models import multitask
from tf_triplet.training import loop as run
from tf_triplet.training.guards import CollapseError, CollapseGuard
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory
from tf_triplet.training.tasks import Tasks

LAYERS = tf.keras.layers
TASKS = Tasks(0.7, 0.3, attribute_positive_weight=2.0)
SIZE = 4


def make(tasks=TASKS, rate=1.0, loss=None, own_rate=None, **options):
    tf.keras.utils.set_random_seed(3)
    backbone = tf.keras.Sequential(
        [
            tf.keras.Input([SIZE, SIZE, 3]),
            LAYERS.Conv2D(4, 2, activation="tanh"),
        ]
    )
    network = multitask.build_multitask(
        backbone, 5, 3, 2, landmark_features=3, seed=0
    )
    loss = loss or TripletLoss("batch_hard", margin=0.4)
    loss.build(products=4, embedding_size=5)
    learner = Learner(
        network.encoder,
        loss,
        network=network.training,
        tasks=tasks,
        **options,
    )
    learner.compile(
        tf.keras.optimizers.SGD(rate, momentum=0.5),
        own_rate and tf.keras.optimizers.SGD(own_rate),
    )
    return learner


def data(size=16):
    random = np.random.default_rng(0)
    marks = random.random((size, 2, 3)).astype(np.float32)
    marks[..., 2] = random.integers(0, 3, (size, 2))
    # All, or nearly all, annotations are in one shard.
    marks[:6] = np.nan
    attributes = random.integers(-1, 2, (size, 3)).astype(np.int8)
    attributes[7:12] = -1
    pixels = random.normal(size=(size, SIZE, SIZE, 3)).astype(np.float32)
    return pixels, {
        "labels": np.repeat(np.arange(size // 4), 4).astype(np.int32),
        "attributes": attributes,
        "landmarks": marks,
    }


def constants(pixels, y, part=slice(None)):
    return (
        tf.constant(pixels[part]),
        {name: tf.constant(value[part]) for name, value in y.items()},
    )


def step_of(learner, before):
    """At rate 1 the first step is minus the gradient."""
    return [a - b for a, b in zip(before, learner.network.get_weights())]


def test_the_loss_is_the_weighted_sum():
    pixels, y = data()
    learner = make()
    out = learner.network(pixels)
    got = learner.train_step(constants(pixels, y))
    total, count = losses.attribute_loss(y["attributes"], out["attributes"], 2)
    attribute = float(total / count)
    parts = [
        losses.place_loss(y["landmarks"], out["places"]),
        losses.visibility_loss(y["landmarks"], out["visibility"]),
    ]
    landmark = sum(float(one.total / one.count) for one in parts)
    metric = float(
        TripletLoss("batch_hard", margin=0.4)(y["labels"], out["embeddings"])
    )
    assert float(got["attribute_loss"]) == pytest.approx(attribute, rel=1e-5)
    assert float(got["landmark_loss"]) == pytest.approx(landmark, rel=1e-5)
    assert float(got["metric_loss"]) == pytest.approx(metric, rel=1e-5)
    assert float(got["loss"]) == pytest.approx(
        metric + 0.7 * attribute + 0.3 * landmark, rel=1e-5
    )


@pytest.mark.parametrize("first_shard", [5, 14])
def test_two_replicas_equal_one_device(two_replicas, first_shard):
    pixels, y = data()
    single = make()
    before = [w.copy() for w in single.network.get_weights()]
    want = single.train_step(constants(pixels, y))
    wanted = step_of(single, before)
    with two_replicas.scope():
        learner = make()

    def shard(context):
        first = context.replica_id_in_sync_group == 0
        part = slice(0, first_shard) if first else slice(first_shard, None)
        return constants(pixels, y, part)

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    for got, one in zip(step_of(learner, before), wanted, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6)
        assert np.abs(one).max() > 1e-6
    got = {m.name: float(m.result()) for m in learner.metrics}
    assert set(got) == set(want)
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=1e-5)


def with_memory():
    memory = CrossBatchMemory(20, 5, warmup_steps=1, sides=True)
    return make(rate=0.1, loss=ContrastiveLoss(), memory=memory)


def with_proxies():
    return make(rate=0.1, loss=ProxyNCALoss(), own_rate=0.3)


@pytest.mark.parametrize("build", [with_memory, with_proxies])
def test_memory_and_proxies_beside_tasks_on_two_replicas(two_replicas, build):
    """In the second step, the memory holds the embeddings of the first."""
    pixels, y = data()
    if build is with_memory:
        y["labels"] = np.stack([y["labels"], np.arange(16) % 2], 1)
        y["labels"] = y["labels"].astype(np.int32)
    single = build()
    own = single.loss_variables
    before = [v.numpy() for v in single.trained.trainable_variables + own]
    for _ in range(2):
        single.train_step(constants(pixels, y))
    with two_replicas.scope():
        learner = build()

    def shard(context):
        first = context.replica_id_in_sync_group == 0
        return constants(pixels, y, slice(0, 5) if first else slice(5, None))

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    for _ in range(2):
        two_replicas.run(step, args=(values,))
    for got, want, start in zip(
        learner.trained.trainable_variables + learner.loss_variables,
        single.trained.trainable_variables + own,
        before,
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        # All variables have changed, also the heads and the proxies.
        assert (want.numpy() != start).any()
    wanted = {m.name: float(m.result()) for m in single.metrics}
    got = {m.name: float(m.result()) for m in learner.metrics}
    assert got == pytest.approx(wanted, rel=1e-4)
    assert got["loss"] == pytest.approx(
        got["metric_loss"]
        + 0.7 * got["attribute_loss"]
        + 0.3 * got["landmark_loss"],
        rel=1e-4,
    )
    assert got.get("memory_loss", 1.0) > 0


def test_nothing_annotated_leaves_the_metric_loss():
    pixels, y = data()
    y["attributes"][:] = -1
    y["landmarks"][:] = np.nan
    got = make().train_step(constants(pixels, y))
    assert float(got["attribute_loss"]) == float(got["landmark_loss"]) == 0
    assert float(got["loss"]) == float(got["metric_loss"]) > 0


def test_one_task_alone():
    pixels, y = data()
    del y["landmarks"]
    learner = make(Tasks(attribute_weight=1.0))
    learner.fit(tf.data.Dataset.from_tensors((pixels, y)).repeat(2), verbose=0)
    names = [metric.name for metric in learner.metrics]
    assert "attribute_loss" in names and "landmark_loss" not in names


def test_training_lowers_both():
    pixels, y = data()
    learner = make(rate=0.3)
    dataset = tf.data.Dataset.from_tensors((pixels, y))
    history = learner.fit(dataset, epochs=60, verbose=0).history
    for name in ("attribute_loss", "landmark_loss"):
        assert history[name][-1] < 0.9 * history[name][0]


def test_heads_are_checkpointed_and_resumed(tmp_path):
    pixels, y = data()
    dataset = tf.data.Dataset.from_tensors((pixels, y)).repeat()
    settings = run.Settings(4, 2, 1, 0, 0, False, "recall@1")

    def train(workdir, steps):
        workdir.mkdir(exist_ok=True)
        learner = make(rate=0.1)
        run.train(
            learner,
            lambda start: dataset,
            lambda encoder: {"recall@1": 0.0},
            run.pipeline.BadImages("skip"),
            workdir,
            run.dataclasses.replace(settings, steps=steps),
            verbose=0,
        )
        return learner.network.get_weights()

    whole = train(tmp_path / "whole", 4)
    half = train(tmp_path / "parts", 2)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(whole, half))
    for got, want in zip(train(tmp_path / "parts", 4), whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="does not work with `tasks`.*=4"):
        make(micro_batch=4)
    with pytest.raises(ValueError, match="need each other"):
        make(tasks=None)
    network = make().network
    other = make().encoder
    with pytest.raises(ValueError, match="contain the layers of `encoder`"):
        Learner(other, TripletLoss("batch_hard"), network=network, tasks=TASKS)
    with pytest.raises(ValueError, match="there is no task"):
        Tasks()
    with pytest.raises(ValueError, match="`landmark_weight` must.*-1"):
        Tasks(1.0, -1.0)


def test_a_collapse_is_seen_through_the_tasks_losses():
    class Spread:
        """Returns nearly equal embeddings of high rank."""

        def __call__(self, pixels, training):
            random = np.random.default_rng(0)
            return tf.constant(1 + 1e-4 * random.normal(size=(8, 4)))

    class Model:
        encoder = Spread()
        optimizer = tf.keras.optimizers.SGD()

    def look(**logs):
        guard = CollapseGuard(np.zeros([8, 2, 2, 3]), 1, 0.4, stop=True)
        guard.set_model(Model())
        for _ in range(2):
            guard.on_train_batch_end(0, logs)

    look(loss=1.3, metric_loss=0.9)
    with pytest.raises(CollapseError, match="loss 0.400000"):
        look(loss=1.3, metric_loss=0.4)
