"""Chooses the positives and negatives of each anchor.

The functions take `[batch, keys]` matrices: squared distances, and booleans
that tell which keys are positives or negatives of which anchor. The keys are
the batch itself or the embeddings of a memory. No function needs a larger
tensor, and no gradient flows through a choice.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import Keys, split_labels

_INF = float("inf")
# Negatives nearer than the first distance are drawn as if they were that far
# away, because the gradients of very near negatives are noisy. Negatives
# farther than the second cost nothing at the margin loss's usual boundary.
_NEAREST, _FARTHEST = 0.5, 1.4


def pair_masks(
    labels: tf.Tensor, keys: Keys | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Tells which keys are positives and which are negatives of each anchor.

    Args:
        labels: `[batch]` or `[batch, 1]` integer products, or `[batch, 2]`
            products and sides. With sides, only rows of side 0 (street
            images, say) are anchors, and only rows of side 1 (shop images)
            are their positives and negatives.
        keys: Embeddings to compare the anchors with. None: the batch itself,
            in which no row is its own positive.

    Returns:
        Two `[batch, keys]` boolean matrices, positives and negatives.
    """
    products, sides = split_labels(labels)
    if keys is None:
        others, other_sides = products, sides
    else:
        others, other_sides = split_labels(keys.labels)
        others = tf.cast(others, products.dtype)
    same = products[:, None] == others[None, :]
    allowed = tf.ones_like(same)
    if sides is not None:
        allowed = (sides == 0)[:, None] & (other_sides == 1)[None, :]
    if keys is not None:
        allowed &= keys.valid[None, :]
    negatives = allowed & ~same
    if keys is None:
        same = tf.linalg.set_diag(same, tf.zeros_like(products, tf.bool))
    return allowed & same, negatives


def share_with_positive(labels: tf.Tensor) -> tf.Tensor:
    """Computes the share of anchors that have a positive in the batch.

    Args:
        labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.

    Returns:
        Scalar float32, 0 for a batch without anchors.
    """
    positives, _ = pair_masks(labels)
    products, sides = split_labels(labels)
    anchors = tf.ones_like(products, tf.bool) if sides is None else sides == 0
    found = tf.cast(tf.reduce_any(positives, -1), tf.float32)
    count = tf.reduce_sum(tf.cast(anchors, tf.float32))
    return tf.reduce_sum(found) / tf.maximum(count, 1.0)


def has_negative(labels: tf.Tensor) -> tf.Tensor:
    """Tells whether any anchor has a negative in the batch.

    Args:
        labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.

    Returns:
        Scalar boolean, False for an empty batch.
    """
    products, sides = split_labels(labels)
    several = tf.reduce_any(products != products[:1])
    if sides is None:
        return several
    # If both sides are present and not all products are equal, then some
    # query and some gallery image differ.
    both = tf.reduce_any(sides == 0) & tf.reduce_any(sides == 1)
    return several & both


def assert_pairs(labels: tf.Tensor) -> tf.Operation:
    """Checks that rows 2i and 2i + 1 show the same product.

    Args:
        labels: `[batch]` integers, products.

    Returns:
        The operation that raises `InvalidArgumentError` if they do not.
    """
    size = tf.shape(labels)[0]
    even = size // 2 * 2
    return tf.debugging.Assert(
        (size % 2 == 0) & tf.reduce_all(labels[0:even:2] == labels[1:even:2]),
        [
            "This loss (`mining=paper` or `random`, or N-pairs) needs batches "
            "of pairs: rows 2i and 2i + 1 must show the same product. Sample "
            "with units=pairs, or mine with batch_hard. Received labels:",
            labels,
        ],
        summarize=16,
    )


