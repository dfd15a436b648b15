"""Pairwise distances of a batch, exact where float32 products cancel.

On unit vectors the three distances are one another's functions:
`squared_euclidean = 2 - 2 s = 2 * cosine`, `euclidean = sqrt(2 - 2 s)`, where
s is the cosine similarity. A cosine margin of 0.1 is a squared one of 0.2.
"""

from __future__ import annotations

import tensorflow as tf

DISTANCES = ("cosine", "euclidean", "squared_euclidean")
# Below this share of the batch's spread, d² = |a|² + |b|² - 2ab has lost
# about half of float32's digits.
_CANCELLED = 1e-3


def prepare(embeddings: tf.Tensor, distance: str) -> tf.Tensor:
    """Returns float32 vectors whose squared distances rank like `distance`.

    Args:
        embeddings: `[batch, dim]` floats of any precision.
        distance: one of `DISTANCES`; cosine makes the vectors unit length.
    """
    if distance not in DISTANCES:
        raise ValueError(
            f"`distance` must be one of {', '.join(DISTANCES)}. "
            f"Received: {distance!r}"
        )
    embeddings = tf.cast(embeddings, tf.float32)
    if distance == "cosine":
        embeddings = tf.math.l2_normalize(embeddings, -1)
    return embeddings


def safe_sqrt(values: tf.Tensor) -> tf.Tensor:
    """Square root with gradient 0, not infinite, at 0 (duplicates)."""
    positive = values > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, values, 1.0)), 0.0)


def from_squared(squared: tf.Tensor, distance: str) -> tf.Tensor:
    """Turns squared distances of prepared vectors into `distance`."""
    if distance == "cosine":
        return 0.5 * squared
    return safe_sqrt(squared) if distance == "euclidean" else squared


def between(first: tf.Tensor, second: tf.Tensor, distance: str) -> tf.Tensor:
    """`[n]` distances of rows of two prepared `[n, dim]` arrays."""
    return from_squared(tf.reduce_sum(tf.square(first - second), -1), distance)


@tf.custom_gradient
def squared_pairwise(vectors: tf.Tensor):
    """`[batch, batch]` squared Euclidean distances, differentiable.

    The batch is centered first, which keeps the digits when all vectors lie
    close together; entries that are small even so are computed again from
    direct differences. The diagonal is exactly 0.
    """
    # Distances do not change when every vector moves by the same amount.
    centered = vectors - tf.reduce_mean(vectors, 0, keepdims=True)
    norms = tf.reduce_sum(tf.square(centered), -1)
    products = tf.matmul(centered, centered, transpose_b=True)
    squared = norms[:, None] + norms[None, :] - 2.0 * products
    squared = tf.linalg.set_diag(tf.maximum(squared, 0.0), tf.zeros_like(norms))
    off_diagonal = tf.linalg.set_diag(
        tf.ones_like(squared, tf.bool), tf.zeros_like(norms, tf.bool)
    )
    squared = _recompute_small(squared, centered, centered, off_diagonal)

    def gradient(upstream):
        both = upstream + tf.transpose(upstream)
        both = tf.linalg.set_diag(both, tf.zeros_like(norms))
        total = tf.reduce_sum(both, -1, keepdims=True)
        return 2.0 * (total * centered - tf.matmul(both, centered))

    return squared, gradient


@tf.custom_gradient
def squared_between(anchors: tf.Tensor, keys: tf.Tensor):
    """`[a, k]` squared Euclidean distances of `[a, dim]` and `[k, dim]`.

    As exact as `squared_pairwise`, and differentiable in both.
    """
    center = tf.reduce_mean(anchors, 0, keepdims=True)
    a, k = anchors - center, keys - center
    squared = (
        tf.reduce_sum(tf.square(a), -1)[:, None]
        + tf.reduce_sum(tf.square(k), -1)[None, :]
        - 2.0 * tf.matmul(a, k, transpose_b=True)
    )
    squared = tf.maximum(squared, 0.0)
    squared = _recompute_small(squared, a, k, tf.ones_like(squared, tf.bool))

    def gradient(upstream):
        by_anchor = tf.reduce_sum(upstream, 1)[:, None]
        by_key = tf.reduce_sum(upstream, 0)[:, None]
        return (
            2.0 * (by_anchor * a - tf.matmul(upstream, k)),
            2.0 * (by_key * k - tf.matmul(upstream, a, transpose_a=True)),
        )

    return squared, gradient


def _recompute_small(squared, anchors, keys, allowed) -> tf.Tensor:
    """Replaces canceled entries by sums of squared differences."""
    spread = tf.reduce_mean(tf.reduce_sum(tf.square(anchors), -1))
    small = allowed & (squared < _CANCELLED * spread)

    def few():
        pairs = tf.where(small)
        difference = tf.gather(anchors, pairs[:, 0]) - tf.gather(
            keys, pairs[:, 1]
        )
        return tf.tensor_scatter_nd_update(
            squared, pairs, tf.reduce_sum(tf.square(difference), -1)
        )

    def many():
        # One anchor at a time: [keys, dim] is all that is held.
        direct = tf.map_fn(
            lambda row: tf.reduce_sum(tf.square(keys - row), -1), anchors
        )
        return tf.where(small, direct, squared)

    count = tf.reduce_sum(tf.cast(small, tf.int64))
    rows = tf.cast(tf.shape(keys)[0], tf.int64)
    return tf.cond(
        count == 0,
        lambda: squared,
        lambda: tf.cond(count <= 8 * rows, few, many),
    )
