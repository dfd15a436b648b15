"""Which triplets of a batch count: choices of rows, without gradient.

Every function takes `[batch]` labels and a `[batch, batch]` matrix of squared
distances, and holds nothing larger than that matrix.
"""

from __future__ import annotations

import tensorflow as tf

_INF = float("inf")


def positive_mask(
    labels: tf.Tensor, sides: tf.Tensor | None = None
) -> tf.Tensor:
    """`[batch, batch]` true where j is another row of i's product.

    Args:
        labels: `[batch]` integers.
        sides: `[batch]` integers of two domains: only rows of side 0 (the
            street) may be anchors, only rows of side 1 (the shop) may be
            their positives and negatives. None: one domain, all may.
    """
    same = labels[:, None] == labels[None, :]
    same = tf.linalg.set_diag(same, tf.zeros_like(labels, tf.bool))
    return same if sides is None else same & _across(sides)


def negative_mask(
    labels: tf.Tensor, sides: tf.Tensor | None = None
) -> tf.Tensor:
    """`[batch, batch]` true where j is a row of another product.

    Args:
        labels: `[batch]` integers.
        sides: as in `positive_mask`.
    """
    other = labels[:, None] != labels[None, :]
    return other if sides is None else other & _across(sides)


def _across(sides: tf.Tensor) -> tf.Tensor:
    return (sides == 0)[:, None] & (sides == 1)[None, :]


def hardest_positive(squared: tf.Tensor, positives: tf.Tensor):
    """Returns (`[batch]` row, `[batch]` whether there is one)."""
    # where, not a product: a masked entry must never beat a genuine one.
    far = tf.where(positives, squared, -_INF)
    return tf.argmax(_one_more(far, -_INF), -1), tf.reduce_any(positives, -1)


def hardest_negative(squared: tf.Tensor, negatives: tf.Tensor):
    """Returns (`[batch]` row, `[batch]` whether there is one)."""
    near = tf.where(negatives, squared, _INF)
    return tf.argmin(_one_more(near, _INF), -1), tf.reduce_any(negatives, -1)


def random_negative(negatives: tf.Tensor, seed: tf.Tensor):
    """Returns (`[batch]` row, uniform over the true ones, `[batch]` any).

    Args:
        negatives: `[batch, batch]` booleans.
        seed: `[2]` integers; the same seed makes the same choice, so that
            all replicas of a global batch agree.
    """
    draws = tf.random.stateless_uniform(tf.shape(negatives), seed)
    return hardest_negative(draws, negatives)


def _one_more(matrix: tf.Tensor, value: float) -> tf.Tensor:
    """A last column that never wins: the argmin of no column is an error."""
    return tf.pad(matrix, [[0, 0], [0, 1]], constant_values=value)


def semi_hard_negatives(
    squared: tf.Tensor, negatives: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """For every (anchor, positive): the nearest negative farther away.

    Args:
        squared: `[batch, batch]`.
        negatives: `[batch, batch]` booleans.

    Returns:
        `[batch, batch]` rows n_ij: the negative of i least far beyond j;
        where none is, the farthest negative of i. And `[batch, batch]`
        booleans: whether such a semi-hard negative was found.

    References:
        Schroff et al., 2015, https://arxiv.org/abs/1503.03832, without the
        upper limit d(a, n) < d(a, p) + m, beyond which a hinge is 0 anyway.
    """
    near_first = tf.where(negatives, squared, _INF)
    order = tf.argsort(near_first, -1, stable=True)
    ranked = tf.gather(near_first, order, batch_dims=1)
    counts = tf.reduce_sum(tf.cast(negatives, tf.int32), -1, keepdims=True)
    at = tf.searchsorted(ranked, squared, side="right")
    found = at < counts
    at = tf.where(found, at, tf.maximum(counts - 1, 0))
    return tf.gather(order, at, batch_dims=1), found
