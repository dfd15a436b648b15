"""The base class of all losses, and its contract.

A metric-learning loss compares the rows of a batch with one another, so it
needs all embeddings of the batch at once. A `BatchLoss` receives them in
`compute`, the one method that a subclass must implement.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Keys(NamedTuple):
    """Embeddings of past batches, to compare the anchors with.

    `tf_triplet.training.CrossBatchMemory` produces them.

    Attributes:
        labels: `[keys]`, `[keys, 1]` or `[keys, 2]` integers, in the same
            form as the labels of the batch.
        embeddings: `[keys, dim]` floats. No gradient flows into them.
        valid: `[keys]` booleans. Rows that are False must be ignored, for
            example because the memory is not full yet.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ContrastiveLoss, Keys
        >>> keys = Keys(
        ...     labels=tf.constant([0, 1]),
        ...     embeddings=tf.constant([[1.0, 0.0], [0.0, 1.0]]),
        ...     valid=tf.constant([True, False]),
        ... )
        >>> labels, embeddings = tf.constant([0]), tf.constant([[0.6, 0.8]])
        >>> value = ContrastiveLoss().compute(labels, embeddings, keys)
        >>> # The squared distance to the first key; the second is ignored.
        >>> value.values.numpy().round(3)
        array([0.8], dtype=float32)
    """

    labels: tf.Tensor
    embeddings: tf.Tensor
    valid: tf.Tensor


class BatchValue(NamedTuple):
    """The loss of a batch: what `BatchLoss.compute` returns.

    Attributes:
        values: `[batch]` float32. The loss is their mean. A term that
            belongs to no single row is spread evenly over all rows.
        metrics: Scalar float32 tensors worth logging, by name, without
            gradient. The names are `BatchLoss.metric_names`.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import BatchValue
        >>> BatchValue(values=tf.zeros([8]), metrics={}).values.shape
        TensorShape([8])
    """

    values: tf.Tensor
    metrics: dict[str, tf.Tensor]


class BatchLoss(tf.keras.losses.Loss):
    """Base class of the losses: scores a whole batch of embeddings at once.

    To write a loss, subclass `BatchLoss` and implement `compute`. The loss
    then works with `tf_triplet.training.Learner` and, like any Keras loss,
    with `model.compile(loss=...)`.

    **Inputs.** `compute` receives the labels as `[batch]` or `[batch, 1]`
    integers, one product per row; `split_labels` brings all forms to
    `[batch]`. Training on two domains gives `[batch, 2]` labels, product and
    side: only rows of side 0 (street images, say) are anchors, and only rows
    of side 1 (shop images) are their positives and negatives.
    `mining.pair_masks` implements this rule. A loss that ignores sides must
    set `takes_sides = False`. With `in_pairs = True`, rows 2i and 2i + 1 are
    a query and its positive. `keys` is None unless the loss sets
    `takes_keys = True` and is trained with a memory; the anchors are then
    compared with the keys instead of the batch.

    **Reduction.** `compute` returns a `BatchValue` whose `values` have shape
    `[batch]` and whose mean is the loss. Use `per_row` for a loss that is
    averaged over something other than rows (pairs, triplets), and `tf.fill`
    for a single number. Keras multiplies the values by sample weights, if
    there are any.

    **Variables.** A loss that learns proxies or boundaries sets
    `has_variables = True` and creates them in `build`, in a Keras layer
    assigned to `self.parameters`. Call `build` under the strategy's scope,
    before the learner is created. The learner trains the variables and
    saves them in its checkpoints; they are not part of the exported model.

    **Replicas.** `Learner` gathers the batch of all replicas, and each
    replica calls `compute` with the same global batch. So `compute` must
    return the same value on all of them: draw random numbers statelessly,
    from `batch_seed(labels)`, and call no collective operations. With
    `scope="replica"`, and under plain `compile`, `compute` sees only the
    rows of its replica.

    The attributes below say what a loss needs and supports. Subclasses
    override them, and the package asks them before training starts. Read
    them from the class; where the answer depends on the constructor's
    arguments, the subclass defines a property, and only an instance knows.

    Attributes:
        in_pairs: Whether the batch must consist of pairs: rows 2i and
            2i + 1 are a query and its positive. Default: False.
        needs_positives: Whether the loss learns nothing from a batch in
            which no anchor has a positive. `Learner` then warns about such
            batches. Default: True.
        needs_negatives: Whether the loss learns nothing useful from a batch
            in which no anchor has a negative. `Learner` then skips such
            batches. Default: True.
        takes_keys: Whether `compute` accepts `keys`. Default: False.
        takes_sides: Whether `compute` accepts `[batch, 2]` labels. Default:
            True.
        has_variables: Whether `build` creates trainable variables. Default:
            False.
        loss_at_collapse: The loss when all embeddings are equal, or None
            if that is not known. Default: None.
        collapse_advice: Config overrides that make a collapse of the
            embeddings less likely, such as `"loss.soft=true"`. Default: ().
        metric_names: The names of the metrics that `compute` returns.
            Default: ().
        parameters: A Keras layer that holds the variables, or None before
            `build` and for a loss without variables.

    Example:
        A complete loss. Each anchor's nearest negative must be at least a
        margin away:

        >>> import tensorflow as tf
        >>> from tf_triplet.losses import BatchLoss, BatchValue
        >>> from tf_triplet.losses import batch_loss, mining, pairs
        >>> @tf.keras.utils.register_keras_serializable("my_package")
        ... class NearestNegativeLoss(BatchLoss):
        ...     needs_positives = False
        ...     metric_names = ("nearest",)
        ...
        ...     def __init__(self, margin=1.0, name="nearest_negative_loss"):
        ...         super().__init__(name=name)
        ...         self.margin = margin
        ...
        ...     def compute(self, labels, embeddings, keys=None):
        ...         _, negatives = mining.pair_masks(labels)
        ...         distances = pairs.pairwise(embeddings, "euclidean")
        ...         # Only negatives may be the nearest row. All others are
        ...         # moved to 2, the largest distance of unit vectors.
        ...         distances = tf.where(negatives, distances, 2.0)
        ...         nearest = tf.reduce_min(distances, axis=-1)
        ...         losses = tf.nn.relu(self.margin - nearest)
        ...         valid = tf.reduce_any(negatives, axis=-1)
        ...         # The mean over the anchors that have a negative.
        ...         values = batch_loss.per_row(
        ...             losses, pairs.count(valid), tf.shape(losses)[0]
        ...         )
        ...         metrics = {"nearest": pairs.mean(nearest, valid)}
        ...         return BatchValue(
        ...             values, tf.nest.map_structure(tf.stop_gradient, metrics)
        ...         )
        ...
        ...     def get_config(self):
        ...         return {"margin": self.margin, "name": self.name}
        >>> loss = NearestNegativeLoss(margin=1.0)
        >>> labels = tf.constant([0, 0, 1])
        >>> embeddings = tf.constant([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(labels, embeddings)), 3)
        0.513
    """

    in_pairs: bool = False
    needs_positives: bool = True
    needs_negatives: bool = True
    takes_keys: bool = False
    takes_sides: bool = True
    has_variables: bool = False
    loss_at_collapse: float | None = None
    collapse_advice: tuple[str, ...] = ()
    metric_names: tuple[str, ...] = ()
    parameters: tf.keras.layers.Layer | None = None

    def build(self, products: int, embedding_size: int) -> None:
        """Creates the variables under the current strategy, if there are any.

        Args:
            products: Number of products. Labels run from 0 to
                `products - 1`.
            embedding_size: Width of the embeddings.
        """

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Scores a batch.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers:
                products, or products and sides.
            embeddings: `[batch, dim]` floats of any precision. Cast them to
                float32 first.
            keys: Embeddings to compare the anchors with, instead of the
                batch. None: compare within the batch.

        Returns:
            The loss of each row, and the metrics.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement "
            "`compute(labels, embeddings, keys)` and return a `BatchValue`."
        )

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Scores a batch for Keras.

        Args:
            y_true: The labels, as for `compute`.
            y_pred: `[batch, dim]` embeddings.

        Returns:
            `[batch]` float32 values, whose mean is the loss.
        """
        return self.compute(y_true, y_pred).values


