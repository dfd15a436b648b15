"""The lifted structure loss: a positive pair against all its negatives."""

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
    """Computes a hinge on the smooth maximum over all negatives.

    D is the distance, m the margin and `[x]_+ = max(0, x)`.

    "original": a positive pair (i, j) has
    `J_ij = log(sum_k exp(m - D_ik) + sum_l exp(m - D_jl)) + D_ij`, and the
    loss is `sum [J_ij]_+² / (2 |P|)` over the set P of positive pairs that
    have a negative. k runs over the negatives of i. l runs over the anchors
    of which j is a negative: the negatives of j in one domain, the street
    images of other products with sides, and the batch's rows of other
    products with keys.

    "generalized": an anchor a has
    `[log sum_p exp(D_ap) + log sum_n exp(m - D_an)]_+`, where p runs over
    its positives and n over its negatives. The mean is over the anchors that
    have a positive and a negative, including those whose value is 0.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats. Arithmetic is float32.
        keys: Embeddings to compare the anchors with, instead of the batch.
        variant: "original" or "generalized".
        margin: Margin m, in units of `distance`.
        distance: "euclidean" (as in the papers), "cosine" or
            "squared_euclidean".

    Returns:
        The value of each row. Metrics: `active` is the share of pairs
        (original) or anchors (generalized) whose value is above 0;
        `positive` and `negative` are the mean distances of such pairs.

    Raises:
        ValueError: `variant` or `distance` is unknown.

    References:
        Song et al., 2016, https://arxiv.org/abs/1511.06452 (original);
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (generalized).

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import lifted_structure_loss
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> value = lifted_structure_loss(labels, embeddings)
        >>> round(float(tf.reduce_mean(value.values)), 3)
        1.044
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
    """Returns `[batch, keys]` hinges and booleans, which of them count."""
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
    """Returns `[batch]` hinges and booleans, which of them count."""
    far = pairs.logsumexp(d, positives)
    near = pairs.logsumexp(margin - d, negatives)
    counted = tf.reduce_any(positives, -1) & tf.reduce_any(negatives, -1)
    return tf.nn.relu(far + near), counted


@tf.keras.utils.register_keras_serializable("tf_triplet")
class LiftedStructureLoss(BatchLoss):
    """`lifted_structure_loss` as a Keras loss.

    `loss_at_collapse` is None, because it depends on the number of positives
    and negatives in the batch.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import LiftedStructureLoss
        >>> loss = LiftedStructureLoss("original", margin=1.0)
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(labels, embeddings)), 3)
        1.59
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
        """Creates the loss.

        Args:
            variant: See `lifted_structure_loss`.
            margin: See `lifted_structure_loss`.
            distance: See `lifted_structure_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
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

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `lifted_structure_loss`."""
        return lifted_structure_loss(
            labels, embeddings, keys=keys, **self._arguments
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
