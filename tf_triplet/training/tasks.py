"""Tasks that an encoder learns beside the metric loss."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.losses import multitask


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Weights of the attribute and the landmark loss, and their sum.

    A mean runs over what is annotated in the batch of all replicas, in any
    `scope` of the metric loss; 0 where nothing is. The landmark loss is the
    squared error of the visible ones' places plus the cross entropy of the
    visibility of all annotated ones.

    Attributes:
        attribute_weight: 0 = no such task.
        landmark_weight: 0 = no such task.
        attribute_positive_weight: of attributes that an image has, against
            those it has not.
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
                "0, or there is no task. Received: 0 twice"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """What the batches must bring beside the labels."""
        wanted = (
            ("attributes", self.attribute_weight),
            ("landmarks", self.landmark_weight),
        )
        return tuple(name for name, weight in wanted if weight)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `compute` puts into its metrics, always."""
        names = {
            "attributes": "attribute_loss",
            "landmarks": "landmark_loss",
        }
        return tuple(names[target] for target in self.targets)

    def compute(
        self, y: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Scores this replica's rows.

        Args:
            y: `attributes` and `landmarks`, as far as weighed.
            outputs: of the training model (`models.multitask.Network`).

        Returns:
            This replica's share of the weighted loss, of which the sum over
            the replicas is the whole; the whole; and the losses by name,
            before their weights. The last two have no gradient.
        """
        sums, weights, names = self._sums(y, outputs)
        totals = tf.stack([one.total for one in sums])
        counts = tf.stack([one.count for one in sums])
        both = tf.stop_gradient(tf.stack([totals, counts]))
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            both = context.all_reduce(tf.distribute.ReduceOp.SUM, both)
        # Without anything to count the totals are 0, and so is 0 / 1.
        counts = tf.maximum(both[1], 1.0)
        weights = tf.constant(weights, tf.float32)
        share = tf.reduce_sum(weights * totals / counts)
        means = both[0] / counts
        metrics: dict[str, tf.Tensor] = {}
        for i, name in enumerate(names):
            metrics[name] = metrics.get(name, 0.0) + means[i]
        return share, tf.reduce_sum(weights * means), metrics

    def _sums(self, y, outputs):
        """What is to be averaged, its weights, and its metrics' names."""
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
