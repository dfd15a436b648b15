"""PCA-whitening against scikit-learn and against its definition."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import decomposition

from tf_triplet.models import encoder as encoders
from tf_triplet.models import whitening


def features(count=60, width=8, seed=0):
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, width)) * np.geomspace(1, 1e-3, width)
    values = values @ random.normal(size=(width, width)) + 3.0
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("components", [1, 5, 8])
def test_equals_scikit_learn(components):
    values = features()
    kernel, bias = whitening.fit_whitening(values, components)
    assert kernel.shape == (8, components) and kernel.dtype == np.float32
    pca = decomposition.PCA(components, whiten=True, svd_solver="full")
    want = pca.fit_transform(values)
    got = values @ np.float64(kernel) + bias
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_has_unit_covariance_and_no_mean():
    values = features(count=200).astype(np.float32)
    kernel, bias = whitening.fit_whitening(values, 3)
    white = np.float64(values) @ kernel + bias
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)


@pytest.mark.parametrize(
    "values,components,message",
    [
        (features(5), 5, "needs more than 5 images. Received: 5"),
        (features(), 9, "from 1 to 8.*Received: 9"),
        (features(), 0, "from 1 to 8.*Received: 0"),
        (np.ones((9, 4), np.float32), 1, "vary in 0 directions only"),
        (np.tile(features(3), (4, 1)), 3, "vary in 2 directions only"),
    ],
)
def test_mistakes_are_errors(values, components, message):
    with pytest.raises(ValueError, match=message):
        whitening.fit_whitening(values, components)


@pytest.mark.parametrize("mixed", [False, True])
def test_it_fits_into_an_encoder(tmp_path, mixed):
    network = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            tf.keras.layers.Conv2D(5, 3, dtype="float32"),
        ]
    )
    random = np.random.default_rng(0)
    images = random.random((20, 8, 8, 3)).astype(np.float32)
    with encoders.mixed_precision(mixed):
        encoder = encoders.build_encoder(network, 4, unit_features=True)
    unit = encoders.at_layer(encoder, "features")(images).numpy()
    head = encoder.get_layer("embedding")
    assert head.compute_dtype == "float32"
    head.set_weights(whitening.fit_whitening(unit, 4))
    pca = decomposition.PCA(4, whiten=True, svd_solver="full")
    want = pca.fit_transform(np.float64(unit))
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(images), want, atol=1e-3)
