"""A trained encoder in another precision, for serving.

bfloat16: it multiplies in it. Half the memory traffic, and on processors with
bfloat16 units several times the rate; weights stay float32 in the file.
int8: its weights are kept in it. A quarter of the file and of the memory; it
multiplies in float32, and makes its weights anew at each call.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.models import int8_kernels

PRECISIONS = ("float32", "bfloat16", "int8")
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

    All other layers, normalization and what makes the embedding among them,
    stay in float32. Plain operations between layers (`x * y` on Keras
    tensors) are no layers, and take what comes.

    Args:
        encoder: a functional Keras model in float32.
        precision: one of `PRECISIONS`; "float32" gives `encoder` back as it
            was trained.

    Returns:
        A copy with the same weights, in int8 rounded.

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
            f"`precision={precision}` is for an encoder in float32. Received "
            f"one that was trained in {', '.join(sorted(kinds))}: leave "
            "export.precision at float32, which serves it as it is."
        )
    changed = []
    change = {"bfloat16": _in_bfloat16, "int8": _in_int8}[precision]
    try:
        copy = _copy(encoder, change, changed)
        _copy_weights(encoder, copy)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"This encoder has a layer that Keras cannot copy in {precision}: "
            f"{error}. Take float32."
        ) from error
    if not changed:
        names = sorted({type(layer).__name__ for layer in _layers(encoder)})
        raise ValueError(
            f"No layer of the encoder would be in {precision}, only "
            "convolutions and dense layers before its head are. Received "
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


def _in_bfloat16(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    config = {**layer.get_config(), "dtype": "mixed_bfloat16"}
    return type(layer).from_config(config)


def _in_int8(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    kind = int8_kernels.with_int8_kernels(type(layer))
    return kind.from_config(layer.get_config())


def _copy(model: tf.keras.Model, change, changed: list) -> tf.keras.Model:
    """Without the weights; names the layers that are other ones now."""
    # What gives the embedding is small, and worth its digits.
    heads = {id(layer) for layer in model.layers if _is_head(layer)}

    def clone(layer):
        if isinstance(layer, tf.keras.Model):  # An imported one.
            return _copy(layer, change, changed)
        if isinstance(layer, _MULTIPLY) and id(layer) not in heads:
            changed.append(layer.name)
            return change(layer)
        return type(layer).from_config(layer.get_config())

    return tf.keras.models.clone_model(model, clone_function=clone)


def _copy_weights(model: tf.keras.Model, copy: tf.keras.Model) -> None:
    for layer in copy.layers:
        own = model.get_layer(layer.name)
        if isinstance(layer, tf.keras.Model):
            _copy_weights(own, layer)
        elif hasattr(layer, "copy_weights"):
            layer.copy_weights(own)
        else:
            layer.set_weights(own.get_weights())


def _is_head(layer: tf.keras.layers.Layer) -> bool:
    own = ("embedding", "weight_roots")
    return layer.name in own or layer.name.startswith("head_")
