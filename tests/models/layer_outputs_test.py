"""Outputs of inner layers, and models that are split there."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import images, imported, two_convolutions

from tf_triplet.models import layer_outputs

LAYERS = tf.keras.layers


def doubly_nested():
    """The inner model is not the last layer of the one around it."""
    inputs = tf.keras.Input([16, 16, 3])
    outputs = LAYERS.Conv2D(5, 1, name="last")(imported()(inputs))
    return tf.keras.Model(inputs, outputs)


@pytest.mark.parametrize("make", [two_convolutions, imported, doubly_nested])
@pytest.mark.parametrize("name", ["early", "norm", "late"])
def test_the_two_parts_make_the_whole(make, name):
    model = make()
    middle, tail = layer_outputs.split_at_layer(model, name)
    head = tf.keras.Model(model.input, middle)
    got = tail(head(images()))
    np.testing.assert_allclose(got, model(images()), rtol=1e-5, atol=1e-6)
    ours = {id(w) for w in head.weights + tail.weights}
    assert ours == {id(w) for w in model.weights}


def test_a_model_is_not_split_where_a_shortcut_bypasses_the_layer():
    inputs = tf.keras.Input([8, 8, 3])
    first = LAYERS.Conv2D(4, 1, name="first")(inputs)
    second = LAYERS.Conv2D(4, 1, name="second")(first)
    model = tf.keras.Model(inputs, LAYERS.Add()([first, second]))
    with pytest.raises(
        ValueError, match="at layer 'second', because a shortcut"
    ):
        layer_outputs.split_at_layer(model, "second")
    layer_outputs.split_at_layer(model, "first")


def test_a_subclassed_model_cannot_be_split():
    class Own(tf.keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Only a functional or Seq.*Own"):
        layer_outputs.up_to_layer(Own(), "first")
    inputs = tf.keras.Input([8, 8, 3])
    around = tf.keras.Model(inputs, Own(name="own")(inputs))
    middle, _ = layer_outputs.split_at_layer(around, "own")
    assert middle.shape == (None, 8, 8, 3)
    with pytest.raises(ValueError, match="no layer 'x'.*: own"):
        layer_outputs.split_at_layer(around, "x")
