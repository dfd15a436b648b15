"""The contrastive loss: positive pairs together, all others a margin apart."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import distances, pairs
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    check_choice,
    per_row,
)
from tf_triplet.losses.mining import pair_masks

REDUCTIONS = ("mean", "balanced")


def contrastive_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    margin: float = 1.0,
    distance: str = "euclidean",
    reduction: str = "mean",
) -> BatchValue:
    """Pulls positive pairs together and pushes negative pairs apart.

    With d the distance of a pair, a positive pair costs `d²` and a negative
    pair costs `max(0, margin - d)²`. Each pair counts by itself, so a product
    with one image still contributes negative pairs, and a batch of a single
    product still contributes positive pairs.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats. Arithmetic is float32.
        keys: Embeddings to compare the anchors with, instead of the batch.
        margin: Distance beyond which a negative pair costs nothing. Unit
            vectors lie at most 2 apart.
        distance: "euclidean" (as in the papers), "cosine" or
            "squared_euclidean". The formulas square this value, whichever it
            is.
        reduction: "mean" averages over all pairs, most of which are
            negative. "balanced" adds the mean over positive pairs and the
            mean over negative pairs.

    Returns:
        The value of each row. Metrics: `active` is the share of negative
        pairs nearer than the margin; `positive` and `negative` are the mean
        distances of such pairs.

    Raises:
        ValueError: `distance` or `reduction` is unknown.

    References:
        Chopra et al., 2005, https://doi.org/10.1109/CVPR.2005.202;
        Hadsell et al., 2006, https://doi.org/10.1109/CVPR.2006.100. All
        pairs of the batch are used and the squares have no factor of one
        half, as in Musgrave et al., 2020, https://arxiv.org/abs/2003.08505.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import contrastive_loss
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> value = contrastive_loss(labels, embeddings, margin=1.0)
        >>> round(float(tf.reduce_mean(value.values)), 3)
        0.308
    """
    check_choice("reduction", reduction, REDUCTIONS)
    positives, negatives = pair_masks(labels, keys)
    d = pairs.pairwise(embeddings, distance, keys)
    pulls = pairs.row_sums(tf.square(d), positives)
    pushes = pairs.row_sums(tf.square(tf.nn.relu(margin - d)), negatives)
    n_pos, n_neg = pairs.count(positives), pairs.count(negatives)
    batch = tf.shape(d)[0]
    if reduction == "mean":
        values = per_row(pulls + pushes, n_pos + n_neg, batch)
    else:
        values = per_row(pulls, n_pos, batch) + per_row(pushes, n_neg, batch)
    active = pairs.share(negatives & (d < margin), negatives)
    return BatchValue(values, pairs.metrics(active, d, positives, negatives))


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ContrastiveLoss(BatchLoss):
    """`contrastive_loss` as a Keras loss.

    `loss_at_collapse` is known with `reduction="balanced"` only. Otherwise
    it depends on the batch's share of negative pairs.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ContrastiveLoss
        >>> loss = ContrastiveLoss(margin=1.0, reduction="balanced")
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> loss.loss_at_collapse
        1.0
        >>> round(float(loss(labels, embeddings)), 3)
        0.663
    """

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(
        self,
        margin: float = 1.0,
        distance: str = "euclidean",
        reduction: str = "mean",
        name: str = "contrastive_loss",
    ):
        """Creates the loss.

        Args:
            margin: See `contrastive_loss`.
            distance: See `contrastive_loss`.
            reduction: See `contrastive_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(name=name)
        check_choice("distance", distance, distances.DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        if not margin > 0:
            raise ValueError(
                "`margin` must be above 0, or no pair is pushed apart. "
                f"Received: {margin}"
            )
        self._arguments = {
            "margin": float(margin),
            "distance": distance,
            "reduction": reduction,
        }

    @property
    def loss_at_collapse(self) -> float | None:
        """The squared margin, if `reduction` is "balanced"; else None."""
        if self._arguments["reduction"] != "balanced":
            return None
        return self._arguments["margin"] ** 2

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `contrastive_loss`."""
        return contrastive_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
