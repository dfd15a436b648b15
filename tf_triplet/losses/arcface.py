"""ArcFace: classification by proxies with an additive angular margin."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_triplet.losses import distances
from tf_triplet.losses.proxy_base import ProxyLoss, own_entries


def arcface_loss(
    products: tf.Tensor,
    similarities: tf.Tensor,
    scale: float = 64.0,
    margin: float = 0.5,
) -> tf.Tensor:
    """Classifies each row, with a margin on the angle to its own proxy.

    The loss is the softmax cross entropy of the logits `scale * cos(angle)`
    over all proxies, where the margin is added to the angle of the own proxy.
    An angle that would exceed 180 degrees costs `cos(angle) - margin *
    sin(margin)` instead, so that a larger angle always costs more.

    Args:
        products: `[batch]` integers, the column of each row's own proxy.
        similarities: `[batch, proxies]` cosine similarities.
        scale: Factor of the logits, the inverse of a temperature.
        margin: Margin in radians; 0.5 is 28.6 degrees.

    Returns:
        `[batch]` losses.

    References:
        Deng et al., 2019, https://arxiv.org/abs/1801.07698. The rule for
        large angles is that of the authors' code.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import arcface_loss
        >>> products = tf.constant([0, 1])  # One row per product.
        >>> similarities = tf.constant([[0.9, 0.1], [0.2, 0.8]])
        >>> arcface_loss(products, similarities, 4.0).numpy().round(3)
        array([0.136, 0.354], dtype=float32)
    """
    own = own_entries(products, similarities)
    # The clipped square root has no infinite gradient at an angle of 0.
    sine = distances.safe_sqrt(tf.nn.relu(1.0 - tf.square(own)))
    moved = tf.where(
        own > -math.cos(margin),
        own * math.cos(margin) - sine * math.sin(margin),
        own - margin * math.sin(margin),
    )
    columns = tf.range(tf.shape(similarities)[1], dtype=products.dtype)
    is_own = products[:, None] == columns[None, :]
    logits = scale * tf.where(is_own, moved[:, None], similarities)
    return tf.reduce_logsumexp(logits, -1) - scale * moved


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ArcFaceLoss(ProxyLoss):
    """`arcface_loss` as a Keras loss that holds its proxies.

    Call `build` before training, and train with
    `tf_triplet.training.Learner`.

    References:
        Deng et al., 2019, https://arxiv.org/abs/1801.07698.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ArcFaceLoss
        >>> loss = ArcFaceLoss(scale=4.0)
        >>> loss.build(products=3, embedding_size=2)
        >>> proxies = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        >>> loss.parameters.set_weights([tf.constant(proxies)])
        >>> embeddings = tf.constant([[0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(tf.constant([0, 1]), embeddings)), 3)
        1.136
    """

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.5,
        seed: int = 0,
        name: str = "arcface_loss",
    ):
        """Creates the loss; `build` creates its proxies.

        Args:
            scale: See `arcface_loss`.
            margin: See `arcface_loss`.
            seed: Seed of the initial proxies.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(seed, name)
        if not 0 < scale < math.inf:
            raise ValueError(f"`scale` must be more than 0. Received: {scale}")
        if not 0 <= margin < math.pi / 2:
            raise ValueError(
                "`margin` must be an angle in radians, from 0 to less than "
                f"{math.pi / 2:.2f}. Received: {margin}. 28.6 degrees are 0.5."
            )
        self._scale, self._margin = float(scale), float(margin)

    def _values(self, products, similarities) -> tf.Tensor:
        return arcface_loss(products, similarities, self._scale, self._margin)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "scale": self._scale,
            "margin": self._margin,
            "seed": self._seed,
            "name": self.name,
        }
