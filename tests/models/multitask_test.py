"""Attribute and landmark heads, and features around predicted landmarks."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import encoder as encoders
from tf_triplet.models import multitask, pooling

LAYERS = tf.keras.layers


def backbone(size=8):
    return tf.keras.Sequential(
        [
            tf.keras.Input([size, size, 3]),
            LAYERS.Conv2D(5, 3, 2, padding="same", activation="tanh"),
            LAYERS.BatchNormalization(),
        ]
    )


def images(count=3, size=8):
    random = np.random.default_rng(0)
    return random.random((count, size, size, 3)).astype(np.float32)


def build(**options):
    given = dict(attributes=4, landmarks=3, landmark_features=6, seed=1)
    return multitask.build_multitask(backbone(), 7, **{**given, **options})


def reference_soft_argmax(scores):
    batch, height, width, channels = scores.shape
    found = np.zeros([batch, channels, 2])
    for b in range(batch):
        for channel in range(channels):
            weights = np.exp(np.float64(scores[b, ..., channel]))
            weights /= weights.sum()
            for i in range(height):
                for j in range(width):
                    place = [(j + 0.5) / width, (i + 0.5) / height]
                    found[b, channel] += weights[i, j] * np.array(place)
    return found


def reference_pool(features, places, gates, cells):
    batch, height, width, channels = features.shape
    found = np.zeros([batch, places.shape[1], channels])
    for b in range(batch):
        for k, (x, y) in enumerate(places[b]):
            weights = np.zeros([height, width])
            for i in range(height):
                for j in range(width):
                    gap = (x * width - j - 0.5) ** 2
                    gap += (y * height - i - 0.5) ** 2
                    weights[i, j] = np.exp(-gap / (2 * cells**2))
            weights /= weights.sum()
            for i in range(height):
                for j in range(width):
                    found[b, k] += weights[i, j] * features[b, i, j]
            found[b, k] *= gates[b, k]
    return found


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_soft_argmax_is_the_loop():
    scores = 4 * random(2, 3, 5, 2)
    got = multitask.SoftArgmax()(scores)
    np.testing.assert_allclose(got, reference_soft_argmax(scores), rtol=1e-5)


def test_soft_argmax_edges():
    flat = multitask.SoftArgmax()(np.zeros([1, 3, 5, 1], np.float32))
    np.testing.assert_allclose(flat, [[[0.5, 0.5]]], rtol=1e-6)
    sure = np.zeros([1, 2, 4, 1], np.float32)
    sure[0, 1, 0] = 1e4
    got = multitask.SoftArgmax()(sure)
    np.testing.assert_allclose(got, [[[0.125, 0.75]]], rtol=1e-6)
    half = multitask.SoftArgmax()(tf.cast(sure, tf.float16))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, got)


@pytest.mark.parametrize("cells", [0.6, 1.5])
def test_landmark_pooling_is_the_loop(cells):
    features, places = random(2, 3, 5, 4), random(2, 3, 2, seed=1)
    gates = random(2, 3, seed=2)
    got = multitask.LandmarkPooling(cells)([features, places, gates])
    want = reference_pool(features, places, gates, cells)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_landmark_pooling_has_gradients_everywhere():
    features, places, gates = (
        tf.constant(v)
        for v in (random(1, 3, 3, 2), random(1, 2, 2, seed=1), random(1, 2))
    )
    layer = multitask.LandmarkPooling()

    def total(*inputs):
        return tf.reduce_sum(layer(list(inputs)) ** 2)

    theory, numbers = tf.test.compute_gradient(
        total, [features, places, gates], delta=1e-2
    )
    for got, want in zip(theory, numbers):
        np.testing.assert_allclose(got, want, atol=2e-3)
        assert np.abs(got).max() > 1e-3


def test_far_outside_takes_the_nearest_cell():
    features = random(1, 2, 2, 3)
    places = tf.constant([[[-50.0, 80.0]]])
    got = multitask.LandmarkPooling()([features, places, tf.ones([1, 1])])
    np.testing.assert_allclose(got[0, 0], features[0, 1, 0], rtol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_outputs(mixed):
    with encoders.mixed_precision(mixed):
        network = build()
    out = network.training(images())
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {
        "embeddings": (3, 7),
        "attributes": (3, 4),
        "places": (3, 3, 2),
        "visibility": (3, 3),
    }
    assert {value.dtype for value in out.values()} == {tf.float32}
    assert (out["places"].numpy() >= 0).all()
    assert (out["places"].numpy() <= 1).all()
    np.testing.assert_allclose(
        np.linalg.norm(out["embeddings"], axis=1), 1, rtol=1e-5
    )
    np.testing.assert_array_equal(network.encoder(images()), out["embeddings"])


@pytest.mark.parametrize(
    "options,names",
    [
        ({"landmark_features": 0}, {"attributes", "places", "visibility"}),
        ({"landmark_features": 0, "landmarks": 0}, {"attributes"}),
        ({"attributes": 0}, {"places", "visibility"}),
    ],
)
def test_heads_are_optional(options, names):
    network = build(**options)
    assert set(network.training.output) == names | {"embeddings"}
    assert ("landmark_pool" in [v.name for v in network.encoder.layers]) == (
        "landmark_features" not in options
    )


def test_the_embedding_looks_where_the_landmarks_are():
    network = build()
    with tf.GradientTape() as tape:
        vectors = network.encoder(images())
        loss = tf.reduce_sum(vectors[:, 0])
    scores = network.encoder.get_layer("landmark_scores")
    gradient = tape.gradient(loss, scores.kernel)
    assert np.abs(gradient).max() > 1e-6


@pytest.mark.parametrize("kind", pooling.POOLINGS)
def test_every_pooling_is_the_plain_encoders(tmp_path, kind):
    tf.keras.utils.set_random_seed(5)
    trunk = backbone()
    # Without landmark features the embedding is that of a plain encoder.
    plain = encoders.build_encoder(trunk, 7, seed=1, pooling=kind)
    network = multitask.build_multitask(
        trunk, 7, attributes=4, landmarks=3, seed=1, pooling=kind
    )
    np.testing.assert_allclose(
        network.encoder(images()), plain(images()), atol=1e-6
    )
    full = build(pooling=kind).encoder
    full.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(
        tmp_path / "encoder.keras", compile=False
    )
    np.testing.assert_allclose(again(images()), full(images()), atol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_whitening_gets_the_features_around_the_landmarks_too(mixed):
    with encoders.mixed_precision(mixed):
        encoder = build(unit_features=True).encoder
    features = encoders.at_layer(encoder, "features")(images())
    assert features.shape == (3, 5 + 6)
    head = encoder.get_layer("embedding")
    assert head.compute_dtype == "float32"
    want = head(features).numpy()
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder(images()), want, atol=1e-5)


def test_one_seed_makes_one_network():
    weights = []
    for _ in range(2):
        tf.keras.utils.set_random_seed(3)
        weights.append(build().training.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_saved_encoder_loads_again(tmp_path):
    encoder = build().encoder
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(
        tmp_path / "encoder.keras", compile=False
    )
    np.testing.assert_allclose(again(images()), encoder(images()), rtol=1e-6)


def test_errors():
    flat = tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), LAYERS.GlobalAveragePooling2D()]
    )
    with pytest.raises(ValueError, match=r"map of known size.*\(None, 3\)"):
        multitask.build_multitask(flat, attributes=2)
    with pytest.raises(ValueError, match="need `landmarks`.*6 and 0"):
        build(landmarks=0)
    with pytest.raises(ValueError, match="`batch_norm` must.*'on'"):
        build(batch_norm="on")
    with pytest.raises(ValueError, match="`cells` must.*Received: 0"):
        multitask.LandmarkPooling(0)
