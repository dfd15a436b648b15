"""The triplet loss, with triplets mined inside the batch.

`triplet_loss` is the function and `TripletLoss` the Keras loss. Both mine the
batch with `triplet_terms.triplet_terms`.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import distances
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    check_choice,
    per_row,
)
from tf_triplet.losses.triplet_terms import (
    FALLBACKS,
    MININGS,
    PAIRED,
    TripletTerms,
    check_selective,
    triplet_terms,
)

REDUCTIONS = ("mean", "mean_active", "sum")


def reduce_terms(terms: TripletTerms, reduction: str = "mean") -> tf.Tensor:
    """Reduces the losses of the anchors to the loss of the batch.

    Args:
        terms: The result of `triplet_terms`.
        reduction: "mean" averages over valid triplets, including those whose
            loss is 0 (as in the paper). "mean_active" averages over the
            triplets that violate the margin. "sum" adds up.

    Returns:
        Scalar float32.
    """
    return tf.reduce_sum(terms.losses) / _divisor(terms, reduction)


def triplet_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    mining: str = "batch_hard",
    margin: float = 0.1,
    soft: bool = False,
    distance: str = "cosine",
    reduction: str = "mean",
    semi_hard_fallback: str = "easiest",
    count_lone_anchors: bool = False,
    selective: bool = False,
) -> tf.Tensor:
    """Pulls each anchor to its positives, and away from its negatives.

    A triplet costs `max(0, d_ap - d_an + margin)`, where d_ap is the distance
    between anchor and positive and d_an that between anchor and negative.

    Args:
        labels: `[batch]` or `[batch, 1]` integer products, or `[batch, 2]`
            products and sides.
        embeddings: `[batch, dim]` floats. Arithmetic is float32.
        keys: Embeddings that positives and negatives are taken from, instead
            of the batch.
        mining: "paper", "random", "batch_hard", "batch_all" or "semi_hard";
            see `triplet_terms`.
        margin: Margin in units of `distance`.
        soft: Whether to use softplus instead of the hinge.
        distance: "cosine" (1 - s), "euclidean" or "squared_euclidean".
        reduction: "mean" averages over valid triplets, including those whose
            loss is 0 (as in the paper). "mean_active" averages over the
            triplets that violate the margin. "sum" adds up.
        semi_hard_fallback: "easiest" or "skip"; see `triplet_terms`.
        count_lone_anchors: See `triplet_terms`.
        selective: Whether a triplet whose negative is nearer than its
            positive only pushes the negative away; see `triplet_terms`.

    Returns:
        Scalar float32.

    Raises:
        ValueError: An argument is unknown, `soft` is used with "mean_active",
            or `selective` with "batch_all".
        tf.errors.InvalidArgumentError: The mining needs pairs, but rows 2i
            and 2i + 1 are of different products.

    References:
        Dodds et al., 2018, https://arxiv.org/abs/1810.04652 (paper);
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (batch hard,
        batch all, soft margin); Schroff et al., 2015,
        https://arxiv.org/abs/1503.03832 (semi-hard); Xuan et al., 2020,
        https://arxiv.org/abs/2007.12749 (selective).

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import triplet_loss
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> loss = triplet_loss(labels, embeddings, margin=0.1)
        >>> round(float(loss), 3)
        0.13
    """
    _check_reduction(reduction, soft)
    terms = triplet_terms(
        labels,
        embeddings,
        keys=keys,
        mining=mining,
        margin=margin,
        soft=soft,
        distance=distance,
        semi_hard_fallback=semi_hard_fallback,
        count_lone_anchors=count_lone_anchors,
        selective=selective,
    )
    return reduce_terms(terms, reduction)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class TripletLoss(BatchLoss):
    """`triplet_loss` as a Keras loss.

    See `BatchLoss` about labels, sides, sample weights and replicas.
    `in_pairs` and `loss_at_collapse` depend on the arguments, so only an
    instance knows them.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import TripletLoss
        >>> loss = TripletLoss(mining="batch_hard", margin=0.1)
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(labels, embeddings)), 3)
        0.13
        >>> loss.in_pairs, loss.loss_at_collapse
        (False, 0.1)
    """

    takes_keys = True
    collapse_advice = ("loss.soft=true", "loss.mining=semi_hard")
    metric_names = ("active", "positive", "negative")

    def __init__(
        self,
        mining: str = "batch_hard",
        margin: float = 0.1,
        soft: bool = False,
        distance: str = "cosine",
        reduction: str = "mean",
        semi_hard_fallback: str = "easiest",
        count_lone_anchors: bool = False,
        selective: bool = False,
        name: str = "triplet_loss",
    ):
        """Creates the loss.

        Args:
            mining: See `triplet_loss`.
            margin: See `triplet_loss`.
            soft: See `triplet_loss`.
            distance: See `triplet_loss`.
            reduction: See `triplet_loss`.
            semi_hard_fallback: See `triplet_loss`.
            count_lone_anchors: See `triplet_loss`.
            selective: See `triplet_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(name=name)
        check_choice("mining", mining, MININGS)
        check_choice("distance", distance, distances.DISTANCES)
        check_choice("semi_hard_fallback", semi_hard_fallback, FALLBACKS)
        check_selective(mining, selective)
        _check_reduction(reduction, soft)
        if not margin >= 0:
            raise ValueError(f"`margin` must be at least 0. Received: {margin}")
        self._averaging = reduction
        self._arguments = {
            "mining": mining,
            "margin": float(margin),
            "soft": bool(soft),
            "distance": distance,
            "semi_hard_fallback": semi_hard_fallback,
            "count_lone_anchors": bool(count_lone_anchors),
            "selective": bool(selective),
        }

    @property
    def in_pairs(self) -> bool:
        """Whether `mining` is "paper" or "random"."""
        return self._arguments["mining"] in PAIRED

    @property
    def loss_at_collapse(self) -> float | None:
        """The cost of a triplet of equal embeddings, or None for a sum.

        A sum depends on the number of triplets.
        """
        if self._averaging == "sum":
            return None
        margin = self._arguments["margin"]
        if self._arguments["soft"]:
            return float(tf.math.softplus(margin))
        return margin

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Computes the triplet loss of each row.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.
            embeddings: `[batch, dim]` floats.
            keys: Embeddings that positives and negatives are taken from,
                instead of the batch.

        Returns:
            The value of each row. Metrics: `active` is the share of triplets
            that violate the margin; `positive` and `negative` are the mean
            distances to the mined positives and negatives.
        """
        terms = triplet_terms(labels, embeddings, keys=keys, **self._arguments)
        triplets = tf.maximum(tf.reduce_sum(terms.counts), 1.0)
        anchors = tf.reduce_sum(tf.cast(terms.counts > 0, tf.float32))
        anchors = tf.maximum(anchors, 1.0)
        metrics = {
            "active": tf.reduce_sum(terms.active) / triplets,
            "positive": tf.reduce_sum(terms.positive_distances) / anchors,
            "negative": tf.reduce_sum(terms.negative_distances) / anchors,
        }
        divisor = _divisor(terms, self._averaging)
        values = per_row(terms.losses, divisor, tf.shape(embeddings)[0])
        return BatchValue(
            values, tf.nest.map_structure(tf.stop_gradient, metrics)
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            **self._arguments,
            "reduction": self._averaging,
            "name": self.name,
        }


def _divisor(terms: TripletTerms, reduction: str) -> tf.Tensor:
    """Returns the number that the summed losses are divided by."""
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "sum":
        return tf.constant(1.0)
    counted = terms.counts if reduction == "mean" else terms.active
    # Without a valid triplet the losses are 0, and 0 / 1 is 0 as well.
    return tf.maximum(tf.reduce_sum(counted), 1.0)


def _check_reduction(reduction: str, soft: bool) -> None:
    """Raises a ValueError for an unknown or a meaningless reduction."""
    check_choice("reduction", reduction, REDUCTIONS)
    if soft and reduction == "mean_active":
        raise ValueError(
            "`reduction=mean_active` has no meaning with `soft=True`, which "
            "leaves every triplet with a loss above 0. Use reduction=mean."
        )
