"""The contrastive loss: pairs together, or at least a margin apart."""

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
    """`d²` of every positive pair and `max(0, margin - d)²` of the others.

    A pair needs nothing beside itself, so a product with one image still
    has its negatives, and a batch of one product its positives.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats; arithmetic is float32.
        keys: compared with in place of the batch.
        margin: in units of `distance`; unit vectors lie at most 2 apart.
        distance: "euclidean" (the papers), "cosine" or
            "squared_euclidean": this, not its root, is then squared.
        reduction: "mean" over all pairs, of which most are negative; or
            "balanced": the mean over positive pairs plus the mean over
            negative pairs.

    Returns:
        `BatchValue`. Its metrics: `active`, the share of negative pairs
        nearer than the margin; `positive` and `negative`, mean distances.

    References:
        Chopra et al., 2005, https://doi.org/10.1109/CVPR.2005.202;
        Hadsell et al., 2006, https://doi.org/10.1109/CVPR.2006.100. As in
        Musgrave et al., https://arxiv.org/abs/2003.08505, all pairs of a
        batch are used, and no half stands before the squares.
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
    """`contrastive_loss` for `compile(loss=ContrastiveLoss(...))`."""

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(
        self,
        margin: float = 1.0,
        distance: str = "euclidean",
        reduction: str = "mean",
        name: str = "contrastive_loss",
    ):
        """See `contrastive_loss` for the arguments."""
        super().__init__(name=name)
        check_choice("distance", distance, distances.DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        if not margin > 0:
            raise ValueError(
                "`margin` must be above 0, or nothing is pushed apart. "
                f"Received: {margin}"
            )
        self._arguments = {
            "margin": float(margin),
            "distance": distance,
            "reduction": reduction,
        }

    @property
    def loss_at_collapse(self) -> float | None:
        """Known if balanced; else it depends on the batch's products."""
        if self._arguments["reduction"] != "balanced":
            return None
        return self._arguments["margin"] ** 2

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """See `contrastive_loss`."""
        return contrastive_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {**self._arguments, "name": self.name}
