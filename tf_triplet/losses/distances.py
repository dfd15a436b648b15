"""Pairwise distances of a batch, precise also for nearly equal vectors.

On unit vectors each of the three distances is a function of the cosine
similarity s: `cosine = 1 - s`, `squared_euclidean = 2 - 2 s = 2 * cosine` and
`euclidean = sqrt(2 - 2 s)`. A margin of 0.1 in cosine distance therefore
equals a margin of 0.2 in squared Euclidean distance.
"""

from __future__ import annotations

import tensorflow as tf

DISTANCES = ("cosine", "euclidean", "squared_euclidean")
# Where d² = |a|² + |b|² - 2ab is below this share of the batch's mean squared
# norm, cancellation has cost about half of float32's digits.
_CANCELLED = 1e-3


def prepare(embeddings: tf.Tensor, distance: str) -> tf.Tensor:
    """Prepares embeddings so that squared distances rank like `distance`.

    Args:
        embeddings: `[batch, dim]` floats of any precision.
        distance: One of `DISTANCES`. "cosine" normalizes the vectors.

    Returns:
        `[batch, dim]` float32 vectors.

    Raises:
        ValueError: `distance` is unknown.
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
    """Square root whose gradient at 0 is 0 instead of infinite.

    Two equal embeddings have the distance 0.
    """
    positive = values > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, values, 1.0)), 0.0)


def from_squared(squared: tf.Tensor, distance: str) -> tf.Tensor:
    """Converts squared distances of prepared vectors to `distance`."""
    if distance == "cosine":
        return 0.5 * squared
    return safe_sqrt(squared) if distance == "euclidean" else squared


def between(first: tf.Tensor, second: tf.Tensor, distance: str) -> tf.Tensor:
    """Computes distances row by row.

    Args:
        first: `[n, dim]` prepared vectors.
        second: `[n, dim]` prepared vectors.
        distance: One of `DISTANCES`.

    Returns:
        `[n]` distances between row i of `first` and row i of `second`.
    """
    return from_squared(tf.reduce_sum(tf.square(first - second), -1), distance)


@tf.custom_gradient
def squared_pairwise(vectors: tf.Tensor):
    """Computes squared Euclidean distances within a batch.

    The batch is centered first, which preserves precision when all vectors
    lie close together. Entries that are still small are recomputed from the
    differences of the vectors. The diagonal is exactly 0.

    Args:
        vectors: `[batch, dim]` float32.

    Returns:
        `[batch, batch]` float32, differentiable.
    """
    # Moving every vector by the same amount does not change distances.
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
    """Computes squared Euclidean distances between anchors and keys.

    The result is as precise as that of `squared_pairwise`.

    Args:
        anchors: `[batch, dim]` float32.
        keys: `[keys, dim]` float32.

    Returns:
        `[batch, keys]` float32, differentiable in both arguments.
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
    """Recomputes entries that lost their digits to cancellation.

    Args:
        squared: `[batch, keys]` squared distances.
        anchors: `[batch, dim]` centered vectors.
        keys: `[keys, dim]` vectors, moved by the same amount.
        allowed: `[batch, keys]` booleans, the entries that may be replaced.
    """
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
        # One anchor at a time needs only [keys, dim] of memory.
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
