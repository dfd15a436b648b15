"""Cuts a Keras model at a layer, by the layer's name."""

from __future__ import annotations

import tensorflow as tf

# Names an error lists: a ResNet has two hundred.
_SHOWN = 24


def cut(model: tf.keras.Model, name: str) -> tf.keras.Model:
    """The part of a model up to a layer, with the same weights.

    Args:
        model: a functional or Sequential model.
        name: of a layer that gives `[batch, features]` or a `[batch, height,
            width, channels]` map, once.

    Raises:
        ValueError: there is no such layer; lists those there are.
    """
    output = output_of(model, name)
    return tf.keras.Model(model.input, output, name="cut")


def output_of(model: tf.keras.Model, name: str):
    """What a layer gives inside of `model`: a Keras tensor; see `cut`."""
    outputs = _outputs(model)
    if name not in outputs:
        raise ValueError(_unknown(name, model.name, list(outputs)))
    return outputs[name]


def split(model: tf.keras.Model, name: str):
    """Two parts that make `model` again, with the same weights.

    Args:
        model: a functional or Sequential model; may hold others.
        name: of a layer that gives a `[batch, height, width, channels]` map,
            in `model` or in one inside of it. Everything after it must
            come from it: no shortcut may pass it by.

    Returns:
        The map, a Keras tensor computed from `model.input`, and a model from
        such a map to what `model` gives.

    Raises:
        ValueError: no such layer, or a shortcut.
    """
    found = _split(model, name)
    if found is None:
        maps = [n for n, rank in _names(model) if rank == 4]
        raise ValueError(_unknown(name, model.name, maps))
    return found


def _split(model: tf.keras.Model, name: str):
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


def _rest(model: tf.keras.Model, start, name: str) -> tf.keras.Model:
    if start is model.output:  # Keras makes no model of nothing.
        same = tf.keras.Input(start.shape[1:])
        last = tf.keras.layers.Activation("linear")(same)
        return tf.keras.Model(same, last, name=f"after_{name}")
    try:
        return tf.keras.Model(start, model.output, name=f"after_{name}")
    except ValueError as error:
        raise ValueError(
            f"The model cannot be split at layer {name!r}: a shortcut passes "
            "it by. Take the output of a whole block, such as "
            "conv4_block6_out of a ResNet."
        ) from error


def _is_graph(layer: tf.keras.layers.Layer) -> bool:
    """Whether it is a model whose calls are known: no subclass of its own."""
    return hasattr(layer, "_nodes_by_depth")


def _nodes(model: tf.keras.Model) -> list:
    """The model's calls of its layers, in order.

    `layer.output` would be of whichever model called the layer first.
    """
    if not _is_graph(model):
        raise ValueError(
            "Only a functional or Sequential Keras model can be cut at a "
            f"layer. Received: {type(model).__name__} {model.name!r}"
        )
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def _outputs(model: tf.keras.Model) -> dict:
    """Layers called once, whose output can be features, and that output."""
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
    """Names and ranks, also of the models inside."""
    names = []
    for node in _nodes(model):
        if _is_graph(node.layer):
            names += _names(node.layer)
    return names + [(n, o.shape.rank) for n, o in _outputs(model).items()]


def _unknown(name: str, model: str, names: list[str]) -> str:
    shown = ", ".join(reversed(names[-_SHOWN:]))
    more = len(names) - _SHOWN
    if more > 0:
        shown += f" and {more} before these"
    return (
        f"There is no layer {name!r} in {model} that gives features once. "
        f"From the last to the first: {shown}"
    )
