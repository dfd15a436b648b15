"""Branched encoders against NumPy, one image at a time."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import branches as br
from tf_triplet.models import build_branched_encoder
from tf_triplet.models import encoder as encoders

LAYERS = tf.keras.layers
NAMES = ("street", "shop", "studio")


def backbone(seed=0, features=5):
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            LAYERS.Conv2D(features, 3, activation="relu", name="conv"),
            LAYERS.GlobalAveragePooling2D(name="mean"),
        ]
    )


def build(kind, size=4, names=NAMES[:2], networks=None):
    if networks is None:
        count = len(names) if kind == "networks" else 1
        networks = [backbone(i) for i in range(count)]
        networks = networks if kind == "networks" else networks[0]
    encoder = build_branched_encoder(
        networks, size, br.Branches("domain", names, names[0]), kind, seed=3
    )
    return encoder, networks


def inputs(branch, seed=1):
    random = np.random.default_rng(seed)
    pixels = random.random((len(branch), 8, 8, 3)).astype(np.float32)
    return {"pixels": pixels, "branch": np.asarray(branch, np.int32)}


def scramble(encoder, seed=5):
    """Weights with which no two branches are alike."""
    random = np.random.default_rng(seed)
    for variable in encoder.trainable_variables:
        variable.assign(random.normal(size=variable.shape))


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_heads_equal_one_matrix_per_image():
    encoder, network = build("heads", names=NAMES)
    scramble(encoder)
    given = inputs([2, 0, 1, 0])
    got = encoder(given).numpy()
    assert got.dtype == np.float32
    features = np.float64(network(given["pixels"]))
    for row, branch in enumerate(given["branch"]):
        kernel, bias = encoder.get_layer(f"head_{branch}").get_weights()
        want = unit(features[row] @ np.float64(kernel) + bias)
        np.testing.assert_allclose(got[row], want, atol=1e-5)


@pytest.mark.parametrize("size", [4, 0])
def test_networks_equal_one_network_per_image(size):
    encoder, networks = build("networks", size)
    scramble(encoder)
    given = inputs([1, 0, 0, 1, 1])
    got = encoder(given).numpy()
    for row, branch in enumerate(given["branch"]):
        image = given["pixels"][row : row + 1]
        want = np.float64(networks[branch](image))[0]
        if size:
            kernel, bias = encoder.get_layer(f"head_{branch}").get_weights()
            want = want @ np.float64(kernel) + bias
        np.testing.assert_allclose(got[row], unit(want), atol=1e-5)


def test_weights_start_as_the_plain_features_and_weigh_them():
    encoder, network = build("weights", 0, NAMES)
    given = inputs([0, 1, 2, 2])
    plain = encoders.build_encoder(network, 0)(given["pixels"]).numpy()
    np.testing.assert_allclose(encoder(given), plain, atol=1e-6)
    # Nothing else trains, and what trains may become negative.
    (roots,) = encoder.trainable_variables
    values = np.random.default_rng(0).normal(size=[3, 5])
    roots.assign(values)
    got = encoder(given).numpy()
    for row, branch in enumerate(given["branch"]):
        want = unit(unit(np.float64(plain[row])) * values[branch] ** 2)
        np.testing.assert_allclose(got[row], want, atol=1e-5)


@pytest.mark.parametrize("kind,size", [("heads", 4), ("networks", 4)])
def test_branches_start_as_one_function(kind, size):
    same = [backbone(0), backbone(0)] if kind == "networks" else backbone(0)
    encoder, _ = build(kind, size, networks=same)
    first, second = inputs([0, 0, 0]), inputs([1, 1, 1])
    np.testing.assert_allclose(encoder(first), encoder(second), atol=1e-6)


@pytest.mark.parametrize(
    "kind,size", [("heads", 4), ("networks", 3), ("weights", 0)]
)
def test_gradients_equal_finite_differences(kind, size):
    encoder, _ = build(kind, size)
    scramble(encoder)
    given = inputs([0, 1, 0])
    towards = np.random.default_rng(2).normal(size=[3, size or 5])

    def value():
        return tf.reduce_sum(encoder(given) * np.float32(towards))

    with tf.GradientTape() as tape:
        out = value()
    gradients = tape.gradient(out, encoder.trainable_variables)
    random = np.random.default_rng(4)
    for variable, gradient in zip(encoder.trainable_variables, gradients):
        step = random.normal(size=variable.shape)
        before = variable.numpy()
        values = []
        for sign in (1, -1):
            variable.assign(before + sign * 1e-3 * step)
            values.append(float(value()))
        variable.assign(before)
        numeric = (values[0] - values[1]) / 2e-3
        assert numeric == pytest.approx(
            float(np.sum(step * gradient.numpy())), rel=0.02, abs=2e-3
        )


@pytest.mark.parametrize("kind,size", [("heads", 4), ("networks", 4)])
def test_a_branch_without_images_has_no_gradient(kind, size):
    encoder, _ = build(kind, size)
    given = inputs([1, 1])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(encoder(given)[:, 0])
    head = encoder.get_layer("head_0").kernel
    other = encoder.get_layer("head_1").kernel
    idle, busy = tape.gradient(value, [head, other])
    assert not np.any(idle) and np.any(busy)


@pytest.mark.parametrize(
    "kind,size", [("heads", 4), ("networks", 4), ("weights", 0)]
)
def test_the_file_keeps_vectors_names_and_what_trains(tmp_path, kind, size):
    encoder, _ = build(kind, size)
    scramble(encoder)
    path = tmp_path / "encoder.keras"
    encoder.save(path)
    again = tf.keras.models.load_model(path, compile=False)
    given = inputs([0, 1, 1])
    np.testing.assert_allclose(again(given), encoder(given), atol=1e-6)
    assert br.find(again) == br.Branches("domain", NAMES[:2], "street")
    shapes = [
        [v.shape for v in m.trainable_variables] for m in (encoder, again)
    ]
    assert shapes[0] == shapes[1]
    assert br.find(encoders.build_encoder(backbone(), 2)) is None


@pytest.mark.parametrize(
    "kind,size", [("heads", 4), ("networks", 4), ("weights", 0)]
)
def test_mixed_precision_gives_unit_float32(kind, size):
    with encoders.mixed_precision(True):
        encoder, _ = build(kind, size)
    # One image: a batch of a static size of 1 is still a batch.
    vectors = encoder(inputs([1]))
    assert vectors.dtype == tf.float32 and vectors.shape == (1, size or 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("branch", [-1, 2])
def test_a_number_without_a_branch_is_refused(branch):
    encoder, _ = build("heads")
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="at least 0 and below 2"
    ):
        encoder(inputs([0, branch]))


def test_names_become_numbers_by_name():
    branches = br.Branches("category", ("hats", "bags"))
    got = branches.index(np.array(["bags", "hats", "bags"], object))
    assert got.dtype == np.int32 and got.tolist() == [1, 0, 1]
    assert branches.index([]).tolist() == []
    with pytest.raises(
        ValueError,
        match=r"no branch for category 'belts' \(of 2 images\); it has "
        "'hats', 'bags'",
    ):
        branches.index(["belts", "hats", "belts"])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("color", ("a",)), "Received: 'color'"),
        (("domain", ()), "at least one name, and each name once. Received"),
        (("domain", ("a", "a")), r"Received: \('a', 'a'\)"),
        (("domain", ("a", "b"), "c"), "one of `names`, a, b. Received: 'c'"),
    ],
)
def test_invalid_branches_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        br.Branches(*arguments)


@pytest.mark.parametrize(
    "kind,size,count,message",
    [
        ("both", 4, 1, "one of heads, networks, weights. Received: 'both'"),
        ("networks", 4, 1, "takes 2 of `backbone`. Received: 1"),
        ("heads", 4, 2, "takes 1 of `backbone`. Received: 2"),
        ("heads", 0, 1, "`embedding_size` of at least 1. Received: 0"),
        ("weights", 4, 1, "`embedding_size=0`. Received: 4"),
    ],
)
def test_invalid_arguments_are_errors(kind, size, count, message):
    networks = [backbone()] * count
    with pytest.raises(ValueError, match=message):
        build(kind, size, networks=networks)


def test_frozen_batch_norm_reaches_every_network():
    def with_norm():
        return tf.keras.Sequential(
            [
                tf.keras.Input([8, 8, 3]),
                LAYERS.Conv2D(4, 3),
                LAYERS.BatchNormalization(),
            ]
        )

    encoder = build_branched_encoder(
        [with_norm(), with_norm()],
        3,
        br.Branches("domain", NAMES[:2]),
        "networks",
        batch_norm="frozen",
    )
    before = [w.numpy() for w in encoder.non_trainable_weights]
    encoder(inputs([0, 1]), training=True)
    assert len(before) == 8
    for old, new in zip(before, encoder.non_trainable_weights):
        np.testing.assert_array_equal(old, new)
