"""Encoders that embed an image and its mirror image alike."""

from __future__ import annotations

import tensorflow as tf

_NAME = "mirrored_encoder"


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
    inputs = tf.nest.map_structure(
        lambda tensor: tf.keras.Input(
            tensor.shape[1:], dtype=tensor.dtype, name=tensor.node.layer.name
        ),
        encoder.input,
    )
    mirrored = inputs
    if isinstance(inputs, dict):
        mirrored = {**inputs, "pixels": tf.reverse(inputs["pixels"], [2])}
    else:
        mirrored = tf.reverse(inputs, [2])
    layers = tf.keras.layers
    both = layers.Add(dtype="float32", name="image_and_mirror_image")(
        [encoder(inputs), encoder(mirrored)]
    )
    unit = layers.UnitNormalization(dtype="float32", name="unit_length")(both)
    return tf.keras.Model(inputs, unit, name=_NAME)


def without_mirror_image(model: tf.keras.Model) -> tf.keras.Model:
    """Returns the encoder inside a model of `with_mirror_image`.

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
    if getattr(model, "name", "") != _NAME:
        return model
    return next(
        layer for layer in model.layers if isinstance(layer, tf.keras.Model)
    )


def is_mirrored(model: tf.keras.Model) -> bool:
    """Tells whether a model is one of `with_mirror_image`.

    Args:
        model: A Keras model, or any other callable.

    Example:

    >>> is_mirrored(tf.keras.Sequential([tf.keras.Input([2, 2, 3])]))
    False
    """
    return getattr(model, "name", "") == _NAME
