"""Batches that cannot teach change nothing, on one device or two."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses.proxies import ProxyAnchorLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import schedules, teachable
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

GOOD = [[0, 0, 1, 1], [0, 1, 0, 1, 2, 2], [3, 3, 2, 2]]
# No image, images of one product, and a single image.
BAD = [[], [2, 2], [4]]


def make(loss=None, optimizer="sgd", batch_norm=True, **kwargs):
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(5),
            *([tf.keras.layers.BatchNormalization()] if batch_norm else []),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    loss = loss or TripletLoss("batch_hard", margin=0.5)
    learner = Learner(encoder, loss, **kwargs)
    learner.compile(schedules.build_optimizer(optimizer, 0.05))
    return learner


def dataset(batches, sides=False):
    """The images of a batch depend on its labels alone."""

    def draw():
        for labels in batches:
            seed = sum(i * label for i, label in enumerate(labels, 1))
            random = np.random.default_rng(seed)
            images = random.normal(size=[len(labels), 6])
            labels = np.array(labels, np.int32)
            if sides:
                labels = np.stack([labels, np.arange(len(labels)) % 2], 1)
            yield images.astype(np.float32), labels.astype(np.int32)

    shape = [None, 2] if sides else [None]
    return tf.data.Dataset.from_generator(
        draw,
        output_signature=(
            tf.TensorSpec([None, 6]),
            tf.TensorSpec(shape, tf.int32),
        ),
    )


def fit(learner, batches, **kwargs):
    learner.fit(dataset(batches, **kwargs), verbose=0)
    return int(learner.optimizer.iterations.numpy())


def state(learner):
    return [
        *learner.encoder.get_weights(),
        *(variable.numpy() for variable in learner.optimizer.variables[2:]),
    ]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_batch_that_cannot_teach_changes_nothing(two_replicas, replicas):
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        # Momentum and batch statistics would move without any gradient.
        # Statistics of two halves differ from those of the whole.
        learner, plain = (make(batch_norm=replicas == 1) for _ in range(2))
    assert fit(learner, [GOOD[0], BAD[0], GOOD[1], *BAD[1:], GOOD[2]]) == 6
    assert learner.skipped_batches == 3
    assert fit(plain, GOOD) == 3 and plain.skipped_batches == 0
    for got, want in zip(state(learner), state(plain)):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("optimizer,first", [("adam", []), ("lamb", GOOD[0])])
def test_two_replicas_skip_as_one_device_does(two_replicas, optimizer, first):
    batches = [first, *BAD, *GOOD]
    single = make(optimizer=optimizer, batch_norm=False)
    fit(single, batches)
    with two_replicas.scope():
        learner = make(optimizer=optimizer, batch_norm=False)
    fit(learner, batches)
    assert learner.skipped_batches == single.skipped_batches > 2
    for got, want in zip(
        learner.encoder.get_weights(), single.encoder.get_weights()
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_metrics_are_those_of_the_other_batches():
    histories = [
        make().fit(dataset(batches), verbose=0).history
        for batches in (GOOD, [*GOOD, *BAD])
    ]
    assert histories[0] == histories[1]


def test_a_skipped_batch_does_not_enter_the_memory():
    memory = CrossBatchMemory(8, 4, warmup_steps=0)
    fit(make(memory=memory), [*BAD, GOOD[0]])
    assert memory.written.numpy() == 4


def test_a_query_needs_a_negative_on_the_other_side():
    # One query and one gallery image of another product, or two queries.
    learner = make()
    assert fit(learner, [[0, 1], [0]], sides=True) == 2
    assert learner.skipped_batches == 1


def test_a_loss_over_proxies_learns_from_any_image():
    loss = ProxyAnchorLoss()
    loss.build(5, 4)
    learner = make(loss, batch_norm=False)
    fit(learner, BAD)
    assert learner.skipped_batches == 1  # The empty one.


def test_both_optimizers_count_a_skipped_step():
    loss = ProxyAnchorLoss()
    loss.build(5, 4)
    learner = make(loss)
    learner.compile("sgd", loss_optimizer=tf.keras.optimizers.SGD(0.1))
    fit(learner, [GOOD[0], []])
    assert learner.loss_optimizer.iterations.numpy() == 2


def test_each_share_of_the_scope_replica_must_teach(two_replicas):
    with two_replicas.scope():
        learner = make(scope="replica", batch_norm=False)
    # Halves: 0 1 and 0 1; 0 0 and 1 1, neither of which has a negative.
    fit(learner, [[0, 1, 0, 1], [0, 0, 1, 1]])
    assert learner.skipped_batches == 1


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_replica_without_an_image_is_no_error(two_replicas, micro_batch):
    images = np.random.default_rng(0).normal(size=[4, 6]).astype(np.float32)
    labels = np.array(GOOD[0], np.int32)
    single = make(batch_norm=False)
    single.train_step((tf.constant(images), tf.constant(labels)))
    with two_replicas.scope():
        learner = make(batch_norm=False, micro_batch=micro_batch)

    def shard(context):
        part = slice(0, 4 - 4 * context.replica_id_in_sync_group)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    for got, want in zip(
        learner.encoder.get_weights(), single.encoder.get_weights()
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options,steps", [({"run_eagerly": True}, 1), ({}, 3)])
def test_every_way_of_compiling_skips(options, steps):
    learner = make()
    learner.compile("sgd", steps_per_execution=steps, **options)
    learner.fit(dataset([*GOOD, *BAD]), verbose=0, steps_per_epoch=6)
    assert learner.skipped_batches == 3
    assert learner.optimizer.iterations.numpy() == 6


def test_blank_rows_are_dropped_again():
    images = {"pixels": tf.zeros([0, 2, 3]), "branch": tf.zeros([0], tf.int32)}
    filled, rows = teachable.fill_empty(images)
    assert filled["pixels"].shape == (1, 2, 3) and filled["branch"].shape == 1
    assert teachable.keep_rows(filled, rows)["pixels"].shape == (0, 2, 3)
    whole = tf.ones([2, 3])
    assert teachable.fill_empty(whole)[0] is whole


def test_skipped_batches_are_told_once(caplog):
    fit(make(), [*GOOD, *BAD, *GOOD, *BAD] * 3)
    (told,) = [r.getMessage() for r in caplog.records if "teach" in r.msg]
    assert "4 of the last 10 batches could not teach" in told


def test_only_skipped_batches_end_the_run(caplog):
    learner = make()
    with pytest.raises(ValueError, match="The last 100 batches could not"):
        fit(learner, [GOOD[0]] * 10 + [[2, 2]] * 500)
    assert learner.optimizer.iterations.numpy() == 110
    assert not any("has a positive" in r.message for r in caplog.records)
    fit(make(), (GOOD[:1] + [[]] * 9) * 20)  # One in ten teaches.
