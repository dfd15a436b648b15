"""Two passes over parts give the gradients of one pass over the batch."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses import proxies, triplet
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue
from tf_triplet.training import gradient_cache, loss_scaling
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

PRODUCTS, DIM, SIZE = 4, 3, 10
LOSSES = {
    **{
        mining: lambda mining=mining: triplet.TripletLoss(mining, margin=0.5)
        for mining in triplet.MININGS
    },
    # Rows of the embeddings are mined without normalizing them first.
    "euclidean": lambda: triplet.TripletLoss(
        "batch_hard", margin=0.5, distance="euclidean"
    ),
    "proxy_nca": proxies.ProxyNCALoss,
    "proxy_anchor": proxies.ProxyAnchorLoss,
    "norm_softmax": proxies.NormSoftmaxLoss,
}


def build_encoder(*more, regularizer=None):
    tf.keras.utils.set_random_seed(5)
    return tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(
                5, activation="tanh", kernel_regularizer=regularizer
            ),
            *more,
            tf.keras.layers.Dense(DIM),
            tf.keras.layers.UnitNormalization(),
        ]
    )


def make(name, micro_batch, regularizer=None, memory=False):
    loss = LOSSES[name]()
    loss.build(PRODUCTS, DIM)
    learner = Learner(
        build_encoder(regularizer=regularizer),
        loss,
        memory=CrossBatchMemory(16, DIM, 0) if memory else None,
        micro_batch=micro_batch,
    )
    learner.compile(tf.keras.optimizers.SGD(1.0))
    return learner


def batch_of(step):
    random = np.random.default_rng(step)
    images = random.normal(size=[SIZE, 6]).astype(np.float32)
    labels = np.repeat(random.permutation(SIZE // 2) % PRODUCTS, 2)
    return images, labels.astype(np.int32)


def weights(learner):
    own = learner.loss_parameters
    return [
        *learner.encoder.get_weights(),
        *([] if own is None else own.get_weights()),
    ]


def steps(learner, graph, count=1):
    """At rate 1 the change of the weights is minus the gradient."""
    before = weights(learner)
    step = learner.train_step
    if graph:
        step = tf.function(step)
    for i in range(count):
        logs = step(tuple(map(tf.constant, batch_of(i))))
    change = [a - b for a, b in zip(before, weights(learner))]
    return change, {name: float(value) for name, value in logs.items()}


def assert_equal(got, want):
    assert max(np.abs(change).max() for change in want[0]) > 1e-3
    for a, b in zip(got[0], want[0]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert got[1] == pytest.approx(want[1], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_direct_step(name):
    # Parts of four, four and two images.
    got = steps(make(name, 4), graph=False)
    assert_equal(got, steps(make(name, 0), graph=False))


@pytest.mark.parametrize("name", ["batch_hard", "proxy_anchor"])
@pytest.mark.parametrize("micro_batch", [1, 5, 10, 99])
def test_parts_of_any_size_equal_the_direct_step_inside_a_graph(
    name, micro_batch
):
    got = steps(make(name, micro_batch), graph=True)
    assert_equal(got, steps(make(name, 0), graph=False))


def test_regularizers_count_once():
    plain, _ = steps(make("batch_hard", 0), graph=False)
    want = steps(make("batch_hard", 0, regularizer="l2"), graph=False)
    assert np.abs(plain[0] - want[0][0]).max() > 1e-3
    got = steps(make("batch_hard", 4, regularizer="l2"), graph=True)
    assert_equal(got, want)


def test_with_a_memory_it_is_written_once_a_step():
    direct = make("batch_hard", 0, memory=True)
    want = steps(direct, graph=False, count=3)
    cached = make("batch_hard", 4, memory=True)
    got = steps(cached, graph=True, count=3)
    assert want[1]["memory_loss"] > 0
    assert_equal(got, want)
    for a, b in zip(cached.memory.get_weights(), direct.memory.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert cached.memory.get_weights()[-1] == 3 * SIZE


@pytest.mark.parametrize("name", ["batch_hard", "proxy_anchor"])
def test_two_replicas_equal_one_device(two_replicas, name):
    memory = name == "batch_hard"
    arguments = {"regularizer": "l2", "memory": memory}
    want = steps(make(name, 0, **arguments), graph=False)
    with two_replicas.scope():
        learner = make(name, 3, **arguments)
    before = weights(learner)
    images, labels = batch_of(0)

    def shard(context):
        # Shards of seven and three images: parts of 3, 3, 1 and of 3.
        i = context.replica_id_in_sync_group
        part = slice(0, 7) if i == 0 else slice(7, None)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    change = [a - b for a, b in zip(before, weights(learner))]
    logs = {m.name: float(m.result()) for m in learner.metrics}
    assert_equal((change, logs), want)


class Row(BatchLoss):
    """Depends on the first row only."""

    def compute(self, labels, embeddings, keys=None):
        del labels, keys
        return BatchValue(tf.gather(embeddings, [0])[:, 0], {})


class Nothing(BatchLoss):
    """Has no gradient."""

    def compute(self, labels, embeddings, keys=None):
        del labels, keys
        return BatchValue(tf.zeros_like(tf.stop_gradient(embeddings[:, 0])), {})


def test_a_loss_of_few_rows_has_gradients_of_all():
    encoder = build_encoder()
    images, _ = batch_of(0)
    found, of_loss = gradient_cache.gradients(
        encoder,
        tf.constant(images),
        lambda x: tf.reduce_mean(Row().compute(None, x).values),
        [],
        4,
    )
    with tf.GradientTape() as tape:
        value = encoder(images)[0, 0]
    want = tape.gradient(value, encoder.trainable_variables)
    assert of_loss == []
    for a, b in zip(found, want):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_loss_without_a_gradient_moves_nothing():
    encoder = build_encoder()
    found, _ = gradient_cache.gradients(
        encoder,
        tf.constant(batch_of(0)[0]),
        lambda x: tf.reduce_mean(Nothing().compute(None, x).values),
        [],
        4,
    )
    assert len(found) == len(encoder.trainable_variables)
    for gradient in found:
        np.testing.assert_array_equal(gradient, 0)


def test_a_weight_that_is_not_used_keeps_none():
    class Spare(tf.keras.layers.Layer):
        def build(self, shape):
            self.spare = self.add_weight("spare", [2])

        def call(self, inputs):
            return inputs

    encoder = build_encoder(Spare())
    found, _ = gradient_cache.gradients(
        encoder, tf.constant(batch_of(0)[0]), tf.reduce_sum, [], 4
    )
    names = [v.name.split("/")[-1] for v in encoder.trainable_variables]
    assert [
        name for name, gradient in zip(names, found) if gradient is None
    ] == ["spare:0"]


def test_half_precision_inside_the_network():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        # Embeddings come out as bfloat16.
        direct, cached = make("norm_softmax", 0), make("norm_softmax", 4)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert cached.encoder(np.zeros([1, 6], np.float32)).dtype == tf.bfloat16
    want, _ = steps(direct, graph=False)
    got, _ = steps(cached, graph=False)
    # bfloat16 has three digits.
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, atol=0.03 * np.abs(b).max())


@pytest.mark.parametrize(
    "layer,message",
    [
        (
            lambda: tf.keras.layers.BatchNormalization(name="norm"),
            "layer 'norm' normalizes by batch statistics. Set "
            "model.batch_norm=frozen",
        ),
        (
            lambda: tf.keras.layers.Dropout(0.1, name="drop"),
            "layer 'drop' changes it at random. Set its rate to 0",
        ),
        (
            lambda: tf.keras.layers.GaussianNoise(0.1, name="noise"),
            "layer 'noise' changes it at random",
        ),
        (
            lambda: tf.keras.Sequential(
                [tf.keras.layers.Dropout(0.1, name="inner")]
            ),
            "layer 'inner' changes it at random",
        ),
        (
            lambda: tf.keras.layers.Dense(
                5, activity_regularizer="l2", name="busy"
            ),
            "layer 'busy' adds a loss of its activity",
        ),
    ],
)
def test_what_does_not_repeat_is_refused(layer, message):
    encoder = build_encoder(layer())
    with pytest.raises(ValueError, match=message):
        Learner(encoder, triplet.TripletLoss(), micro_batch=2)
    # Without micro-batches, the layer is accepted.
    Learner(encoder, triplet.TripletLoss())


def test_frozen_batch_norm_and_no_dropout_are_taken():
    frozen = tf.keras.layers.BatchNormalization(name="norm")
    frozen.trainable = False
    encoder = build_encoder(
        frozen, tf.keras.layers.Dropout(0.0), tf.keras.layers.GaussianNoise(0.0)
    )
    learner = Learner(encoder, triplet.TripletLoss(), micro_batch=2)
    learner.compile(tf.keras.optimizers.SGD(1.0))
    direct = Learner(
        tf.keras.models.clone_model(encoder), triplet.TripletLoss()
    )
    direct.encoder.set_weights(encoder.get_weights())
    direct.encoder.get_layer("norm").trainable = False
    direct.compile(tf.keras.optimizers.SGD(1.0))
    assert_equal(steps(learner, graph=True), steps(direct, graph=False))


def test_a_negative_micro_batch_is_refused():
    with pytest.raises(ValueError, match="at least 0.*Received: -1"):
        Learner(build_encoder(), triplet.TripletLoss(), micro_batch=-1)


def test_gradients_of_some_rows_are_unscaled_too():
    rows = tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([1]), [3, 1])
    ((whole, none), (some,)) = loss_scaling.unscale(
        [[tf.constant([2.0]), None], [rows]], 2.0
    )
    assert float(whole[0]) == 1 and none is None
    assert float(some.values[0, 0]) == 2 and int(some.indices[0]) == 1
