"""Chooses how the batch normalization of a backbone behaves in training."""

from __future__ import annotations

import tensorflow as tf

BATCH_NORMS = ("train", "frozen", "sync")


def with_batch_norm(backbone: tf.keras.Model, kind: str) -> tf.keras.Model:
    """Returns the backbone with a kind of batch normalization.

    Args:
        backbone: Any Keras model.
        kind: "train" updates the statistics with each batch. "frozen" keeps
            the pretrained statistics, scales and shifts. "sync" computes the
            statistics over the batches of all replicas.

    Returns:
        `backbone` itself for "train" and "frozen", where the latter changes
        it in place. A copy with the same weights for "sync".

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in BATCH_NORMS:
        raise ValueError(
            f"`batch_norm` must be one of {', '.join(BATCH_NORMS)}. "
            f"Received: {kind!r}"
        )
    if kind == "sync":
        return _with_synchronized_layers(backbone)
    if kind == "frozen":
        _freeze(backbone)
    return backbone


def _freeze(model: tf.keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            _freeze(layer)
        elif isinstance(layer, tf.keras.layers.BatchNormalization):
            # In Keras 2, this makes the layer run in inference mode as well.
            layer.trainable = False


def _with_synchronized_layers(model: tf.keras.Model) -> tf.keras.Model:
    def clone(layer):
        if isinstance(layer, tf.keras.Model):  # For instance an imported one.
            return _with_synchronized_layers(layer)
        config = layer.get_config()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            config["synchronized"] = True
            return tf.keras.layers.BatchNormalization.from_config(config)
        return layer.__class__.from_config(config)

    copy = tf.keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
