"""The N-pairs loss: each query must find its product among all positives."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    per_row,
    split_labels,
)
from tf_triplet.losses.mining import assert_pairs, pair_masks


def n_pairs_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    scale: float = 20.0,
) -> BatchValue:
    """Computes the softmax cross entropy of each query over all positives.

    Rows 2i are queries and rows 2i + 1 their positives. The logits of a query
    are its inner products with the positives of all queries (the columns),
    times `scale`. The target is spread evenly over the columns of the query's
    product. The mean is over the queries that have a column of another
    product.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides. With
            sides, a query counts if it is of side 0 and its positive of side
            1, and columns must be of side 1.
        embeddings: `[batch, dim]` floats, which are not normalized here.
            Arithmetic is float32.
        keys: Embeddings to use as columns, instead of the positives of the
            other queries. A query's own positive remains a column.
        scale: Factor on the logits, the inverse of a temperature. The paper
            uses 1, with vectors of any length. Unit vectors need more,
            because their inner products are at most 1: with a scale of 1, a
            perfect answer among 64 still costs more than 3.

    Returns:
        The value of each row. Metrics: `active` is the share of queries for
        which another product is nearer than their own positive; `positive`
        is the mean of 1 minus the inner product with the own positive, and
        `negative` the same with other products.

    Raises:
        tf.errors.InvalidArgumentError: Rows 2i and 2i + 1 are of different
            products.

    References:
        Sohn, 2016, "Improved Deep Metric Learning with Multi-class N-pair
        Loss Objective", NeurIPS, without its penalty on the length of the
        vectors. The temperature: Zhai and Wu, 2018,
        https://arxiv.org/abs/1811.12649.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import n_pairs_loss
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.8, 0.6]]
        ... )
        >>> value = n_pairs_loss(labels, embeddings)
        >>> round(float(tf.reduce_mean(value.values)), 3)
        0.693
    """
    products, _ = split_labels(labels)
    with tf.control_dependencies([assert_pairs(products)]):
        vectors = tf.cast(tf.identity(embeddings), tf.float32)
    queries, own = vectors[0::2], vectors[1::2]
    similarity, positives, negatives = _columns(labels, queries, own, keys)
    to_own = tf.reduce_sum(queries * own, -1)
    valid = _own_allowed(labels) & tf.reduce_any(negatives, -1)
    logits = scale * similarity
    targets = pairs.row_sums(logits, positives)
    targets /= tf.maximum(pairs.count(positives, -1), 1.0)
    # The sum skips masked logits, because 0 * -inf would be NaN.
    entropy = pairs.logsumexp(logits, positives | negatives) - targets
    totals = tf.where(valid, entropy, 0.0)
    # The loss of a query belongs to the query's row.
    rows = tf.reshape(tf.stack([totals, tf.zeros_like(totals)], 1), [-1])
    values = per_row(rows, pairs.count(valid), tf.shape(vectors)[0])
    ahead = negatives & (similarity > to_own[:, None])
    active = pairs.share(valid & tf.reduce_any(ahead, -1), valid)
    metrics = {
        "active": active,
        "positive": pairs.mean(1.0 - to_own, valid),
        "negative": pairs.mean(1.0 - similarity, negatives),
    }
    return BatchValue(values, tf.nest.map_structure(tf.stop_gradient, metrics))


def _columns(labels, queries, own, keys):
    """Returns similarities, positives and negatives, `[queries, columns]`."""
    positives, negatives = pair_masks(labels, keys)
    if keys is None:
        similarity = tf.matmul(queries, own, transpose_b=True)
        return similarity, positives[0::2, 1::2], negatives[0::2, 1::2]
    others = tf.cast(tf.stop_gradient(keys.embeddings), tf.float32)
    to_own = tf.reduce_sum(queries * own, -1, keepdims=True)
    to_keys = tf.matmul(queries, others, transpose_b=True)
    return (
        tf.concat([to_own, to_keys], 1),
        tf.concat([_own_allowed(labels)[:, None], positives[0::2]], 1),
        # The first column is the own positive, which is not a negative.
        tf.pad(negatives[0::2], [[0, 0], [1, 0]]),
    )


def _own_allowed(labels) -> tf.Tensor:
    """Returns `[queries]` booleans: whether query and positive may be paired.

    With sides, the query must be of side 0 and the positive of side 1.
    """
    products, sides = split_labels(labels)
    if sides is None:
        return tf.ones_like(products[0::2], tf.bool)
    return (sides[0::2] == 0) & (sides[1::2] == 1)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class NPairsLoss(BatchLoss):
    """`n_pairs_loss` as a Keras loss, for batches of pairs.

    `loss_at_collapse` is None, because it depends on the number of columns.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import NPairsLoss
        >>> NPairsLoss.in_pairs
        True
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.8, 0.6]]
        ... )
        >>> round(float(NPairsLoss(scale=20.0)(labels, embeddings)), 3)
        0.693
    """

    in_pairs = True
    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(self, scale: float = 20.0, name: str = "n_pairs_loss"):
        """Creates the loss.

        Args:
            scale: See `n_pairs_loss`.
            name: Name of the loss.

        Raises:
            ValueError: `scale` is not above 0.
        """
        super().__init__(name=name)
        if not scale > 0:
            raise ValueError(f"`scale` must be above 0. Received: {scale}")
        self._arguments = {"scale": float(scale)}

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `n_pairs_loss`."""
        return n_pairs_loss(labels, embeddings, keys=keys, **self._arguments)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
