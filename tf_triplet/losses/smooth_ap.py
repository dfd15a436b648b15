"""The Smooth-AP loss: the average precision of each anchor, made smooth."""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, Keys, per_row
from tf_triplet.losses.mining import pair_masks


def smooth_ap_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    *,
    keys: Keys | None = None,
    temperature: float = 0.01,
) -> BatchValue:
    """Computes 1 minus a smooth average precision of each anchor.

    An anchor ranks all other images by cosine similarity. Its average
    precision is the mean over its positives of `rank among the positives /
    rank among all`. A rank is 1 plus the number of images that are more
    similar, and each of these is counted by
    `sigmoid(difference of the similarities / temperature)`, which has a
    gradient. The mean is over the anchors that have a positive and a
    negative.

    Args:
        labels: `[batch]`, `[batch, 1]`, or `[batch, 2]` with sides.
        embeddings: `[batch, dim]` floats, normalized to unit length here.
            Arithmetic is float32.
        keys: Embeddings to rank, instead of the batch.
        temperature: Width of the sigmoid, in cosine similarity. The smaller
            it is, the closer the loss is to the true average precision, and
            the fewer images have a gradient.

    Returns:
        The value of each row. Metrics: `active` is the share of anchors with
        a negative that is at least as similar as one of their positives;
        `positive` and `negative` are the mean cosine distances (1 - s) of all
        such pairs.

    References:
        Brown et al., 2020, https://arxiv.org/abs/2007.12163. The authors'
        code also counts each anchor as a positive of itself, at rank 1. A
        search leaves the query out, and so does this loss.

    Example:
        The positives have the ranks 1, 2, 3 and 1:

        >>> import tensorflow as tf
        >>> from tf_triplet.losses import smooth_ap_loss
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-0.8, 0.6]]
        ... )
        >>> value = smooth_ap_loss(labels, embeddings)
        >>> value.values.numpy().astype(float).round(2).tolist()
        [0.0, 0.5, 0.67, 0.0]
    """
    positives, negatives = pair_masks(labels, keys)
    d = pairs.pairwise(embeddings, "cosine", keys)
    totals = _losses(d, positives, negatives, temperature)
    valid = tf.reduce_any(positives, -1) & tf.reduce_any(negatives, -1)
    totals = tf.where(valid, totals, 0.0)
    values = per_row(totals, pairs.count(valid), tf.shape(d)[0])
    farthest = tf.reduce_max(tf.where(positives, d, -1.0), -1, keepdims=True)
    wrong = tf.reduce_any(negatives & (d <= farthest), -1)
    active = pairs.share(valid & wrong, valid)
    return BatchValue(values, pairs.metrics(active, d, positives, negatives))


def _losses(d, positives, negatives, temperature) -> tf.Tensor:
    """Returns `[batch]` losses; those of anchors without positives are 1.

    The largest tensor is `[batch, most positives of an anchor, keys]`.
    """
    counts = pairs.count(positives, -1)
    most = tf.cast(tf.reduce_max(tf.concat([counts, [0.0]], 0)), tf.int32)
    # The columns of each anchor's positives come first.
    found, columns = tf.math.top_k(tf.cast(positives, tf.int32), most)
    is_positive = found > 0
    own = tf.gather(d, columns, batch_dims=1)
    nearer = tf.sigmoid((own[:, :, None] - d[:, None, :]) / temperature)
    # A positive is not ranked against itself.
    itself = tf.one_hot(columns, tf.shape(d)[1], on_value=True, off_value=False)
    among = tf.where(positives[:, None, :] & ~itself, nearer, 0.0)
    others = tf.where(negatives[:, None, :], nearer, 0.0)
    rank = 1.0 + tf.reduce_sum(among, -1)
    precision = rank / (rank + tf.reduce_sum(others, -1))
    return 1.0 - pairs.row_sums(precision, is_positive) / tf.maximum(counts, 1)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class SmoothAPLoss(BatchLoss):
    """`smooth_ap_loss` as a Keras loss.

    `loss_at_collapse` is None, because it depends on the number of positives
    and negatives in the batch.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import SmoothAPLoss
        >>> loss = SmoothAPLoss(temperature=0.01)
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> embeddings = tf.constant(
        ...     [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-0.8, 0.6]]
        ... )
        >>> round(float(loss(labels, embeddings)), 2)
        0.29
    """

    takes_keys = True
    metric_names = pairs.METRICS

    def __init__(self, temperature: float = 0.01, name: str = "smooth_ap_loss"):
        """Creates the loss.

        Args:
            temperature: See `smooth_ap_loss`.
            name: Name of the loss.

        Raises:
            ValueError: `temperature` is not above 0.
        """
        super().__init__(name=name)
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be above 0. Received: {temperature}"
            )
        self._arguments = {"temperature": float(temperature)}

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """See `smooth_ap_loss`."""
        return smooth_ap_loss(labels, embeddings, keys=keys, **self._arguments)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**self._arguments, "name": self.name}
