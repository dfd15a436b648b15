"""The triplet loss with triplets mined inside the minibatch.

`triplet_terms` is the function; `TripletLoss` is the same as a Keras loss.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_triplet.losses import distances
from tf_triplet.losses import mining as miners
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    batch_seed,
    check_choice,
    per_row,
    split_labels,
)

MININGS = ("paper", "random", "batch_hard", "batch_all", "semi_hard")
# Those whose rows 2i and 2i + 1 are a query and its positive.
PAIRED = ("paper", "random")
REDUCTIONS = ("mean", "mean_active", "sum")
FALLBACKS = ("easiest", "skip")


class TripletTerms(NamedTuple):
    """Per-anchor sums over that anchor's triplets, all `[batch]` float32.

    Attributes:
        losses: sum of the losses.
        counts: valid triplets; 0 for an anchor without positive or negative.
        active: triplets that violate the margin.
        positive_distances: mean distance to the positives used.
        negative_distances: mean distance to the negatives used.
    """

    losses: tf.Tensor
    counts: tf.Tensor
    active: tf.Tensor
    positive_distances: tf.Tensor
    negative_distances: tf.Tensor


def triplet_terms(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    mining: str = "batch_hard",
    margin: float = 0.1,
    soft: bool = False,
    distance: str = "cosine",
    semi_hard_fallback: str = "easiest",
    count_lone_anchors: bool = False,
) -> TripletTerms:
    """Mines one batch.

    Args:
        labels: `[batch]` or `[batch, 1]` integers: products. `[batch, 2]`:
            product and side. With sides, only rows of side 0 (street) are
            anchors, and only rows of side 1 (shop) are their positives and
            negatives, whatever the mining.
        embeddings: `[batch, dim]` floats; arithmetic is float32.
        keys: positives and negatives come from these in place of the batch
            (a pair's own positive stays). Nothing is its own positive there,
            so `count_lone_anchors` has no effect.
        mining: "paper" (rows 2i and 2i + 1 are a query and its positive; only
            queries are anchors; the nearest row of another product is the
            negative), "random" (as paper, but any row of another product is
            the negative, drawn by the batch's labels), "batch_hard"
            (farthest positive, nearest negative), "batch_all" (every
            triplet), "semi_hard" (per positive, the nearest negative farther
            away than it).
        margin: in units of `distance`.
        soft: `softplus(d_ap - d_an + margin)` in place of the hinge; the
            soft margin of Hermans et al. is `margin=0, soft=True`.
        distance: "cosine" (1 - s), "euclidean" or "squared_euclidean".
        semi_hard_fallback: where no negative is semi-hard, take the
            "easiest" (farthest, as TensorFlow Addons) or "skip" the pair.
        count_lone_anchors: batch_hard counts an anchor without positive as
            if it were its own (as TensorFlow Addons); else it is left out.

    Returns:
        `TripletTerms`.

    References:
        Dodds et al., 2018, https://arxiv.org/abs/1810.04652 (paper);
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (batch hard,
        batch all, soft margin); Schroff et al., 2015,
        https://arxiv.org/abs/1503.03832 (semi-hard).
    """
    check_choice("mining", mining, MININGS)
    check_choice("semi_hard_fallback", semi_hard_fallback, FALLBACKS)
    positives, negatives = miners.pair_masks(labels, keys)
    labels, _ = split_labels(labels)
    vectors = distances.prepare(embeddings, distance)
    others = vectors
    if keys is not None:
        others = distances.prepare(tf.stop_gradient(keys.embeddings), distance)

    def penalty(positive, negative):
        x = positive - negative + margin
        return tf.math.softplus(x) if soft else tf.nn.relu(x), x > 0

    def squared_distances(anchors):
        if keys is None:
            return distances.squared_pairwise(anchors)
        return distances.squared_between(anchors, others)

    if mining in ("batch_all", "semi_hard"):
        squared = squared_distances(vectors)
        if mining == "batch_all":
            pairwise = distances.from_squared(squared, distance)
            return _batch_all(positives, negatives, pairwise, margin, soft)
        return _semi_hard(
            positives, negatives, squared, distance, penalty, semi_hard_fallback
        )
    squared = squared_distances(tf.stop_gradient(vectors))
    if mining == "random":
        seed = batch_seed(labels)
        negative, has_negative = miners.random_negative(negatives, seed)
    else:
        negative, has_negative = miners.hardest_negative(squared, negatives)
    if mining in PAIRED:
        positive, has_positive = _own_positive(labels)
        near = tf.gather(vectors, positive)
    else:
        positive, has_positive = miners.hardest_positive(squared, positives)
        if keys is None:
            own = tf.range(tf.shape(labels)[0], dtype=positive.dtype)
            positive = tf.where(has_positive, positive, own)
            has_positive |= count_lone_anchors
        near = _gather(others, positive)
    # Only the gathered rows are differentiated: O(batch * dim), and direct
    # differences keep their digits.
    d_ap = distances.between(vectors, near, distance)
    d_an = distances.between(vectors, _gather(others, negative), distance)
    return _one_per_anchor(d_ap, d_an, penalty, has_positive & has_negative)


def reduce_terms(terms: TripletTerms, reduction: str = "mean") -> tf.Tensor:
    """The batch's scalar loss.

    Args:
        terms: of `triplet_terms`.
        reduction: "mean" over valid triplets, zeros included (the paper);
            "mean_active" over those that violate the margin; "sum".
    """
    return tf.reduce_sum(terms.losses) / _divisor(terms, reduction)


def triplet_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    reduction: str = "mean",
    **arguments,
) -> tf.Tensor:
    """`reduce_terms(triplet_terms(...))`: a scalar float32."""
    _check_reduction(reduction, arguments.get("soft", False))
    return reduce_terms(
        triplet_terms(labels, embeddings, **arguments), reduction
    )


@tf.keras.utils.register_keras_serializable("tf_triplet")
class TripletLoss(BatchLoss):
    """`triplet_loss` for `model.compile(loss=TripletLoss(...))`.

    See `BatchLoss` for labels, sides, sample weights and strategies.
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
        name: str = "triplet_loss",
    ):
        """See `triplet_terms` and `reduce_terms` for the arguments."""
        super().__init__(name=name)
        check_choice("mining", mining, MININGS)
        check_choice("distance", distance, distances.DISTANCES)
        check_choice("semi_hard_fallback", semi_hard_fallback, FALLBACKS)
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
        }

    @property
    def in_pairs(self) -> bool:
        return self._arguments["mining"] in PAIRED

    @property
    def loss_at_collapse(self) -> float | None:
        """What every triplet costs when all embeddings are equal; a sum
        depends on how many there are."""
        if self._averaging == "sum":
            return None
        margin = self._arguments["margin"]
        if self._arguments["soft"]:
            return float(tf.math.softplus(margin))
        return margin

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """Metrics: `active`, the share of triplets with a loss; `positive`
        and `negative`, the mean distances to those mined."""
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
        """The constructor's arguments."""
        return {
            **self._arguments,
            "reduction": self._averaging,
            "name": self.name,
        }


