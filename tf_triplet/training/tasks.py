"""Tasks that a network learns in addition to the metric loss."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.losses import multitask


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The weights of the attribute loss and the landmark loss.

    Each loss is a mean over the annotations in the batch of all replicas,
    whatever the `scope` of the metric loss, and 0 without annotations. The
    landmark loss is the squared error of the places of visible landmarks plus
    the cross entropy of the visibility of annotated landmarks.

    Attributes:
        attribute_weight: Weight of the attribute loss; 0 for no such task.
        landmark_weight: Weight of the landmark loss; 0 for no such task.
        attribute_positive_weight: Weight of attributes that an image has,
            relative to those that it does not have.

    Example:
        >>> from tf_triplet.training import Tasks
        >>> tasks = Tasks(attribute_weight=0.5)
        >>> tasks.targets, tasks.metric_names
        (('attributes',), ('attribute_loss',))
    """

    attribute_weight: float = 0.0
    landmark_weight: float = 0.0
    attribute_positive_weight: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(
                    f"`{field.name}` must be at least 0. Received: {value}"
                )
        if not self.targets:
            raise ValueError(
                "`attribute_weight` or `landmark_weight` must be more than "
                "0, or there is no task. Received: 0 and 0"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """What the batches must contain in addition to the labels."""
        wanted = (
            ("attributes", self.attribute_weight),
            ("landmarks", self.landmark_weight),
        )
        return tuple(name for name, weight in wanted if weight)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics that `compute` returns."""
        names = {
            "attributes": "attribute_loss",
            "landmarks": "landmark_loss",
        }
        return tuple(names[target] for target in self.targets)

    def compute(
        self, y: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the losses of this replica's rows.

        Args:
            y: The `targets`: `attributes` of shape `[batch, attributes]`,
                `landmarks` of shape `[batch, landmarks, 3]`.
            outputs: Outputs of the training model
                (`models.multitask.Network`).

        Returns:
            This replica's share of the weighted loss (the sum over the
            replicas is the loss), the weighted loss, and the unweighted
            losses by name. The last two have no gradient.
        """
        sums, weights, names = self._sums(y, outputs)
        totals = tf.stack([one.total for one in sums])
        counts = tf.stack([one.count for one in sums])
        both = tf.stop_gradient(tf.stack([totals, counts]))
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            both = context.all_reduce(tf.distribute.ReduceOp.SUM, both)
        # Without annotations the totals are 0, and 0 / 1 is 0 as well.
        counts = tf.maximum(both[1], 1.0)
        weights = tf.constant(weights, tf.float32)
        share = tf.reduce_sum(weights * totals / counts)
        means = both[0] / counts
        metrics: dict[str, tf.Tensor] = {}
        for i, name in enumerate(names):
            metrics[name] = metrics.get(name, 0.0) + means[i]
        return share, tf.reduce_sum(weights * means), metrics

    def _sums(self, y, outputs):
        """Returns the losses, their weights and the names of their metrics."""
        sums, weights, names = [], [], []
        if self.attribute_weight:
            sums.append(
                multitask.attribute_loss(
                    y["attributes"],
                    outputs["attributes"],
                    self.attribute_positive_weight,
                )
            )
            weights.append(self.attribute_weight)
            names.append("attribute_loss")
        if self.landmark_weight:
            marks = y["landmarks"]
            sums += [
                multitask.place_loss(marks, outputs["places"]),
                multitask.visibility_loss(marks, outputs["visibility"]),
            ]
            weights += [self.landmark_weight] * 2
            names += ["landmark_loss"] * 2
        return sums, weights, names
