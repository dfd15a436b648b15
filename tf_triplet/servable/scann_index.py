"""ScaNN's index as a part of a SavedModel.

This is the only module that imports scann. The graph makes the handle of the
C++ index from saved variables. The handle has another shared name in each
export, because two versions in one process must never share an index.
"""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import tensorflow as tf

# The score of a neighbor that is missing. It is below any cosine.
PADDING_SCORE = -2.0
# With fewer vectors, training a tree costs more than the tree saves.
SMALLEST_TREE = 2_000
# ScaNN trains its hashing on at least as many vectors.
_MIN_HASHED = 16
STORAGES = ("float32", "int8")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How an index is built and searched.

    Attributes:
        leaves: Number of leaves of the tree. 0 means brute force, without a
            tree.
        leaves_to_search: Number of leaves that each query searches.
        reorder: Number of candidates that are scored again, from `storage`.
        storage: How the vectors are stored, "float32" or "int8". ScaNN 1.3.0
            can also reorder in bfloat16, but its TensorFlow op does not save
            such an index.
    """

    leaves: int
    leaves_to_search: int
    reorder: int
    storage: str = "float32"

    def __post_init__(self):
        if self.storage not in STORAGES:
            raise ValueError(
                f"`storage` must be float32 or int8. Received: {self.storage!r}"
            )


def tune(
    size: int,
    k: int,
    leaves: int = 0,
    leaves_to_search: int = 0,
    reorder: int = 0,
) -> Tuning:
    """Chooses the values that are 0, without measuring.

    The tree has sqrt(size) leaves, of which a tenth, and at least 30, are
    searched. There is no tree for few vectors, and for very few not even if
    `leaves` is given.

    Args:
        size: Number of vectors.
        k: Number of neighbors to find.
        leaves: Number of leaves, at most `size`.
        leaves_to_search: Number of leaves that each query searches.
        reorder: Number of candidates that are scored again.
    """
    if size < (_MIN_HASHED if leaves else SMALLEST_TREE):
        return Tuning(0, 0, 0)
    leaves = min(leaves or int(round(size**0.5)), size)
    leaves_to_search = leaves_to_search or max(30, -(-leaves // 10))
    return Tuning(
        leaves,
        min(leaves_to_search, leaves),
        min(reorder or max(100, 10 * k), size),
    )


class ScannIndex(tf.Module):
    """Searches unit vectors by dot product, inside a graph."""

    def __init__(self, embeddings: np.ndarray, k: int, tuning: Tuning):
        """Builds the index.

        Args:
            embeddings: `[n, dim]` float32 vectors of unit length.
            k: Number of neighbors to find.
            tuning: How to build and search it.
        """
        super().__init__()
        from scann.scann_ops.py import scann_ops

        self._ops = scann_ops
        self.tuning = tuning
        quantize = tuning.storage == "int8"
        builder = scann_ops.builder(
            np.ascontiguousarray(embeddings, np.float32), k, "dot_product"
        )
        if tuning.leaves:
            builder = (
                builder.tree(
                    num_leaves=tuning.leaves,
                    num_leaves_to_search=tuning.leaves_to_search,
                    training_sample_size=min(len(embeddings), 250_000),
                )
                .score_ah(2, anisotropic_quantization_threshold=0.2)
                .reorder(tuning.reorder, quantize)
            )
        else:
            builder = builder.score_brute_force(quantize)
        self.state = builder.build().serialize_to_module()
        self._shared_name = f"tf_triplet_{uuid.uuid4().hex}"

    def handle(self) -> tf.Tensor:
        """Returns the handle of the index, the same for all signatures."""
        state = self.state
        return self._ops.tensors_to_scann(
            state.dataset,
            state.scann_config,
            state.serialized_partitioner,
            state.datapoint_to_token,
            state.ah_codebook,
            state.hashed_dataset,
            state.int8_dataset,
            state.int8_multipliers,
            state.dp_norms,
            shared_name=self._shared_name,
        )

    def search(
        self, embeddings: tf.Tensor, k: int, tuning: Tuning | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the nearest vectors of each query.

        Args:
            embeddings: `[q, dim]` float32 queries.
            k: Number of neighbors to find.
            tuning: How to search, in place of the index's own tuning. Its
                `reorder` must not exceed that of the index.

        Returns:
            `[q, k]` int32 rows and `[q, k]` scores. Missing neighbors come
            last, with row -1 and `PADDING_SCORE`.
        """
        tuning = tuning or self.tuning
        indices, scores = self._ops.scann_search_batched(
            self.handle(),
            embeddings,
            k,
            # ScaNN finds at most as many neighbors as it reorders.
            max(tuning.reorder, k) if tuning.leaves else -1,
            tuning.leaves_to_search or -1,
            False,
        )
        # ScaNN pads with NaN where it found fewer than k neighbors. It returns
        # fewer columns if the index is smaller than k or there are no queries.
        missing = tf.math.is_nan(scores)
        indices = tf.where(missing, -1, tf.cast(indices, tf.int32))
        scores = tf.where(missing, PADDING_SCORE, scores)
        return (
            _pad_columns(indices, k, -1),
            _pad_columns(scores, k, PADDING_SCORE),
        )

    def release(self) -> tf.Operation:
        """Frees the C++ index, which would otherwise outlive the model."""
        return tf.raw_ops.DestroyResourceOp(
            resource=self.handle(), ignore_lookup_error=True
        )


def _pad_columns(values: tf.Tensor, k: int, padding) -> tf.Tensor:
    """Returns `[q, k]` values, padded on the right."""
    missing = [[0, 0], [0, k - tf.shape(values)[1]]]
    padded = tf.pad(values, missing, constant_values=padding)
    return tf.ensure_shape(padded, [None, k])


def register_op() -> None:
    """Registers ScaNN's ops, which loading a model with an index needs.

    Raises:
        ValueError: The scann package cannot be imported.
    """
    try:
        import scann  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"This model holds a ScaNN index, but scann cannot be imported: "
            f"{error}. Install scann 1.3.0 beside TensorFlow 2.15, or export "
            "with --index=exact."
        ) from error