def _divisor(terms: TripletTerms, reduction: str) -> tf.Tensor:
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "sum":
        return tf.constant(1.0)
    counted = terms.counts if reduction == "mean" else terms.active
    # Without a valid triplet the losses are 0, and so is 0 / 1.
    return tf.maximum(tf.reduce_sum(counted), 1.0)


def _own_positive(labels) -> tuple[tf.Tensor, tf.Tensor]:
    """The row after a query; every other row is one."""
    rows = tf.range(tf.shape(labels)[0])
    with tf.control_dependencies([miners.assert_pairs(labels)]):
        is_query = rows % 2 == 0
    return tf.minimum(rows + 1, tf.shape(labels)[0] - 1), is_query


def _gather(vectors, rows) -> tf.Tensor:
    """Rows that may lie one past the last, where nothing was found."""
    return tf.gather(
        vectors, tf.minimum(rows, tf.shape(vectors, rows.dtype)[0] - 1)
    )


def _one_per_anchor(d_ap, d_an, penalty, valid) -> TripletTerms:
    """One positive and one negative an anchor, `[batch]` distances each."""
    losses, active = penalty(d_ap, d_an)
    counts = tf.cast(valid, tf.float32)
    return TripletTerms(
        tf.where(valid, losses, 0.0),
        counts,
        tf.cast(valid & active, tf.float32),
        tf.where(valid, d_ap, 0.0),
        tf.where(valid, d_an, 0.0),
    )


