"""Losses that compare every row with one learned vector a product.

A proxy stands for all images of its product, also those outside the
batch, so nothing is mined. The proxies are the loss's own variables: made
by `build`, trained beside the encoder, saved in checkpoints and thrown away
after training. `[batch, products]` is the largest tensor held.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses import pairs
from tf_triplet.losses.batch_loss import BatchLoss, BatchValue, split_labels

_INF = float("inf")


def proxy_nca_loss(
    products: tf.Tensor, similarities: tf.Tensor, scale: float = 3.0
) -> tf.Tensor:
    """`-log(exp(-|x - p_y|^2) / sum_{z != y} exp(-|x - p_z|^2))`.

    The own proxy is not in the sum, so the loss may be negative.

    Args:
        products: `[batch]` integers, the own proxy's column.
        similarities: `[batch, proxies]` cosines, at least two proxies.
        scale: length to which rows and proxies are brought; squared
            distances are `2 * scale^2 * (1 - cosine)`.

    Returns:
        `[batch]` losses.

    References:
        Movshovitz-Attias et al., 2017, https://arxiv.org/abs/1703.07464.
    """
    squared = 2.0 * scale**2 * (1.0 - similarities)
    others = tf.where(_is_own(products, similarities), -_INF, -squared)
    return _own(products, squared) + tf.reduce_logsumexp(others, -1)


def proxy_anchor_loss(
    products: tf.Tensor,
    similarities: tf.Tensor,
    alpha: float = 32.0,
    delta: float = 0.1,
) -> tf.Tensor:
    """Proxies are the anchors: they pull their rows, and push the others.

    `mean_p log(1 + sum_own exp(-alpha (s - delta)))` over the proxies with
    a row in the batch, plus `mean_p log(1 + sum_others exp(alpha (s +
    delta)))` over all proxies.

    Args:
        products: `[batch]` integers, the own proxy's column.
        similarities: `[batch, proxies]` cosines.
        alpha: steepness; the hardest rows weigh most.
        delta: margin, in cosine.

    Returns:
        A scalar.

    References:
        Kim et al., 2020, https://arxiv.org/abs/2003.13911.
    """
    own = _is_own(products, similarities)
    pull = _log1p_sum_exp(-alpha * (similarities - delta), own)
    push = _log1p_sum_exp(alpha * (similarities + delta), ~own)
    present = tf.reduce_sum(tf.cast(tf.reduce_any(own, 0), tf.float32))
    # No row, no proxy with one: 0 / 1.
    return tf.reduce_sum(pull) / tf.maximum(present, 1.0) + tf.reduce_mean(push)


def norm_softmax_loss(
    products: tf.Tensor, similarities: tf.Tensor, temperature: float = 0.05
) -> tf.Tensor:
    """Cross entropy of the own product, logits `cosine / temperature`.

    Args:
        products: `[batch]` integers, the own proxy's column.
        similarities: `[batch, proxies]` cosines.
        temperature: of the softmax.

    Returns:
        `[batch]` losses.

    References:
        Zhai and Wu, 2018, https://arxiv.org/abs/1811.12649.
    """
    logits = similarities / temperature
    return tf.reduce_logsumexp(logits, -1) - _own(products, logits)


class ProxyLoss(BatchLoss):
    """Base: makes the proxies, and compares unit vectors with them.

    Labels `[batch, 2]` carry a side; it is not looked at: images of
    either side are compared with the proxies, which have none.
    """

    needs_positives = False
    has_variables = True
    metric_names = ("accuracy", "own_proxy")
    _least_products = 1

    def __init__(self, seed: int, name: str):
        """Sets the seed of the initial proxies."""
        super().__init__(name=name)
        self._seed = int(seed)

    def build(self, products: int, embedding_size: int) -> None:
        """Makes `[products, embedding_size]` proxies.

        Args:
            products: labels run from 0 to `products - 1`.
            embedding_size: of the embeddings, and so of the proxies.

        Raises:
            ValueError: too few products, or no width.
        """
        if products < self._least_products:
            raise ValueError(
                f"`products` must be at least {self._least_products} for "
                f"{type(self).__name__}. Received: {products}. Train on more "
                "products, or with a loss over pairs (TripletLoss)."
            )
        if embedding_size < 1:
            raise ValueError(
                "`embedding_size` must be at least 1: the width of the "
                f"encoder's output. Received: {embedding_size}"
            )
        self.parameters = Proxies(products, embedding_size, self._seed)

    def compute(self, labels, embeddings, keys=None) -> BatchValue:
        """Metrics: `accuracy`, the share of rows whose nearest proxy is
        their own; `own_proxy`, the mean cosine to it.

        Raises:
            ValueError: not built, keys given, or another width.
            tf.errors.InvalidArgumentError: a label without a proxy.
        """
        if keys is not None:
            raise ValueError(
                f"{type(self).__name__} compares with proxies, so it takes no "
                "`keys`. Use no memory, or a loss over pairs."
            )
        products, similarities = self._compare(labels, embeddings)
        nearest = tf.argmax(similarities, -1, products.dtype)
        metrics = {
            "accuracy": tf.cast(nearest == products, tf.float32),
            "own_proxy": _own(products, similarities),
        }
        return BatchValue(
            self._values(products, similarities),
            {
                name: tf.stop_gradient(tf.reduce_mean(value))
                for name, value in metrics.items()
            },
        )

    def _values(self, products, similarities) -> tf.Tensor:
        """`[batch]` values whose mean is the loss."""
        raise NotImplementedError

    def _compare(self, labels, embeddings) -> tuple[tf.Tensor, tf.Tensor]:
        """`[batch]` products and `[batch, proxies]` cosines."""
        if self.parameters is None:
            raise ValueError(
                f"{type(self).__name__} has no proxies yet. Call "
                "`build(products, embedding_size)` first, under the "
                "strategy's scope."
            )
        proxies = tf.convert_to_tensor(self.parameters.proxies)
        vectors = tf.cast(embeddings, tf.float32)
        if vectors.shape[-1] not in (None, proxies.shape[-1]):
            raise ValueError(
                "The embeddings must be as wide as the proxies. Received: "
                f"embeddings of shape {vectors.shape}, proxies of width "
                f"{proxies.shape[-1]}. Build the loss with the encoder's "
                "embedding size."
            )
        products, _ = split_labels(labels)
        count = proxies.shape[0]
        known = tf.debugging.Assert(
            tf.reduce_all((products >= 0) & (products < count)),
            [
                "Labels must lie in [0, products), one proxy each. Build the "
                "loss with the number of products. Received products and "
                "labels:",
                count,
                products,
            ],
            summarize=16,
        )
        with tf.control_dependencies([known]):
            products = tf.identity(products)
        similarities = tf.matmul(
            tf.math.l2_normalize(vectors, -1),
            tf.math.l2_normalize(proxies, -1),
            transpose_b=True,
        )
        return products, similarities


class Proxies(tf.keras.layers.Layer):
    """Holds `[products, embedding_size]` trainable vectors."""

    def __init__(self, products: int, embedding_size: int, seed: int):
        """Makes them, about one long, under the current strategy."""
        # The proxies stay float32 under mixed precision, as weights do.
        super().__init__(name="proxies", dtype="float32")
        self.proxies = self.add_weight(
            name="proxies",
            shape=[products, embedding_size],
            initializer=tf.keras.initializers.RandomNormal(
                stddev=embedding_size**-0.5, seed=seed
            ),
        )


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ProxyNCALoss(ProxyLoss):
    """`proxy_nca_loss` with its proxies; see `ProxyLoss` and `BatchLoss`."""

    _least_products = 2

    def __init__(
        self, scale: float = 3.0, seed: int = 0, name: str = "proxy_nca_loss"
    ):
        """See `proxy_nca_loss`; `seed` is of the initial proxies."""
        super().__init__(seed, name)
        _check_positive("scale", scale)
        self._scale = float(scale)

    def _values(self, products, similarities):
        return proxy_nca_loss(products, similarities, self._scale)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"scale": self._scale, "seed": self._seed, "name": self.name}


@tf.keras.utils.register_keras_serializable("tf_triplet")
class ProxyAnchorLoss(ProxyLoss):
    """`proxy_anchor_loss` with its proxies; see `ProxyLoss`, `BatchLoss`.

    The value belongs to the proxies, so every row carries the same.
    """

    def __init__(
        self,
        alpha: float = 32.0,
        delta: float = 0.1,
        seed: int = 0,
        name: str = "proxy_anchor_loss",
    ):
        """See `proxy_anchor_loss`; `seed` is of the initial proxies."""
        super().__init__(seed, name)
        _check_positive("alpha", alpha)
        if not delta >= 0:
            raise ValueError(f"`delta` must be at least 0. Received: {delta}")
        self._alpha, self._delta = float(alpha), float(delta)

    def _values(self, products, similarities):
        value = proxy_anchor_loss(
            products, similarities, self._alpha, self._delta
        )
        return tf.fill([tf.shape(similarities)[0]], value)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {
            "alpha": self._alpha,
            "delta": self._delta,
            "seed": self._seed,
            "name": self.name,
        }


@tf.keras.utils.register_keras_serializable("tf_triplet")
class NormSoftmaxLoss(ProxyLoss):
    """`norm_softmax_loss` with its proxies; see `ProxyLoss`, `BatchLoss`."""

    def __init__(
        self,
        temperature: float = 0.05,
        seed: int = 0,
        name: str = "norm_softmax_loss",
    ):
        """See `norm_softmax_loss`; `seed` is of the initial proxies."""
        super().__init__(seed, name)
        _check_positive("temperature", temperature)
        self._temperature = float(temperature)

    def _values(self, products, similarities):
        return norm_softmax_loss(products, similarities, self._temperature)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {
            "temperature": self._temperature,
            "seed": self._seed,
            "name": self.name,
        }


def _is_own(products, similarities) -> tf.Tensor:
    """`[batch, proxies]` booleans: the row's own proxy."""
    columns = tf.range(tf.shape(similarities)[1], dtype=products.dtype)
    return products[:, None] == columns[None, :]


def _own(products, values) -> tf.Tensor:
    """`[batch]` entries of `[batch, proxies]` at the own proxy."""
    return tf.gather(values, products, batch_dims=1)


def _log1p_sum_exp(values, mask) -> tf.Tensor:
    """`[proxies]` log(1 + sum of exp) over the masked rows."""
    return tf.math.softplus(
        pairs.logsumexp(tf.transpose(values), tf.transpose(mask))
    )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < _INF:
        raise ValueError(f"`{name}` must be more than 0. Received: {value}")
