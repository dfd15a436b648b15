"""Computes the gradients of a large batch in the memory of a small one.

The batch goes through the network twice, a few images at a time: the first
pass computes the embeddings, on which the loss and its gradients are computed;
the second pass carries these gradients back into the weights. The loss
therefore compares all rows of the batch, and the sum over the parts is the
gradient of the whole batch.

References:
    Gao et al., 2021, https://arxiv.org/abs/2101.06983 (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_triplet.training.loss_scaling import unscale


def gradients(
    encoder: tf.keras.Model,
    images: tf.Tensor | dict[str, tf.Tensor],
    loss: Callable[[tf.Tensor], tf.Tensor],
    loss_variables: Sequence[tf.Variable],
    micro_batch: int,
    loss_scale: float = 1.0,
) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None]]:
    """Computes the gradients of `loss(encoder(images))`.

    Args:
        encoder: Must give an image the same embedding in both passes,
            whatever the other images are (`check_repeatable`).
        images: `[batch, ...]` images, or a structure of tensors with one row
            per image.
        loss: Computes a scalar from `[batch, dim]` embeddings.
        loss_variables: The variables of the loss.
        micro_batch: Number of images in the network at the same time.
        loss_scale: Factor that keeps float16 gradients from becoming 0. The
            result is divided by it.

    Returns:
        The gradients of the encoder's trainable variables, and those of the
        loss's variables. A variable that does not affect the loss has None.
    """
    variables = encoder.trainable_variables
    embeddings = _embed(encoder, images, micro_batch)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = loss_scale * loss(embeddings)
    of_embeddings, of_loss = tape.gradient(
        value, (embeddings, list(loss_variables))
    )
    if of_embeddings is None:
        of_embeddings = tf.zeros_like(embeddings)
    # If only mined rows have a gradient, it comes as IndexedSlices.
    of_embeddings = tf.convert_to_tensor(of_embeddings)
    of_encoder, used = _carry_back(encoder, images, of_embeddings, micro_batch)
    of_encoder, of_loss = unscale([of_encoder, of_loss], loss_scale)
    if encoder.losses:  # Keras's regularizers.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            penalty = tf.add_n(encoder.losses) / replicas
        more = tape.gradient(penalty, variables)
        of_encoder = _add(of_encoder, more)
        used = [a or b is not None for a, b in zip(used, more)]
    # As in a direct step, a variable without a gradient gets None.
    return [g if u else None for g, u in zip(of_encoder, used)], of_loss


def _carry_back(
    encoder: tf.keras.Model, images, of_embeddings: tf.Tensor, micro_batch: int
) -> tuple[list[tf.Tensor], list[bool]]:
    """Performs the second pass.

    Returns:
        A gradient per trainable variable, 0 where there is none, and whether
        there is one.
    """
    variables = encoder.trainable_variables
    used = [False] * len(variables)

    def add_part(start, totals):
        part = slice(start, start + micro_batch)
        with tf.GradientTape() as tape:
            fresh = encoder(_rows(images, part), training=True)
            fresh = tf.cast(fresh, tf.float32)
        found = tape.gradient(
            fresh, variables, output_gradients=of_embeddings[part]
        )
        used[:] = [gradient is not None for gradient in found]
        return start + micro_batch, _add(totals, found)

    batch = _batch_size(images)
    _, totals = tf.while_loop(
        lambda start, totals: start < batch,
        add_part,
        (0, [tf.zeros_like(variable) for variable in variables]),
        parallel_iterations=1,
    )
    return totals, used


def _add(totals, gradients) -> list[tf.Tensor]:
    """Adds gradients, some of which may be None."""
    return [
        total if gradient is None else total + gradient
        for total, gradient in zip(totals, gradients)
    ]


def _embed(encoder, images, micro_batch: int) -> tf.Tensor:
    """Performs the first pass and returns `[batch, dim]` embeddings."""
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
    """Returns some rows of each tensor of a structure."""
    return tf.nest.map_structure(lambda values: values[part], images)


def _batch_size(images) -> tf.Tensor:
    """Returns the number of rows of a structure of tensors."""
    return tf.shape(tf.nest.flatten(images)[0])[0]


def check_repeatable(encoder: tf.keras.Model) -> None:
    """Checks that two passes give an image the same embedding.

    Args:
        encoder: The encoder to check.

    Raises:
        ValueError: The embedding of an image depends on the other images of
            the batch, or on chance.
    """
    for layer in encoder.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            if layer.trainable:
                raise ValueError(
                    "`training.micro_batch` needs embeddings that do not "
                    f"depend on the batch, but layer {layer.name!r} normalizes "
                    "by batch statistics. Set model.batch_norm=frozen."
                )
        elif _is_random(layer):
            raise ValueError(
                "`training.micro_batch` runs every image twice, but layer "
                f"{layer.name!r} changes it at random. Set its rate to 0, or "
                "remove the layer."
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(
                "`training.micro_batch` adds up the gradients of parts of a "
                f"batch, but layer {layer.name!r} adds a loss of its activity. "
                "Set its activity_regularizer to None."
            )


def _is_random(layer: tf.Module) -> bool:
    """Returns whether a layer is dropout, noise or augmentation."""
    kind = type(layer).__name__
    if "drop" in kind.lower():
        return bool(getattr(layer, "rate", 0))
    if isinstance(layer, tf.keras.layers.GaussianNoise):
        return bool(layer.stddev)
    # RandomFlip and similar layers.
    return isinstance(layer, tf.keras.layers.Layer) and kind.startswith(
        "Random"
    )
