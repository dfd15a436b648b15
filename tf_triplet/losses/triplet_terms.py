"""Mines the triplets of a batch and computes the loss of each anchor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_triplet.losses import distances
from tf_triplet.losses import mining as miners
from tf_triplet.losses.batch_loss import (
    Keys,
    batch_seed,
    check_choice,
    split_labels,
)

MININGS = ("paper", "random", "batch_hard", "batch_all", "semi_hard")
# Minings that need `BatchLoss.in_pairs` batches.
PAIRED = ("paper", "random")
FALLBACKS = ("easiest", "skip")


class TripletTerms(NamedTuple):
    """Sums and means over the triplets of each anchor, all float32.

    Attributes:
        losses: `[batch]` sums of the losses.
        counts: `[batch]` numbers of valid triplets, 0 for an anchor without
            a positive or a negative.
        active: `[batch]` numbers of triplets that violate the margin.
        positive_distances: `[batch]` mean distances to the positives used.
        negative_distances: `[batch]` mean distances to the negatives used.
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
    selective: bool = False,
) -> TripletTerms:
    """Mines triplets and computes the loss of each anchor.

    The minings are:

    - "paper": rows 2i and 2i + 1 are a query and its positive. Only queries
      are anchors, and the negative is the nearest row of another product.
    - "random": like "paper", but the negative is any row of another product,
      drawn with a seed that depends on the labels.
    - "batch_hard": the farthest positive and the nearest negative.
    - "batch_all": every triplet.
    - "semi_hard": for each positive, the nearest negative that is farther
      away than the positive.

    Args:
        labels: `[batch]` or `[batch, 1]` integer products, or `[batch, 2]`
            products and sides. With sides, whatever the mining, only rows of
            side 0 (street images, say) are anchors, and only rows of side 1
            (shop images) are their positives and negatives.
        embeddings: `[batch, dim]` floats. Arithmetic is float32.
        keys: Embeddings that positives and negatives are taken from, instead
            of the batch. The positive of a pair still comes from the batch,
            and `count_lone_anchors` has no effect.
        mining: One of the above.
        margin: Margin in units of `distance`.
        soft: Whether to use `softplus(d_ap - d_an + margin)` instead of the
            hinge. The soft margin of Hermans et al. is `margin=0, soft=True`.
        distance: "cosine" (1 - s), "euclidean" or "squared_euclidean".
        semi_hard_fallback: What to do when no negative is semi-hard: take the
            "easiest" (farthest) negative, as TensorFlow Addons does, or
            "skip" the pair.
        count_lone_anchors: Whether "batch_hard" counts an anchor without a
            positive as its own positive, as TensorFlow Addons does. Otherwise
            such an anchor is left out.
        selective: Whether a triplet whose negative is nearer than its
            positive only pushes the negative away. Its loss has the same
            value, without a gradient of the distance to the positive. When
            all embeddings are near, both gradients together move anchor and
            negative in the same direction, which ends in a collapse. Not for
            "batch_all".

    Returns:
        The sums of each anchor.

    Raises:
        ValueError: `mining`, `distance` or `semi_hard_fallback` is unknown,
            or `selective` is given with "batch_all".
        tf.errors.InvalidArgumentError: The mining needs pairs, but rows 2i
            and 2i + 1 are of different products.

    References:
        Dodds et al., 2018, https://arxiv.org/abs/1810.04652 (paper);
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (batch hard,
        batch all, soft margin); Schroff et al., 2015,
        https://arxiv.org/abs/1503.03832 (semi-hard); Xuan et al., 2020,
        https://arxiv.org/abs/2007.12749 (selective, with a weight of 1).
    """
    check_selective(mining, selective)
    check_choice("mining", mining, MININGS)
    check_choice("semi_hard_fallback", semi_hard_fallback, FALLBACKS)
    positives, negatives = miners.pair_masks(labels, keys)
    products, _ = split_labels(labels)
    vectors = distances.prepare(embeddings, distance)
    others = None
    if keys is not None:
        others = distances.prepare(tf.stop_gradient(keys.embeddings), distance)
    hinge = functools.partial(
        _hinge, margin=margin, soft=soft, selective=selective
    )
    if mining in ("batch_all", "semi_hard"):
        squared = _squared_distances(vectors, others)
        if mining == "batch_all":
            pairwise = distances.from_squared(squared, distance)
            return _batch_all(positives, negatives, pairwise, margin, soft)
        return _semi_hard(
            positives, negatives, squared, distance, hinge, semi_hard_fallback
        )
    squared = _squared_distances(tf.stop_gradient(vectors), others)
    if mining == "random":
        seed = batch_seed(products)
        negative, has_negative = miners.random_negative(negatives, seed)
    else:
        negative, has_negative = miners.hardest_negative(squared, negatives)
    candidates = vectors if others is None else others
    if mining in PAIRED:
        positive, has_positive = _own_positive(products)
        near = tf.gather(vectors, positive)
    else:
        positive, has_positive = miners.hardest_positive(squared, positives)
        if others is None:
            own = tf.range(tf.shape(products)[0], dtype=positive.dtype)
            positive = tf.where(has_positive, positive, own)
            has_positive |= count_lone_anchors
        near = _gather(candidates, positive)
    # Only the gathered rows are differentiated, which needs O(batch * dim)
    # memory, and direct differences keep their precision.
    d_ap = distances.between(vectors, near, distance)
    d_an = distances.between(vectors, _gather(candidates, negative), distance)
    return _one_per_anchor(d_ap, d_an, hinge, has_positive & has_negative)


