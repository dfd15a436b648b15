"""The loss of an ensemble: a loss per learner plus a divergence term.

The learners of an attention ensemble are parts of one embedding. The
divergence term (`divergence`) pushes the learners of an image apart, so that
they do not all learn the same. `EnsembleLoss` adds it to any other loss.
"""

from __future__ import annotations

import itertools

import tensorflow as tf

from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, Keys


def split_learners(embeddings: tf.Tensor, learners: int) -> tf.Tensor:
    """Splits embeddings into the parts of their learners.

    Args:
        embeddings: `[batch, M * dim]` floats of unit length, whose M parts
            are equally long.
        learners: M.

    Returns:
        `[batch, M, dim]` float32, each part of unit length.

    Raises:
        ValueError: `learners` does not divide the width.
    """
    embeddings = tf.cast(embeddings, tf.float32)
    width = embeddings.shape[-1]
    if width is None or width % learners:
        raise ValueError(
            "`learners` must divide the width of the embeddings. Received: "
            f"learners={learners}, embeddings of shape {embeddings.shape}"
        )
    parts = tf.reshape(embeddings, [-1, learners, width // learners])
    return parts * learners**0.5


def divergence(parts: tf.Tensor, margin: float) -> tf.Tensor:
    """Measures how alike the learners of each image are.

    The value is the mean of `max(0, margin - |b_i - b_j|²)` over the
    M (M - 1) / 2 pairs of learners. The paper sums over the pairs; the mean
    gives a weight the same meaning for every M.

    Args:
        parts: `[batch, M, dim]` floats, M at least 2.
        margin: Squared Euclidean distance. That of unit vectors is at most
            4.

    Returns:
        `[batch]` values, 0 where all learners are at least the margin apart.

    References:
        Kim et al., 2018, https://arxiv.org/abs/1804.00382.
    """
    pairs = list(itertools.combinations(range(parts.shape[1]), 2))
    first, second = zip(*pairs)
    # With direct differences, equal learners are exactly 0 apart.
    difference = tf.gather(parts, first, axis=1) - tf.gather(
        parts, second, axis=1
    )
    squared = tf.reduce_sum(tf.square(difference), -1)
    return tf.reduce_mean(tf.nn.relu(margin - squared), -1)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class EnsembleLoss(BatchLoss):
    """Averages a loss over the learners and adds their divergence.

    Each learner has its own copy of the loss, with separate variables:
    shared proxies would pull the learners together. When the anchors are
    compared with the keys of a memory, only the copies of the loss count,
    because the divergence does not depend on the keys.

    `loss_at_collapse` is known without divergence only: when the embeddings
    of all images are equal, the learners may still differ. All other
    attributes of the contract are those of the base loss.

    References:
        Kim et al., 2018, https://arxiv.org/abs/1804.00382.

    Example:
        Two learners of width 2 that agree cost the whole divergence margin:

        >>> import tensorflow as tf
        >>> from tf_triplet.losses import EnsembleLoss, TripletLoss
        >>> loss = EnsembleLoss(TripletLoss(margin=0.1), learners=2)
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> parts = tf.constant([[1.0, 0], [1, 0], [0, 1], [0, 1]]) / 2**0.5
        >>> embeddings = tf.concat([parts, parts], axis=1)
        >>> round(float(loss(labels, embeddings)), 3)
        1.0
    """

    def __init__(
        self,
        base: BatchLoss,
        learners: int,
        divergence_margin: float = 1.0,
        divergence_weight: float = 1.0,
        name: str = "ensemble_loss",
    ):
        """Copies the base loss for each learner.

        Args:
            base: The loss of one learner. Its arguments are copied, its
                variables are not.
            learners: Number of learners M, at least 2. It must divide the
                width of the embeddings.
            divergence_margin: Margin of `divergence`, a squared Euclidean
                distance.
            divergence_weight: Weight of the divergence. The mean loss of
                the learners has weight 1.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(name=name)
        if learners < 2:
            raise ValueError(
                f"`learners` must be at least 2. Received: {learners}. For a "
                "single learner use the base loss itself."
            )
        for field, value in (
            ("divergence_margin", divergence_margin),
            ("divergence_weight", divergence_weight),
        ):
            if not value >= 0:
                raise ValueError(
                    f"`{field}` must be at least 0. Received: {value}"
                )
        self._base = base
        self._margin = float(divergence_margin)
        self._weight = float(divergence_weight)
        self.copies = [_copy(base, i) for i in range(learners)]

    @property
    def in_pairs(self) -> bool:
        """Whether the base loss needs batches of pairs."""
        return self._base.in_pairs

    @property
    def needs_positives(self) -> bool:
        """Whether the base loss needs positives in the batch."""
        return self._base.needs_positives

    @property
    def needs_negatives(self) -> bool:
        """Whether the base loss needs negatives in the batch."""
        return self._base.needs_negatives

    @property
    def takes_keys(self) -> bool:
        """Whether the base loss accepts `keys`."""
        return self._base.takes_keys

    @property
    def takes_sides(self) -> bool:
        """Whether the base loss accepts labels with sides."""
        return self._base.takes_sides

    @property
    def has_variables(self) -> bool:
        """Whether the base loss has trainable variables."""
        return self._base.has_variables

    @property
    def collapse_advice(self) -> tuple[str, ...]:
        """The advice of the base loss."""
        return self._base.collapse_advice

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the base loss, and `divergence`."""
        return (*self._base.metric_names, "divergence")

    @property
    def loss_at_collapse(self) -> float | None:
        """That of the base loss if the divergence has no weight, else None."""
        return None if self._weight else self._base.loss_at_collapse

    def build(self, products: int, embedding_size: int) -> None:
        """Creates the variables of each learner, for its part of the width.

        Args:
            products: Number of products.
            embedding_size: Width of the whole embeddings.
        """
        for copy in self.copies:
            copy.build(products, embedding_size // len(self.copies))
        own = [c.parameters for c in self.copies if c.parameters is not None]
        if own:
            # A Keras layer tracks the layers among its attributes.
            self.parameters = tf.keras.layers.Layer(name="learners")
            self.parameters.learners = own

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Averages the losses of the learners and adds the divergence.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.
            embeddings: `[batch, M * dim]` floats of unit length.
            keys: Embeddings to compare the anchors with, instead of the
                batch.

        Returns:
            The value of each row. The metrics are those of the base loss,
            averaged over the learners, and `divergence`, its unweighted mean
            over the images.

        Raises:
            ValueError: The number of learners does not divide the width.
        """
        learners = len(self.copies)
        parts = split_learners(embeddings, learners)
        key_parts = [None] * learners
        if keys is not None:
            split = split_learners(keys.embeddings, learners)
            key_parts = [
                keys._replace(embeddings=split[:, i]) for i in range(learners)
            ]
        found = [
            copy.compute(labels, parts[:, i], key_parts[i])
            for i, copy in enumerate(self.copies)
        ]
        values = tf.add_n([one.values for one in found]) / learners
        apart = divergence(parts, self._margin)
        if keys is None:
            values += self._weight * apart
        metrics = {
            name: tf.add_n([one.metrics[name] for one in found]) / learners
            for name in self._base.metric_names
        }
        metrics["divergence"] = tf.stop_gradient(tf.reduce_mean(apart))
        return BatchValue(values, metrics)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "base": tf.keras.utils.serialize_keras_object(self._base),
            "learners": len(self.copies),
            "divergence_margin": self._margin,
            "divergence_weight": self._weight,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> EnsembleLoss:
        """Creates the loss from the result of `get_config`."""
        base = tf.keras.utils.deserialize_keras_object(config["base"])
        return cls(**{**config, "base": base})


def _copy(base: BatchLoss, learner: int) -> BatchLoss:
    """Copies a loss without its variables, and gives it another seed.

    Proxies with equal initial values would draw the learners together.
    """
    settings = base.get_config()
    if "seed" in settings:
        settings["seed"] += learner
    return type(base).from_config(settings)
