"""The encoder: a backbone, average pooling, a linear layer, unit length."""

from __future__ import annotations

import contextlib
from pathlib import Path

import tensorflow as tf

from tf_triplet.models import backbones

BATCH_NORMS = ("train", "frozen", "sync")


def build_encoder(
    backbone: str | tf.keras.Model = "resnet50v2",
    embedding_size: int = 512,
    weights: str | Path | dict = "imagenet",
    image_size: int = 224,
    batch_norm: str = "train",
    seed: int | None = None,
) -> tf.keras.Model:
    """Builds pictures → embeddings as a plain Keras model.

    Args:
        backbone: "resnet50v2", "resnet50", or a Keras model from
            `[batch, size, size, 3]` pixels in [0, 1] to features.
        embedding_size: width of the linear head; 0 leaves it out.
        weights: see `backbones.build_backbone`; unused for a model.
        image_size: pixels a side; unused for a model.
        batch_norm: "train", "frozen" (the pretrained statistics, never
            updated) or "sync" (statistics over all replicas).
        seed: of the head's initial weights.

    Returns:
        A model from float32 `[batch, size, size, 3]` in [0, 1] to float32
        `[batch, dim]` of unit length, also under mixed precision. It holds
        Keras's own layers only, so plain `load_model` opens it.
    """
    if embedding_size < 0:
        raise ValueError(
            f"`embedding_size` must be at least 0. Received: {embedding_size}"
        )
    if isinstance(backbone, str):
        backbone = backbones.build_backbone(backbone, image_size, weights)
    backbone = with_batch_norm(backbone, batch_norm)
    features = backbone.output
    if features.shape.rank == 4:
        pool = tf.keras.layers.GlobalAveragePooling2D(name="pool")
        features = pool(features)
    elif features.shape.rank != 2:
        raise ValueError(
            "A backbone must give [batch, features] or a [batch, height, "
            f"width, channels] map. Received shape: {features.shape}"
        )
    unit = embed(features, embedding_size, seed)
    return tf.keras.Model(backbone.input, unit, name="encoder")


def with_batch_norm(
    backbone: tf.keras.Model, batch_norm: str
) -> tf.keras.Model:
    """The backbone, its batch norm as `build_encoder` says."""
    if batch_norm not in BATCH_NORMS:
        raise ValueError(
            f"`batch_norm` must be one of {', '.join(BATCH_NORMS)}. "
            f"Received: {batch_norm!r}"
        )
    if batch_norm == "sync":
        return _with_synchronized_batch_norm(backbone)
    if batch_norm == "frozen":
        _freeze_batch_norm(backbone)
    return backbone


def embed(features, embedding_size: int, seed: int | None = None):
    """Keras `[batch, features]` to float32 `[batch, dim]` of unit length.

    Args:
        features: a Keras tensor.
        embedding_size: width of the linear head; 0 leaves it out.
        seed: of the head's initial weights.
    """
    layers = tf.keras.layers
    if embedding_size:
        initializer = tf.keras.initializers.GlorotUniform(seed)
        features = layers.Dense(
            embedding_size, kernel_initializer=initializer, name="embedding"
        )(features)
    # float16 has too few digits for a length of one.
    features = layers.Activation("linear", dtype="float32", name="to_float32")(
        features
    )
    return layers.UnitNormalization(dtype="float32", name="unit_length")(
        features
    )


@contextlib.contextmanager
def precision(mixed: bool):
    """Builds layers under float16 (GPU) or bfloat16 (CPU) arithmetic."""
    before = tf.keras.mixed_precision.global_policy()
    if mixed:
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        tf.keras.mixed_precision.set_global_policy(
            "mixed_float16" if on_gpu else "mixed_bfloat16"
        )
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _freeze_batch_norm(model: tf.keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            _freeze_batch_norm(layer)
        elif isinstance(layer, tf.keras.layers.BatchNormalization):
            # Not trainable means inference mode in Keras 2.
            layer.trainable = False


def _with_synchronized_batch_norm(model: tf.keras.Model) -> tf.keras.Model:
    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
            return tf.keras.layers.BatchNormalization.from_config(config)
        return layer.__class__.from_config(config)

    copy = tf.keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
