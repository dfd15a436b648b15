"""Backbones by name: pixels, files, copies, and what they do not have."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.models import backbones, batch_norm, precisions, safe_loading
from tf_triplet.models import encoder as encoders

APPLICATIONS = tf.keras.applications
# The smallest of each family. The others differ in width and depth only.
FAMILIES = {
    "resnet50": (APPLICATIONS.ResNet50, APPLICATIONS.resnet),
    "resnet50v2": (APPLICATIONS.ResNet50V2, APPLICATIONS.resnet_v2),
    "efficientnetv2b0": (
        APPLICATIONS.EfficientNetV2B0,
        APPLICATIONS.efficientnet_v2,
    ),
    "convnexttiny": (APPLICATIONS.ConvNeXtTiny, APPLICATIONS.convnext),
    "mobilenetv3small": (
        APPLICATIONS.MobileNetV3Small,
        APPLICATIONS.mobilenet_v3,
    ),
}
NEW = tuple(name for name in FAMILIES if not name.startswith("resnet"))
# Building a large network takes seconds.
SLOW = ("efficientnetv2b0", "resnet50", "resnet50v2")


def each(names, slow=SLOW):
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow if name in slow else ())
            for name in names
        ],
    )


def images(count=2):
    random = np.random.default_rng(0)
    return random.random((count, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def networks():
    """Builds each network once."""
    made = {}

    def get(name):
        if name not in made:
            tf.keras.utils.set_random_seed(0)
            made[name] = backbones.build_backbone(name, 32, "random")
            # Biases, scales and statistics begin at 0 or 1, and the scales of
            # a ConvNeXt at 1e-6, which hides the rest.
            random = np.random.default_rng(0)
            weights = [
                w if w.ndim > 1 else w + random.uniform(0, 0.1, w.shape)
                for w in made[name].get_weights()
            ]
            made[name].set_weights(weights)
        return made[name]

    return get


def test_every_name_is_a_function_of_keras():
    for name in backbones.BACKBONES:
        assert name in {known.lower() for known in dir(APPLICATIONS)}


@each(FAMILIES)
def test_pixels_are_scaled_as_keras_does(networks, name):
    make, module = FAMILIES[name]
    plain = make(include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.set_weights(networks(name).get_weights())
    wanted = plain(module.preprocess_input(images() * 255.0)).numpy()
    got = networks(name)(images()).numpy()
    assert np.ptp(got) > 0
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-4)


@each(NEW, slow=(*SLOW, "convnexttiny"))
def test_an_encoder_is_saved_loaded_and_copied(networks, name, tmp_path):
    kind = "frozen" if backbones.has_batch_norm(name) else "none"
    encoder = encoders.build_encoder(networks(name), 4, batch_norm=kind)
    want = encoder(images()).numpy()
    encoder.save(tmp_path / "encoder.keras")
    again = safe_loading.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(images()), want, atol=1e-5)
    for precision in ("bfloat16", "int8"):
        copy = precisions.at_precision(encoder, precision)
        got = copy(images()).numpy()
        assert (got * want).sum(1).min() > 0.97
    exported = tmp_path / "saved_model"
    tf.saved_model.save(encoder, str(exported))
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    (got,) = served(tf.constant(images())).values()
    np.testing.assert_allclose(got, want, atol=1e-5)


@each(NEW, slow=(*SLOW, "mobilenetv3small"))
def test_weights_come_from_a_file(networks, name, tmp_path):
    """Also if Keras has counted its layers differently in another program."""
    for file in ("old.h5", "new.weights.h5"):
        networks(name).save_weights(tmp_path / file)
        copy = backbones.build_backbone(name, 32, tmp_path / file)
        for got, want in zip(copy.get_weights(), networks(name).get_weights()):
            np.testing.assert_array_equal(got, want)


def test_weights_of_another_architecture_are_refused(networks, tmp_path):
    networks("mobilenetv3small").save_weights(tmp_path / "other.h5")
    message = "no weights for .* layers, .* belongs to another architecture"
    with pytest.raises(ValueError, match=message):
        backbones.build_backbone("convnexttiny", 32, tmp_path / "other.h5")


def test_synchronized_batch_norm_reaches_functions_between_layers(networks):
    network = networks("mobilenetv3small")
    copy = batch_norm.with_batch_norm(network, "sync")
    norms = [
        layer
        for layer in copy.submodules
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    assert norms and all(layer.synchronized for layer in norms)
    want = network(images())
    np.testing.assert_allclose(copy(images()), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["train", "frozen", "sync"])
def test_batch_norm_is_refused_where_there_is_none(kind):
    message = rf"`model.batch_norm={kind}` has nothing to act on.*convnexttiny"
    config = configs.paper_config()
    config.data.source = "rendered"
    config.model.backbone = "convnexttiny"
    config.model.batch_norm = kind
    with pytest.raises(ValueError, match=message):
        builders.validate(config)
    with pytest.raises(ValueError, match="batch_norm=.* has nothing to act on"):
        encoders.build_encoder("convnexttiny", 4, "random", 32, kind)
    config.model.batch_norm = "none"
    builders.validate(config)


def test_none_is_refused_where_there_is_batch_norm(networks):
    with pytest.raises(ValueError, match="mobilenetv3large has it"):
        batch_norm.check_kind("mobilenetv3large", "none")
    with pytest.raises(ValueError, match="Received one with the layer"):
        encoders.build_encoder(
            networks("mobilenetv3small"), 4, batch_norm="none"
        )


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(APPLICATIONS, "ConvNeXtTiny", fail)
    message = "could not download convnexttiny's ImageNet weights: no network"
    with pytest.raises(ValueError, match=message):
        backbones.build_backbone("convnexttiny", 32, "imagenet")
