"""Gradients of a large batch in the memory of a small one.

The batch goes through the network twice, a few images at a time: once for
the embeddings, of which the loss and its gradients are computed, and once more
to carry these gradients back into the weights. A loss that compares all rows
sees them all, and the sum over the parts is the gradient of the whole.

References:
    Gao et al., 2021, https://arxiv.org/abs/2101.06983 (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def gradients(
    encoder: tf.keras.Model,
    images: tf.Tensor | dict[str, tf.Tensor],
    loss: Callable[[tf.Tensor], tf.Tensor],
    loss_variables: Sequence[tf.Variable],
    micro_batch: int,
    loss_scale: float = 1.0,
) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None]]:
    """The gradients of `loss(encoder(images))`.

    Args:
        encoder: must do the same for an image in either pass, whatever
            stands beside it (`check_repeatable`).
        images: `[batch, ...]`, or what the encoder takes beside them, too:
            a structure of tensors with a row an image.
        loss: `[batch, dim]` embeddings to a scalar.
        loss_variables: the loss's own.
        micro_batch: images in the network at once.
        loss_scale: keeps float16 gradients from becoming 0 on their way; the
            gradients come without it.

    Returns:
        Those of the encoder's trainable variables, and of the loss's.
    """
    variables = encoder.trainable_variables
    embeddings = _embed(encoder, images, micro_batch)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = loss_scale * loss(embeddings)
    gradients, of_loss = tape.gradient(
        value, (embeddings, list(loss_variables))
    )
    if gradients is None:
        gradients = tf.zeros_like(embeddings)
    # Mined rows alone may have a gradient, and come as rows with numbers.
    gradients = tf.convert_to_tensor(gradients)
    used = [False] * len(variables)

    def carry_back(start, totals):
        part = slice(start, start + micro_batch)
        with tf.GradientTape() as tape:
            fresh = encoder(_rows(images, part), training=True)
            fresh = tf.cast(fresh, tf.float32)
        found = tape.gradient(
            fresh, variables, output_gradients=gradients[part]
        )
        used[:] = [gradient is not None for gradient in found]
        added = [
            total if gradient is None else total + gradient
            for total, gradient in zip(totals, found)
        ]
        return start + micro_batch, added

    batch = _batch_size(images)
    _, of_encoder = tf.while_loop(
        lambda start, totals: start < batch,
        carry_back,
        (0, [tf.zeros_like(variable) for variable in variables]),
        parallel_iterations=1,
    )
    of_encoder, of_loss = unscale([of_encoder, of_loss], loss_scale)
    if encoder.losses:  # Keras's regularizers.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            penalty = tf.add_n(encoder.losses) / replicas
        more = tape.gradient(penalty, variables)
        of_encoder = [
            total if gradient is None else total + gradient
            for total, gradient in zip(of_encoder, more)
        ]
        used = [a or b is not None for a, b in zip(used, more)]
    # A variable without a gradient keeps none, as in a direct step.
    return [g if u else None for g, u in zip(of_encoder, used)], of_loss


def unscale(gradients: list, loss_scale: float) -> list:
    """Divides a structure of gradients, of which some may be None."""

    def smaller(gradient):
        if gradient is None or loss_scale == 1.0:
            return gradient
        if isinstance(gradient, tf.IndexedSlices):  # Of some rows only.
            return tf.IndexedSlices(
                gradient.values / loss_scale,
                gradient.indices,
                gradient.dense_shape,
            )
        return gradient / loss_scale

    return tf.nest.map_structure(smaller, list(gradients))


def _embed(encoder, images, micro_batch: int) -> tf.Tensor:
    batch = _batch_size(images)
    parts = -(-batch // micro_batch)
    array = tf.TensorArray(
        tf.float32, parts, infer_shape=False, element_shape=None
    )

    def one(i, array):
        part = slice(i * micro_batch, (i + 1) * micro_batch)
        fresh = encoder(_rows(images, part), training=True)
        return i + 1, array.write(i, tf.cast(fresh, tf.float32))

    _, array = tf.while_loop(
        lambda i, _: i < parts, one, (0, array), parallel_iterations=1
    )
    width = encoder.output_shape[-1]
    return tf.ensure_shape(array.concat(), [None, width])


def _rows(images, part: slice):
    return tf.nest.map_structure(lambda values: values[part], images)


def _batch_size(images) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(images)[0])[0]


def check_repeatable(encoder: tf.keras.Model) -> None:
    """Raises ValueError if an image's embedding depends on its batch, or
    differs between two passes."""
    for layer in encoder.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            if layer.trainable:
                raise ValueError(
                    "`training.micro_batch` needs embeddings that do not "
                    f"depend on the batch, and layer {layer.name!r} normalizes "
                    "by batch statistics. Set model.batch_norm=frozen."
                )
        elif _is_random(layer):
            raise ValueError(
                "`training.micro_batch` runs every image twice, and layer "
                f"{layer.name!r} changes it at random. Set its rate to 0, or "
                "leave it out."
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(
                "`training.micro_batch` sums gradients of parts of a batch, "
                f"and layer {layer.name!r} adds a loss of its activity. Set "
                "its activity_regularizer to None."
            )


def _is_random(layer: tf.Module) -> bool:
    """Dropout of any kind, noise, or augmentation, at a rate above 0."""
    kind = type(layer).__name__
    if "drop" in kind.lower():
        return bool(getattr(layer, "rate", 0))
    if isinstance(layer, tf.keras.layers.GaussianNoise):
        return bool(layer.stddev)
    # RandomFlip and its kin.
    return isinstance(layer, tf.keras.layers.Layer) and kind.startswith(
        "Random"
    )
