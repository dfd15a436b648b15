"""SavedModels that Keras has not written become backbones."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import (
    build_encoder,
    import_backbone,
    safe_loading,
    saved_graph,
)


class Exported(tf.Module):
    """A network with a second output, as a signature of plain TensorFlow."""

    def __init__(self, network, dtype=tf.float32, batch=None, both=True):
        super().__init__()
        self.network, self.both = network, both
        spec = tf.TensorSpec([batch, 8, 8, 3], dtype, "images")
        self.serve = tf.function(self._serve, input_signature=[spec])

    def _serve(self, images):
        features = self.network(tf.cast(images, tf.float32), training=False)
        logits = tf.reduce_sum(features, [1, 2])
        count = tf.shape(features)[0]
        found = {"features": features, "count": count}
        return {**found, "logits": logits} if self.both else found


def _network():
    tf.keras.utils.set_random_seed(3)
    pixels = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(4, 3, activation="relu")(pixels)
    x = tf.keras.layers.BatchNormalization()(x)
    network = tf.keras.Model(pixels, tf.keras.layers.DepthwiseConv2D(3)(x))
    for weight in network.weights:
        noise = tf.random.stateless_uniform(weight.shape, [1, 2], 0.5, 1.5)
        weight.assign(noise)
    return network


def _save(folder, **options):
    network = _network()
    module = Exported(network, **options)
    tf.saved_model.save(
        module, str(folder), signatures={"serving_default": module.serve}
    )
    return network


IMAGES = np.random.default_rng(0).random((5, 8, 8, 3)).astype(np.float32)


def test_the_signature_becomes_a_backbone_that_is_saved(tmp_path):
    network = _save(tmp_path / "net", both=False)
    backbone = import_backbone(tmp_path / "net", 8)
    assert backbone.output_shape == (None, 4, 4, 4)
    np.testing.assert_allclose(backbone(IMAGES), network(IMAGES), rtol=1e-5)
    assert backbone.trainable_weights == []

    encoder = build_encoder(backbone, embedding_size=2, seed=1)
    encoder.save(tmp_path / "encoder.keras")
    again = safe_loading.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again(IMAGES), encoder(IMAGES), rtol=1e-5)
    assert len(again.trainable_weights) == len(encoder.trainable_weights)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = safe_loading.load_model(tmp_path / "encoder.keras")
        imported = import_backbone(tmp_path / "net", 8)
    np.testing.assert_allclose(imported(IMAGES), network(IMAGES), rtol=1e-5)
    np.testing.assert_allclose(mirrored(IMAGES), encoder(IMAGES), rtol=1e-5)

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(again(IMAGES, training=True)[:, 0])
        return tape.gradient(loss, again.trainable_weights)

    assert all(gradient is not None for gradient in train())
    tf.saved_model.save(again, str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served(IMAGES), encoder(IMAGES), rtol=1e-5)


def test_a_keras_export_is_run(tmp_path):
    network = _network()
    network.export(str(tmp_path / "net"))
    backbone = import_backbone(tmp_path / "net", 8)
    np.testing.assert_allclose(backbone(IMAGES), network(IMAGES), rtol=1e-5)


def test_an_output_is_named(tmp_path):
    network = _save(tmp_path / "net")
    with pytest.raises(ValueError, match="model.layer.*features, logits"):
        import_backbone(tmp_path / "net", 8)
    with pytest.raises(ValueError, match="no output 'count' that could"):
        import_backbone(tmp_path / "net", 8, layer="count")
    backbone = import_backbone(tmp_path / "net", 8, layer="logits")
    wanted = tf.reduce_sum(network(IMAGES), [1, 2])
    np.testing.assert_allclose(backbone(IMAGES), wanted, rtol=1e-5)


def test_a_signature_of_whole_pixels(tmp_path):
    network = _save(tmp_path / "net", dtype=tf.uint8, both=False)
    backbone = import_backbone(tmp_path / "net", 8, scaling="0_255")
    wanted = network(np.rint(IMAGES * 255))
    np.testing.assert_allclose(backbone(IMAGES), wanted, rtol=1e-4)


def test_another_size_is_named(tmp_path):
    _save(tmp_path / "net", both=False)
    with pytest.raises(ValueError, match="--config.data.image_size=8"):
        import_backbone(tmp_path / "net", 16)


def test_signatures_that_take_no_images(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, "image_bytes")
    module.serve = tf.function(lambda x: {"y": x}, input_signature=[spec])
    tf.saved_model.save(
        module, str(tmp_path / "a"), {"serving_default": module.serve}
    )
    with pytest.raises(ValueError, match="takes image_bytes: string"):
        saved_graph.load_signature(tmp_path / "a")
    tf.saved_model.save(tf.Module(), str(tmp_path / "b"))
    with pytest.raises(ValueError, match="no signature 'serving_default'"):
        import_backbone(tmp_path / "b", 8)


def test_a_damaged_saved_model(tmp_path):
    _save(tmp_path / "net")
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot load"):
        import_backbone(tmp_path / "net", 8)
