"""The loss of an attention ensemble: each learner's own, and their difference.

`divergence` is the function; `EnsembleLoss` adds it to any other loss.
"""

from __future__ import annotations

import itertools

import tensorflow as tf

from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, Keys


def split_learners(embeddings: tf.Tensor, learners: int) -> tf.Tensor:
    """`[batch, M * dim]` of unit length to `[batch, M, dim]`, each of unit
    length, float32."""
    embeddings = tf.cast(embeddings, tf.float32)
    width = embeddings.shape[-1]
    if width is None or width % learners:
        raise ValueError(
            f"`learners` is {learners}, which must divide the embedding's "
            f"width. Received embeddings of shape {embeddings.shape}"
        )
    parts = tf.reshape(embeddings, [-1, learners, width // learners])
    return parts * learners**0.5


def divergence(parts: tf.Tensor, margin: float) -> tf.Tensor:
    """How alike the learners of one image are.

    Args:
        parts: `[batch, M, dim]` floats, M at least 2.
        margin: squared Euclidean distance; unit vectors lie at most 4 apart.

    Returns:
        `[batch]`: the mean over the M (M - 1) / 2 pairs of learners of
        `max(0, margin - |b_i - b_j|^2)`. The paper sums over pairs; with the
        mean a weight means the same for every M.

    References:
        Kim et al., 2018, https://arxiv.org/abs/1804.00382.
    """
    pairs = list(itertools.combinations(range(parts.shape[1]), 2))
    first, second = zip(*pairs)
    # Direct differences: equal learners are exactly 0 apart.
    difference = tf.gather(parts, first, axis=1) - tf.gather(
        parts, second, axis=1
    )
    squared = tf.reduce_sum(tf.square(difference), -1)
    return tf.reduce_mean(tf.nn.relu(margin - squared), -1)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class EnsembleLoss(BatchLoss):
    """A loss of each learner's part, averaged, plus their divergence.

    Each learner has a copy of the loss, with variables of its own: proxies
    shared by all would pull the learners together. Compared with a memory's
    keys, only the copies count; the divergence is of the batch alone.
    """

    def __init__(
        self,
        base: BatchLoss,
        learners: int,
        divergence_margin: float = 1.0,
        divergence_weight: float = 1.0,
        name: str = "ensemble_loss",
    ):
        """Copies `base`.

        Args:
            base: the loss of one learner, as it was constructed.
            learners: M, at least 2; the embedding is M parts of one width.
            divergence_margin: see `divergence`.
            divergence_weight: of the divergence beside the mean loss.
            name: of the loss.
        """
        super().__init__(name=name)
        if learners < 2:
            raise ValueError(
                f"`learners` must be at least 2. Received: {learners}. A "
                "single one is the loss itself."
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
        return self._base.in_pairs

    @property
    def needs_positives(self) -> bool:
        return self._base.needs_positives

    @property
    def takes_keys(self) -> bool:
        return self._base.takes_keys

    @property
    def takes_sides(self) -> bool:
        return self._base.takes_sides

    @property
    def has_variables(self) -> bool:
        return self._base.has_variables

    @property
    def collapse_advice(self) -> tuple[str, ...]:
        return self._base.collapse_advice

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*self._base.metric_names, "divergence")

    @property
    def loss_at_collapse(self) -> float | None:
        """Known without divergence only: when all images are one point,
        the learners may still be several."""
        return None if self._weight else self._base.loss_at_collapse

    def build(self, products: int, embedding_size: int) -> None:
        """Each learner's variables, for its share of the width."""
        for copy in self.copies:
            copy.build(products, embedding_size // len(self.copies))
        own = [c.parameters for c in self.copies if c.parameters is not None]
        if own:
            # A layer tracks the layers that it has as attributes.
            self.parameters = tf.keras.layers.Layer(name="learners")
            self.parameters.learners = own

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Metrics: those of the loss, averaged over learners, and
        `divergence`, the mean over images, unweighted."""
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
        """The constructor's arguments."""
        return {
            "base": tf.keras.utils.serialize_keras_object(self._base),
            "learners": len(self.copies),
            "divergence_margin": self._margin,
            "divergence_weight": self._weight,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> EnsembleLoss:
        """The loss of a `get_config`."""
        base = tf.keras.utils.deserialize_keras_object(config["base"])
        return cls(**{**config, "base": base})


def _copy(base: BatchLoss, learner: int) -> BatchLoss:
    """As it was constructed; proxies that start alike would draw the
    learners together."""
    settings = base.get_config()
    if "seed" in settings:
        settings["seed"] += learner
    return type(base).from_config(settings)
