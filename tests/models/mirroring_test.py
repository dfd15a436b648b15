"""Encoders that embed an image and its mirror image alike."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import (
    at_layer,
    branched_encoder,
    branches,
    build_encoder,
    import_backbone,
    mirroring,
    precisions,
    safe_loading,
)

IMAGES = tf.random.stateless_uniform([3, 16, 16, 3], [1, 2])
FLIPPED = IMAGES[:, :, ::-1]


def network():
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(
        [
            tf.keras.Input([16, 16, 3]),
            tf.keras.layers.Conv2D(6, 3, name="conv"),
            tf.keras.layers.BatchNormalization(),
        ]
    )


@pytest.fixture
def encoder():
    return build_encoder(network(), embedding_size=5, pooling="max")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_mean_of_both_images(encoder):
    both = mirroring.with_mirror_image(encoder)
    want = unit(encoder(IMAGES).numpy() + encoder(FLIPPED).numpy())
    np.testing.assert_allclose(both(IMAGES), want, atol=1e-6)
    np.testing.assert_allclose(both(FLIPPED), want, atol=1e-6)
    assert mirroring.is_mirrored(both) and not mirroring.is_mirrored(encoder)
    only = mirroring.of_mirror_image(encoder)
    np.testing.assert_allclose(only(IMAGES), encoder(FLIPPED), atol=1e-6)


def test_it_shares_the_weights(encoder):
    both = mirroring.with_mirror_image(encoder)
    for ours, theirs in zip(encoder.get_weights(), both.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    before = both(IMAGES).numpy()
    encoder.get_layer("embedding").kernel.assign_add(tf.ones([6, 5]))
    assert np.abs(both(IMAGES).numpy() - before).max() > 1e-3


@pytest.mark.parametrize("load", [tf.keras.models.load_model, "safely"])
def test_keras_saves_and_loads_it(tmp_path, encoder, load):
    both = mirroring.with_mirror_image(encoder)
    both.save(tmp_path / "encoder.keras", save_format="keras_v3")
    load = safe_loading.load_model if load == "safely" else load
    loaded = load(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(loaded(IMAGES), both(IMAGES))
    assert mirroring.is_mirrored(loaded)
    inner = mirroring.without_mirror_image(loaded)
    np.testing.assert_array_equal(inner(IMAGES), encoder(IMAGES))


def test_a_layer_is_averaged_too(encoder):
    both = at_layer(mirroring.with_mirror_image(encoder), "pool")
    pool = at_layer(encoder, "pool")
    want = unit(pool(IMAGES).numpy() + pool(FLIPPED).numpy())
    np.testing.assert_allclose(both(IMAGES), want, atol=1e-6)


def test_a_new_head_is_trained_on_the_encoder_inside(tmp_path, encoder):
    path = tmp_path / "encoder.keras"
    mirroring.with_mirror_image(encoder).save(path, save_format="keras_v3")
    backbone = import_backbone(path, 16, layer="pool")
    want = tf.reduce_max(network()(IMAGES), [1, 2])
    np.testing.assert_allclose(backbone(IMAGES), want, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_keep_the_mean(encoder, precision):
    both = mirroring.with_mirror_image(encoder)
    lower = precisions.at_precision(both, precision)
    np.testing.assert_allclose(lower(IMAGES), lower(FLIPPED), atol=1e-6)
    np.testing.assert_allclose(lower(IMAGES), both(IMAGES), atol=0.05)


def test_branches_stay(encoder):
    own = branches.Branches("domain", ("street", "shop"))
    branched = branched_encoder.build_branched_encoder(network(), 4, own)
    both = mirroring.with_mirror_image(branched)
    assert branches.find(both) == own
    inputs = {"pixels": IMAGES, "branch": tf.constant([0, 1, 0])}
    other = {**inputs, "pixels": FLIPPED}
    np.testing.assert_allclose(both(inputs), both(other), atol=1e-6)
    want = unit(branched(inputs).numpy() + branched(other).numpy())
    np.testing.assert_allclose(both(inputs), want, atol=1e-6)
