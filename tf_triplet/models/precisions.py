"""A trained encoder that multiplies in another precision.

For serving: half the memory traffic, and on processors with bfloat16 units
several times the rate. Weights stay float32 in the file.
"""

from __future__ import annotations

import tensorflow as tf

PRECISIONS = ("float32", "bfloat16")
# Where an encoder's products are. Sums between them stay float32.
_MULTIPLY = (
    tf.keras.layers.Conv2D,
    tf.keras.layers.DepthwiseConv2D,
    tf.keras.layers.SeparableConv2D,
    tf.keras.layers.Conv2DTranspose,
    tf.keras.layers.Dense,
    tf.keras.layers.EinsumDense,
)


def at_precision(encoder: tf.keras.Model, precision: str) -> tf.keras.Model:
    """The encoder, its convolutions and dense layers in a precision.

    All other layers, normalisation and the heads that end in an embedding
    among them, stay as they are.

    Args:
        encoder: a functional Keras model.
        precision: one of `PRECISIONS`; "float32" gives `encoder` back.

    Returns:
        A copy with the same weights.

    Raises:
        ValueError: an unknown precision, or Keras cannot copy the model's
            layers.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: "
            f"{precision!r}"
        )
    if precision == "float32":
        return encoder
    try:
        copy = _copy(encoder, f"mixed_{precision}")
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"This encoder has a layer that Keras cannot copy in {precision}: "
            f"{error}. Take float32."
        ) from error
    copy.set_weights(encoder.get_weights())
    return copy


def _copy(model: tf.keras.Model, policy: str) -> tf.keras.Model:
    # What gives the embedding is small, and worth its digits.
    heads = {id(layer) for layer in model.layers if _is_head(layer)}

    def clone(layer):
        if isinstance(layer, tf.keras.Model):  # An imported one.
            return _copy(layer, policy)
        config = layer.get_config()
        if isinstance(layer, _MULTIPLY) and id(layer) not in heads:
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    return tf.keras.models.clone_model(model, clone_function=clone)


def _is_head(layer: tf.keras.layers.Layer) -> bool:
    return layer.name == "embedding" or layer.name.startswith("head_")
