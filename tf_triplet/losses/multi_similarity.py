"""Multi-Similarity: hard pairs, each weighed by all the others."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, Keys, per_row
from tf_triplet.losses.mining import pair_masks

_INF = float("inf")


def multi_similarity_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> BatchValue:
    """Per anchor, with s the cosine similarity and the mined pairs P and N:
    `log(1 + sum_P exp(-alpha (s - base))) / alpha +
    log(1 + sum_N exp(beta (s - base))) / beta`.

    P are the positives less similar than the most similar negative plus
    epsilon, N the negatives more similar than the least similar positive
    minus epsilon. The mean is over anchors that have a positive and a
    negative, zeros (nothing mined) included.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats, made unit length here; arithmetic
            is float32.
        keys: compared with in place of the batch.
        alpha: steepness of the positives.
        beta: steepness of the negatives.
        base: cosine similarity from which on a negative weighs much.
        epsilon: cosine slack of the mining.

    Returns:
        `BatchValue`. Its metrics: `active`, the share of anchors with mined
        pairs; `positive` and `negative`, mean cosine distances (1 - s).

    References:
        Wang et al., 2019, https://arxiv.org/abs/1904.06627.
    """
    positives, negatives = pair_masks(labels, keys)
    d = pairs.pairwise(embeddings, "cosine", keys)
    s = 1.0 - d
    hardest_negative = tf.reduce_max(tf.where(negatives, s, -_INF), -1)
    hardest_positive = tf.reduce_min(tf.where(positives, s, _INF), -1)
    mined_positives = positives & (s < hardest_negative[:, None] + epsilon)
    mined_negatives = negatives & (s > hardest_positive[:, None] - epsilon)
    # log(1 + sum exp x) = softplus(log sum exp x).
    pull = tf.math.softplus(
        pairs.logsumexp(-alpha * (s - base), mined_positives)
    )
    push = tf.math.softplus(pairs.logsumexp(beta * (s - base), mined_negatives))
    valid = tf.reduce_any(positives, -1) & tf.reduce_any(negatives, -1)
    totals = tf.where(valid, pull / alpha + push / beta, 0.0)
    values = per_row(totals, pairs.count(valid), tf.shape(s)[0])
    found = tf.reduce_any(mined_positives, -1)
    active = pairs.share(valid & found, valid)
    return BatchValue(values, pairs.metrics(active, d, positives, negatives))


@tf.keras.utils.register_keras_serializable("tf_triplet")
class MultiSimilarityLoss(BatchLoss):
    """`multi_similarity_loss` as a Keras loss.

    What a collapsed batch costs depends on how many images it compares, so
    `loss_at_collapse` is None.
    """

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        name: str = "multi_similarity_loss",
    ):
        """See `multi_similarity_loss` for the arguments."""
        super().__init__(name=name)
        for argument, value in (("alpha", alpha), ("beta", beta)):
            if not value > 0:
                raise ValueError(
                    f"`{argument}` must be above 0. Received: {value}"
                )
        if not -1 <= base <= 1:
            raise ValueError(
                f"`base` is a cosine similarity, from -1 to 1. Received: {base}"
            )
        if not epsilon >= 0:
            raise ValueError(
                f"`epsilon` must be at least 0. Received: {epsilon}"
            )
        self._arguments = {
            "alpha": float(alpha),
            "beta": float(beta),
            "base": float(base),
            "epsilon": float(epsilon),
        }

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """See `multi_similarity_loss`."""
        return multi_similarity_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {**self._arguments, "name": self.name}
