"""Building blocks of losses over pairs: distance matrices and masked sums.

Rows of a matrix are anchors. Columns are the embeddings that the anchors are
compared with: the batch itself or the keys of a memory. Boolean matrices
(masks) select pairs.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import distances
from tf_triplet.losses.batch_loss import Keys

_INF = float("inf")
METRICS = ("active", "positive", "negative")


def pairwise(
    embeddings: tf.Tensor, distance: str, keys: Keys | None = None
) -> tf.Tensor:
    """Computes all distances of a batch to itself or to keys.

    Args:
        embeddings: `[batch, dim]` floats of any precision.
        distance: One of `distances.DISTANCES`.
        keys: Embeddings to compare the batch with, without gradient. None:
            the batch itself.

    Returns:
        `[batch, batch]` or `[batch, keys]` float32.
    """
    vectors = distances.prepare(embeddings, distance)
    if keys is None:
        squared = distances.squared_pairwise(vectors)
    else:
        others = tf.stop_gradient(keys.embeddings)
        squared = distances.squared_between(
            vectors, distances.prepare(others, distance)
        )
    return distances.from_squared(squared, distance)


def row_sums(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sums the selected entries of each row.

    Args:
        values: `[rows, columns]` floats.
        mask: `[rows, columns]` booleans.

    Returns:
        `[rows]` sums.
    """
    return tf.reduce_sum(tf.where(mask, values, 0.0), -1)


def count(mask: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """Counts the True entries along `axis` (None: all), as float32."""
    return tf.reduce_sum(tf.cast(mask, tf.float32), axis)


def share(part: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """Divides the number of True entries of `part` by that of `whole`.

    The result is 0 if `whole` has none.
    """
    return count(part) / tf.maximum(count(whole), 1.0)


def mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Averages the selected entries; the mean of none is 0."""
    total = tf.reduce_sum(tf.where(mask, values, 0.0))
    return total / tf.maximum(count(mask), 1.0)


def logsumexp(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Computes the log of the summed exponentials along the last axis.

    Args:
        values: `[..., columns]` floats.
        mask: `[..., columns]` booleans that select entries.

    Returns:
        `[...]` floats, which cannot overflow. Where nothing is selected, the
        value is -inf and its gradient is 0.
    """
    # `where` also blocks the NaN gradient of the log of an empty sum.
    return tf.reduce_logsumexp(tf.where(mask, values, -_INF), -1)


def metrics(
    active: tf.Tensor,
    pair_distances: tf.Tensor,
    positives: tf.Tensor,
    negatives: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Assembles the metrics that the losses over pairs share.

    Args:
        active: Scalar, the share of pairs or anchors with a loss above 0.
        pair_distances: `[batch, keys]` floats.
        positives: `[batch, keys]` booleans.
        negatives: `[batch, keys]` booleans.

    Returns:
        A scalar for each name in `METRICS`, without gradient.
    """
    fixed = tf.stop_gradient(pair_distances)
    return {
        "active": tf.stop_gradient(active),
        "positive": mean(fixed, positives),
        "negative": mean(fixed, negatives),
    }
