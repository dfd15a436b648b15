"""Encoders that embed an image and its mirror image alike."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_NAME = "mirrored_encoder"
_OF_NAME = "encoder_of_mirror_image"


def with_mirror_image(encoder: tf.keras.Model) -> tf.keras.Model:
    """Averages each embedding with the embedding of the mirrored image.

    The result takes twice the time. Where a mirrored image shows the same
    product, it is nearer to the other images of the product.

    Args:
        encoder: A model from `[batch, size, size, 3]` pixels (with branches,
            a dictionary of `pixels` and `branch`) to `[batch, dim]`
            embeddings.

    Returns:
        A model with the same inputs and weights, to `[batch, dim]` float32 of
        unit length. It has only Keras's own layers, besides those of
        `encoder`.

    Example:

    >>> pixels = tf.keras.Input([2, 2, 3])
    >>> encoder = tf.keras.Model(pixels, tf.keras.layers.Flatten()(pixels))
    >>> both = with_mirror_image(encoder)
    >>> image = tf.random.stateless_uniform([1, 2, 2, 3], seed=[0, 1])
    >>> mirrored = tf.reverse(image, [2])
    >>> bool(tf.reduce_all(both(image) == both(mirrored)))
    True
    """
    inputs = _new_inputs(encoder)
    layers = tf.keras.layers
    both = layers.Add(dtype="float32", name="image_and_mirror_image")(
        [encoder(inputs), encoder(_mirrored(inputs))]
    )
    unit = layers.UnitNormalization(dtype="float32", name="unit_length")(both)
    return tf.keras.Model(inputs, unit, name=_NAME)


def of_mirror_image(encoder: tf.keras.Model) -> tf.keras.Model:
    """Embeds the mirror image of each image.

    Args:
        encoder: See `with_mirror_image`.

    Returns:
        A model with the same inputs and weights.

    Example:

    >>> pixels = tf.keras.Input([1, 2, 3])
    >>> encoder = tf.keras.Model(pixels, tf.keras.layers.Flatten()(pixels))
    >>> image = tf.constant([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    >>> of_mirror_image(encoder)(image).numpy().tolist()
    [[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]]
    """
    inputs = _new_inputs(encoder)
    return tf.keras.Model(inputs, encoder(_mirrored(inputs)), name=_OF_NAME)


def without_mirror_image(model: tf.keras.Model) -> tf.keras.Model:
    """Returns the encoder inside a model of this module.

    Args:
        model: A Keras model.

    Returns:
        The encoder, or `model` itself if it is another model.

    Example:

    >>> pixels = tf.keras.Input([2, 2, 3])
    >>> encoder = tf.keras.Model(pixels, tf.keras.layers.Flatten()(pixels))
    >>> without_mirror_image(with_mirror_image(encoder)) is encoder
    True
    """
    if getattr(model, "name", "") not in (_NAME, _OF_NAME):
        return model
    return next(
        layer for layer in model.layers if isinstance(layer, tf.keras.Model)
    )


def _new_inputs(encoder: tf.keras.Model) -> Any:
    """Returns inputs of the same shapes and names as those of an encoder."""
    return tf.nest.map_structure(
        lambda tensor: tf.keras.Input(
            tensor.shape[1:], dtype=tensor.dtype, name=tensor.node.layer.name
        ),
        encoder.input,
    )


def _mirrored(inputs: Any) -> Any:
    """Returns the inputs of an encoder with mirrored pixels."""
    if isinstance(inputs, dict):
        return {**inputs, "pixels": tf.reverse(inputs["pixels"], [2])}
    return tf.reverse(inputs, [2])


def is_mirrored(model: tf.keras.Model) -> bool:
    """Tells whether a model is one of `with_mirror_image`.

    Args:
        model: A Keras model, or any other callable.

    Example:

    >>> is_mirrored(tf.keras.Sequential([tf.keras.Input([2, 2, 3])]))
    False
    """
    return getattr(model, "name", "") == _NAME
