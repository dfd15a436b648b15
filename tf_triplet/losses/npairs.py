"""N-pairs: each query must find its product among all positives."""

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
    """Softmax cross entropy of each query over the positives of all.

    Rows 2i are queries, rows 2i + 1 their positives. The logits are inner
    products times `scale`; the target is spread evenly over the columns of
    the query's product. The mean is over the queries that have a column of
    another product.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides: then a
            query counts if it is of side 0 and its positive of side 1, and
            columns are of side 1.
        embeddings: `[batch, dim]` floats; arithmetic is float32. They are
            not made unit length here.
        keys: the columns are a query's own positive and these, in place of
            the other positives of the batch.
        scale: 1 for the paper's free vectors. Unit vectors need more: their
            products end at 1, and with scale 1 a perfect answer among 64
            still costs more than 3. 20 is a temperature of 0.05.

    Returns:
        `BatchValue`. Its metrics: `active`, the share of queries that find
        another product nearer than their own positive; `positive`, the mean
        of 1 minus the inner product with the own positive; `negative`, with
        other products.

    References:
        Sohn, 2016, "Improved Deep Metric Learning with Multi-class N-pair
        Loss Objective", NeurIPS, without its penalty on the vectors'
        lengths; the temperature: Zhai and Wu, 2018,
        https://arxiv.org/abs/1811.12649.
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
    # Sums over those that are there: 0 * -inf of a masked logit is NaN.
    entropy = pairs.logsumexp(logits, positives | negatives) - targets
    totals = tf.where(valid, entropy, 0.0)
    # Every loss stands at its query's row.
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
    """`[n, columns]` similarities, positives and negatives of n queries."""
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
        # The own positive is no negative.
        tf.pad(negatives[0::2], [[0, 0], [1, 0]]),
    )


def _own_allowed(labels) -> tf.Tensor:
    """`[n]` booleans: whether a query and its positive stand on their side."""
    products, sides = split_labels(labels)
    if sides is None:
        return tf.ones_like(products[0::2], tf.bool)
    return (sides[0::2] == 0) & (sides[1::2] == 1)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class NPairsLoss(BatchLoss):
    """`n_pairs_loss` as a Keras loss, for batches of interleaved pairs.

    What a collapsed batch costs is the log of its columns a product, so
    `loss_at_collapse` is None.
    """

    in_pairs = True
    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(self, scale: float = 20.0, name: str = "n_pairs_loss"):
        """See `n_pairs_loss` for the arguments."""
        super().__init__(name=name)
        if not scale > 0:
            raise ValueError(f"`scale` must be above 0. Received: {scale}")
        self._arguments = {"scale": float(scale)}

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """See `n_pairs_loss`."""
        return n_pairs_loss(labels, embeddings, keys=keys, **self._arguments)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {**self._arguments, "name": self.name}
