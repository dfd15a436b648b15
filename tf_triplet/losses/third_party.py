"""Losses of TF Addons and TF Similarity, to compare with as they are.

Nothing of theirs is mended but what this package's base mends for every
loss: arithmetic is float32, and the batch is one value spread over its rows,
so that N replicas of a `Learner` equal one device. `KNOWN_FAULTS` tells what
stays wrong. Not here, because they take no plain labels and embeddings: TF
Addons' ContrastiveLoss (distances of pairs, with negative ones), TF
Similarity's MultiNegativesRankLoss (needs a static batch) and XBM (a memory
that every replica fills on its own; use `CrossBatchMemory`).
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from tf_triplet.losses import mining
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, split_labels

_ADDONS, _SIMILARITY = "tensorflow_addons", "tensorflow_similarity"


class _Foreign(NamedTuple):
    """Where a loss is, what we set, and whether it is fed pairs."""

    package: str
    loss: str
    arguments: dict
    in_pairs: bool = False


_HARD = {"negative_mining_strategy": "hard"}
_FOREIGN = {
    "tfa_hard": _Foreign(_ADDONS, "TripletHardLoss", {}),
    "tfa_semihard": _Foreign(_ADDONS, "TripletSemiHardLoss", {}),
    "tfa_lifted": _Foreign(_ADDONS, "LiftedStructLoss", {}),
    "tfa_npairs": _Foreign(_ADDONS, "NpairsLoss", {}, in_pairs=True),
    "tfsim_triplet": _Foreign(_SIMILARITY, "TripletLoss", {}),
    "tfsim_triplet_hard": _Foreign(_SIMILARITY, "TripletLoss", _HARD),
    "tfsim_multisim": _Foreign(_SIMILARITY, "MultiSimilarityLoss", {}),
    "tfsim_circle": _Foreign(_SIMILARITY, "CircleLoss", {}),
    "tfsim_pn": _Foreign(_SIMILARITY, "PNLoss", {}),
    "tfsim_soft_nn": _Foreign(_SIMILARITY, "SoftNearestNeighborLoss", {}),
}
FOREIGN_LOSSES = tuple(_FOREIGN)
# The losses whose batches must consist of pairs (`BatchLoss.in_pairs`).
PAIRED = tuple(name for name, loss in _FOREIGN.items() if loss.in_pairs)

_SCALING = (
    "Under plain compile its steps on N replicas are N times too long "
    "(a scalar with Reduction.NONE); Learner mends that. "
)
_CUBIC = "It tiles [B^2, B]: 4.3 GB a tensor at B = 1,024. "
_NO_NEGATIVE = (
    "Without a negative it takes a positive's distance for one: a loss and "
    "gradients from nothing. "
)
_LONE = (
    "A row without a positive is counted, as if the nearest row (itself) were "
    "one, and pushed away. "
)
KNOWN_FAULTS: dict[str, str] = {
    "tfa_hard": _SCALING
    + _LONE
    + "Without a negative it costs the margin. soft=True overflows for "
    "distances above 88.",
    "tfa_semihard": _SCALING
    + _CUBIC
    + "A batch without a positive pair is NaN. "
    + _NO_NEGATIVE,
    "tfa_lifted": _SCALING
    + _CUBIC
    + "A batch without a positive pair, or without a negative, is NaN.",
    "tfa_npairs": "Under plain compile Keras makes labels a column, of which "
    "it makes NaN; here it gets them flat. It takes inner products for "
    "logits, which on unit vectors lie in [-1, 1]: n products cost at least "
    "log(1 + (n - 1) / e^2), however good.",
    "tfsim_triplet": _LONE + _NO_NEGATIVE,
    "tfsim_triplet_hard": _LONE + "Without a negative it costs the margin.",
    "tfsim_circle": "It adds the logarithms of the two sums, where the paper "
    "takes one of their product, and its weights have gradients, where the "
    "paper holds them constant.",
    "tfsim_pn": _LONE + _NO_NEGATIVE,
    "tfsim_soft_nn": "Where every other row of an anchor is far (squared "
    "distance above about 100 times the temperature), it is 0 / 0: NaN.",
}


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ThirdPartyLoss(BatchLoss):
    """A loss of TF Addons or TF Similarity, by name.

    Their own formulas, margins and distances apply, over the whole batch,
    and so do their faults: see `KNOWN_FAULTS`, from which this logs a
    warning. Embeddings should be of unit length, as all of them but
    tfa_lifted and tfa_npairs say. Labels with sides are refused.

    References:
        Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (tfa_hard,
        tfsim_triplet_hard); Schroff et al., 2015,
        https://arxiv.org/abs/1503.03832 (tfa_semihard, tfsim_triplet); Song
        et al., 2016, https://arxiv.org/abs/1511.06452 (tfa_lifted); Wang et
        al., 2019, https://arxiv.org/abs/1904.06627 (tfsim_multisim); Sun et
        al., 2020, https://arxiv.org/abs/2002.10857 (tfsim_circle); Frosst et
        al., 2019, https://arxiv.org/abs/1902.01889 (tfsim_soft_nn).
    """

    takes_sides = False

    def __init__(self, name: str, **arguments):
        """Imports the package, which takes seconds, and makes its loss.

        Args:
            name: one of `FOREIGN_LOSSES`. tfa_npairs is fed the inner
                products of queries (rows 2i) and positives (rows 2i + 1).
            **arguments: for the foreign class, as its documentation says
                (margin, distance, soft, gamma, temperature, ...).

        Raises:
            ValueError: no such name or argument, or the package is missing.
        """
        if name not in _FOREIGN:
            raise ValueError(
                f"`name` must be one of {', '.join(FOREIGN_LOSSES)}. "
                f"Received: {name!r}"
            )
        super().__init__(name=name)
        chosen = _FOREIGN[name]
        kind = getattr(_losses_of(chosen.package), chosen.loss)
        accepted = _accepted(kind)
        # Theirs swallow what they do not know.
        unknown = sorted(set(arguments) - set(accepted))
        if unknown:
            raise ValueError(
                f"{name} has no argument {', '.join(unknown)}. It takes: "
                f"{', '.join(accepted) or 'none'}."
            )
        try:
            theirs = kind(**{**chosen.arguments, **arguments})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{chosen.package}'s {chosen.loss} refuses {arguments}: {error}"
            ) from error
        # TF Similarity branches on tensors, which only a converted function
        # may. `call`, as their __call__ would divide by replicas, or not, or
        # refuse.
        self._score = tf.function(theirs.call)
        self.in_pairs = chosen.in_pairs
        self._arguments = arguments
        if name in KNOWN_FAULTS:
            logging.warning(
                "%s is known to be wrong: %s", name, KNOWN_FAULTS[name].strip()
            )

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """The foreign loss's mean, the same in every row. No metrics.

        Raises:
            ValueError: labels with sides, or keys given.
            tf.errors.InvalidArgumentError: rows are not in pairs, where
                the loss needs them.
        """
        if keys is not None:
            raise ValueError(
                f"{self.name} compares within the batch only, so it takes no "
                "`keys`. Use no memory, or TripletLoss."
            )
        products, sides = split_labels(labels)
        if sides is not None:
            raise ValueError(
                f"{self.name} knows no sides: labels must be [batch], products "
                f"alone. Received shape: {labels.shape}. Pool the domains "
                "(sampling.pool_domains), or use TripletLoss."
            )
        vectors = tf.cast(embeddings, tf.float32)
        scored = products, vectors
        if self.in_pairs:
            scored = _as_matrix(products, vectors)
        value = tf.reduce_mean(self._score(*scored))
        return BatchValue(tf.fill([tf.shape(vectors)[0]], value), {})

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"name": self.name, **self._arguments}


def _as_matrix(products, vectors) -> tuple[tf.Tensor, tf.Tensor]:
    """`[pairs]` products, and `[pairs, pairs]` inner products."""
    with tf.control_dependencies([mining.assert_pairs(products)]):
        queries = tf.identity(products[::2])
    return queries, tf.matmul(vectors[::2], vectors[1::2], transpose_b=True)


def _accepted(kind: type) -> list[str]:
    """The arguments of a foreign class that choose a formula."""
    parameters = inspect.signature(kind.__init__).parameters
    ours = {"self", "name", "reduction", "kwargs"}
    return [name for name in parameters if name not in ours]


def _losses_of(package: str):
    """The module of a package's losses."""
    try:
        if package == _ADDONS:
            import tensorflow_addons as module
        else:
            import tensorflow_similarity as module
        return module.losses
    except ImportError as error:
        raise ValueError(
            f"Losses of {package} need the package: pip install "
            f"{package.replace('_', '-')}. ({error})"
        ) from error
