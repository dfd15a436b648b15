"""Which triplets of a batch count: choices of rows, without gradient.

Every function takes `[batch, keys]` matrices, of squared distances and of
who may be whose positive and negative, and holds nothing larger. The keys
are the batch itself, or other embeddings (a memory).
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import Keys, split_labels

_INF = float("inf")
# Nearer negatives are drawn as if they were this far, or noise would win;
# farther ones than the second have no loss at the usual boundary.
_NEAREST, _FARTHEST = 0.5, 1.4


def pair_masks(
    labels: tf.Tensor, keys: Keys | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which rows are an anchor's positives, and which its negatives.

    Args:
        labels: `[batch]` or `[batch, 1]` integers, products; or `[batch,
            2]`, products and sides: only rows of side 0 (the street) are
            anchors, only rows of side 1 (the shop) their positives and
            negatives.
        keys: what anchors are compared with; None: the batch itself, where
            no row is its own positive.

    Returns:
        Two `[batch, keys]` boolean matrices.
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


def assert_pairs(labels: tf.Tensor) -> tf.Operation:
    """Rows 2i and 2i + 1 must be one product's.

    Args:
        labels: `[batch]` integers, products.
    """
    size = tf.shape(labels)[0]
    even = size // 2 * 2
    return tf.debugging.Assert(
        (size % 2 == 0) & tf.reduce_all(labels[0:even:2] == labels[1:even:2]),
        [
            "This loss (`mining=paper` or `random`, or N-pairs) needs batches "
            "of interleaved pairs: rows 2i and 2i + 1 of one product. Sample "
            "with units=pairs, or mine with batch_hard. Received labels:",
            labels,
        ],
        summarize=16,
    )


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
        negatives: `[batch, keys]` booleans.
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
        squared: `[batch, keys]`.
        negatives: `[batch, keys]` booleans.

    Returns:
        `[batch, keys]` rows n_ij: the negative of i least far beyond j;
        where none is, the farthest negative of i. And `[batch, keys]`
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


def distance_log_weights(
    distances: tf.Tensor, embedding_size: int | tf.Tensor
) -> tf.Tensor:
    """The inverse density of distances on the unit sphere, as a logarithm.

    `(2 - n) log D - (n - 3) / 2 log(1 - D^2 / 4)`, up to a constant, with D
    held between 0.5 and 1.4: a weight itself overflows float32 from n = 125
    on.

    Args:
        distances: floats, Euclidean.
        embedding_size: n.

    Returns:
        As `distances`, float32.
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
    """Draws a negative of the anchor for every (anchor, key).

    Only negatives nearer than 1.4 are drawn, by `distance_log_weights`. An
    anchor that has none takes its nearest negative: at the usual boundary
    (alpha + beta = 1.4) that costs nothing, and once the boundary has grown
    it is the one that counts.

    Args:
        distances: `[batch, keys]` floats.
        negatives: `[batch, keys]` booleans.
        embedding_size: width of the embeddings.
        seed: `[2]` integers, the same on all replicas.

    Returns:
        `[batch, keys]` int32 columns; where an anchor has no negative they
        mean nothing.

    References:
        Wu et al., 2017, https://arxiv.org/abs/1706.07567.
    """
    allowed = negatives & (distances < _FARTHEST)
    logits = distance_log_weights(distances, embedding_size)
    logits = tf.where(allowed, logits, -float("inf"))
    # Less the largest: exp of it is 1, and none overflows.
    largest = tf.reduce_max(logits, -1, keepdims=True)
    largest = tf.where(tf.math.is_finite(largest), largest, 0.0)
    cumulative = tf.cumsum(tf.exp(logits - largest), -1)
    draws = tf.random.stateless_uniform(tf.shape(distances), seed)
    columns = tf.searchsorted(
        cumulative, draws * cumulative[:, -1:], side="right"
    )
    last = tf.maximum(tf.shape(distances)[1] - 1, 0)
    columns = tf.minimum(columns, last)
    # A parallel sum may round a step into a column of weight 0; that falls
    # back too.
    drawn = tf.gather(allowed, columns, batch_dims=1)
    nearest, _ = hardest_negative(distances, negatives)
    nearest = tf.minimum(tf.cast(nearest, tf.int32), last)
    return tf.where(drawn, columns, nearest[:, None])