def check_selective(mining: str, selective: bool) -> None:
    """Raises a ValueError if the mining cannot be selective."""
    if selective and mining == "batch_all":
        raise ValueError(
            "`selective` is for a mining that takes one negative for each "
            "positive. Received: `mining=batch_all`. Set mining=batch_hard, or "
            "selective=False."
        )


def _hinge(
    positive: tf.Tensor,
    negative: tf.Tensor,
    margin: float,
    soft: bool,
    selective: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the losses, and booleans: whether they violate the margin."""
    if selective:
        fixed = tf.stop_gradient(positive)
        positive = tf.where(negative < positive, fixed, positive)
    x = positive - negative + margin
    return tf.math.softplus(x) if soft else tf.nn.relu(x), x > 0


def _squared_distances(vectors: tf.Tensor, others: tf.Tensor | None):
    """Compares the batch with itself, or with others if there are any."""
    if others is None:
        return distances.squared_pairwise(vectors)
    return distances.squared_between(vectors, others)


def _own_positive(products) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the row after each row, and whether the row is a query."""
    rows = tf.range(tf.shape(products)[0])
    with tf.control_dependencies([miners.assert_pairs(products)]):
        is_query = rows % 2 == 0
    return tf.minimum(rows + 1, tf.shape(products)[0] - 1), is_query


def _gather(vectors, rows) -> tf.Tensor:
    """Gathers rows. Where nothing was found, the index is one too large."""
    return tf.gather(
        vectors, tf.minimum(rows, tf.shape(vectors, rows.dtype)[0] - 1)
    )


def _one_per_anchor(
    d_ap: tf.Tensor, d_an: tf.Tensor, hinge: Callable, valid: tf.Tensor
) -> TripletTerms:
    """Computes the terms of one triplet per anchor; all inputs `[batch]`."""
    losses, active = hinge(d_ap, d_an)
    counts = tf.cast(valid, tf.float32)
    return TripletTerms(
        tf.where(valid, losses, 0.0),
        counts,
        tf.cast(valid & active, tf.float32),
        tf.where(valid, d_ap, 0.0),
        tf.where(valid, d_an, 0.0),
    )


def _semi_hard(
    positives, negatives, squared, distance, hinge: Callable, fallback
) -> TripletTerms:
    """Computes the terms of one negative per anchor and positive."""
    chosen, found = miners.semi_hard_negatives(
        tf.stop_gradient(squared), negatives
    )
    valid = positives & tf.reduce_any(negatives, -1, keepdims=True)
    if fallback == "skip":
        valid &= found
    pairwise = distances.from_squared(squared, distance)
    d_an = tf.gather(pairwise, chosen, batch_dims=1)
    losses, active = hinge(pairwise, d_an)

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
    """Computes the terms of every triplet."""
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
    """Sums losses and violations over all triplets of each anchor.

    The anchors are handled one at a time. The gradients are summed in the
    forward pass already, so that nothing larger than `[batch, batch]` is kept
    for the backward pass.
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
