"""The supervised contrastive loss: a softmax over all images of a batch."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    check_choice,
    per_row,
)
from tf_triplet.losses.mining import pair_masks

VARIANTS = ("supcon", "infonce")
_INF = float("inf")


def supervised_contrastive_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    temperature: float = 0.1,
    variant: str = "supcon",
) -> BatchValue:
    """Computes the cross entropy of each positive among the other images.

    With s the cosine similarity, a positive p of an anchor costs
    `-log(exp(s_p / temperature) / sum_k exp(s_k / temperature))`. An anchor
    costs the mean over its positives. The loss is the mean over the anchors
    that have a positive and a negative.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats, normalized to unit length here.
            Arithmetic is float32.
        keys: Embeddings to compare the anchors with, instead of the batch.
        temperature: Divides the similarities. The smaller it is, the more
            the hardest pairs weigh.
        variant: What the sum runs over. "supcon": all images but the anchor,
            so that the positives of an anchor compete with one another.
            "infonce": the positive itself and the negatives, as in InfoNCE
            and NT-Xent.

    Returns:
        The value of each row. Metrics: `active` is the share of anchors whose
        most similar image is of another product; `positive` and `negative`
        are the mean cosine distances (1 - s) of all such pairs.

    Raises:
        ValueError: `variant` is unknown.

    References:
        Khosla et al., 2020, https://arxiv.org/abs/2004.11362, the form with
        the sum outside the logarithm; van den Oord et al., 2018,
        https://arxiv.org/abs/1807.03748 (InfoNCE).

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import supervised_contrastive_loss
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]
        ... )
        >>> value = supervised_contrastive_loss(labels, embeddings)
        >>> round(float(tf.reduce_mean(value.values)), 3)
        0.967
    """
    check_choice("variant", variant, VARIANTS)
    positives, negatives = pair_masks(labels, keys)
    d = pairs.pairwise(embeddings, "cosine", keys)
    # -d = s - 1. The 1 cancels in the softmax, and small distances keep their
    # digits.
    logits = -d / temperature
    if variant == "supcon":
        total = pairs.logsumexp(logits, positives | negatives)[:, None]
    else:
        # log(exp(own) + sum of the negatives), positive by positive.
        others = pairs.logsumexp(logits, negatives)[:, None]
        excess = tf.where(positives, others - logits, 0.0)
        total = logits + tf.math.softplus(excess)
    valid = tf.reduce_any(positives, -1) & tf.reduce_any(negatives, -1)
    # The sum skips masked entries, because 0 * -inf would be NaN.
    costs = pairs.row_sums(total - logits, positives)
    costs /= tf.maximum(pairs.count(positives, -1), 1.0)
    totals = tf.where(valid, costs, 0.0)
    values = per_row(totals, pairs.count(valid), tf.shape(d)[0])
    nearest = [
        tf.reduce_min(tf.where(mask, d, _INF), -1)
        for mask in (positives, negatives)
    ]
    active = pairs.share(valid & (nearest[1] <= nearest[0]), valid)
    return BatchValue(values, pairs.metrics(active, d, positives, negatives))


@tf.keras.utils.register_keras_serializable("tf_triplet")
class SupervisedContrastiveLoss(BatchLoss):
    """`supervised_contrastive_loss` as a Keras loss.

    `loss_at_collapse` is None, because it depends on the number of images in
    the batch.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import SupervisedContrastiveLoss
        >>> loss = SupervisedContrastiveLoss(temperature=0.1)
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]
        ... )
        >>> round(float(loss(labels, embeddings)), 3)
        0.967
    """

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(
        self,
        temperature: float = 0.1,
        variant: str = "supcon",
        name: str = "supervised_contrastive_loss",
    ):
        """Creates the loss.

        Args:
            temperature: See `supervised_contrastive_loss`.
            variant: See `supervised_contrastive_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(name=name)
        check_choice("variant", variant, VARIANTS)
        if not 0 < temperature < _INF:
            raise ValueError(
                f"`temperature` must be above 0. Received: {temperature}"
            )
        self._arguments = {
            "temperature": float(temperature),
            "variant": variant,
        }

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `supervised_contrastive_loss`."""
        return supervised_contrastive_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
