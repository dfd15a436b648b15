"""What losses over pairs share: a matrix of all pairs, and parts of it.

Rows are anchors, columns what they are compared with: the batch itself, or
the keys of a memory. A boolean matrix tells which pairs are meant.
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
    """All distances of a batch to itself, or to keys.

    Args:
        embeddings: `[batch, dim]` floats of any precision.
        distance: one of `distances.DISTANCES`.
        keys: compared with in place of the batch, without gradient.

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
    """`[rows]` sums over the true entries of each row.

    Args:
        values: `[rows, columns]` floats.
        mask: `[rows, columns]` booleans.
    """
    return tf.reduce_sum(tf.where(mask, values, 0.0), -1)


def count(mask: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """How many entries are true, as float32, of all or along `axis`."""
    return tf.reduce_sum(tf.cast(mask, tf.float32), axis)


def share(part: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """The true entries of `part` a true entry of `whole`; 0 where none is."""
    return count(part) / tf.maximum(count(whole), 1.0)


def mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The mean over the true entries, a scalar; 0 where none is."""
    total = tf.reduce_sum(tf.where(mask, values, 0.0))
    return total / tf.maximum(count(mask), 1.0)


def logsumexp(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`[...]` log of the sum of exponentials over true entries, last axis.

    -inf where none is true, with gradient 0. Never overflows.

    Args:
        values: `[..., columns]` floats.
        mask: `[..., columns]` booleans.
    """
    # The where is also what stops the NaN gradient of an empty sum's log.
    return tf.reduce_logsumexp(tf.where(mask, values, -_INF), -1)


def metrics(
    active: tf.Tensor,
    pair_distances: tf.Tensor,
    positives: tf.Tensor,
    negatives: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """`METRICS`, without gradient.

    Args:
        active: a scalar, the share of what is counted that has a loss.
        pair_distances: `[batch, keys]`.
        positives: `[batch, keys]` booleans.
        negatives: `[batch, keys]` booleans.
    """
    fixed = tf.stop_gradient(pair_distances)
    return {
        "active": tf.stop_gradient(active),
        "positive": mean(fixed, positives),
        "negative": mean(fixed, negatives),
    }
