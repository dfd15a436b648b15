"""Losses that compare every row with learned vectors, one per product.

The base class, which holds the vectors, is `proxy_base.ProxyLoss`.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.proxy_base import ProxyLoss, own_entries

_INF = float("inf")


def proxy_nca_loss(
    products: tf.Tensor, similarities: tf.Tensor, scale: float = 3.0
) -> tf.Tensor:
    """Compares the distance to the own proxy with those to all others.

    With x a row and p_y the proxy of its product, the row costs
    `-log(exp(-|x - p_y|²) / sum_{z != y} exp(-|x - p_z|²))`. The own proxy is
    not in the sum, so the loss may be negative.

    Args:
        products: `[batch]` integers, the column of each row's own proxy.
        similarities: `[batch, proxies]` cosine similarities with at least
            two proxies.
        scale: Length to which rows and proxies are scaled. Squared distances
            are then `2 * scale² * (1 - cosine)`.

    Returns:
        `[batch]` losses.

    References:
        Movshovitz-Attias et al., 2017, https://arxiv.org/abs/1703.07464.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import proxy_nca_loss
        >>> products = tf.constant([0, 1])  # One row per product.
        >>> similarities = tf.constant([[0.9, 0.1], [0.2, 0.8]])
        >>> proxy_nca_loss(products, similarities, 1.0).numpy().round(3)
        array([-1.6, -1.2], dtype=float32)
    """
    squared = 2.0 * scale**2 * (1.0 - similarities)
    others = tf.where(_is_own(products, similarities), -_INF, -squared)
    return own_entries(products, squared) + tf.reduce_logsumexp(others, -1)


def proxy_anchor_loss(
    products: tf.Tensor,
    similarities: tf.Tensor,
    alpha: float = 32.0,
    delta: float = 0.1,
) -> tf.Tensor:
    """Uses the proxies as anchors that attract and repel rows.

    With s the cosine similarity of a proxy and a row, the loss is
    `mean_p log(1 + sum_own exp(-alpha (s - delta)))`, over the proxies whose
    product is in the batch, plus
    `mean_p log(1 + sum_others exp(alpha (s + delta)))`, over all proxies.

    Args:
        products: `[batch]` integers, the column of each row's own proxy.
        similarities: `[batch, proxies]` cosine similarities.
        alpha: Steepness. The larger it is, the more the hardest rows weigh.
        delta: Margin in cosine similarity.

    Returns:
        Scalar float32.

    References:
        Kim et al., 2020, https://arxiv.org/abs/2003.13911.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import proxy_anchor_loss
        >>> products = tf.constant([0, 1])  # One row per product.
        >>> similarities = tf.constant([[0.9, 0.1], [0.2, 0.8]])
        >>> round(float(proxy_anchor_loss(products, similarities)), 3)
        8.001
    """
    own = _is_own(products, similarities)
    pull = _log1p_sum_exp(-alpha * (similarities - delta), own)
    push = _log1p_sum_exp(alpha * (similarities + delta), ~own)
    present = tf.reduce_sum(tf.cast(tf.reduce_any(own, 0), tf.float32))
    # An empty batch has no proxy with a row; its sum is 0 / 1.
    return tf.reduce_sum(pull) / tf.maximum(present, 1.0) + tf.reduce_mean(push)


def norm_softmax_loss(
    products: tf.Tensor, similarities: tf.Tensor, temperature: float = 0.05
) -> tf.Tensor:
    """Classifies each row: softmax cross entropy over all proxies.

    The logits are `cosine / temperature`.

    Args:
        products: `[batch]` integers, the column of each row's own proxy.
        similarities: `[batch, proxies]` cosine similarities.
        temperature: Temperature of the softmax.

    Returns:
        `[batch]` losses.

    References:
        Zhai and Wu, 2018, https://arxiv.org/abs/1811.12649.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import norm_softmax_loss
        >>> products = tf.constant([0, 1])  # One row per product.
        >>> similarities = tf.constant([[0.9, 0.1], [0.2, 0.8]])
        >>> norm_softmax_loss(products, similarities, 0.5).numpy().round(3)
        array([0.184, 0.263], dtype=float32)
    """
    logits = similarities / temperature
    return tf.reduce_logsumexp(logits, -1) - own_entries(products, logits)


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ProxyNCALoss(ProxyLoss):
    """`proxy_nca_loss` as a Keras loss that holds its proxies.

    Call `build` before training, and train with
    `tf_triplet.training.Learner`.

    References:
        Movshovitz-Attias et al., 2017, https://arxiv.org/abs/1703.07464.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ProxyNCALoss
        >>> loss = ProxyNCALoss()
        >>> loss.build(products=3, embedding_size=2)
        >>> proxies = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        >>> loss.parameters.set_weights([tf.constant(proxies)])
        >>> embeddings = tf.constant([[0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(tf.constant([0, 1]), embeddings)), 3)
        -3.6
    """

    _least_products = 2

    def __init__(
        self, scale: float = 3.0, seed: int = 0, name: str = "proxy_nca_loss"
    ):
        """Creates the loss; `build` creates its proxies.

        Args:
            scale: See `proxy_nca_loss`.
            seed: Seed of the initial proxies.
            name: Name of the loss.

        Raises:
            ValueError: `scale` is not above 0.
        """
        super().__init__(seed, name)
        _check_positive("scale", scale)
        self._scale = float(scale)

    def _values(self, products, similarities) -> tf.Tensor:
        return proxy_nca_loss(products, similarities, self._scale)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"scale": self._scale, "seed": self._seed, "name": self.name}


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ProxyAnchorLoss(ProxyLoss):
    """`proxy_anchor_loss` as a Keras loss that holds its proxies.

    Call `build` before training, and train with
    `tf_triplet.training.Learner`. The loss is a mean over proxies, so every
    row has the same value.

    References:
        Kim et al., 2020, https://arxiv.org/abs/2003.13911.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import ProxyAnchorLoss
        >>> loss = ProxyAnchorLoss()
        >>> loss.build(products=3, embedding_size=2)
        >>> proxies = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        >>> loss.parameters.set_weights([tf.constant(proxies)])
        >>> embeddings = tf.constant([[0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(tf.constant([0, 1]), embeddings)), 3)
        14.933
    """

    def __init__(
        self,
        alpha: float = 32.0,
        delta: float = 0.1,
        seed: int = 0,
        name: str = "proxy_anchor_loss",
    ):
        """Creates the loss; `build` creates its proxies.

        Args:
            alpha: See `proxy_anchor_loss`.
            delta: See `proxy_anchor_loss`.
            seed: Seed of the initial proxies.
            name: Name of the loss.

        Raises:
            ValueError: An argument is out of range.
        """
        super().__init__(seed, name)
        _check_positive("alpha", alpha)
        if not delta >= 0:
            raise ValueError(f"`delta` must be at least 0. Received: {delta}")
        self._alpha, self._delta = float(alpha), float(delta)

    def _values(self, products, similarities) -> tf.Tensor:
        value = proxy_anchor_loss(
            products, similarities, self._alpha, self._delta
        )
        return tf.fill([tf.shape(similarities)[0]], value)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "alpha": self._alpha,
            "delta": self._delta,
            "seed": self._seed,
            "name": self.name,
        }


@tf.keras.utils.register_keras_serializable("tf_triplet")
class NormSoftmaxLoss(ProxyLoss):
    """`norm_softmax_loss` as a Keras loss that holds its proxies.

    Call `build` before training, and train with
    `tf_triplet.training.Learner`.

    References:
        Zhai and Wu, 2018, https://arxiv.org/abs/1811.12649.

    Example:
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import NormSoftmaxLoss
        >>> loss = NormSoftmaxLoss()
        >>> loss.build(products=3, embedding_size=2)
        >>> proxies = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        >>> loss.parameters.set_weights([tf.constant(proxies)])
        >>> embeddings = tf.constant([[0.8, 0.6], [0.6, 0.8]])
        >>> round(float(loss(tf.constant([0, 1]), embeddings)), 3)
        0.018
    """

    def __init__(
        self,
        temperature: float = 0.05,
        seed: int = 0,
        name: str = "norm_softmax_loss",
    ):
        """Creates the loss; `build` creates its proxies.

        Args:
            temperature: See `norm_softmax_loss`.
            seed: Seed of the initial proxies.
            name: Name of the loss.

        Raises:
            ValueError: `temperature` is not above 0.
        """
        super().__init__(seed, name)
        _check_positive("temperature", temperature)
        self._temperature = float(temperature)

    def _values(self, products, similarities) -> tf.Tensor:
        return norm_softmax_loss(products, similarities, self._temperature)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "temperature": self._temperature,
            "seed": self._seed,
            "name": self.name,
        }


def _is_own(products, similarities) -> tf.Tensor:
    """Returns `[batch, proxies]` booleans that mark each row's own proxy."""
    columns = tf.range(tf.shape(similarities)[1], dtype=products.dtype)
    return products[:, None] == columns[None, :]


def _log1p_sum_exp(values, mask) -> tf.Tensor:
    """Returns `[proxies]` log(1 + sum of exp) over the selected rows."""
    return tf.math.softplus(
        pairs.logsumexp(tf.transpose(values), tf.transpose(mask))
    )


def _check_positive(name: str, value: float) -> None:
    """Raises a ValueError unless `value` is positive and finite."""
    if not 0 < value < _INF:
        raise ValueError(f"`{name}` must be more than 0. Received: {value}")
