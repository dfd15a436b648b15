"""Keeps float16 gradients between the smallest and largest float16 number.

Gradients below 6e-8 become 0 in float16, and gradients above 65,504 become
infinite. Multiplying the loss by a constant moves small gradients into range.
A batch whose gradients overflow contributes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# Keras's dynamic scale skips steps while it searches for a value. With a
# constant, every batch is one step of the optimizer.
FLOAT16_LOSS_SCALE = 1024.0


def default_loss_scale(encoder: tf.keras.Model) -> float:
    """Returns 1,024 for an encoder that computes in float16, else 1."""
    if any(
        getattr(layer, "compute_dtype", "") == "float16"
        for layer in encoder.submodules
    ):
        return FLOAT16_LOSS_SCALE
    return 1.0


def unscale(gradients: Sequence, loss_scale: float) -> list:
    """Divides gradients by the loss scale.

    Args:
        gradients: A structure of gradients, some of which may be None.
        loss_scale: The factor that the loss was multiplied by.

    Returns:
        The same structure, as a list.
    """
    if loss_scale == 1.0:
        return list(gradients)
    return _map_values(lambda values: values / loss_scale, gradients)


def zero_overflow(gradients: Sequence) -> tuple[list, tf.Tensor]:
    """Replaces all gradients by zeros if any of them is not finite.

    Call it on every replica: if one of them overflows, all return zeros. The
    optimizer then takes its step all the same, so that the number of steps
    remains the number of batches. Momentum and weight decay continue, and the
    batch contributes nothing.

    Args:
        gradients: A structure of gradients, some of which may be None.

    Returns:
        The same structure, as a list, and a scalar float32: 1 if a gradient
        overflowed, else 0.
    """
    flat = [g for g in tf.nest.flatten(gradients) if g is not None]
    finite = [
        tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(gradient)))
        for gradient in flat
    ]
    overflow = 1.0 - tf.cast(tf.reduce_all(finite), tf.float32)
    context = tf.distribute.get_replica_context()
    overflow = context.all_reduce(tf.distribute.ReduceOp.SUM, overflow) > 0
    kept = _map_values(
        lambda values: tf.where(overflow, tf.zeros_like(values), values),
        gradients,
    )
    return kept, tf.cast(overflow, tf.float32)


def _map_values(
    function: Callable[[tf.Tensor], tf.Tensor], gradients: Sequence
) -> list:
    """Applies a function to the values of gradients, and keeps None."""

    def apply(gradient):
        if gradient is None:
            return None
        if isinstance(gradient, tf.IndexedSlices):  # Gradients of some rows.
            return tf.IndexedSlices(
                function(gradient.values),
                gradient.indices,
                gradient.dense_shape,
            )
        return function(gradient)

    return tf.nest.map_structure(apply, list(gradients))
