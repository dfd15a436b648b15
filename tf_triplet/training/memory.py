"""Cross-batch memory: embeddings of past batches, to be compared with.

Embeddings drift slowly once training has settled, so those of the last
batches are as good as fresh ones and cost no forward pass.

References:
    Wang et al., 2020, https://arxiv.org/abs/1912.06798 (XBM).
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import Keys, split_labels


class CrossBatchMemory(tf.keras.layers.Layer):
    """A queue of embeddings and labels, the same on every replica."""

    def __init__(
        self,
        size: int,
        embedding_size: int,
        warmup_steps: int = 1_000,
        sides: bool = False,
        name: str = "memory",
    ):
        """Makes the variables, under the current strategy.

        Args:
            size: embeddings that it holds, at least a batch.
            embedding_size: their width.
            warmup_steps: before that step nothing is compared with it: early
                embeddings drift. The paper: 1,000.
            sides: whether labels come as `[batch, 2]`, product and side.
            name: of the layer.
        """
        super().__init__(name=name, trainable=False)
        if size < 1:
            raise ValueError(f"`size` must be at least 1. Received: {size}")
        if warmup_steps < 0:
            raise ValueError(
                f"`warmup_steps` must be at least 0. Received: {warmup_steps}"
            )
        self.size, self._warmup = size, warmup_steps
        self._width = 2 if sides else 1

        def variable(name, shape, dtype):
            return self.add_weight(
                name,
                shape,
                dtype,
                initializer="zeros",
                trainable=False,
                # Every replica writes the same global batch.
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        self.embeddings = variable(
            "embeddings", [size, embedding_size], tf.float32
        )
        self.labels = variable("labels", [size, self._width], tf.int32)
        # Embeddings ever written: the next row, and how many are valid.
        self.written = variable("written", [], tf.int64)

    def read(self, step: tf.Tensor) -> Keys:
        """All `size` rows; before `warmup_steps` none of them is valid."""
        filled = tf.range(self.size, dtype=tf.int64) < self.written
        warm = tf.cast(step, tf.int64) >= self._warmup
        return Keys(
            tf.identity(self.labels),
            tf.identity(self.embeddings),
            filled & warm,
        )

    def enqueue(self, labels: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Writes a batch over the oldest rows.

        Args:
            labels: `[batch]`, `[batch, 1]` or, with sides, `[batch, 2]`.
            embeddings: `[batch, dim]`, batch at most `size`.

        Raises:
            ValueError: labels with sides for a memory without, or the
                reverse.
            tf.errors.InvalidArgumentError: the batch is larger than `size`.
        """
        products, sides = split_labels(labels)
        if (sides is not None) != (self._width == 2):
            raise ValueError(
                f"The memory was made with sides={self._width == 2}, but the "
                f"labels have {1 if sides is None else 2} columns. Make it "
                "with `sides=True` where labels are product and side."
            )
        labels = products[:, None]
        if sides is not None:
            labels = tf.stack([products, sides], 1)
        batch = tf.shape(embeddings)[0]
        fits = tf.debugging.Assert(
            batch <= self.size,
            [
                "The cross-batch memory must hold at least one batch. "
                "Received its size and the batch's:",
                self.size,
                batch,
            ],
        )
        # Without it a graph writes while it finds out.
        with tf.control_dependencies([fits]):
            labels = tf.cast(labels, tf.int32)
            batch = tf.identity(batch)
        places = tf.range(tf.cast(batch, tf.int64)) + self.written
        places = (places % self.size)[:, None]
        fresh = tf.cast(tf.stop_gradient(embeddings), tf.float32)
        self.embeddings.assign(
            tf.tensor_scatter_nd_update(self.embeddings, places, fresh)
        )
        self.labels.assign(
            tf.tensor_scatter_nd_update(self.labels, places, labels)
        )
        self.written.assign_add(tf.cast(batch, tf.int64))
