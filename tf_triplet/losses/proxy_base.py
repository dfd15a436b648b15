"""The base class of losses with proxies, one learned vector per product.

A proxy represents all images of its product, including those outside the
batch, so nothing is mined. The proxies are variables of the loss: `build`
creates them, training updates them together with the encoder, checkpoints
contain them, and the exported model does not. The largest tensor is
`[batch, products]`.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
    split_labels,
)

# Where the proxies of a run may begin; see `builders.start_proxies`.
STARTS = ("random", "means")


class ProxyLoss(BatchLoss):
    """Base class: creates proxies and compares normalized rows with them.

    Labels may carry sides, `[batch, 2]`, but the sides have no effect: images
    of both sides are compared with the same proxies.
    """

    needs_positives = False
    needs_negatives = False
    has_variables = True
    metric_names = ("accuracy", "own_proxy")
    _least_products = 1

    def __init__(self, seed: int, name: str):
        """Creates the loss; `build` creates its proxies.

        Args:
            seed: Seed of the initial proxies.
            name: Name of the loss.
        """
        super().__init__(name=name)
        self._seed = int(seed)

    def build(self, products: int, embedding_size: int) -> None:
        """Creates `[products, embedding_size]` proxies.

        Args:
            products: Number of products. Labels run from 0 to
                `products - 1`.
            embedding_size: Width of the embeddings and the proxies.

        Raises:
            ValueError: There are too few products, or the width is below 1.
        """
        if products < self._least_products:
            raise ValueError(
                f"`products` must be at least {self._least_products} for "
                f"{type(self).__name__}. Received: {products}. Train on more "
                "products, or with a loss over pairs (TripletLoss)."
            )
        if embedding_size < 1:
            raise ValueError(
                "`embedding_size` must be at least 1, the width of the "
                f"encoder's output. Received: {embedding_size}"
            )
        self.parameters = Proxies(products, embedding_size, self._seed)

    def compute(
        self,
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        keys: Keys | None = None,
    ) -> BatchValue:
        """Compares each row with all proxies.

        Args:
            labels: `[batch]`, `[batch, 1]` or `[batch, 2]` integers.
            embeddings: `[batch, dim]` floats, normalized here.
            keys: Must be None.

        Returns:
            The value of each row. Metrics: `accuracy` is the share of rows
            whose nearest proxy is their own; `own_proxy` is the mean cosine
            similarity with the own proxy.

        Raises:
            ValueError: `build` was not called, there are keys, or the
                embeddings are not as wide as the proxies.
            tf.errors.InvalidArgumentError: A label has no proxy.
        """
        if keys is not None:
            raise ValueError(
                f"{type(self).__name__} compares rows with proxies, so it "
                "takes no `keys`. Train without a memory, or with a loss over "
                "pairs."
            )
        products, similarities = self._compare(labels, embeddings)
        nearest = tf.argmax(similarities, -1, products.dtype)
        metrics = {
            "accuracy": tf.cast(nearest == products, tf.float32),
            "own_proxy": own_entries(products, similarities),
        }
        return BatchValue(
            self._values(products, similarities),
            {
                name: tf.stop_gradient(tf.reduce_mean(value))
                for name, value in metrics.items()
            },
        )

    def _values(self, products, similarities) -> tf.Tensor:
        """Returns `[batch]` values, whose mean is the loss."""
        raise NotImplementedError

    def _compare(self, labels, embeddings) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `[batch]` products and `[batch, proxies]` similarities."""
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
    """Holds the proxies, `[products, embedding_size]` trainable vectors."""

    def __init__(self, products: int, embedding_size: int, seed: int):
        """Creates proxies of about unit length under the current strategy.

        Args:
            products: Number of proxies.
            embedding_size: Width of the proxies.
            seed: Seed of their initial values.
        """
        # Like weights, proxies stay float32 under mixed precision.
        super().__init__(name="proxies", dtype="float32")
        self.proxies = self.add_weight(
            name="proxies",
            shape=[products, embedding_size],
            initializer=tf.keras.initializers.RandomNormal(
                stddev=embedding_size**-0.5, seed=seed
            ),
        )


def own_entries(products, values) -> tf.Tensor:
    """Returns the `[batch]` entries of `[batch, proxies]` at the own proxy."""
    return tf.gather(values, products, batch_dims=1)
