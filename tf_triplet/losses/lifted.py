"""Lifted structure: each positive pair against all negatives at once."""

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

VARIANTS = ("original", "generalized")


def lifted_structure_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    variant: str = "generalized",
    margin: float = 1.0,
    distance: str = "euclidean",
) -> BatchValue:
    """Hinges on the smooth maximum over negatives.

    "original": for a positive pair (i, j)
    `J_ij = log(sum_k exp(m - D_ik) + sum_l exp(m - D_jl)) + D_ij`, and the
    loss is `sum [J]_+^2 / (2 |P|)` over the pairs that have a negative. k
    runs over i's negatives; l over the anchors of which j is a negative:
    in one domain that is j's negatives, with sides the street images of
    other products, with keys the batch's rows of other products.

    "generalized": for an anchor `[log sum_p exp(D_ap) + log sum_n
    exp(m - D_an)]_+`, averaged over the anchors that have a positive and a
    negative, zeros included.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats; arithmetic is float32.
        keys: compared with in place of the batch.
        variant: "original" or "generalized".
        margin: in units of `distance`.
        distance: "euclidean" (the papers), "cosine" or "squared_euclidean".

    Returns:
        `BatchValue`. Its metrics: `active`, the share of pairs (original)
        or anchors with a loss; `positive` and `negative`, mean distances.

    References:
        Song et al., 2016, https://arxiv.org/abs/1511.06452 (original);
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (generalized).
    """
    check_choice("variant", variant, VARIANTS)
    positives, negatives = pair_masks(labels, keys)
    d = pairs.pairwise(embeddings, distance, keys)
    if variant == "original":
        hinges, counted = _original(d, positives, negatives, margin)
        totals = 0.5 * pairs.row_sums(tf.square(hinges), counted)
    else:
        hinges, counted = _generalized(d, positives, negatives, margin)
        totals = tf.where(counted, hinges, 0.0)
    values = per_row(totals, pairs.count(counted), tf.shape(d)[0])
    active = pairs.share(counted & (hinges > 0), counted)
    return BatchValue(values, pairs.metrics(active, d, positives, negatives))


def _original(d, positives, negatives, margin) -> tuple[tf.Tensor, tf.Tensor]:
    """`[batch, keys]` hinges, and which of them count."""
    of_anchor = pairs.logsumexp(margin - d, negatives)
    of_positive = pairs.logsumexp(
        margin - tf.transpose(d), tf.transpose(negatives)
    )
    both = tf.stack(
        [
            tf.broadcast_to(of_anchor[:, None], tf.shape(d)),
            tf.broadcast_to(of_positive[None, :], tf.shape(d)),
        ],
        -1,
    )
    exists = tf.stop_gradient(both) > -float("inf")
    counted = positives & tf.reduce_any(exists, -1)
    return tf.nn.relu(pairs.logsumexp(both, exists) + d), counted


def _generalized(
    d, positives, negatives, margin
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[batch]` hinges, and which of them count."""
    far = pairs.logsumexp(d, positives)
    near = pairs.logsumexp(margin - d, negatives)
    counted = tf.reduce_any(positives, -1) & tf.reduce_any(negatives, -1)
    return tf.nn.relu(far + near), counted


@tf.keras.utils.register_keras_serializable("tf_triplet")
class LiftedStructureLoss(BatchLoss):
    """`lifted_structure_loss` as a Keras loss.

    What a collapsed batch costs depends on how many images it compares, so
    `loss_at_collapse` is None.
    """

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(
        self,
        variant: str = "generalized",
        margin: float = 1.0,
        distance: str = "euclidean",
        name: str = "lifted_structure_loss",
    ):
        """See `lifted_structure_loss` for the arguments."""
        super().__init__(name=name)
        check_choice("variant", variant, VARIANTS)
        check_choice("distance", distance, distances.DISTANCES)
        if not margin >= 0:
            raise ValueError(f"`margin` must be at least 0. Received: {margin}")
        self._arguments = {
            "variant": variant,
            "margin": float(margin),
            "distance": distance,
        }

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """See `lifted_structure_loss`."""
        return lifted_structure_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {**self._arguments, "name": self.name}
