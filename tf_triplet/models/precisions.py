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

    All other layers, normalisation and what makes the embedding among them,
    stay in float32. Plain operations between layers (`x * y` on Keras
    tensors) are no layers, and take what comes.

    Args:
        encoder: a functional Keras model in float32.
        precision: one of `PRECISIONS`; "float32" gives `encoder` back as it
            was trained.

    Returns:
        A copy with the same weights.

    Raises:
        ValueError: an unknown precision, an encoder that is not in float32,
            one without a layer that would change, or with one that Keras
            cannot copy.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: "
            f"{precision!r}"
        )
    if precision == "float32":
        return encoder
    kinds = {layer.compute_dtype for layer in _layers(encoder)} - {"float32"}
    if kinds:
        raise ValueError(
            "`precision=bfloat16` is for an encoder in float32. Received one "
            f"that was trained in {', '.join(sorted(kinds))}: leave "
            "export.precision at float32, which serves it as it is."
        )
    try:
        copy = _copy(encoder, f"mixed_{precision}")
        copy.set_weights(encoder.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"This encoder has a layer that Keras cannot copy in {precision}: "
            f"{error}. Take float32."
        ) from error
    if all(layer.compute_dtype == "float32" for layer in _layers(copy)):
        names = sorted({type(layer).__name__ for layer in _layers(encoder)})
        raise ValueError(
            "No layer of the encoder would multiply in bfloat16, only "
            "convolutions and dense layers before its head do. Received "
            f"layers: {', '.join(names)}. Take float32."
        )
    return copy


def _layers(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """Those with weights, of models in it too."""
    return [
        part
        for part in model.submodules
        if isinstance(part, tf.keras.layers.Layer)
        and not isinstance(part, tf.keras.Model)
        and part.weights
    ]


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
    own = ("embedding", "weight_roots")
    return layer.name in own or layer.name.startswith("head_")
