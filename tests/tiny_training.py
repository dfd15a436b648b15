"""A training of a few weights, in eager steps, for tests of the loop."""

import json

import numpy as np
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import loop
from tf_triplet.training.learner import Learner


def make(loss=None, **kwargs):
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    loss = loss or TripletLoss("batch_hard", margin=0.5)
    learner = Learner(encoder, loss, **kwargs)
    # For a few steps, a graph would take longer than it saves.
    learner.compile(
        tf.keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=True
    )
    return learner


def batches(start, at=None):
    """Random batches; `at` maps steps to what is called before them."""

    def draw(step):
        (at or {}).get(int(step), lambda: None)()
        images = np.random.default_rng(step).normal(size=[8, 6])
        return images.astype(np.float32), np.repeat(np.arange(4), 2)

    def load(step):
        x, y = tf.numpy_function(draw, [step], [tf.float32, tf.int64])
        return tf.ensure_shape(x, [None, 6]), tf.ensure_shape(y, [None])

    return tf.data.Dataset.range(start, 1 << 40).map(load)


def train(workdir, steps=9, evaluate=None, resume=True, learner=None, **more):
    """Trains, and returns the learner."""
    settings = {
        "checkpoint_every": 3,
        "log_every": 1,
        "evaluate_every": 0,
        "collapse_every": 0,
        "stop_on_collapse": True,
        "monitor": "recall@1",
        **{k: more.pop(k) for k in list(more) if k.endswith("_every")},
    }
    learner = learner or make()
    loop.train(
        learner,
        more.pop("batches", batches),
        evaluate,
        more.pop("bad_images", pipeline.BadImages()),
        workdir,
        loop.Settings(steps=steps, **settings),
        resume=resume,
        verbose=0,
        **more,
    )
    return learner


def rows(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_equal(learner, other):
    for got, want in zip(learner.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(got, want)