def hardest_positive(
    squared: tf.Tensor, positives: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the farthest positive of each anchor.

    Args:
        squared: `[batch, keys]` squared distances.
        positives: `[batch, keys]` booleans.

    Returns:
        `[batch]` columns, and `[batch]` booleans: whether there is one.
    """
    # Infinity, unlike a product with the mask, can never beat a true entry.
    far = tf.where(positives, squared, -_INF)
    return tf.argmax(_one_more(far, -_INF), -1), tf.reduce_any(positives, -1)


def hardest_negative(
    squared: tf.Tensor, negatives: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the nearest negative of each anchor.

    Args:
        squared: `[batch, keys]` squared distances.
        negatives: `[batch, keys]` booleans.

    Returns:
        `[batch]` columns, and `[batch]` booleans: whether there is one.
    """
    near = tf.where(negatives, squared, _INF)
    return tf.argmin(_one_more(near, _INF), -1), tf.reduce_any(negatives, -1)


def random_negative(
    negatives: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a negative of each anchor, all with the same probability.

    Args:
        negatives: `[batch, keys]` booleans.
        seed: `[2]` integers. The same seed makes the same choice, so that
            all replicas of a global batch agree.

    Returns:
        `[batch]` columns, and `[batch]` booleans: whether there is one.
    """
    draws = tf.random.stateless_uniform(tf.shape(negatives), seed)
    return hardest_negative(draws, negatives)


def _one_more(matrix: tf.Tensor, value: float) -> tf.Tensor:
    """Appends a column that never wins, as argmin of no column is an error."""
    return tf.pad(matrix, [[0, 0], [0, 1]], constant_values=value)


def semi_hard_negatives(
    squared: tf.Tensor, negatives: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the nearest negative that is farther than the positive.

    Args:
        squared: `[batch, keys]` squared distances.
        negatives: `[batch, keys]` booleans.

    Returns:
        `[batch, keys]` columns. Entry (i, j) is the nearest of anchor i's
        negatives that are farther from i than key j is. If there is none,
        it is the farthest negative of i. Also `[batch, keys]` booleans:
        whether there is such a semi-hard negative.

    References:
        Schroff et al., 2015, https://arxiv.org/abs/1503.03832, without the
        upper limit d(a, n) < d(a, p) + m, beyond which the hinge is 0.
    """
    near_first = tf.where(negatives, squared, _INF)
    order = tf.argsort(near_first, -1, stable=True)
    ranked = tf.gather(near_first, order, batch_dims=1)
    counts = tf.reduce_sum(tf.cast(negatives, tf.int32), -1, keepdims=True)
    at = tf.searchsorted(ranked, squared, side="right")
    found = at < counts
    at = tf.where(found, at, tf.maximum(counts - 1, 0))
    return tf.gather(order, at, batch_dims=1), found


def distance_log_weights(
    distances: tf.Tensor, embedding_size: int | tf.Tensor
) -> tf.Tensor:
    """Computes the log of the inverse density of distances on the sphere.

    The value is `(2 - n) log D - (n - 3) / 2 log(1 - D² / 4)`, up to a
    constant, where D is clipped to [0.5, 1.4]. It stays a logarithm because
    the weight itself overflows float32 from n = 125 on.

    Args:
        distances: Euclidean distances of unit vectors, of any shape.
        embedding_size: Width n of the embeddings.

    Returns:
        Float32 logarithms in the shape of `distances`.

    References:
        Wu et al., 2017, https://arxiv.org/abs/1706.07567.
    """
    n = tf.cast(embedding_size, tf.float32)
    d = tf.clip_by_value(distances, _NEAREST, _FARTHEST)
    near = (2.0 - n) * tf.math.log(d)
    return near - (n - 3.0) / 2.0 * tf.math.log1p(-0.25 * tf.square(d))


def distance_weighted_negatives(
    distances: tf.Tensor,
    negatives: tf.Tensor,
    embedding_size: int | tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Draws a negative of the anchor for every pair of anchor and key.

    Negatives nearer than 1.4 are drawn with the weights of
    `distance_log_weights`. An anchor without such a negative takes its
    nearest negative. At the usual boundary (alpha + beta = 1.4) that negative
    costs nothing; for a larger, learned boundary it is the relevant one.

    Args:
        distances: `[batch, keys]` Euclidean distances.
        negatives: `[batch, keys]` booleans.
        embedding_size: Width of the embeddings.
        seed: `[2]` integers, the same on all replicas.

    Returns:
        `[batch, keys]` int32 columns. The row of an anchor without any
        negative is meaningless.

    References:
        Wu et al., 2017, https://arxiv.org/abs/1706.07567.
    """
    allowed = negatives & (distances < _FARTHEST)
    logits = distance_log_weights(distances, embedding_size)
    logits = tf.where(allowed, logits, -float("inf"))
    # Without its largest logit, no row overflows.
    largest = tf.reduce_max(logits, -1, keepdims=True)
    largest = tf.where(tf.math.is_finite(largest), largest, 0.0)
    cumulative = tf.cumsum(tf.exp(logits - largest), -1)
    draws = tf.random.stateless_uniform(tf.shape(distances), seed)
    columns = tf.searchsorted(
        cumulative, draws * cumulative[:, -1:], side="right"
    )
    last = tf.maximum(tf.shape(distances)[1] - 1, 0)
    columns = tf.minimum(columns, last)
    # Rounding in the parallel sum may select a column of weight 0. Such an
    # entry also takes the nearest negative.
    drawn = tf.gather(allowed, columns, batch_dims=1)
    nearest, _ = hardest_negative(distances, negatives)
    nearest = tf.minimum(tf.cast(nearest, tf.int32), last)
    return tf.where(drawn, columns, nearest[:, None])
