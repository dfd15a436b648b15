"""Small Keras backbones that tests of several modules share."""

import numpy as np
import tensorflow as tf

from tf_triplet.models import keras_import

SIZE = 16


def two_convolutions():
    """Layers `early`, `norm` and `late`, with the same weights each time."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(
        [
            tf.keras.Input([SIZE, SIZE, 3]),
            layers.Conv2D(8, 3, 2, activation="relu", name="early"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(6, 3, activation="relu", name="late"),
        ]
    )


def imported():
    """The same network inside of another model."""
    return keras_import.import_backbone(two_convolutions(), SIZE, "-1_1")


def images():
    random = np.random.default_rng(0)
    return random.random((3, SIZE, SIZE, 3)).astype(np.float32)