def per_row(total: tf.Tensor, count: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Scales the sums of all rows so that their mean is the loss.

    Args:
        total: `[batch]` floats, the sum of the losses of each row.
        count: Scalar float, the number of terms that the loss is averaged
            over.
        batch: Scalar integer, the number of rows.

    Returns:
        `[batch]` float32 values. Their mean is
        `sum(total) / max(count, 1)`.
    """
    # With nothing to count, the sums are 0, and 0 / 1 is 0 as well.
    return total * tf.cast(batch, tf.float32) / tf.maximum(count, 1.0)


def split_labels(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Separates labels into products and sides.

    Args:
        labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers. Floats are
            rounded.

    Returns:
        `[batch]` products, and `[batch]` sides or None.

    Raises:
        ValueError: The labels have another shape, for example because they
            are one-hot.
        tf.errors.InvalidArgumentError: The same, where the shape is known
            only when the graph runs.
    """
    labels = tf.convert_to_tensor(labels)
    # Keras may pass labels as floats, which are exact up to 2^24.
    if labels.dtype.is_floating:
        labels = tf.cast(tf.round(labels), tf.int64)
    shape = labels.shape
    if shape.rank == 1:
        return labels, None
    if shape.rank == 2 and shape[1] == 2:
        return labels[:, 0], labels[:, 1]
    if shape.rank == 2 and shape[1] == 1:
        return labels[:, 0], None
    rule = (
        "Labels must be integers of shape [batch] or [batch, 1], one product "
        "per row, or [batch, 2], product and side. For one-hot labels pass "
        "`tf.argmax(labels, axis=-1)`."
    )
    if shape.rank not in (None, 2) or (shape.rank == 2 and shape[1]):
        raise ValueError(f"{rule} Received labels of shape {shape}")
    # Only a static shape tells sides from products, and flattening both into
    # products would silently give wrong labels.
    flat = tf.debugging.Assert(
        tf.size(labels) == tf.shape(labels)[0],
        [
            f"{rule} The last dimension must be static: call "
            "`labels.set_shape([None, 2])` for labels with sides. Received "
            "labels of shape:",
            tf.shape(labels),
        ],
    )
    with tf.control_dependencies([flat]):
        return tf.reshape(labels, [-1]), None


def batch_seed(labels: tf.Tensor) -> tf.Tensor:
    """Derives a seed from a batch, for stateless random operations.

    The seed depends on the labels alone, so all replicas of a global batch
    draw the same numbers.

    Args:
        labels: `[batch]` integers, products.

    Returns:
        `[2]` integers.
    """
    places = tf.range(1, tf.size(labels) + 1, dtype=tf.int64)
    digest = tf.reduce_sum(tf.cast(labels, tf.int64) * places * places)
    return tf.random.experimental.stateless_fold_in([0, 0], digest)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}"
        )
