"""Chooses how the batch normalization of a backbone behaves in training."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.models import backbones

BATCH_NORMS = ("train", "frozen", "sync", "none")


def with_batch_norm(backbone: tf.keras.Model, kind: str) -> tf.keras.Model:
    """Returns the backbone with a kind of batch normalization.

    Args:
        backbone: Any Keras model.
        kind: "train" updates the statistics with each batch. "frozen" keeps
            the pretrained statistics, scales and shifts. "sync" computes the
            statistics over the batches of all replicas. "none" says that
            there is none.

    Returns:
        `backbone` itself, which "frozen" changes in place. A copy with the
        same weights for "sync".

    Raises:
        ValueError: If the kind is unknown; if it is "none", and the backbone
            has batch normalization.
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
    if kind == "none":
        _check_none(backbone)
    return backbone


def check_kind(backbone: str, kind: str) -> None:
    """Checks that a backbone has what the kind is about.

    Args:
        backbone: Name of a backbone.
        kind: See `with_batch_norm`.

    Raises:
        ValueError: If the backbone is known to have no batch normalization,
            and the kind is not "none"; or the reverse.
    """
    if backbone not in backbones.BACKBONES:
        return
    has = backbones.has_batch_norm(backbone)
    if has == (kind != "none"):
        return
    if has:
        raise ValueError(
            f"`batch_norm=none` is for a backbone without batch "
            f"normalization, and {backbone} has it. Set it to frozen, train or "
            f"sync. Received: {kind!r}"
        )
    raise ValueError(
        f"`batch_norm={kind}` has nothing to act on, because {backbone} has no "
        "batch normalization (it normalizes each image by itself). Set it to "
        f"none. Received: {kind!r}"
    )


def _check_none(model: tf.keras.Model) -> None:
    for layer in model.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            raise ValueError(
                "`batch_norm=none` is for a backbone without batch "
                f"normalization. Received one with the layer {layer.name!r}. "
                "Set it to frozen, train or sync."
            )


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
