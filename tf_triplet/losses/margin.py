"""The margin loss: a boundary between near and far that may be learned."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import mining, pairs
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    batch_seed,
    check_choice,
    per_row,
    split_labels,
)

SAMPLINGS = ("distance_weighted", "all")
BETA_PER = ("all", "product")


def margin_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    alpha: float = 0.2,
    beta: float | tf.Tensor = 1.2,
    sampling: str = "distance_weighted",
) -> BatchValue:
    """`[alpha + D_ap - beta]_+` and `[alpha + beta - D_an]_+`, summed and
    divided by the number of pairs above 0.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats of unit length; arithmetic is
            float32.
        keys: compared with in place of the batch.
        alpha: Euclidean distance that pairs keep from the boundary.
        beta: the boundary, a Euclidean distance; a scalar, or `[batch]`:
            each anchor's.
        sampling: "distance_weighted": for each positive pair one negative
            of the anchor, drawn by `mining.distance_weighted_negatives`; an
            anchor without negative is left out. "all": every positive and
            every negative pair, where a pair needs nothing beside itself.

    Returns:
        `BatchValue`. Its metrics: `active`, the share of the pairs used
        that have a loss; `positive` and `negative`, mean distances of the
        pairs used.

    References:
        Wu et al., 2017, "Sampling Matters in Deep Embedding Learning",
        https://arxiv.org/abs/1706.07567.
    """
    check_choice("sampling", sampling, SAMPLINGS)
    positives, negatives = mining.pair_masks(labels, keys)
    d_ap = d_an = pairs.pairwise(embeddings, "euclidean", keys)
    if sampling == "distance_weighted":
        positives &= tf.reduce_any(negatives, -1, keepdims=True)
        chosen = mining.distance_weighted_negatives(
            tf.stop_gradient(d_ap),
            negatives,
            tf.shape(embeddings)[-1],
            batch_seed(split_labels(labels)[0]),
        )
        d_an = tf.gather(d_ap, chosen, batch_dims=1)
        # One negative a positive pair, at that pair's place.
        negatives = positives
    beta = tf.convert_to_tensor(beta, tf.float32)
    if beta.shape.rank == 1:
        beta = beta[:, None]
    pulls = tf.nn.relu(alpha + d_ap - beta)
    pushes = tf.nn.relu(alpha + beta - d_an)
    totals = pairs.row_sums(pulls, positives)
    totals += pairs.row_sums(pushes, negatives)
    active = pairs.count(positives & (pulls > 0))
    active += pairs.count(negatives & (pushes > 0))
    used = pairs.count(positives) + pairs.count(negatives)
    values = per_row(totals, active, tf.shape(d_ap)[0])
    metrics = {
        "active": active / tf.maximum(used, 1.0),
        "positive": pairs.mean(d_ap, positives),
        "negative": pairs.mean(d_an, negatives),
    }
    return BatchValue(values, tf.nest.map_structure(tf.stop_gradient, metrics))


class Boundary(tf.keras.layers.Layer):
    """Holds the learned beta: one, or one a product."""

    def __init__(self, size: int, beta: float, name: str = "boundary"):
        """Makes the variable, under the current strategy.

        Args:
            size: how many.
            beta: their first value.
            name: of the layer.
        """
        super().__init__(name=name)
        self.beta = self.add_weight(
            "beta", [size], initializer=tf.keras.initializers.Constant(beta)
        )
        self.built = True


@tf.keras.utils.register_keras_serializable("tf_triplet")
class MarginLoss(BatchLoss):
    """`margin_loss`, with a boundary of its own to learn."""

    takes_keys = True
    metric_names = (*pairs.METRICS, "beta")

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 1.2,
        learn_beta: bool = True,
        beta_per: str = "all",
        beta_regularization: float = 0.0,
        sampling: str = "distance_weighted",
        name: str = "margin_loss",
    ):
        """See `margin_loss`; besides:

        Args:
            alpha: as there.
            beta: where the boundary starts, or stays.
            learn_beta: whether it moves; then call `build` first, and give
                `Learner` an optimizer that steps it (the paper: rate 0.1).
            beta_per: one boundary for "all", or one per "product" (the
                anchor's).
            beta_regularization: nu; adds nu times the mean boundary of the
                batch's rows, which keeps boundaries from growing. Not a
                second time for keys.
            sampling: as there.
            name: of the loss.
        """
        super().__init__(name=name)
        check_choice("beta_per", beta_per, BETA_PER)
        check_choice("sampling", sampling, SAMPLINGS)
        if not alpha >= 0:
            raise ValueError(f"`alpha` must be at least 0. Received: {alpha}")
        if not 0 < beta < 2:
            raise ValueError(
                "`beta` is a distance of unit vectors, between 0 and 2. "
                f"Received: {beta}"
            )
        if not beta_regularization >= 0:
            raise ValueError(
                "`beta_regularization` must be at least 0. "
                f"Received: {beta_regularization}"
            )
        if not learn_beta and (beta_per != "all" or beta_regularization):
            raise ValueError(
                "`beta_per=product` and `beta_regularization` have no meaning "
                "with `learn_beta=False`: the boundary does not move. "
                f"Received: beta_per={beta_per!r}, "
                f"beta_regularization={beta_regularization}"
            )
        self._arguments = {"alpha": float(alpha), "sampling": sampling}
        self._beta, self._learn_beta = float(beta), bool(learn_beta)
        self._beta_per = beta_per
        self._beta_regularization = float(beta_regularization)

    @property
    def has_variables(self) -> bool:
        """Whether the boundary is learned."""
        return self._learn_beta

    @property
    def loss_at_collapse(self) -> float | None:
        """Only of a fixed boundary: every negative pair, and no positive
        one, has a loss then."""
        alpha = self._arguments["alpha"]
        if self._learn_beta or self._beta < alpha:
            return None
        return alpha + self._beta

    def build(self, products: int, embedding_size: int) -> None:
        """Makes the boundary, unless it is fixed."""
        del embedding_size
        if self._learn_beta:
            size = products if self._beta_per == "product" else 1
            self.parameters = Boundary(size, self._beta)

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """See `margin_loss`; the metric `beta` is the mean boundary of the
        batch's rows."""
        products, _ = split_labels(labels)
        beta = self._boundaries(products)
        value = margin_loss(
            labels, embeddings, keys=keys, beta=beta, **self._arguments
        )
        mean_beta = tf.reduce_mean(beta)
        values = value.values
        if keys is None and self._beta_regularization:
            values += self._beta_regularization * mean_beta
        metrics = {**value.metrics, "beta": tf.stop_gradient(mean_beta)}
        return BatchValue(values, metrics)

    def _boundaries(self, products) -> tf.Tensor:
        """`[batch]`, or a scalar where it is one for all."""
        if not self._learn_beta:
            return tf.constant(self._beta)
        if self.parameters is None:
            raise ValueError(
                "MarginLoss learns its boundary: call build(products, "
                "embedding_size) first, under the strategy's scope, and train "
                "with tf_triplet.Learner; or pass learn_beta=False."
            )
        beta = tf.convert_to_tensor(self.parameters.beta)
        if self._beta_per == "all":
            return beta[0]
        size = beta.shape[0]
        known = tf.debugging.Assert(
            tf.reduce_all((products >= 0) & (products < size)),
            [
                "MarginLoss with `beta_per=product` was built for products 0 "
                f"to {size - 1}. Build it for all, or use beta_per=all. "
                "Received labels:",
                products,
            ],
            summarize=16,
        )
        with tf.control_dependencies([known]):
            return tf.gather(beta, products)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {
            **self._arguments,
            "beta": self._beta,
            "learn_beta": self._learn_beta,
            "beta_per": self._beta_per,
            "beta_regularization": self._beta_regularization,
            "name": self.name,
        }
