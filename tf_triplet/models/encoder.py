"""The encoder: a backbone, pooling, a linear head and L2 normalization."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from tf_triplet.models import backbones, ensemble, layer_outputs, mirroring
from tf_triplet.models.batch_norm import check_kind as check_batch_norm
from tf_triplet.models.batch_norm import with_batch_norm
from tf_triplet.models.pooling import Pooling, build_pooling


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
    head_norm: bool = False,
) -> tf.keras.Model:
    """Builds a Keras model from images to embeddings of unit length.

    Args:
        backbone: A name that `build_backbone` knows, or a Keras model from
            `[batch, size, size, 3]` pixels in [0, 1] to features. Features
            are `[batch, features]` or `[batch, height, width, channels]`.
        embedding_size: Width of the linear head. 0 leaves the head out.
        weights: Weights of the backbone; see `build_backbone`. Ignored if the
            backbone is a model.
        image_size: Side of the images in pixels. Ignored if the backbone is a
            model.
        batch_norm: "train", "frozen" (keeps the pretrained statistics),
            "sync" (computes statistics over all replicas), or "none" for a
            backbone that has no batch normalization (ConvNeXt).
        seed: Seed of the initial weights of the head.
        pooling: How to pool a feature map; see `build_pooling`. Must be
            "average" if the backbone returns vectors.
        learners: Number of learners of an attention-based ensemble. Each
            learner has `embedding_size / learners` dimensions of the
            embedding, or all pooled features if there is no head. 0 and 1
            build no ensemble.
        attention_at: Name of the layer of the backbone whose output the
            ensemble masks. Empty for the last output of conv4 of a ResNet.
        unit_features: Whether to scale features to unit length before the
            head, and to compute the head in float32. This is what the
            weights of `fit_whitening` need.
        head_norm: Whether to subtract the mean of the features of each image
            before the head, and divide by their standard deviation.

    Returns:
        A model from `[batch, size, size, 3]` float32 pixels in [0, 1] to
        `[batch, dim]` float32 embeddings of unit length, also under mixed
        precision. It has only Keras's own layers, so that `load_model` needs
        no import of this package, unless pooling is "gem" or "rmac".

    Raises:
        ValueError: If an argument is not valid, or does not fit the backbone.

    Example:

    >>> backbone = tf.keras.Sequential(
    ...     [tf.keras.Input([32, 32, 3]), tf.keras.layers.Conv2D(8, 3)]
    ... )
    >>> encoder = build_encoder(backbone, embedding_size=4)
    >>> embeddings = encoder(tf.random.uniform([2, 32, 32, 3]))
    >>> embeddings.shape
    TensorShape([2, 4])
    >>> tf.norm(embeddings, axis=1).numpy().round(4).tolist()
    [1.0, 1.0]
    """
    check_sizes(embedding_size, learners)
    if isinstance(backbone, str):
        check_batch_norm(backbone, batch_norm)
        backbone = backbones.build_backbone(backbone, image_size, weights)
    backbone = with_batch_norm(backbone, batch_norm)
    pool = pooling_for(backbone, pooling)
    learners = max(learners, 1)
    head = _build_head(
        embedding_size // learners, unit_features, seed, head_norm
    )
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


def pooling_for(
    backbone: tf.keras.Model, pooling: Pooling
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that pools the output of a backbone.

    Args:
        backbone: Model whose output is `[batch, features]` or `[batch, height,
            width, channels]`.
        pooling: How to pool a feature map; see `build_pooling`.

    Returns:
        A function from the output of the backbone to `[batch, features]`.

    Raises:
        ValueError: If the backbone returns vectors, and the pooling is not
            "average".
    """
    if backbone.output.shape.rank == 2 and pooling != "average":
        raise ValueError(
            f"`pooling={pooling if isinstance(pooling, str) else '<own>'}` "
            "needs a backbone that returns a feature map. Received one that "
            f"returns {backbone.output.shape}: leave pooling at average."
        )
    pool = build_pooling(pooling)
    return lambda features: _pooled(features, pool)


def _pooled(features: tf.Tensor, pool: Callable) -> tf.Tensor:
    """Returns `[batch, features]`, pooled if `features` is a map."""
    if features.shape.rank == 4:
        return pool(features)
    if features.shape.rank == 2:
        return features
    raise ValueError(
        "A backbone must return [batch, features] or a [batch, height, "
        f"width, channels] map. Received shape: {features.shape}"
    )


