"""Cross-batch memory: embeddings of past batches, to compare a batch with.

After the first steps of training, embeddings change slowly. Those of the last
batches are then nearly as good as fresh ones, and need no forward pass.

References:
    Wang et al., 2020, https://arxiv.org/abs/1912.06798 (XBM).
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import Keys, split_labels


class CrossBatchMemory(tf.keras.layers.Layer):
    """A queue of embeddings and labels, the same on every replica.

    Pass it to `Learner`, with a loss whose `takes_keys` is True.

    References:
        Wang et al., 2020, https://arxiv.org/abs/1912.06798 (XBM).

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.training import CrossBatchMemory
        >>> memory = CrossBatchMemory(size=3, embedding_size=2, warmup_steps=0)
        >>> memory.enqueue(tf.constant([7, 8]), tf.eye(2))
        >>> keys = memory.read(step=0)
        >>> keys.valid.numpy()
        array([ True,  True, False])
        >>> keys.labels[:, 0].numpy()
        array([7, 8, 0], dtype=int32)
    """

    def __init__(
        self,
        size: int,
        embedding_size: int,
        warmup_steps: int = 1_000,
        sides: bool = False,
        name: str = "memory",
    ):
        """Creates the variables under the current strategy.

        Args:
            size: Number of embeddings in the memory, at least one batch.
            embedding_size: Width of the embeddings.
            warmup_steps: Number of steps before the memory is used, because
                embeddings change quickly at first. The paper uses 1,000.
            sides: Whether labels are `[batch, 2]`, product and side.
            name: Name of the layer.

        Raises:
            ValueError: `size` or `warmup_steps` is out of range.
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
                # All replicas write the same global batch.
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        self.embeddings = variable(
            "embeddings", [size, embedding_size], tf.float32
        )
        self.labels = variable("labels", [size, self._width], tf.int32)
        # The number of embeddings written so far tells the next row, and how
        # many rows are valid.
        self.written = variable("written", [], tf.int64)

    def read(self, step: tf.Tensor | int) -> Keys:
        """Returns the content.

        Args:
            step: The current step. Before `warmup_steps` no row is valid.

        Returns:
            All `size` rows: labels `[size, 1]`, or `[size, 2]` with sides;
            embeddings `[size, embedding_size]`; valid `[size]`.
        """
        filled = tf.range(self.size, dtype=tf.int64) < self.written
        warm = tf.cast(step, tf.int64) >= self._warmup
        return Keys(
            tf.identity(self.labels),
            tf.identity(self.embeddings),
            filled & warm,
        )

    def enqueue(self, labels: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Replaces the oldest rows by a batch.

        Args:
            labels: `[batch]` or `[batch, 1]` integers or, with sides,
                `[batch, 2]`.
            embeddings: `[batch, dim]` floats, where batch is at most `size`.

        Raises:
            ValueError: The labels have sides and the memory does not, or the
                reverse.
            tf.errors.InvalidArgumentError: The batch is larger than `size`.
        """
        products, sides = split_labels(labels)
        if (sides is not None) != (self._width == 2):
            raise ValueError(
                f"The memory was created with sides={self._width == 2}, but "
                f"the labels have {1 if sides is None else 2} column(s). Pass "
                "`sides=True` if and only if labels are product and side."
            )
        labels = products[:, None]
        if sides is not None:
            labels = tf.stack([products, sides], 1)
        batch = tf.shape(embeddings)[0]
        fits = tf.debugging.Assert(
            batch <= self.size,
            [
                "The cross-batch memory must hold at least one batch. "
                "Received the size of the memory and of the batch:",
                self.size,
                batch,
            ],
        )
        # Without the dependency, a graph may write before it checks.
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
