"""The encoder: a backbone, pooling, a linear layer, unit length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tf_triplet.models import backbones, ensemble, layer_outputs
from tf_triplet.models.pooling import Pooling, build_pooling

BATCH_NORMS = ("train", "frozen", "sync")


def build_encoder(
    backbone: str | tf.keras.Model = "resnet50v2",
    embedding_size: int = 512,
    weights: str | Path | dict = "imagenet",
    image_size: int = 224,
    batch_norm: str = "train",
    seed: int | None = None,
    pooling: Pooling = "average",
    learners: int = 0,
    attention_at: str = "",
    unit_features: bool = False,
) -> tf.keras.Model:
    """Builds images → embeddings as a plain Keras model.

    Args:
        backbone: "resnet50v2", "resnet50", or a Keras model from
            `[batch, size, size, 3]` pixels in [0, 1] to features.
        embedding_size: width of the linear head; 0 leaves it out.
        weights: see `backbones.build_backbone`; unused for a model.
        image_size: pixels a side; unused for a model.
        batch_norm: "train", "frozen" (the pretrained statistics, never
            updated) or "sync" (statistics over all replicas).
        seed: of the head's initial weights.
        pooling: of a feature map, see `pooling.build_pooling`. A backbone
            that gives vectors leaves it at "average".
        learners: M of an attention ensemble (`ensemble`): each embeds into
            `embedding_size / M` with one head, or without a head into the
            pooled features. 0 and 1: no ensemble.
        attention_at: layer of the backbone that the masks are laid on; empty:
            the last output of a ResNet's conv4.
        unit_features: the linear head gets features of unit length and is
            float32: the place for `whitening.fit_whitening`.

    Returns:
        A model from float32 `[batch, size, size, 3]` in [0, 1] to float32
        `[batch, dim]` of unit length, also under mixed precision. It holds
        Keras's own layers only, so plain `load_model` opens it, but with
        pooling "gem" or "rmac": then import `tf_triplet.models.pooling`
        first.
    """
    check_sizes(embedding_size, learners)
    if isinstance(backbone, str):
        backbone = backbones.build_backbone(backbone, image_size, weights)
    backbone = with_batch_norm(backbone, batch_norm)
    pool = pooled_by(backbone, pooling)
    learners = max(learners, 1)
    head = _build_head(embedding_size // learners, unit_features, seed)
    if learners == 1:
        unit = unit_length()(head(pool(backbone.output)))
    else:
        to_unit = unit_length("learner_unit_length")
        unit = ensemble.join(
            ensemble.attend(backbone, learners, attention_at, seed),
            lambda features: to_unit(head(pool(features))),
        )
    return tf.keras.Model(backbone.input, unit, name="encoder")


def check_sizes(embedding_size: int, learners: int) -> None:
    """Checks the width of an encoder before there is a backbone.

    Args:
        embedding_size: See `build_encoder`.
        learners: See `build_encoder`.

    Raises:
        ValueError: If one is negative, or `learners` does not divide
            `embedding_size`.
    """
    if embedding_size < 0:
        raise ValueError(
            f"`embedding_size` must be at least 0. Received: {embedding_size}"
        )
    if learners < 0 or embedding_size % max(learners, 1):
        raise ValueError(
            "`learners` must divide `embedding_size`. Received: "
            f"{learners} and {embedding_size}"
        )


def with_batch_norm(backbone: tf.keras.Model, kind: str) -> tf.keras.Model:
    """The backbone with batch norm of a kind; "frozen" changes it in place.

    Args:
        backbone: any Keras model.
        kind: one of `BATCH_NORMS`, see `build_encoder`.
    """
    if kind not in BATCH_NORMS:
        raise ValueError(
            f"`batch_norm` must be one of {', '.join(BATCH_NORMS)}. "
            f"Received: {kind!r}"
        )
    if kind == "sync":
        backbone = _with_synchronized_batch_norm(backbone)
    if kind == "frozen":
        _freeze_batch_norm(backbone)
    return backbone


def pooled_by(backbone: tf.keras.Model, pooling: Pooling) -> Callable:
    """A function from what the backbone gives to `[batch, features]`.

    Args:
        backbone: gives vectors, or a `[batch, height, width, channels]` map.
        pooling: of a map, see `pooling.build_pooling`.

    Raises:
        ValueError: it gives something else, or vectors to be pooled.
    """
    if backbone.output.shape.rank == 2 and pooling != "average":
        raise ValueError(
            f"`pooling={pooling if isinstance(pooling, str) else '<own>'}` "
            "needs a backbone that gives a map. Received "
            f"one that gives {backbone.output.shape}: leave it at average."
        )
    pool = build_pooling(pooling)
    return lambda features: _pooled(features, pool)


def _pooled(features, pool: Callable):
    """`[batch, features]` of what a backbone gives."""
    if features.shape.rank == 4:
        return pool(features)
    if features.shape.rank == 2:
        return features
    raise ValueError(
        "A backbone must give [batch, features] or a [batch, height, "
        f"width, channels] map. Received shape: {features.shape}"
    )


def _build_head(size: int, unit_features: bool, seed: int | None) -> Callable:
    """The linear layer, or nothing where `size` is 0."""
    if not size:
        return lambda features: features
    dense = tf.keras.layers.Dense(
        size,
        kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
        name="embedding",
        # Whitening divides by small deviations.
        dtype="float32" if unit_features else None,
    )
    if not unit_features:
        return dense
    unit = unit_length("features")
    return lambda features: dense(unit(features))


def unit_length(name: str = "unit_length") -> Callable:
    """Layers that bring `[batch, dim]` of any type to float32 unit length.

    Args:
        name: of the last of them.
    """
    layers = tf.keras.layers
    # float16 has too few digits for a length of one.
    cast = layers.Activation(
        "linear", dtype="float32", name=f"{name}_in_float32"
    )
    unit = layers.UnitNormalization(dtype="float32", name=name)
    return lambda features: unit(cast(features))


def embed(
    features,
    embedding_size: int,
    seed: int | None = None,
    unit_features: bool = False,
):
    """Keras `[batch, features]` to float32 `[batch, dim]` of unit length.

    Args:
        features: a Keras tensor.
        embedding_size: width of the linear head; 0 leaves it out.
        seed: of the head's initial weights.
        unit_features: see `build_encoder`.
    """
    head = _build_head(embedding_size, unit_features, seed)
    return unit_length()(head(features))


def at_layer(encoder: tf.keras.Model, name: str) -> tf.keras.Model:
    """An encoder that reads a layer before the embedding.

    Args:
        encoder: of `build_encoder`, or any functional Keras model.
        name: of a layer that gives vectors or a map, which is averaged; for
            instance "pool".

    Returns:
        A model from the same images to float32 `[batch, dim]` of unit
        length, with the same weights.

    Raises:
        ValueError: there is no such layer; lists those there are.

    References:
        Vo and Hays, 2018, https://arxiv.org/abs/1803.03310: another layer
        than the embedding may generalize better to unseen classes.
    """
    if isinstance(encoder.input, dict):
        raise ValueError(
            "A layer before the embedding cannot be read of an encoder with "
            f"branches: it comes before they part. Received: {name!r}. Train "
            "without model.branch_by."
        )
    features = layer_outputs.layer_output(encoder, name)
    # Names of their own: those of the encoder's end may be taken.
    average = tf.keras.layers.GlobalAveragePooling2D(
        dtype="float32", name=f"at_{name}_average"
    )
    unit = unit_length(f"at_{name}")(_pooled(features, average))
    return tf.keras.Model(encoder.input, unit, name="encoder")


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
        if isinstance(layer, tf.keras.Model):  # An imported one.
            return _with_synchronized_batch_norm(layer)
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
            return tf.keras.layers.BatchNormalization.from_config(config)
        return layer.__class__.from_config(config)

    copy = tf.keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
