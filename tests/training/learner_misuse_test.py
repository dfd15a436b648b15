"""Mistakes with `Learner` raise errors that say how to fix them."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses.proxies import NormSoftmaxLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training.learner import Learner

IMAGES = np.random.default_rng(0).normal(size=[8, 6]).astype(np.float32)
LABELS = np.repeat(np.arange(4), 2).astype(np.int32)


def build_encoder():
    return tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )


def make(loss):
    learner = Learner(build_encoder(), loss)
    learner.compile(tf.keras.optimizers.SGD(0.01))
    return learner


@pytest.mark.parametrize(
    "loss,message",
    [
        (
            tf.keras.losses.MeanSquaredError(),
            r"instance of tf_triplet.losses.BatchLoss.*Received: "
            r"<.*MeanSquaredError.*encoder.compile\(loss=...\)",
        ),
        ("triplet", "Received: 'triplet'. A plain Keras loss"),
        (None, "Received: None"),
        (TripletLoss, r"Create an instance: TripletLoss\(...\)"),
    ],
)
def test_another_loss_raises(loss, message):
    with pytest.raises(TypeError, match=message):
        Learner(build_encoder(), loss)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("loss", [TripletLoss, NormSoftmaxLoss])
def test_one_hot_labels_raise(loss, dtype):
    loss = loss()
    loss.build(4, 4)
    one_hot = np.eye(4, dtype=dtype)[LABELS]
    message = r"pass `tf.argmax\(labels, axis=-1\)`. Received.*\(8, 4\)"
    with pytest.raises(ValueError, match=message):
        make(loss).train_step((tf.constant(IMAGES), tf.constant(one_hot)))
    message = message.replace("8", "None")
    data = tf.data.Dataset.from_tensor_slices((IMAGES, one_hot)).batch(8)
    with pytest.raises(ValueError, match=message):
        make(loss).fit(data, verbose=0)


def test_the_fix_of_one_hot_labels_works():
    def loss(labels):
        tf.keras.utils.set_random_seed(0)
        learner = make(TripletLoss())
        return float(learner.train_step((tf.constant(IMAGES), labels))["loss"])

    one_hot = tf.one_hot(LABELS, 4)
    assert loss(tf.argmax(one_hot, axis=-1)) == loss(tf.constant(LABELS)) > 0


def test_missing_labels_raise():
    with pytest.raises(ValueError, match="needs batches of .images, labels."):
        make(TripletLoss()).fit(IMAGES, verbose=0)


def test_sample_weights_raise():
    with pytest.raises(ValueError, match="does not support sample weights"):
        make(TripletLoss()).fit(
            IMAGES, LABELS, sample_weight=np.ones(8), verbose=0
        )