def _build_head(
    size: int, unit_features: bool, seed: int | None, head_norm: bool
) -> Callable:
    """Builds the linear layer, or the identity if `size` is 0."""
    if head_norm:
        inner = _build_head(size, unit_features, seed, False)
        if not size:
            raise ValueError(
                "`head_norm` normalizes the features before the head, so it "
                "needs an `embedding_size` of more than 0. Received: 0"
            )
        # The linear layer follows, so scales and shifts would be its own.
        norm = tf.keras.layers.LayerNormalization(
            center=False, scale=False, dtype="float32", name="head_norm"
        )
        return lambda features: inner(norm(features))
    if not size:
        return lambda features: features
    dense = tf.keras.layers.Dense(
        size,
        kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
        name="embedding",
        # Whitening divides by small deviations, which float16 cannot hold.
        dtype="float32" if unit_features else None,
    )
    if not unit_features:
        return dense
    unit = unit_length("features")
    return lambda features: dense(unit(features))


def unit_length(name: str = "unit_length") -> Callable[[tf.Tensor], tf.Tensor]:
    """Builds the layers that scale vectors to unit length.

    Args:
        name: Name of the last layer.

    Returns:
        A function from `[batch, dim]` floats of any precision to `[batch,
        dim]` float32.
    """
    layers = tf.keras.layers
    # In float16, the length would be off by 1e-3.
    cast = layers.Activation(
        "linear", dtype="float32", name=f"{name}_in_float32"
    )
    unit = layers.UnitNormalization(dtype="float32", name=name)
    return lambda features: unit(cast(features))


def embed(
    features: tf.Tensor,
    embedding_size: int,
    seed: int | None = None,
    unit_features: bool = False,
    head_norm: bool = False,
) -> tf.Tensor:
    """Adds the linear head and L2 normalization to features.

    Args:
        features: `[batch, features]` Keras tensor.
        embedding_size: Width of the linear head. 0 leaves the head out.
        seed: Seed of the initial weights of the head.
        unit_features: See `build_encoder`.
        head_norm: See `build_encoder`.

    Returns:
        `[batch, dim]` float32 embeddings of unit length, a Keras tensor.
    """
    head = _build_head(embedding_size, unit_features, seed, head_norm)
    return unit_length()(head(features))


def at_layer(encoder: tf.keras.Model, name: str) -> tf.keras.Model:
    """Returns an encoder that uses the output of an inner layer.

    Args:
        encoder: An encoder of `build_encoder`, or any functional Keras model.
        name: Name of a layer that returns vectors or a feature map, for
            instance "pool". A map is averaged.

    Returns:
        A model with the same weights, from the same images to `[batch, dim]`
        float32 of unit length.

    Raises:
        ValueError: If there is no such layer, or if the encoder has branches.

    Example:

    >>> backbone = tf.keras.Sequential(
    ...     [tf.keras.Input([32, 32, 3]), tf.keras.layers.Conv2D(8, 3)]
    ... )
    >>> encoder = build_encoder(backbone, embedding_size=4)
    >>> pooled = at_layer(encoder, "pool")
    >>> pooled(tf.zeros([2, 32, 32, 3])).shape
    TensorShape([2, 8])

    References:
        Vo and Hays, 2018, https://arxiv.org/abs/1803.03310: The layer before
        the embedding may generalize better to unseen classes.
    """
    if mirroring.is_mirrored(encoder):
        inner = at_layer(mirroring.without_mirror_image(encoder), name)
        return mirroring.with_mirror_image(inner)
    if isinstance(encoder.input, dict):
        raise ValueError(
            "An encoder with branches has no layer that can replace the "
            "embedding, because such a layer comes before the branches. "
            f"Received: {name!r}. Train without model.branch_by."
        )
    features = layer_outputs.layer_output(encoder, name)
    # The plain names may be taken by the end of the encoder.
    average = tf.keras.layers.GlobalAveragePooling2D(
        dtype="float32", name=f"at_{name}_average"
    )
    unit = unit_length(f"at_{name}")(_pooled(features, average))
    return tf.keras.Model(encoder.input, unit, name="encoder")


@contextlib.contextmanager
def mixed_precision(enabled: bool) -> Iterator[None]:
    """Builds the layers of a `with` block in mixed precision.

    Args:
        enabled: Whether to use mixed precision: float16 on a GPU, bfloat16 on
            a CPU. If False, the current policy of Keras applies.

    Yields:
        Nothing. The policy is restored at the end of the block.
    """
    before = tf.keras.mixed_precision.global_policy()
    if enabled:
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        tf.keras.mixed_precision.set_global_policy(
            "mixed_float16" if on_gpu else "mixed_bfloat16"
        )
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
