"""Pooling against NumPy; what is learned; saving; regions by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import encoder as encoders
from tf_triplet.models import keras_import, pooling

LAYERS = tf.keras.layers


def maps(shape=(2, 4, 4, 3), seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def pool(kind, values):
    inputs = tf.keras.Input(values.shape[1:])
    outputs = pooling.build_pooling(kind)(inputs)
    return tf.keras.Model(inputs, outputs)(values).numpy()


def slow_rmac(values, regions):
    total = np.zeros((values.shape[0], values.shape[3]))
    for top, left, size in regions:
        best = values[:, top : top + size, left : left + size].max((1, 2))
        total += best / np.linalg.norm(best, axis=1, keepdims=True)
    return total


ORACLES = {
    "average": lambda x: x.mean((1, 2)),
    "max": lambda x: x.max((1, 2)),
    "average_max": lambda x: x.mean((1, 2)) + x.max((1, 2)),
    "gem": lambda x: (x**3).mean((1, 2)) ** (1 / 3),
    # Worked out by hand: one of 4x4, four of 2x2, nine of 2x2.
    "rmac": lambda x: slow_rmac(
        x,
        [(0, 0, 4)]
        + [(i, j, 2) for i in (0, 2) for j in (0, 2)]
        + [(i, j, 2) for i in (0, 1, 2) for j in (0, 1, 2)],
    ),
}


@pytest.mark.parametrize("kind", pooling.POOLINGS)
def test_equals_numpy(kind):
    values = maps()
    want = ORACLES[kind](np.float64(values))
    np.testing.assert_allclose(pool(kind, values), want, rtol=1e-5)


@pytest.mark.parametrize("kind", pooling.POOLINGS)
@pytest.mark.parametrize("value", [0.0, -1.0, 5e3])
def test_constant_maps_have_finite_values_and_gradients(kind, value):
    values = tf.fill([2, 2, 2, 3], value)
    layer = pooling.build_pooling(kind)
    with tf.GradientTape() as tape:
        tape.watch(values)
        vectors = layer(values)
    assert np.isfinite(vectors).all()
    assert np.isfinite(tape.gradient(vectors, values)).all()


def test_gem_is_the_average_at_1_and_the_maximum_at_infinity():
    values = maps()
    average = pooling.GeneralizedMean(p=1.0)(values)
    np.testing.assert_allclose(average, values.mean((1, 2)), rtol=1e-5)
    # 16 values: at p the maximum is missed by a factor of at most 16^(1/p).
    largest = pooling.GeneralizedMean(p=500.0)(values * 1e4)
    np.testing.assert_allclose(largest, values.max((1, 2)) * 1e4, rtol=6e-3)


def test_gem_gradients_equal_finite_differences():
    values = np.float64(maps((1, 2, 2, 2)))
    layer = pooling.GeneralizedMean(dtype="float64")
    weights = np.float64([[0.7, -1.3]])

    def loss(x):
        return tf.reduce_sum(layer(x) * weights)

    inputs = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss(inputs)
    by_input, by_p = tape.gradient(value, [inputs, layer.p])
    step = 1e-6
    for at in np.ndindex(values.shape):
        moved = values.copy()
        moved[at] += step
        want = (loss(tf.constant(moved)) - value) / step
        np.testing.assert_allclose(by_input[at], want, rtol=1e-4, atol=1e-6)
    layer.p.assign_add(step)
    np.testing.assert_allclose(by_p, (loss(inputs) - value) / step, rtol=1e-4)


def test_rmac_gradient_goes_to_the_maxima():
    values = tf.constant([[[[1.0], [2.0]], [[4.0], [3.0]]]])
    layer = pooling.RegionalMax(levels=1)
    values = tf.concat([values, tf.ones_like(values)], -1)
    with tf.GradientTape() as tape:
        tape.watch(values)
        first = layer(values)[0, 0]
    gradient = tape.gradient(first, values)[0, :, :, 0]
    # d/dx of x / sqrt(x^2 + 1) at 4, at the place of the 4 alone.
    np.testing.assert_allclose(gradient, [[0, 0], [17**-1.5, 0]], atol=1e-6)


def test_rmac_regions_of_a_long_map_overlap_by_about_40_percent():
    # 4 x 8: at m = 3 neighbors start 2 apart, an overlap of 50 %; at m = 2
    # they would touch, 0 %.
    assert pooling.rmac_regions(4, 8, 1) == [(0, 0, 4), (0, 2, 4), (0, 4, 4)]
    second = pooling.rmac_regions(8, 4, 2)[3:]
    assert len(second) == 4 * 2 and {size for _, _, size in second} == {2}
    assert sorted({top for top, _, _ in second}) == [0, 2, 4, 6]
    assert pooling.rmac_regions(1, 1, 3) == [(0, 0, 1)]


def network():
    return tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), LAYERS.Conv2D(4, 3, activation="relu")]
    )


def vectors():
    network_to_vectors = network()
    network_to_vectors.add(LAYERS.GlobalAveragePooling2D())
    return network_to_vectors


@pytest.mark.parametrize("kind", ["gem", "rmac"])
@pytest.mark.parametrize("mixed", [False, True])
def test_encoders_are_unit_float32_and_load_again(tmp_path, kind, mixed):
    with encoders.mixed_precision(mixed):
        encoder = encoders.build_encoder(network(), 3, pooling=kind)
    images = maps((2, 8, 8, 3))
    want = encoder(images)
    assert want.dtype == tf.float32
    assert encoder.get_layer("pool").compute_dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(want, axis=1), 1, rtol=1e-6)
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(images), want, atol=1e-6)
    imported = keras_import.import_backbone(tmp_path / "encoder.keras", 8)
    np.testing.assert_allclose(imported(images), want, atol=1e-6)
    tf.saved_model.save(encoder, str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served(images), want, atol=1e-6)


@pytest.mark.parametrize("kind", ["average", "max", "average_max"])
def test_the_plain_ones_hold_keras_layers_only(kind):
    encoder = encoders.build_encoder(network(), 3, pooling=kind)
    for layer in encoder.submodules:
        assert type(layer).__module__.split(".")[0] in ("keras", "tensorflow")


def test_p_is_learned():
    encoder = encoders.build_encoder(network(), 0, pooling="gem")
    p = encoder.get_layer("pool").p
    assert any(p is w for w in encoder.trainable_weights)
    assert float(p) == 3.0


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: pooling.build_pooling("mean"), "average, max.*'mean'"),
        (
            lambda: encoders.build_encoder(vectors(), 3, pooling="gem"),
            "`pooling=gem` needs a backbone that returns a feat.*None, 4",
        ),
        (lambda: pooling.GeneralizedMean(p=0.0), "`p` must be greater than 0"),
        (lambda: pooling.RegionalMax(levels=0), "`levels` must be at least 1"),
        (
            lambda: pooling.RegionalMax()(tf.keras.Input([None, None, 3])),
            "map of a known size.*use gem",
        ),
    ],
)
def test_mistakes_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