def _semi_hard(
    positives, negatives, squared, distance, penalty, fallback
) -> TripletTerms:
    chosen, found = miners.semi_hard_negatives(
        tf.stop_gradient(squared), negatives
    )
    valid = positives & tf.reduce_any(negatives, -1, keepdims=True)
    if fallback == "skip":
        valid &= found
    pairwise = distances.from_squared(squared, distance)
    d_an = tf.gather(pairwise, chosen, batch_dims=1)
    losses, active = penalty(pairwise, d_an)

    def total(values):
        return tf.reduce_sum(tf.where(valid, values, 0.0), -1)

    ones = tf.ones_like(pairwise)
    counts = total(ones)
    least_one = tf.maximum(counts, 1.0)
    return TripletTerms(
        total(losses),
        counts,
        total(tf.where(active, ones, 0.0)),
        total(pairwise) / least_one,
        total(d_an) / least_one,
    )


def _batch_all(positives, negatives, pairwise, margin, soft) -> TripletTerms:
    losses, active = _all_triplets(pairwise, positives, negatives, margin, soft)
    n_pos = tf.reduce_sum(tf.cast(positives, tf.float32), -1)
    n_neg = tf.reduce_sum(tf.cast(negatives, tf.float32), -1)
    counts = n_pos * n_neg
    valid = counts > 0

    def mean(mask, size):
        total = tf.reduce_sum(tf.where(mask, pairwise, 0.0), -1)
        return tf.where(valid, total / tf.maximum(size, 1.0), 0.0)

    return TripletTerms(
        losses, counts, active, mean(positives, n_pos), mean(negatives, n_neg)
    )


def _all_triplets(pairwise, positives, negatives, margin, soft):
    """Sums over all triplets, one anchor at a time.

    The gradients are summed in the forward pass, so that nothing above
    `[batch, batch]` is kept for the backward one.
    """

    @tf.custom_gradient
    def sums(matrix):
        def anchor(inputs):
            row, is_positive, is_negative = inputs
            near = tf.boolean_mask(row, is_positive)[:, None]
            x = near - row[None, :] + margin
            x = tf.where(is_negative[None, :], x, -float("inf"))
            value = tf.math.softplus(x) if soft else tf.nn.relu(x)
            violated = tf.cast(x > 0, tf.float32)
            gradient = tf.sigmoid(x) if soft else violated
            towards = tf.scatter_nd(
                tf.where(is_positive),
                tf.reduce_sum(gradient, 1),
                tf.shape(row, tf.int64),
            )
            return (
                tf.reduce_sum(value),
                tf.reduce_sum(violated),
                towards - tf.reduce_sum(gradient, 0),
            )

        losses, active, gradients = tf.map_fn(
            anchor,
            (matrix, positives, negatives),
            fn_output_signature=(tf.float32, tf.float32, tf.float32),
        )

        def gradient(d_losses, d_active):
            del d_active  # A count has no gradient.
            return d_losses[:, None] * gradients

        return (losses, active), gradient

    return sums(pairwise)


def _check_reduction(reduction: str, soft: bool) -> None:
    check_choice("reduction", reduction, REDUCTIONS)
    if soft and reduction == "mean_active":
        raise ValueError(
            "`reduction=mean_active` has no meaning with `soft=True`: every "
            "triplet keeps a loss above 0. Use `mean`."
        )
