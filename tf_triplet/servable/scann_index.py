"""ScaNN as a part of a SavedModel. The only module that imports scann.

The handle of the C++ index is made anew in the graph, from saved variables,
under a shared name of its own for every export: two versions in one process
must never share an index.
"""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import tensorflow as tf

# Below this, training a tree costs more than it saves.
SMALLEST_TREE = 2_000
# ScaNN's hashing wants so many to be trained.
_LEAST = 16
STORAGES = ("float32", "int8")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What was built; leaves 0 means ScaNN's brute force.

    Attributes:
        leaves: of the tree.
        leaves_to_search: of them.
        reorder: candidates scored again, from `storage`.
        storage: "float32" or "int8". ScaNN 1.3.0 also reorders in bfloat16,
            but its TensorFlow op does not save such an index.
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
    size: int, k: int, leaves: int = 0, leaves_to_search: int = 0, reorder=0
) -> Tuning:
    """Fills in what is 0: sqrt(n) leaves; a tenth, at least 30, searched.

    Few vectors get no tree, a handful not even if `leaves` are asked for;
    nor are there more leaves than vectors.
    """
    if size < (_LEAST if leaves else SMALLEST_TREE):
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
        """Builds the index of `[n, dim]` float32 embeddings."""
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
        """The index; every signature must take it from here."""
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
    ):
        """Returns (`[q, k]` int32 rows, -1 where none; `[q, k]` scores).

        Args:
            embeddings: `[q, dim]` float32.
            k: neighbors.
            tuning: Another than the index's own; its `reorder` must not be
                above what was built.
        """
        tuning = tuning or self.tuning
        indices, scores = self._ops.scann_search_batched(
            self.handle(),
            embeddings,
            k,
            # ScaNN finds no more than it reorders.
            max(tuning.reorder, k) if tuning.leaves else -1,
            tuning.leaves_to_search or -1,
            False,
        )
        # ScaNN pads with NaN where it found fewer than k, but not past the
        # number of its vectors, nor when there is no query.
        missing = tf.math.is_nan(scores)
        indices = tf.where(missing, -1, tf.cast(indices, tf.int32))
        scores = tf.where(missing, -2.0, scores)
        lacking = [[0, 0], [0, k - tf.shape(scores)[1]]]
        return (
            tf.ensure_shape(
                tf.pad(indices, lacking, constant_values=-1), [None, k]
            ),
            tf.ensure_shape(
                tf.pad(scores, lacking, constant_values=-2.0), [None, k]
            ),
        )

    def release(self) -> tf.Operation:
        """Frees the C++ index, which outlives its model otherwise."""
        return tf.raw_ops.DestroyResourceOp(
            resource=self.handle(), ignore_lookup_error=True
        )


def register_op() -> None:
    """Makes the ops known, before a SavedModel that holds them is loaded."""
    try:
        import scann  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"This model holds a ScaNN index, and scann does not load: "
            f"{error}. Install scann 1.3.0 beside TensorFlow 2.15, or export "
            "with --index=exact."
        ) from error
