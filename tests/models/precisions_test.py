"""Encoders in bfloat16 and int8 are close to float32, and really converted."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import (
    branches,
    build_branched_encoder,
    int8_kernels,
    precisions,
)
from tf_triplet.models import encoder as encoders


def small(size=16, **more):
    """An encoder with two kinds of convolution and a residual sum."""
    layers = tf.keras.layers
    inputs = tf.keras.Input([size, size, 3])
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = layers.BatchNormalization()(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="second")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    backbone = tf.keras.Model(inputs, x)
    return encoders.build_encoder(backbone, 12, seed=0, **more)


def images(n=8, size=16):
    return np.random.default_rng(0).random([n, size, size, 3], np.float32)


@pytest.mark.parametrize("pooling", ["average", "gem", "rmac"])
def test_bfloat16_is_close_and_not_equal(pooling):
    encoder = small(pooling=pooling)
    copy = precisions.at_precision(encoder, "bfloat16")
    want, got = encoder(images()).numpy(), copy(images()).numpy()
    assert got.dtype == np.float32
    assert 1e-7 < np.abs(got - want).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    for name in ("first", "second"):
        layer = copy.get_layer(name)
        assert layer.compute_dtype == "bfloat16"
        assert layer.variable_dtype == "float32"
    assert copy.get_layer("embedding").compute_dtype == "float32"
    # The original did not change.
    np.testing.assert_array_equal(encoder(images()).numpy(), want)
    assert encoder.get_layer("first").compute_dtype == "float32"


def test_a_model_in_a_model_and_a_file(tmp_path):
    inner = small()
    pixels = tf.keras.Input([16, 16, 3])
    outer = encoders.build_encoder(tf.keras.Model(pixels, inner(pixels)), 4)
    copy = precisions.at_precision(outer, "bfloat16")
    nested = copy.get_layer("encoder").get_layer("first")
    assert nested.compute_dtype == "bfloat16"
    assert 0 < np.abs(copy(images()) - outer(images())).max() < 0.02
    copy.save(tmp_path / "copy.keras")
    again = tf.keras.models.load_model(tmp_path / "copy.keras", compile=False)
    np.testing.assert_array_equal(again(images()), copy(images()))


def test_branches_are_kept():
    inputs = tf.keras.Input([16, 16, 3])
    backbone = tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs))
    own = branches.Branches("domain", ("street", "shop"), "street")
    encoder = build_branched_encoder(backbone, 6, own, "heads")
    copy = precisions.at_precision(encoder, "bfloat16")
    assert branches.find(copy) == own
    asked = {"pixels": images(), "branch": np.arange(8, dtype=np.int32) % 2}
    got, want = copy(asked).numpy(), encoder(asked).numpy()
    assert 0 < np.abs(got - want).max() < 0.02
    assert copy.get_layer("head_0").compute_dtype == "float32"


def test_weights_of_branches_stay_float32():
    inputs = tf.keras.Input([16, 16, 3])
    backbone = tf.keras.Model(inputs, tf.keras.layers.Conv2D(8, 3)(inputs))
    own = branches.Branches("category", ("bags", "hats"))
    encoder = build_branched_encoder(
        backbone, 0, own, "weights", batch_norm="frozen"
    )
    copy = precisions.at_precision(encoder, "bfloat16")
    assert copy.get_layer("weight_roots").compute_dtype == "float32"


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_an_encoder_in_mixed_precision_is_refused(policy, precision):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        encoder = small()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(ValueError, match=f"trained in {policy[6:]}: leave"):
        precisions.at_precision(encoder, precision)


def test_an_encoder_that_would_not_change_is_refused():
    inputs = tf.keras.Input([16, 16, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    encoder = tf.keras.Model(inputs, encoders.embed(pooled, 4))
    with pytest.raises(ValueError, match="Received layers: Dense. Use fl"):
        precisions.at_precision(encoder, "bfloat16")


def test_float32_is_itself_and_others_are_refused():
    encoder = small()
    assert precisions.at_precision(encoder, "float32") is encoder
    with pytest.raises(ValueError, match="bfloat16, int8. Received: 'int4"):
        precisions.at_precision(encoder, "int4")


def test_a_layer_that_keras_cannot_copy():
    class Own(tf.keras.layers.Layer):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def call(self, inputs):
            return inputs

    inputs = tf.keras.Input([4])
    encoder = tf.keras.Model(inputs, Own(np.ones(4))(inputs))
    with pytest.raises(ValueError, match="a layer that Keras cannot copy"):
        precisions.at_precision(encoder, "bfloat16")


@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_int8_is_float32_of_the_rounded_kernels(pooling):
    encoder = small(pooling=pooling)
    copy = precisions.at_precision(encoder, "int8")
    want, got = encoder(images()).numpy(), copy(images()).numpy()
    assert 1e-6 < np.abs(got - want).max() < 0.05
    # By hand: each output's largest number is 127.
    for name, kernel, axes in (
        ("first", "kernel", (0, 1, 2)),
        ("second", "depthwise_kernel", (0, 1)),
    ):
        own = getattr(encoder.get_layer(name), kernel)
        scale = np.abs(own.numpy()).max(axes, keepdims=True) / 127
        own.assign(np.round(own.numpy() / scale) * scale)
    rounded = encoder(images()).numpy()
    np.testing.assert_allclose(got, rounded, atol=1e-6)
    kinds = {w.dtype for w in copy.get_layer("first").weights}
    assert kinds == {tf.int8, tf.float32}
    assert copy.get_layer("embedding").dtype == "float32"
    assert not hasattr(copy.get_layer("embedding"), "copy_weights")


def test_int8_in_a_model_in_a_model_and_a_saved_model(tmp_path):
    layers = tf.keras.layers
    inputs = tf.keras.Input([16, 16, 3])
    x = layers.SeparableConv2D(8, 3)(inputs)
    x = layers.Conv2DTranspose(6, 3)(layers.Conv2D(8, 3, groups=2)(x))
    x = layers.EinsumDense("...d,de->...e", 500, bias_axes="e")(x)
    x = layers.Dense(500, "relu")(x)
    inner = tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    inputs = tf.keras.Input([16, 16, 3])
    pooled = inner(inputs)
    encoder = tf.keras.Model(inputs, encoders.embed(pooled, 4))
    copy = precisions.at_precision(encoder, "int8")
    want, got = encoder(images()).numpy(), copy(images()).numpy()
    assert 1e-6 < np.abs(got - want).max() < 0.05
    sizes = []
    for name, model in (("float32", encoder), ("int8", copy)):
        module = tf.Module()
        module.model = model
        serve = tf.function(
            lambda pixels, model=model: {"embedding": model(pixels)},
            input_signature=[tf.TensorSpec([None, 16, 16, 3])],
        )
        folder = tmp_path / name
        tf.saved_model.save(module, str(folder), {"serving_default": serve})
        data = folder / "variables" / "variables.data-00000-of-00001"
        sizes.append(data.stat().st_size)
        loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
        again = loaded(tf.constant(images()))["embedding"]
        np.testing.assert_allclose(again, model(images()), atol=1e-6)
    assert sizes[1] < 0.35 * sizes[0]


def test_int8_rounds_to_half_a_scale_and_keeps_zeros():
    kernel = np.random.default_rng(0).normal(size=[3, 3, 4, 5])
    kernel = np.float32(kernel)
    kernel[..., 1], kernel[..., 2] = 0, 1e-42
    whole, scale = int8_kernels.quantize(kernel, (0, 1, 2))
    assert whole.dtype == np.int8 and scale.shape == (1, 1, 1, 5)
    assert np.abs(whole * scale - kernel).max() <= 0.5001 * scale.max()
    largest = np.abs(whole.astype(int)).max((0, 1, 2))
    assert largest.tolist() == [127, 0, 0, 127, 127]
    assert np.isfinite(scale).all()
