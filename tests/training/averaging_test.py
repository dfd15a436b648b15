"""The average of the weights: its values, resumes, and what a run keeps."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_training

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.models import encoder as encoders
from tf_triplet.training import averaging, distribution, loop
from tf_triplet.training.learner import Learner

LAYERS = tf.keras.layers


class Recorder(tf.keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.encoder.get_weights())


def expected(start, seen, momentum):
    average = [np.float64(w) for w in start]
    for step, weights in enumerate(seen, 1):
        share = 1 - min(momentum, (1 + step) / (10 + step))
        average = [a + share * (w - a) for a, w in zip(average, weights)]
    return average


@pytest.mark.parametrize("momentum", [0.3, 0.99])
def test_the_average_equals_the_recursion(momentum):
    learner = tiny_training.make()
    average = averaging.WeightAverage(learner.encoder, momentum)
    start, recorder = learner.encoder.get_weights(), Recorder()
    learner.fit(
        tiny_training.batches(0),
        steps_per_epoch=6,
        callbacks=[recorder, average],
        verbose=0,
    )
    wanted = expected(start, recorder.seen, momentum)
    for got, want in zip(average.encoder.get_weights(), wanted):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    # The run itself goes on with its own weights.
    for got, want in zip(learner.encoder.get_weights(), recorder.seen[-1]):
        np.testing.assert_array_equal(got, want)


@pytest.fixture
def momentum(monkeypatch):
    """Adds the average to the settings of `tiny_training.train`."""
    plain = loop.Settings
    monkeypatch.setattr(
        loop, "Settings", lambda **kw: plain(**kw, ema_momentum=0.9)
    )


def kept(workdir, name="encoder"):
    return tf.keras.models.load_model(workdir / f"{name}.keras").get_weights()


def test_what_is_evaluated_is_what_is_kept(tmp_path, momentum):
    seen, values = [], iter([0.2, 0.9, 0.4])

    def evaluate(encoder):
        seen.append(encoder.get_weights())
        return {"recall@1": next(values)}

    learner = tiny_training.train(tmp_path, 9, evaluate, evaluate_every=3)
    for name, want in (("encoder", seen[1]), ("encoder_last", seen[2])):
        for got, weights in zip(kept(tmp_path, name), want):
            np.testing.assert_array_equal(got, weights)
    moved = np.abs(learner.encoder.get_weights()[0] - seen[2][0]).max()
    assert moved > 1e-4


def test_a_resumed_run_has_the_same_average(tmp_path, momentum):
    tiny_training.train(tmp_path / "whole", 8)
    for steps in (3, 5, 8):
        learner = tiny_training.train(tmp_path / "parts", steps)
    for got, want in zip(kept(tmp_path / "parts"), kept(tmp_path / "whole")):
        np.testing.assert_array_equal(got, want)
    # The weights of the run are not the average, after a resume either.
    assert np.abs(kept(tmp_path / "parts")[0] - learner.get_weights()[0]).max()


def test_without_it_nothing_is_averaged(tmp_path):
    learner = tiny_training.train(tmp_path, 4)
    for got, want in zip(kept(tmp_path), learner.encoder.get_weights()):
        np.testing.assert_array_equal(got, want)


def small():
    pixels = tf.keras.Input([8, 8, 3])
    x = LAYERS.Conv2D(4, 3)(pixels)
    x = LAYERS.BatchNormalization()(x) + 1.0  # A function between layers.
    return tf.keras.Model(pixels, LAYERS.Conv2D(5, 3)(x))


@pytest.mark.parametrize(
    "options", [{"pooling": "gem"}, {"batch_norm": "frozen"}]
)
def test_every_kind_of_encoder_is_copied(options):
    inner = tf.keras.Sequential([tf.keras.Input([8, 8, 3]), small()])
    encoder = encoders.build_encoder(inner, 4, **options)
    average = averaging.WeightAverage(encoder, 0.5)
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    want = encoder(images, training=True)
    got = average.encoder(images, training=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    flags = [layer.trainable for layer in encoder.submodules if layer.built]
    copied = [w.trainable for w in average.encoder.weights]
    assert copied == [w.trainable for w in encoder.weights] and flags


def test_two_replicas_average_what_one_does():
    averages = []
    for count in (1, 2):
        strategy = distribution.build_strategy(count)
        with strategy.scope():
            tf.keras.utils.set_random_seed(1)
            encoder = encoders.build_encoder(small(), 4, batch_norm="frozen")
            loss = TripletLoss("batch_hard", margin=0.5)
            learner = Learner(encoder, loss)
            learner.compile(tf.keras.optimizers.SGD(0.1))
            average = averaging.WeightAverage(encoder, 0.9)
        images = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
        labels = np.repeat(np.arange(4), 2)
        learner.fit(
            tf.data.Dataset.from_tensors((images, labels)).repeat(),
            steps_per_epoch=3,
            callbacks=[average],
            verbose=0,
        )
        averages.append(average.encoder.get_weights())
    for one, two in zip(*averages):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_the_momentum_lies_below_one(value):
    config = configs.paper_config()
    config.data.source = "rendered"
    config.optimizer.ema_momentum = value
    with pytest.raises(ValueError, match=r"ema_momentum` must be in \[0, 1\)"):
        builders.validate(config)
