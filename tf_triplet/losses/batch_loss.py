"""What every loss of this package is: a value of a whole batch.

A `BatchLoss` sees all embeddings of a (global) batch at once. `compute` is
the one method to write; `call` makes it an ordinary Keras loss.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Keys(NamedTuple):
    """Embeddings that anchors are compared with, beside the batch's own.

    Attributes:
        labels: `[keys]` or `[keys, 2]` integers, as the batch's.
        embeddings: `[keys, dim]` floats; no gradient flows into them.
        valid: `[keys]` booleans; the others are not there.
    """

    labels: tf.Tensor
    embeddings: tf.Tensor
    valid: tf.Tensor


class BatchValue(NamedTuple):
    """The loss of a batch.

    Attributes:
        values: `[batch]` float32; the loss is their mean. What belongs to
            no single row (a proxy's share) is spread over all.
        metrics: Scalars worth logging, by name, without gradient.
    """

    values: tf.Tensor
    metrics: dict[str, tf.Tensor]


class BatchLoss(tf.keras.losses.Loss):
    """Base of the losses.

    `y_true` are `[batch]` (or `[batch, 1]`) integer product labels, or
    `[batch, 2]` of product and side: then only rows of side 0 (street) are
    anchors, and only rows of side 1 (shop) their positives and negatives.
    `y_pred` are the `[batch, dim]` embeddings. Sample weights weigh rows.
    Under a strategy, plain `compile` sees each replica's share;
    `tf_triplet.Learner` gathers the global batch.

    The attributes below say what a loss needs and can do. Subclasses
    override them. Read them from the class; where the answer depends on the
    constructor's arguments, a subclass makes the attribute a property, and
    only an instance can tell (each subclass says which).

    Attributes:
        in_pairs: Whether the batch must consist of pairs: rows 2i and
            2i + 1 are a query and its positive.
        needs_positives: Whether the loss learns nothing from a batch in
            which no anchor has a positive.
        takes_keys: Whether `compute` accepts `keys` (a cross-batch memory).
        takes_sides: Whether `compute` accepts `[batch, 2]` labels, product
            and side (two domains).
        has_variables: Whether the loss has trainable variables, which
            `build` creates.
        loss_at_collapse: The loss when all embeddings are equal, or None
            where it is not known.
        collapse_advice: Config overrides that make a collapse of the
            embeddings less likely, such as `"loss.soft=true"`.
        metric_names: The names of the metrics that `compute` returns.
        parameters: A Keras layer that holds the loss's variables, or None
            before `build` and for a loss without variables.
    """

    in_pairs: bool = False
    needs_positives: bool = True
    takes_keys: bool = False
    takes_sides: bool = True
    has_variables: bool = False
    loss_at_collapse: float | None = None
    collapse_advice: tuple[str, ...] = ()
    metric_names: tuple[str, ...] = ()
    parameters: tf.keras.layers.Layer | None = None

    def build(self, products: int, embedding_size: int) -> None:
        """Makes the variables, if there are any, under the current strategy.

        Args:
            products: Labels run from 0 to `products - 1`.
            embedding_size: Width of the embeddings.
        """

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Scores a batch.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]`.
            embeddings: `[batch, dim]` floats; arithmetic is float32.
            keys: Anchors are compared with these in place of the batch.
        """
        raise NotImplementedError

    def call(self, y_true, y_pred) -> tf.Tensor:
        """`[batch]` values whose mean is the loss."""
        return self.compute(y_true, y_pred).values


def per_row(total: tf.Tensor, count: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """`[batch]` values whose mean is `sum(total) / max(count, 1)`.

    Args:
        total: `[batch]` sums, one a row.
        count: a scalar, what the loss is averaged over.
        batch: a scalar, the number of rows.
    """
    # Without anything to count the sums are 0, and so is 0 / 1.
    return total * tf.cast(batch, tf.float32) / tf.maximum(count, 1.0)


def split_labels(labels) -> tuple[tf.Tensor, tf.Tensor | None]:
    """`[batch]` products and `[batch]` sides, None where there are none."""
    labels = tf.convert_to_tensor(labels)
    # Keras may hand labels over as floats; dense ids below 2^24 survive.
    if labels.dtype.is_floating:
        labels = tf.cast(tf.round(labels), tf.int64)
    if labels.shape.rank == 2 and labels.shape[1] == 2:
        return labels[:, 0], labels[:, 1]
    if labels.shape.rank == 1:
        return labels, None
    # Only a static shape tells sides from products; flattening both into
    # products would be silent nonsense.
    flat = tf.debugging.Assert(
        tf.size(labels) == tf.shape(labels)[0],
        [
            "Labels must be [batch], [batch, 1], or [batch, 2] with a "
            "static last dimension (labels.set_shape([None, 2])). "
            "Received the shape:",
            tf.shape(labels),
        ],
    )
    with tf.control_dependencies([flat]):
        return tf.reshape(labels, [-1]), None


def batch_seed(labels: tf.Tensor) -> tf.Tensor:
    """A stateless seed that tells batches apart.

    It comes from the labels alone, so that all replicas of a global batch
    draw the same.

    Args:
        labels: `[batch]` integers, products.

    Returns:
        `[2]` integers.
    """
    places = tf.range(1, tf.size(labels) + 1, dtype=tf.int64)
    digest = tf.reduce_sum(tf.cast(labels, tf.int64) * places * places)
    return tf.random.experimental.stateless_fold_in([0, 0], digest)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}"
        )
