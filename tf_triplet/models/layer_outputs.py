"""Finds the output of a layer inside a Keras model, and splits the model there.

A new head can be trained on the output of an inner layer, and an attention
ensemble needs the part before a layer and the part after it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Number of layer names that an error lists; a ResNet has two hundred.
_SHOWN = 24


def up_to_layer(model: tf.keras.Model, name: str) -> tf.keras.Model:
    """Returns the part of a model up to a layer, with the same weights.

    Args:
        model: A functional or Sequential model.
        name: Name of a layer that is called once, and whose output is
            `[batch, features]` or `[batch, height, width, channels]`.

    Returns:
        A model from the input of `model` to the output of the layer.

    Raises:
        ValueError: If there is no such layer. The error lists the layers.
    """
    output = layer_output(model, name)
    return tf.keras.Model(model.input, output, name="cut")


def layer_output(model: tf.keras.Model, name: str) -> tf.Tensor:
    """Returns the output of a layer of a model.

    Args:
        model: A functional or Sequential model.
        name: Name of a layer; see `up_to_layer`.

    Returns:
        A Keras tensor.

    Raises:
        ValueError: If there is no such layer. The error lists the layers.
    """
    outputs = _outputs(model)
    if name not in outputs:
        raise ValueError(_unknown(name, model.name, list(outputs)))
    return outputs[name]


def split_at_layer(
    model: tf.keras.Model, name: str
) -> tuple[tf.Tensor, tf.keras.Model]:
    """Splits a model in two at a layer; both parts share its weights.

    Args:
        model: A functional or Sequential model, which may contain others.
        name: Name of a layer of `model`, or of a model inside it, whose output
            is `[batch, height, width, channels]`. All later layers must depend
            on this output alone: no shortcut may bypass the layer.

    Returns:
        The output of the layer, a Keras tensor computed from `model.input`,
        and a model from such a tensor to the output of `model`.

    Raises:
        ValueError: If there is no such layer, or a shortcut bypasses it.
    """
    found = _split(model, name)
    if found is None:
        maps = [n for n, rank in _names(model) if rank == 4]
        raise ValueError(_unknown(name, model.name, maps))
    return found


def _split(
    model: tf.keras.Model, name: str
) -> tuple[tf.Tensor, tf.keras.Model] | None:
    """Splits a model, or returns None if it has no such layer."""
    output = _outputs(model).get(name)
    if output is not None and output.shape.rank == 4:
        return output, _rest(model, output, name)
    for node in _nodes(model):
        if not _is_graph(node.layer):
            continue
        inner = _split(node.layer, name)
        if inner is None:
            continue
        head = tf.keras.Model(node.layer.input, inner[0], name=f"to_{name}")
        tail = inner[1]
        if node.outputs is not model.output:
            start = tf.keras.Input(inner[0].shape[1:])
            rest = _rest(model, node.outputs, node.layer.name)
            tail = tf.keras.Model(
                start, rest(tail(start)), name=f"after_{name}"
            )
        return head(node.input_tensors), tail
    return None


def _rest(model: tf.keras.Model, start: tf.Tensor, name: str) -> tf.keras.Model:
    """Returns the part of a model after the Keras tensor `start`."""
    if start is model.output:  # Keras does not build a model without layers.
        same = tf.keras.Input(start.shape[1:])
        last = tf.keras.layers.Activation("linear")(same)
        return tf.keras.Model(same, last, name=f"after_{name}")
    try:
        return tf.keras.Model(start, model.output, name=f"after_{name}")
    except ValueError as error:
        raise ValueError(
            f"The model cannot be split at layer {name!r}, because a shortcut "
            "bypasses it. Use the output of a whole block, such as "
            "conv4_block6_out of a ResNet."
        ) from error


def _is_graph(layer: tf.keras.layers.Layer) -> bool:
    """Tells whether the layer is a functional or Sequential model."""
    return hasattr(layer, "_nodes_by_depth")


def _nodes(model: tf.keras.Model) -> list[Any]:
    """Returns the calls of the layers inside a model, in order.

    `layer.output` is no substitute: if several models use one layer, it is the
    output in the model that called the layer first.
    """
    if not _is_graph(model):
        raise ValueError(
            "Only a functional or Sequential Keras model can be split at a "
            f"layer. Received: {type(model).__name__} {model.name!r}"
        )
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def _outputs(model: tf.keras.Model) -> dict[str, tf.Tensor]:
    """Returns the outputs that can be features, of layers called once."""
    outputs: dict[str, list] = {}
    for node in _nodes(model):
        outputs.setdefault(node.layer.name, []).append(node.outputs)
    return {
        name: found[0]
        for name, found in outputs.items()
        if len(found) == 1
        and tf.keras.backend.is_keras_tensor(found[0])
        and found[0].shape.rank in (2, 4)
    }


def _names(model: tf.keras.Model) -> list[tuple[str, int]]:
    """Returns names and ranks of all outputs, also of inner models."""
    names = []
    for node in _nodes(model):
        if _is_graph(node.layer):
            names += _names(node.layer)
    return names + [(n, o.shape.rank) for n, o in _outputs(model).items()]


def _unknown(name: str, model: str, names: list[str]) -> str:
    """Returns the text of the error for an unknown layer."""
    shown = ", ".join(reversed(names[-_SHOWN:]))
    more = len(names) - _SHOWN
    if more > 0:
        shown += f" and {more} before these"
    return (
        f"There is no layer {name!r} in {model} whose output can be used as "
        "features, or it is called more than once. The layers, from last to "
        f"first: {shown}"
    )
