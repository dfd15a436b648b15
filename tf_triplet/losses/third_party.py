"""Losses of TensorFlow Addons and TensorFlow Similarity, for comparison.

The formulas are used as they are. Only two things change, as for every
`BatchLoss`: arithmetic is float32, and the value of the batch is spread over
its rows, so that N replicas of a `Learner` equal one device. `KNOWN_FAULTS`
lists the faults that remain.

Three losses are not available, because they do not take plain labels and
embeddings: TF Addons' ContrastiveLoss (takes distances of pairs), TF
Similarity's MultiNegativesRankLoss (needs a static batch size) and its XBM (a
memory that every replica fills separately; use `CrossBatchMemory` instead).
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from tf_triplet.losses import mining
from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    split_labels,
)

_ADDONS, _SIMILARITY = "tensorflow_addons", "tensorflow_similarity"


class _Source(NamedTuple):
    """Where a loss comes from, its fixed arguments, and its input.

    Attributes:
        package: Name of the package.
        loss: Name of the class in the package's `losses`.
        arguments: Arguments that this module sets.
        in_pairs: Whether the loss takes the matrix of pairs.
    """

    package: str
    loss: str
    arguments: dict
    in_pairs: bool = False


_HARD = {"negative_mining_strategy": "hard"}
_LOSSES = {
    "tfa_hard": _Source(_ADDONS, "TripletHardLoss", {}),
    "tfa_semihard": _Source(_ADDONS, "TripletSemiHardLoss", {}),
    "tfa_lifted": _Source(_ADDONS, "LiftedStructLoss", {}),
    "tfa_npairs": _Source(_ADDONS, "NpairsLoss", {}, in_pairs=True),
    "tfsim_triplet": _Source(_SIMILARITY, "TripletLoss", {}),
    "tfsim_triplet_hard": _Source(_SIMILARITY, "TripletLoss", _HARD),
    "tfsim_multisim": _Source(_SIMILARITY, "MultiSimilarityLoss", {}),
    "tfsim_circle": _Source(_SIMILARITY, "CircleLoss", {}),
    "tfsim_pn": _Source(_SIMILARITY, "PNLoss", {}),
    "tfsim_soft_nn": _Source(_SIMILARITY, "SoftNearestNeighborLoss", {}),
}
THIRD_PARTY_LOSSES = tuple(_LOSSES)
# The losses whose batches must consist of pairs (`BatchLoss.in_pairs`).
PAIRED = tuple(name for name, loss in _LOSSES.items() if loss.in_pairs)

_SCALING = (
    "With plain compile and N replicas, its steps are N times too long, "
    "because it returns a scalar with Reduction.NONE; Learner corrects that. "
)
_CUBIC = "It builds a [B^2, B] tensor, which takes 4.3 GB at B = 1,024. "
_NO_NEGATIVE = (
    "An anchor without a negative takes the distance of a positive instead, "
    "which gives a loss and gradients from nothing. "
)
_LONE = (
    "A row without a positive is counted: its nearest row (itself) takes the "
    "place of the positive, and the row is pushed away from its negatives. "
)
KNOWN_FAULTS: dict[str, str] = {
    "tfa_hard": _SCALING
    + _LONE
    + "A row without a negative costs the margin. soft=True overflows for "
    "distances above 88.",
    "tfa_semihard": _SCALING
    + _CUBIC
    + "A batch without a positive pair is NaN. "
    + _NO_NEGATIVE,
    "tfa_lifted": _SCALING
    + _CUBIC
    + "A batch without a positive pair, or without a negative, is NaN.",
    "tfa_npairs": "With plain compile Keras makes labels a column, for which "
    "the loss is NaN; here it gets them flat. It uses inner products as "
    "logits, which lie in [-1, 1] for unit vectors: n products cost at least "
    "log(1 + (n - 1) / e^2), even if every answer is perfect.",
    "tfsim_triplet": _LONE + _NO_NEGATIVE,
    "tfsim_triplet_hard": _LONE + "A row without a negative costs the margin.",
    "tfsim_circle": "It adds the logarithms of the two sums, where the paper "
    "takes the logarithm of one of their product, and gradients flow into its "
    "weights, which the paper holds constant.",
    "tfsim_pn": _LONE + _NO_NEGATIVE,
    "tfsim_soft_nn": "If every other row is far from an anchor (squared "
    "distance above about 100 times the temperature), it is 0 / 0: NaN.",
}


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ThirdPartyLoss(BatchLoss):
    """A loss of TensorFlow Addons or TensorFlow Similarity, by name.

    The loss scores the whole batch with its own formula, margin and distance,
    and keeps its faults: a warning names those in `KNOWN_FAULTS`. Embeddings
    should be of unit length, as all of these losses except tfa_lifted and
    tfa_npairs require. Labels with sides raise an error. `in_pairs` depends
    on the name; `PAIRED` lists the names for which it is True.

    References:
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (tfa_hard,
        tfsim_triplet_hard); Schroff et al., 2015,
        https://arxiv.org/abs/1503.03832 (tfa_semihard, tfsim_triplet); Song
        et al., 2016, https://arxiv.org/abs/1511.06452 (tfa_lifted); Wang et
        al., 2019, https://arxiv.org/abs/1904.06627 (tfsim_multisim); Sun et
        al., 2020, https://arxiv.org/abs/2002.10857 (tfsim_circle); Frosst et
        al., 2019, https://arxiv.org/abs/1902.01889 (tfsim_soft_nn).

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ThirdPartyLoss
        >>> loss = ThirdPartyLoss("tfa_hard", margin=0.2)
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]
        ... )
        >>> round(float(loss(labels, embeddings)), 3)
        0.275
    """

    takes_sides = False

    def __init__(self, name: str, **arguments: Any):
        """Imports the package, which takes seconds, and creates its loss.

        Args:
            name: One of `THIRD_PARTY_LOSSES`. tfa_npairs receives the inner
                products of queries (rows 2i) and positives (rows 2i + 1).
            **arguments: Arguments of the package's class, such as margin,
                distance, soft, gamma or temperature. See its documentation.

        Raises:
            ValueError: The name or an argument is unknown, the class rejects
                an argument, or the package is missing.
        """
        if name not in _LOSSES:
            raise ValueError(
                f"`name` must be one of {', '.join(THIRD_PARTY_LOSSES)}. "
                f"Received: {name!r}"
            )
        super().__init__(name=name)
        chosen = _LOSSES[name]
        kind = getattr(_losses_of(chosen.package), chosen.loss)
        accepted = _accepted(kind)
        # The classes silently ignore unknown arguments.
        unknown = sorted(set(arguments) - set(accepted))
        if unknown:
            raise ValueError(
                f"{name} has no argument {', '.join(unknown)}. It accepts: "
                f"{', '.join(accepted) or 'none'}."
            )
        try:
            theirs = kind(**{**chosen.arguments, **arguments})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{chosen.package}'s {chosen.loss} rejects the arguments "
                f"{arguments}: {error}"
            ) from error
        # TF Similarity branches on tensors, which needs tf.function. `call`
        # skips the reduction of `__call__`, which differs between the losses
        # and may depend on the number of replicas.
        self._score = tf.function(theirs.call)
        self.in_pairs = chosen.in_pairs
        self._arguments = arguments
        if name in KNOWN_FAULTS:
            logging.warning(
                "%s has known faults: %s", name, KNOWN_FAULTS[name].strip()
            )

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Computes the package's loss.

        Args:
            labels: `[batch]` or `[batch, 1]` integers.
            embeddings: `[batch, dim]` floats.
            keys: Must be None.

        Returns:
            The mean of the loss, the same in every row. No metrics.

        Raises:
            ValueError: The labels have sides, or there are keys.
            tf.errors.InvalidArgumentError: The loss needs pairs, but rows 2i
                and 2i + 1 are of different products.
        """
        if keys is not None:
            raise ValueError(
                f"{self.name} compares within the batch only, so it takes no "
                "`keys`. Train without a memory, or use TripletLoss."
            )
        products, sides = split_labels(labels)
        if sides is not None:
            raise ValueError(
                f"{self.name} does not support sides: labels must be [batch] "
                f"products. Received labels of shape {labels.shape}. Pool the "
                "domains (sampling.pool_domains), or use TripletLoss."
            )
        vectors = tf.cast(embeddings, tf.float32)
        scored = products, vectors
        if self.in_pairs:
            scored = _as_matrix(products, vectors)
        value = tf.reduce_mean(self._score(*scored))
        return BatchValue(tf.fill([tf.shape(vectors)[0]], value), {})

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"name": self.name, **self._arguments}


def _as_matrix(products, vectors) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `[pairs]` products and `[pairs, pairs]` inner products."""
    with tf.control_dependencies([mining.assert_pairs(products)]):
        queries = tf.identity(products[::2])
    return queries, tf.matmul(vectors[::2], vectors[1::2], transpose_b=True)


def _accepted(kind: type) -> list[str]:
    """Returns the names of the arguments that affect the formula."""
    parameters = inspect.signature(kind.__init__).parameters
    reserved = {"self", "name", "reduction", "kwargs"}
    return [name for name in parameters if name not in reserved]


def _losses_of(package: str):
    """Imports the `losses` module of a package."""
    try:
        if package == _ADDONS:
            import tensorflow_addons as module
        else:
            import tensorflow_similarity as module
        return module.losses
    except ImportError as error:
        raise ValueError(
            f"The losses of {package} need that package. Install it with: "
            f"pip install {package.replace('_', '-')}. Received: {error}"
        ) from error
