"""Attention ensembles: the masks, one trunk, unit length."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import images, imported, two_convolutions

from tf_triplet.models import encoder as encoders
from tf_triplet.models import ensemble


def test_an_unknown_layer_lists_the_maps():
    with pytest.raises(ValueError, match="conv4_block6_out.*late, norm, early"):
        encoders.build_encoder(imported(), 4, learners=2)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_equals_the_parts_by_hand(mixed, pooling):
    with encoders.mixed_precision(mixed):
        backbone = two_convolutions()
        encoder = encoders.build_encoder(
            backbone,
            6,
            seed=1,
            pooling=pooling,
            learners=3,
            attention_at="norm",
        )
    vectors = encoder(images())
    assert vectors.dtype == tf.float32 and vectors.shape == (3, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    spatial = backbone.get_layer("norm")(backbone.get_layer("early")(images()))
    parts = []
    for i in range(3):
        hidden = encoder.get_layer(f"attention_{i}_hidden")(spatial)
        mask = encoder.get_layer(f"attention_{i}_mask")(hidden)
        assert mask.shape == spatial.shape
        features = backbone.get_layer("late")(spatial * mask)
        if pooling == "gem":
            pooled = encoder.get_layer("pool")(features)
        else:
            pooled = tf.reduce_mean(tf.cast(features, tf.float32), [1, 2])
        part = tf.cast(encoder.get_layer("embedding")(pooled), tf.float32)
        parts.append(part / tf.norm(part, axis=1, keepdims=True))
    want = tf.concat(parts, 1) / 3**0.5
    atol = 0.02 if mixed else 1e-5
    np.testing.assert_allclose(vectors, want, atol=atol)
    # The trunk and the head are one for all; the masks are not.
    assert len(encoder.get_layer("embedding").weights) == 2
    assert np.abs(parts[0] - parts[1]).max() > 1e-4


def test_plain_keras_loads_it_and_every_weight_learns(tmp_path):
    encoder = encoders.build_encoder(
        imported(), 4, batch_norm="frozen", learners=2, attention_at="early"
    )
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(images()), encoder(images()), atol=1e-6)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(encoder(images(), training=True)[:, 0])
    gradients = tape.gradient(value, encoder.trainable_weights)
    assert len(gradients) == 4 + 2 + 2 * 4
    assert all(gradient is not None for gradient in gradients)
    for layer in encoder.submodules:
        assert type(layer).__module__.split(".")[0] in ("keras", "tensorflow")


def test_without_a_head_each_gives_its_features():
    encoder = encoders.build_encoder(
        two_convolutions(), 0, learners=2, attention_at="early"
    )
    assert encoder.output_shape == (None, 12)


def test_a_resnet_is_split_after_conv4():
    encoder = encoders.build_encoder("resnet50v2", 4, "random", 32, learners=2)
    attended = encoder.get_layer("attended_1")
    assert attended.output_shape == (None, 1, 1, 1024)
    assert ensemble.ATTENTION_AT in [la.name for la in encoder.layers]
    assert encoder.output_shape == (None, 4)


@pytest.mark.parametrize("learners", [3, -1])
def test_learners_must_divide_the_embedding(learners):
    with pytest.raises(ValueError, match="`learners` must divide"):
        encoders.build_encoder(two_convolutions(), 4, learners=learners)
