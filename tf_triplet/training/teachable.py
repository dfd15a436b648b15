"""Which batches can teach, and what becomes of the others.

An image that cannot be read is left out of its batch. What remains may be
empty, which ends in an error of the network, or may lack negatives, with
which a loss over pairs only learns to make all embeddings equal. `Learner`
skips such a batch: the step is counted, and nothing is updated. So step t is
batch t, whatever could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_triplet.losses import mining
from tf_triplet.training import optimizer_variables


class SkippedBatches:
    """Counts the batches that `Learner` has skipped."""

    def __init__(self) -> None:
        """Creates the counter under the current strategy."""
        # As a variable of the learner itself, it would be one of its weights.
        self._count = tf.Variable(
            0,
            trainable=False,
            dtype=tf.int64,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def add(self) -> None:
        """Counts one more."""
        self._count.assign_add(1)

    def __int__(self) -> int:
        return int(self._count.numpy())


def can_teach(
    labels: Sequence[tf.Tensor], scope: str, needs_negatives: bool
) -> tf.Tensor:
    """Tells whether a batch has what its loss learns from.

    Args:
        labels: The labels of each replica's share of the batch, in any form
            that a loss accepts.
        scope: "global" if the shares are compared with one another,
            "replica" if each share is a batch of its own.
        needs_negatives: Whether the loss needs an anchor with a negative.
            Otherwise, one image is enough.

    Returns:
        Scalar boolean. With scope "replica", every share must be able to
        teach.
    """
    if scope == "global":
        labels = [tf.concat(labels, 0)]
    if needs_negatives:
        found = [mining.has_negative(share) for share in labels]
    else:
        found = [tf.size(share) > 0 for share in labels]
    return tf.reduce_all(found)


def compile_step(
    learner: tf.keras.Model,
    can_teach: Callable[[Sequence[Any]], tf.Tensor],
    skip: Callable[[], None],
) -> Callable:
    """Compiles what `keras.Model.fit` calls for each step.

    The batch is judged before the replicas get it: they could not leave a
    step in different ways, because they wait for one another in it.

    Args:
        learner: The model to train.
        can_teach: Judges a batch by the `y` of each replica.
        skip: Is called in place of `learner.train_step` for a batch that
            cannot teach.

    Returns:
        A function from an iterator over batches to the metrics by name.
    """
    optimizer_variables.create_all(learner)
    strategy = learner.distribute_strategy
    train_step = learner.train_step
    if learner.jit_compile:
        train_step = tf.function(
            train_step, jit_compile=True, reduce_retracing=True
        )
    several = learner._steps_per_execution
    if several is not None and several.numpy() == 1:
        several = None

    def train(data):
        strategy.run(train_step, args=(data,))
        return 0

    def leave_out():
        skip()
        return 0

    def run_step(data):
        _, y, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            train(data)  # Raises an error that says what is missing.
        shares = strategy.experimental_local_results(y)
        tf.cond(can_teach(shares), lambda: train(data), leave_out)
        learner._train_counter.assign_add(1)

    def train_function(iterator):
        for _ in range(1) if several is None else tf.range(several):
            run_step(next(iterator))
        return learner.get_metrics_result()

    if learner.run_eagerly:
        return train_function
    learner.train_tf_function = tf.function(
        train_function, reduce_retracing=True
    )
    return learner.train_tf_function


def fill_empty(images: Any) -> tuple[Any, tf.Tensor]:
    """Puts one blank image into a share of a batch that has none.

    If a batch has few images, a replica may get none of them, and most
    networks cannot process an empty share.

    Args:
        images: `[share, ...]` images, or a structure of tensors with one row
            per image.

    Returns:
        The same structure with at least one row, and scalar int32: the number
        of rows that are images. Drop the other row of the result by
        `keep_rows`.
    """
    rows = tf.shape(tf.nest.flatten(images)[0])[0]

    def fill(values):
        if values.shape[0]:
            return values
        shape = tf.concat([[1], tf.shape(values)[1:]], 0)
        blank = tf.zeros(shape, values.dtype)
        filled = tf.cond(rows > 0, lambda: values, lambda: blank)
        return tf.ensure_shape(filled, [None, *values.shape[1:]])

    return tf.nest.map_structure(fill, images), rows


def keep_rows(outputs: Any, rows: tf.Tensor) -> Any:
    """Returns the first rows of each tensor of a structure."""
    return tf.nest.map_structure(lambda values: values[:rows], outputs)


def gather(context: tf.distribute.ReplicaContext, values: Any) -> tf.Tensor:
    """Concatenates the rows of all replicas.

    In a graph, `all_gather` loses the static shape, which distinguishes
    `[batch]` labels from `[batch, 2]`; so it is restored.

    Args:
        context: The context of this replica.
        values: `[share, ...]` values of this replica.

    Returns:
        `[batch, ...]` values of all replicas, in their order.
    """
    gathered = context.all_gather(values, axis=0)
    return tf.ensure_shape(gathered, [None, *values.shape[1:]])
