"""Converts a trained encoder to another precision, for serving.

* bfloat16: Convolutions and dense layers multiply in bfloat16. This halves the
  memory traffic, and is several times faster on processors with bfloat16
  units. The weights in the file remain float32.
* int8: Convolutions and dense layers store their kernels as int8. The file and
  the memory are a quarter of the size. The layers multiply in float32, and
  convert the kernels in every call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from tf_triplet.models import int8_kernels

PRECISIONS = ("float32", "bfloat16", "int8")
# Layers that are converted. Operations between them stay float32.
_CONVERTED = (
    tf.keras.layers.Conv2D,
    tf.keras.layers.DepthwiseConv2D,
    tf.keras.layers.SeparableConv2D,
    tf.keras.layers.Conv2DTranspose,
    tf.keras.layers.Dense,
    tf.keras.layers.EinsumDense,
)


def at_precision(encoder: tf.keras.Model, precision: str) -> tf.keras.Model:
    """Converts the convolutions and dense layers of an encoder.

    All other layers stay in float32, among them normalization and the head
    that makes the embedding. Plain operations between layers, such as `x * y`
    on Keras tensors, do too.

    Args:
        encoder: A functional Keras model in float32.
        precision: One of `PRECISIONS`. "float32" returns `encoder` itself.

    Returns:
        A copy with the same weights. In int8, the weights are rounded.

    Raises:
        ValueError: If the precision is unknown, the encoder is not in
            float32, no layer would change, or Keras cannot copy a layer.
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
            f"`precision={precision}` needs an encoder in float32. Received "
            f"one that was trained in {', '.join(sorted(kinds))}: leave "
            "export.precision at float32, which serves the encoder unchanged."
        )
    changed = []
    change = {"bfloat16": _in_bfloat16, "int8": _in_int8}[precision]
    if precision == "bfloat16" and _has_functions(encoder):
        change = _in_bfloat16_to_float32
    try:
        copy = _copy(encoder, change, changed)
        _copy_weights(encoder, copy)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"The encoder has a layer that Keras cannot copy in {precision}: "
            f"{error}. Use float32."
        ) from error
    if not changed:
        names = sorted({type(layer).__name__ for layer in _layers(encoder)})
        raise ValueError(
            f"No layer of the encoder would change to {precision}: only "
            "convolutions and dense layers before the head do. Received "
            f"layers: {', '.join(names)}. Use float32."
        )
    return copy


def _layers(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """Returns the layers with weights, including those of inner models."""
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


def _has_functions(model: tf.keras.Model) -> bool:
    """Tells whether a model has functions such as `+` between its layers.

    Unlike layers, they do not cast their inputs to one type.
    """
    return any(type(p).__name__ == "TFOpLambda" for p in model.submodules)


def _in_bfloat16_to_float32(
    layer: tf.keras.layers.Layer,
) -> tf.keras.layers.Layer:
    kind = _with_float32_output(type(layer))
    return kind.from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})


@functools.cache
def _with_float32_output(kind: type) -> type:
    """Returns a subclass of a layer that computes as before."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(kind.call(self, inputs), tf.float32)

    return type(kind.__name__, (kind,), {"call": call})


def _in_int8(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    kind = int8_kernels.with_int8_kernels(type(layer))
    return kind.from_config(layer.get_config())


def _copy(
    model: tf.keras.Model, change: Callable, changed: list[str]
) -> tf.keras.Model:
    """Copies a model without its weights.

    Args:
        model: The model.
        change: Function from a layer to the layer that replaces it.
        changed: List to which the names of replaced layers are added.

    Returns:
        The copy.
    """
    # The head is small, and the embedding needs all its digits.
    heads = {id(layer) for layer in model.layers if _is_head(layer)}

    def clone(layer):
        if isinstance(layer, tf.keras.Model):  # For instance an imported one.
            return _copy(layer, change, changed)
        if isinstance(layer, _CONVERTED) and id(layer) not in heads:
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
    names = ("embedding", "weight_roots")
    return layer.name in names or layer.name.startswith("head_")
