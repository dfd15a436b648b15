"""The Multi-Similarity loss: hard pairs, weighted by one another."""

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
    """Weights each hard pair of an anchor by the anchor's other pairs.

    With s the cosine similarity, an anchor costs
    `log(1 + sum_P exp(-alpha (s - base))) / alpha +
    log(1 + sum_N exp(beta (s - base))) / beta`.

    The sums run over mined pairs. P contains the positives that are less
    similar than the most similar negative plus epsilon. N contains the
    negatives that are more similar than the least similar positive minus
    epsilon. The mean is over the anchors that have a positive and a negative,
    including those without mined pairs, which cost 0.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats, normalized to unit length here.
            Arithmetic is float32.
        keys: Embeddings to compare the anchors with, instead of the batch.
        alpha: Steepness for positives.
        beta: Steepness for negatives.
        base: Cosine similarity above which a negative has a large weight.
        epsilon: Tolerance of the mining, in cosine similarity.

    Returns:
        The value of each row. Metrics: `active` is the share of anchors with
        mined pairs; `positive` and `negative` are the mean cosine distances
        (1 - s) of all such pairs.

    References:
        Wang et al., 2019, https://arxiv.org/abs/1904.06627.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import multi_similarity_loss
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]
        ... )
        >>> value = multi_similarity_loss(labels, embeddings)
        >>> round(float(tf.reduce_mean(value.values)), 3)
        0.339
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

    `loss_at_collapse` is None, because it depends on the number of positives
    and negatives in the batch.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import MultiSimilarityLoss
        >>> loss = MultiSimilarityLoss(alpha=2.0, beta=50.0, base=0.5)
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]
        ... )
        >>> round(float(loss(labels, embeddings)), 3)
        0.339
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
        """Creates the loss.

        Args:
            alpha: See `multi_similarity_loss`.
            beta: See `multi_similarity_loss`.
            base: See `multi_similarity_loss`.
            epsilon: See `multi_similarity_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(name=name)
        for argument, value in (("alpha", alpha), ("beta", beta)):
            if not value > 0:
                raise ValueError(
                    f"`{argument}` must be above 0. Received: {value}"
                )
        if not -1 <= base <= 1:
            raise ValueError(
                "`base` must be a cosine similarity, from -1 to 1. "
                f"Received: {base}"
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

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `multi_similarity_loss`."""
        return multi_similarity_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
