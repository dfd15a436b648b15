"""Variables of a loss: trained, saved and restored, but not exported."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses import proxies
from tf_triplet.losses.arcface import ArcFaceLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import guards, schedules
from tf_triplet.training import loop as run
from tf_triplet.training.learner import Learner

PRODUCTS, DIM = 5, 4
LOSSES = (
    proxies.ProxyNCALoss,
    proxies.ProxyAnchorLoss,
    proxies.NormSoftmaxLoss,
    ArcFaceLoss,
)
BUILT = {
    # Less steep than the default, so that rounding errors stay small.
    proxies.ProxyNCALoss: {"scale": 1.5},
    proxies.ProxyAnchorLoss: {"alpha": 4.0},
    proxies.NormSoftmaxLoss: {"temperature": 0.3},
    ArcFaceLoss: {"scale": 4.0},
}


def make(kind, loss_rate=None, momentum=0.0, rate=1.0):
    tf.keras.utils.set_random_seed(2)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(DIM),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    loss = kind(**BUILT[kind])
    loss.build(PRODUCTS, DIM)
    learner = Learner(encoder, loss)
    sgd = tf.keras.optimizers.SGD
    own = None if loss_rate is None else sgd(loss_rate, momentum=momentum)
    learner.compile(sgd(rate, momentum=momentum), loss_optimizer=own)
    return learner


def batch_of(step):
    random = np.random.default_rng(int(step))
    images = random.normal(size=[12, 6]).astype(np.float32)
    return images, random.integers(0, PRODUCTS, 12).astype(np.int32)


def batches(start):
    steps = tf.data.Dataset.range(start, 1 << 40)

    def draw(step):
        x, y = tf.numpy_function(batch_of, [step], [tf.float32, tf.int32])
        return tf.ensure_shape(x, [12, 6]), tf.ensure_shape(y, [12])

    return steps.map(draw)


def weights(learner):
    return [
        *learner.encoder.get_weights(),
        *learner.loss_parameters.get_weights(),
    ]


@pytest.mark.parametrize("loss_rate", [None, 10.0])
@pytest.mark.parametrize("first_shard", [6, 9])
@pytest.mark.parametrize("kind", LOSSES)
def test_two_replicas_equal_one_device(
    two_replicas, kind, first_shard, loss_rate
):
    images, labels = batch_of(0)
    single = make(kind, loss_rate)
    before = weights(single)
    want = single.train_step((tf.constant(images), tf.constant(labels)))
    wanted_step = [a - b for a, b in zip(before, weights(single))]
    with two_replicas.scope():
        learner = make(kind, loss_rate)

    def shard(context):
        i = context.replica_id_in_sync_group
        part = slice(0, first_shard) if i == 0 else slice(first_shard, None)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    two_replicas.run(step, args=(values,))
    got_step = [a - b for a, b in zip(before, weights(learner))]
    assert np.abs(got_step[-1]).max() > 1e-3
    for got, wanted in zip(got_step, wanted_step):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-6)
    got = {m.name: float(m.result()) for m in learner.metrics}
    assert set(got) == {"loss", "accuracy", "own_proxy"}
    for name, value in want.items():
        assert got[name] == pytest.approx(float(value), rel=1e-5)
    copies = two_replicas.experimental_local_results(
        learner.loss_parameters.proxies
    )
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0], copies[1])


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_optimizer_has_its_own_rate(kind):
    """At rate r the step is -r times the gradient."""
    data = tuple(map(tf.constant, batch_of(0)))
    steps = {}
    for loss_rate in (None, 1.0, 7.0):
        learner = make(kind, loss_rate)
        before = weights(learner)
        learner.train_step(data)
        steps[loss_rate] = [a - b for a, b in zip(before, weights(learner))]
    assert np.abs(steps[1.0][-1]).max() > 1e-3
    for one, shared, seven in zip(steps[1.0], steps[None], steps[7.0]):
        np.testing.assert_allclose(shared, one, rtol=1e-5, atol=1e-7)
        if one is not steps[1.0][-1]:
            np.testing.assert_allclose(seven, one, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        steps[7.0][-1], 7.0 * steps[1.0][-1], rtol=1e-4, atol=1e-6
    )


def test_training_finds_the_products():
    learner = make(proxies.NormSoftmaxLoss, loss_rate=5.0, rate=0.5)
    random = np.random.default_rng(0)
    centers = random.normal(size=[PRODUCTS, 6])
    labels = np.tile(np.arange(PRODUCTS), 4).astype(np.int32)
    images = centers[labels] + 0.01 * random.normal(size=[20, 6])
    data = (tf.constant(images, tf.float32), tf.constant(labels))
    metrics = []
    for _ in range(60):
        learner.reset_metrics()
        result = learner.train_step(data)
        metrics.append({k: float(v) for k, v in result.items()})
    assert metrics[-1]["accuracy"] == 1.0
    assert metrics[-1]["loss"] < 0.3 * metrics[0]["loss"]
    assert metrics[-1]["own_proxy"] > 0.8


def train(learner, workdir, steps, collapse_every=0):
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
            collapse_every=collapse_every,
            stop_on_collapse=True,
            monitor="recall@1",
        ),
        verbose=0,
    )
    return learner


def check_resume(make_one, workdir):
    """Checks that 3 + 3 steps equal 6, and returns the resumed learner."""
    whole = train(make_one(), workdir / "whole", 6)
    stopped = train(make_one(), workdir / "parts", 3)
    resumed = train(make_one(), workdir / "parts", 6)
    for got, want in zip(weights(resumed), weights(whole)):
        np.testing.assert_array_equal(got, want)
    moved = weights(stopped)[-1] - weights(resumed)[-1]
    assert np.abs(moved).max() > 1e-4
    return resumed


@pytest.mark.parametrize(
    "kind,replicas,loss_rate",
    [
        # One loss is tested with its own rate on one device and on two. The
        # others differ in the formula only.
        (proxies.ProxyAnchorLoss, 1, 2.0),
        (proxies.ProxyAnchorLoss, 2, 2.0),
        (proxies.NormSoftmaxLoss, 1, None),
    ],
)
def test_resumed_equals_uninterrupted(
    tmp_path, two_replicas, kind, replicas, loss_rate
):
    def make_one():
        if replicas == 1:
            return make(kind, loss_rate, momentum=0.9, rate=0.1)
        with two_replicas.scope():
            return make(kind, loss_rate, momentum=0.9, rate=0.1)

    check_resume(make_one, tmp_path)
    for name in ("encoder.keras", "encoder_last.keras"):
        encoder = tf.keras.models.load_model(tmp_path / "parts" / name)
        shapes = [w.shape for w in encoder.get_weights()]
        assert shapes == [(6, DIM), (DIM,)]


@pytest.mark.parametrize("lamb_steps", ["encoder", "loss"])
def test_resumes_where_one_optimizer_is_of_tf_addons(tmp_path, lamb_steps):
    """LAMB creates its variables late, the other optimizer at once."""

    def make_one():
        learner = make(proxies.NormSoftmaxLoss)
        pair = [
            schedules.build_optimizer("lamb", 0.01),
            tf.keras.optimizers.Adam(0.01),
        ]
        first, second = pair if lamb_steps == "encoder" else pair[::-1]
        learner.compile(first, loss_optimizer=second)
        return learner

    check_resume(make_one, tmp_path)


def test_a_collapse_is_noticed_without_a_known_loss(tmp_path):
    learner = make(proxies.NormSoftmaxLoss, rate=1e-6)
    assert learner.batch_loss.loss_at_collapse is None
    healthy = make(proxies.NormSoftmaxLoss, rate=1e-6)
    train(healthy, tmp_path / "healthy", 3, collapse_every=1)
    learner.encoder.set_weights(
        [np.zeros([6, DIM], np.float32), np.float32([1, 0, 0, 0])]
    )
    with pytest.raises(
        guards.CollapseError, match=r"step 2: .* loss \d+\.\d+\. Try"
    ) as caught:
        train(learner, tmp_path / "point", 3, collapse_every=1)
    # The advice for the triplet loss does not apply here.
    assert "loss.mining" not in str(caught.value)


def test_a_loss_built_too_late_is_refused():
    encoder = make(proxies.NormSoftmaxLoss).encoder
    loss = proxies.NormSoftmaxLoss()
    learner = Learner(encoder, loss)
    loss.build(PRODUCTS, DIM)
    learner.compile("sgd")
    with pytest.raises(ValueError, match="built after the learner was created"):
        learner.train_step(tuple(map(tf.constant, batch_of(0))))


def test_a_loss_optimizer_without_variables_is_refused():
    encoder = make(proxies.NormSoftmaxLoss).encoder
    learner = Learner(encoder, TripletLoss())
    with pytest.raises(ValueError, match="`loss_optimizer` has nothing to"):
        learner.compile("sgd", loss_optimizer="adam")


def test_a_loss_optimizer_may_be_named():
    learner = make(proxies.NormSoftmaxLoss)
    learner.compile("sgd", loss_optimizer="adam")
    before = learner.loss_parameters.get_weights()[0]
    learner.train_step(tuple(map(tf.constant, batch_of(0))))
    step = before - learner.loss_parameters.get_weights()[0]
    # Adam's first step is its rate, whatever the gradient.
    np.testing.assert_allclose(np.abs(step), 1e-3, rtol=1e-2)
