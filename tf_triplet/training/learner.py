"""A Keras model whose training step mines the global batch.

On N replicas the embeddings and labels of all are gathered, every replica
computes the loss of the whole batch, and takes 1/N of it. `all_gather` is
differentiable, and the optimizer adds the gradients of the replicas: loss
and gradients equal those of one device with the same batch, for shards of
any sizes.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.triplet import TripletLoss

SCOPES = ("global", "replica")


class Learner(tf.keras.Model):
    """Trains an encoder with a `TripletLoss` by plain `fit`."""

    def __init__(
        self,
        encoder: tf.keras.Model,
        triplet_loss: TripletLoss,
        scope: str = "global",
        **kwargs,
    ):
        """Wraps `encoder`; create it under the strategy's scope.

        Args:
            encoder: pictures to embeddings.
            triplet_loss: mines and scores a batch.
            scope: negatives come from the "global" batch, or from each
                "replica" alone (then averaged), as most systems do.
            **kwargs: for `keras.Model`.
        """
        super().__init__(**kwargs)
        if scope not in SCOPES:
            raise ValueError(
                f"`scope` must be global or replica. Received: {scope!r}"
            )
        self.encoder = encoder
        self.triplet_loss = triplet_loss
        self._scope = scope
        self._means = {
            name: tf.keras.metrics.Mean(name)
            for name in ("loss", "active", "positive", "negative")
        }

    def call(self, inputs, training=None):
        """`[batch, size, size, 3]` pixels to `[batch, dim]` embeddings."""
        return self.encoder(inputs, training=training)

    @property
    def metrics(self):
        """Loss, share of active triplets, mean distances of a step."""
        return list(self._means.values())

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        """This replica's share of the batch's loss; updates the metrics."""
        del x
        if sample_weight is not None:
            raise ValueError(
                "Learner takes no sample weights; compile a model with "
                "TripletLoss itself to weigh anchors."
            )
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if self._scope == "global" and replicas > 1:
            y = _gather(context, tf.convert_to_tensor(y))
            y_pred = _gather(context, y_pred)
        terms = self.triplet_loss.terms(y, y_pred)
        loss = self.triplet_loss.reduce(terms)
        self._observe(terms, loss)
        regularization = tf.add_n(self.losses) if self.losses else 0.0
        return (loss + regularization) / replicas

    def _observe(self, terms, loss) -> None:
        count = tf.maximum(tf.reduce_sum(terms.counts), 1.0)
        anchors = tf.cast(terms.counts > 0, tf.float32)
        any_anchor = tf.maximum(tf.reduce_sum(anchors), 1.0)
        values = {
            "loss": loss,
            "active": tf.reduce_sum(terms.active) / count,
            "positive": tf.reduce_sum(terms.positive_distances) / any_anchor,
            "negative": tf.reduce_sum(terms.negative_distances) / any_anchor,
        }
        for name, value in values.items():
            self._means[name].update_state(tf.stop_gradient(value))

    def compute_metrics(self, x, y, y_pred, sample_weight):
        """The means since the epoch began."""
        del x, y, y_pred, sample_weight
        return self.get_metrics_result()


def _gather(context, values: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas; inside a graph all_gather forgets the rest
    of the shape, which tells `[batch]` labels from `[batch, 2]`."""
    gathered = context.all_gather(values, axis=0)
    return tf.ensure_shape(gathered, [None, *values.shape[1:]])
