"""The margin loss: a boundary between near and far, fixed or learned."""

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
    """Keeps positive pairs inside a boundary and negative pairs outside.

    With D the Euclidean distance and `[x]_+ = max(0, x)`, a positive pair
    costs `[alpha + D_ap - beta]_+` and a negative pair costs
    `[alpha + beta - D_an]_+`. The sum is divided by the number of pairs that
    cost more than 0.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats of unit length. Arithmetic is
            float32.
        keys: Embeddings to compare the anchors with, instead of the batch.
        alpha: Euclidean distance that pairs must keep from the boundary.
        beta: The boundary, a Euclidean distance. Either a scalar or
            `[batch]`, one boundary per anchor.
        sampling: "distance_weighted" draws one negative of the anchor for
            each positive pair (`mining.distance_weighted_negatives`) and
            leaves out anchors without a negative. "all" takes every positive
            and every negative pair.

    Returns:
        The value of each row. Metrics: `active` is the share of the sampled
        pairs that cost more than 0; `positive` and `negative` are the mean
        distances of the sampled pairs.

    Raises:
        ValueError: `sampling` is unknown.

    References:
        Wu et al., 2017, "Sampling Matters in Deep Embedding Learning",
        https://arxiv.org/abs/1706.07567.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import margin_loss
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> value = margin_loss(labels, embeddings, sampling="all")
        >>> round(float(tf.reduce_mean(value.values)), 3)
        0.811
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
        # Each positive pair has one negative, stored at the pair's place.
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
    """Holds the learned boundary: one for all products, or one each."""

    def __init__(self, size: int, beta: float, name: str = "boundary"):
        """Creates the variable under the current strategy.

        Args:
            size: Number of boundaries.
            beta: Initial value of each boundary.
            name: Name of the layer.
        """
        super().__init__(name=name)
        self.beta = self.add_weight(
            "beta", [size], initializer=tf.keras.initializers.Constant(beta)
        )
        self.built = True


@tf.keras.utils.register_keras_serializable("tf_triplet")
class MarginLoss(BatchLoss):
    """`margin_loss` as a Keras loss, with a boundary that may be learned.

    A learned boundary is a trainable variable: call `build` before training,
    and train with `tf_triplet.training.Learner`. `has_variables` is
    `learn_beta`, and `loss_at_collapse` is known for a fixed boundary only.

    References:
        Wu et al., 2017, https://arxiv.org/abs/1706.07567.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import MarginLoss
        >>> loss = MarginLoss(learn_beta=False, sampling="all")
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(labels, embeddings)), 3)
        0.811

        With one learned boundary per product:

        >>> loss = MarginLoss(beta_per="product")
        >>> loss.build(products=2, embedding_size=2)
        >>> loss.parameters.beta.shape
        TensorShape([2])
    """

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
        """Creates the loss; `build` creates its variables.

        Args:
            alpha: See `margin_loss`.
            beta: Initial boundary. It stays the same unless `learn_beta`.
            learn_beta: Whether to learn the boundary. The paper uses the
                learning rate 0.1 for it: pass `loss_optimizer` to
                `Learner.compile`.
            beta_per: "all" learns one boundary. "product" learns one per
                product, which applies to the anchors of that product.
            beta_regularization: Weight (the paper's nu) of the mean boundary
                of the batch's rows, which is added to the loss to keep
                boundaries from growing. It is added once, not again for
                keys.
            sampling: See `margin_loss`.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range, or there is a setting
                for learned boundaries without `learn_beta`.
        """
        super().__init__(name=name)
        check_choice("beta_per", beta_per, BETA_PER)
        check_choice("sampling", sampling, SAMPLINGS)
        if not alpha >= 0:
            raise ValueError(f"`alpha` must be at least 0. Received: {alpha}")
        if not 0 < beta < 2:
            raise ValueError(
                "`beta` must be between 0 and 2, the distances of unit "
                f"vectors. Received: {beta}"
            )
        if not beta_regularization >= 0:
            raise ValueError(
                "`beta_regularization` must be at least 0. "
                f"Received: {beta_regularization}"
            )
        if not learn_beta and (beta_per != "all" or beta_regularization):
            raise ValueError(
                "`beta_per=product` and `beta_regularization` have no meaning "
                "with `learn_beta=False`, which keeps the boundary fixed. "
                f"Received: beta_per={beta_per!r}, "
                f"beta_regularization={beta_regularization}. Set "
                "learn_beta=True, or leave both at their defaults."
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
        """`alpha + beta` for a fixed boundary of at least alpha, else None.

        All distances are 0 at a collapse: every negative pair costs
        `alpha + beta`, and positive pairs cost nothing.
        """
        alpha = self._arguments["alpha"]
        if self._learn_beta or self._beta < alpha:
            return None
        return alpha + self._beta

    def build(self, products: int, embedding_size: int) -> None:
        """Creates the boundary, unless it is fixed.

        Args:
            products: Number of products.
            embedding_size: Ignored.
        """
        del embedding_size
        if self._learn_beta:
            size = products if self._beta_per == "product" else 1
            self.parameters = Boundary(size, self._beta)

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Computes `margin_loss` with the boundary of each row.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.
            embeddings: `[batch, dim]` floats of unit length.
            keys: Embeddings to compare the anchors with, instead of the
                batch.

        Returns:
            The value of each row. Metrics: those of `margin_loss`, and
            `beta`, the mean boundary of the batch's rows.

        Raises:
            ValueError: The boundary is learned, but `build` was not called.
            tf.errors.InvalidArgumentError: A label has no boundary.
        """
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
        """Returns `[batch]` boundaries, or a scalar if all share one."""
        if not self._learn_beta:
            return tf.constant(self._beta)
        if self.parameters is None:
            raise ValueError(
                "MarginLoss learns its boundary, which does not exist yet. "
                "Call `build(products, embedding_size)` first, under the "
                "strategy's scope, and train with tf_triplet.Learner; or pass "
                "learn_beta=False."
            )
        beta = tf.convert_to_tensor(self.parameters.beta)
        if self._beta_per == "all":
            return beta[0]
        size = beta.shape[0]
        known = tf.debugging.Assert(
            tf.reduce_all((products >= 0) & (products < size)),
            [
                "MarginLoss with `beta_per=product` was built for products 0 "
                f"to {size - 1}. Build it for all products, or use "
                "beta_per=all. Received labels:",
                products,
            ],
            summarize=16,
        )
        with tf.control_dependencies([known]):
            return tf.gather(beta, products)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            **self._arguments,
            "beta": self._beta,
            "learn_beta": self._learn_beta,
            "beta_per": self._beta_per,
            "beta_regularization": self._beta_regularization,
            "name": self.name,
        }
