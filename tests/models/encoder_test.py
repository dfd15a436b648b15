"""Encoders: unit float32 output, imports, weights that never fall back."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import backbones, keras_import
from tf_triplet.models import encoder as encoders

LAYERS = tf.keras.layers


def small():
    return tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            LAYERS.Conv2D(4, 3),
            LAYERS.BatchNormalization(),
        ]
    )


def images(count=2, size=32):
    random = np.random.default_rng(0)
    return random.random((count, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("size", [0, 5])
def test_output_is_unit_float32(mixed, size):
    with encoders.mixed_precision(mixed):
        encoder = encoders.build_encoder(small(), size)
    vectors = encoder(images())
    assert vectors.dtype == tf.float32
    assert vectors.shape == (2, size or 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_frozen_batch_norm_keeps_its_statistics():
    encoder = encoders.build_encoder(small(), 4, batch_norm="frozen")
    before = [w.numpy() for w in encoder.non_trainable_weights]
    encoder(images(), training=True)
    for old, new in zip(before, encoder.non_trainable_weights):
        np.testing.assert_array_equal(old, new)
    assert len(before) == 4


def test_sync_batch_norm_keeps_the_weights():
    plain = small()
    encoder = encoders.build_encoder(plain, 0, batch_norm="sync")
    layer = [
        la for la in encoder.layers if isinstance(la, LAYERS.BatchNormalization)
    ]
    assert layer and layer[0].synchronized
    wanted = encoders.build_encoder(plain, 0)(images())
    np.testing.assert_allclose(encoder(images()), wanted, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_imports_saved_keras_models(tmp_path, suffix):
    model = small()
    path = tmp_path / f"model{suffix}"
    model.save(path)
    backbone = keras_import.import_backbone(path, 32, "0_255")
    wanted = model(images() * 255.0)
    np.testing.assert_allclose(backbone(images()), wanted, rtol=1e-4)
    assert encoders.build_encoder(backbone, 3)(images()).shape == (2, 3)


def test_saved_encoder_loads_without_this_package(tmp_path):
    encoder = encoders.build_encoder("resnet50", 4, "random", 32)
    path = tmp_path / "encoder.keras"
    encoder.save(path)
    np.save(tmp_path / "want.npy", encoder(images()))
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"m = tf.keras.models.load_model({str(path)!r})\n"
        "x = np.random.default_rng(0).random((2, 32, 32, 3))\n"
        f"want = np.load({str(tmp_path / 'want.npy')!r})\n"
        "np.testing.assert_allclose(m(x.astype('f')), want, atol=1e-5)\n"
        "assert 'tf_triplet' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_sync_batch_norm_reaches_into_an_imported_model():
    imported = keras_import.import_backbone(small(), 32)
    encoder = encoders.build_encoder(imported, 0, batch_norm="sync")
    norms = [
        layer
        for layer in encoder.submodules
        if isinstance(layer, LAYERS.BatchNormalization)
    ]
    assert norms and all(layer.synchronized for layer in norms)
    wanted = encoders.build_encoder(imported, 0)(images())
    np.testing.assert_allclose(encoder(images()), wanted, rtol=1e-6)


def test_at_layer_reads_before_the_embedding(tmp_path):
    network = small()
    encoder = encoders.build_encoder(network, 5)
    encoder.save(tmp_path / "encoder.keras")
    encoder = tf.keras.models.load_model(tmp_path / "encoder.keras")
    features = network(images()).numpy().mean((1, 2))
    want = features / np.linalg.norm(features, axis=1, keepdims=True)
    # The pooled features, and the map before them.
    for name in ("pool", network.layers[-1].name):
        got = encoders.at_layer(encoder, name)(images())
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    whole = encoders.at_layer(encoder, "unit_length")(images())
    np.testing.assert_allclose(whole, encoder(images()), atol=1e-6)
    with pytest.raises(ValueError, match="no layer 'pol'.*embedding, pool, "):
        encoders.at_layer(encoder, "pol")


def test_an_encoder_gets_a_new_head_at_a_layer(tmp_path):
    network = small()
    encoder = encoders.build_encoder(network, 5)
    encoder.save(tmp_path / "encoder.keras")
    backbone = keras_import.import_backbone(
        tmp_path / "encoder.keras", 32, layer="pool"
    )
    want = network(images()).numpy().mean((1, 2))
    np.testing.assert_allclose(backbone(images()), want, rtol=1e-4)
    headed = encoders.build_encoder(backbone, 3)
    assert headed(images()).shape == (2, 3)
    with pytest.raises(ValueError, match="no layer 'top'"):
        keras_import.import_backbone(
            tmp_path / "encoder.keras", 32, layer="top"
        )


def test_missing_weights_file_is_an_error():
    with pytest.raises(ValueError, match="no such file"):
        backbones.build_backbone("resnet50", 32, "nowhere.h5")


def test_v1_weights_do_not_enter_a_v2_graph(tmp_path):
    v1 = backbones.build_backbone("resnet50", 32, "random")
    arrays = {la.name: la.get_weights() for la in v1.layers if la.weights}
    with pytest.raises(ValueError, match="architecture|do not fit"):
        backbones.build_backbone("resnet50v2", 32, arrays)
    v1.save_weights(tmp_path / "v1.weights.h5")
    with pytest.raises(ValueError, match="architecture|does not fit"):
        backbones.build_backbone("resnet50v2", 32, tmp_path / "v1.weights.h5")


def test_wrong_image_size_is_an_error():
    model = tf.keras.Sequential(
        [tf.keras.Input([32, 32, 3]), LAYERS.Flatten(), LAYERS.Dense(2)]
    )
    with pytest.raises(ValueError, match="image_size"):
        keras_import.import_backbone(model, 48)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("whitened", [False, True])
def test_head_norm_normalizes_the_features_of_each_image(
    mixed, whitened, tmp_path
):
    with encoders.mixed_precision(mixed):
        encoder = encoders.build_encoder(
            small(), 3, unit_features=whitened, head_norm=True
        )
    features = encoders.at_layer(encoder, "pool")(images()).numpy()
    features -= features.mean(1, keepdims=True)
    features /= np.sqrt(features.var(1, keepdims=True))
    if whitened:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    kernel, bias = encoder.get_layer("embedding").get_weights()
    want = features @ kernel + bias
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    got = encoder(images())
    assert got.dtype == tf.float32
    # The features are small beside the epsilon of the layer.
    np.testing.assert_allclose(got, want, atol=0.05)
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(images()), got, atol=1e-6)


def test_head_norm_needs_a_head():
    with pytest.raises(ValueError, match="`head_norm` normalizes the features"):
        encoders.build_encoder(small(), 0, head_norm=True)
