"""Pooling: a feature map becomes one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import tensorflow as tf

POOLINGS = ("average", "max", "average_max", "gem", "rmac")
# One of `POOLINGS`, or a function that returns a Keras layer.
Pooling = Union[str, Callable[[], tf.keras.layers.Layer]]


def build_pooling(pooling: Pooling) -> Callable[[tf.Tensor], tf.Tensor]:
    """Builds the layers that pool a feature map.

    Args:
        pooling: "average", "max", "average_max" (the sum of both), "gem"
            (`GeneralizedMean`) or "rmac" (`RegionalMax`); or a function
            without arguments that returns a Keras layer of your own from
            `[batch, height, width, channels]` to `[batch, channels]`.

    Returns:
        A function from a `[batch, height, width, channels]` Keras tensor to a
        `[batch, channels]` one. Several calls share the same weights. "gem"
        and "rmac" are not layers of Keras: to load a saved model that has
        one, import `tf_triplet.models.pooling` first.

    Raises:
        ValueError: If the name is unknown, or the function does not return a
            Keras layer.

    Example:

    >>> pool = build_pooling("average_max")
    >>> pool(tf.constant([[[[1.0], [3.0]]]])).numpy().tolist()  # 2 + 3
    [[5.0]]
    """
    layers = tf.keras.layers
    if callable(pooling):
        return _checked(pooling())
    if pooling not in POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {', '.join(POOLINGS)}. "
            f"Received: {pooling!r}"
        )
    if pooling == "average_max":
        average = layers.GlobalAveragePooling2D(name="pool_average")
        largest = layers.GlobalMaxPooling2D(name="pool_max")
        add = layers.Add(name="pool")
        return lambda features: add([average(features), largest(features)])
    # Powers and lengths need float32, also under mixed precision.
    if pooling == "gem":
        return GeneralizedMean(name="pool", dtype="float32")
    if pooling == "rmac":
        return RegionalMax(name="pool", dtype="float32")
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="pool")
    return layers.GlobalAveragePooling2D(name="pool")


def _checked(layer: tf.keras.layers.Layer) -> Callable:
    """Returns the layer with a check that its output is `[batch, channels]`."""
    if not isinstance(layer, tf.keras.layers.Layer):
        raise ValueError(
            "`pooling` must make a `tf.keras.layers.Layer`. Received: "
            f"{type(layer).__name__}"
        )

    def pool(features):
        vectors = layer(features)
        shape = getattr(vectors, "shape", None)
        if shape is None or shape.rank != 2 or shape[-1] is None:
            raise ValueError(
                f"The pooling layer {layer.name!r} must map {features.shape} "
                f"to [batch, channels]. Received an output of shape: {shape}"
            )
        return vectors

    return pool


@tf.keras.utils.register_keras_serializable("tf_triplet")
class GeneralizedMean(tf.keras.layers.Layer):
    """Generalized-mean (GeM) pooling: `mean(x ** p) ** (1 / p)`.

    p = 1 is the average, and a large p approaches the maximum. One p for all
    channels is learned.

    Example:

    >>> maps = tf.constant([[[[1.0], [7.0]]]])
    >>> GeneralizedMean(p=2.0)(maps).numpy().round(4).tolist()
    [[5.0]]

    References:
        Radenovic et al., 2017, https://arxiv.org/abs/1711.02512.
    """

    def __init__(
        self, p: float = 3.0, epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        """Sets the initial p.

        Args:
            p: Initial value of p, greater than 0.
            epsilon: Activations below this value are raised to it, because
                negative numbers have no real p-th power.
            **kwargs: Arguments of `keras.layers.Layer`.

        Raises:
            ValueError: If `p` or `epsilon` is not greater than 0.
        """
        super().__init__(**kwargs)
        for name, value in (("p", p), ("epsilon", epsilon)):
            if not value > 0:
                raise ValueError(
                    f"`{name}` must be greater than 0. Received: {value}"
                )
        self._start, self._epsilon = float(p), float(epsilon)
        self.p = None

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weight p."""
        del input_shape
        self.p = self.add_weight(
            "p", [], initializer=tf.keras.initializers.Constant(self._start)
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools `[batch, height, width, channels]` to `[batch, channels]`."""
        x = tf.maximum(inputs, self._epsilon)
        # Divided by the maximum, a power neither overflows nor vanishes. The
        # result does not depend on the divisor, so it needs no gradient.
        scale = tf.stop_gradient(tf.reduce_max(x, [1, 2], keepdims=True))
        mean = tf.reduce_mean(tf.pow(x / scale, self.p), [1, 2])
        return tf.pow(mean, 1.0 / self.p) * scale[:, 0, 0]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "p": self._start,
            "epsilon": self._epsilon,
        }


@tf.keras.utils.register_keras_serializable("tf_triplet")
class RegionalMax(tf.keras.layers.Layer):
    """R-MAC pooling: the sum of the unit vectors of square regions.

    The vector of a region is the maximum of each channel, scaled to unit
    length. Nothing is learned: unlike the paper, this layer does not whiten
    the vectors.

    Example:

    >>> maps = tf.constant([[[[3.0, 0.0], [0.0, 4.0]]]])
    >>> maps = tf.concat([maps, tf.zeros_like(maps)], axis=1)
    >>> vectors = RegionalMax(levels=1)(maps)  # One region: the whole map.
    >>> vectors.numpy().astype(float).round(4).tolist()
    [[0.6, 0.8]]

    References:
        Tolias et al., 2015, https://arxiv.org/abs/1511.05879.
    """

    def __init__(self, levels: int = 3, **kwargs: Any) -> None:
        """Sets the number of scales.

        Args:
            levels: Number of scales of the regions, at least 1. The paper
                uses 3.
            **kwargs: Arguments of `keras.layers.Layer`.

        Raises:
            ValueError: If `levels` is less than 1.
        """
        super().__init__(**kwargs)
        if levels < 1:
            raise ValueError(f"`levels` must be at least 1. Received: {levels}")
        self._levels = int(levels)
        self._regions = []

    def build(self, input_shape: tf.TensorShape) -> None:
        """Computes the regions for the size of the feature map."""
        height, width = input_shape[1:3]
        if height is None or width is None:
            raise ValueError(
                "R-MAC needs a feature map of a known size. Received shape: "
                f"{tuple(input_shape)}. Give the backbone a fixed image "
                "size, or use gem."
            )
        self._regions = rmac_regions(height, width, self._levels)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools `[batch, height, width, channels]` to `[batch, channels]`."""
        vectors = [
            tf.reduce_max(
                inputs[:, top : top + size, left : left + size], [1, 2]
            )
            for top, left, size in self._regions
        ]
        return tf.add_n([tf.math.l2_normalize(v, -1) for v in vectors])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "levels": self._levels}


def rmac_regions(
    height: int, width: int, levels: int
) -> list[tuple[int, int, int]]:
    """Computes the square regions of R-MAC.

    At scale l, a square is `2 min(height, width) / (l + 1)` wide. There are l
    squares along the shorter side of the map and l + m - 1 along the longer
    side, evenly spaced. m is chosen so that neighboring squares of the first
    scale overlap by about 40 %.

    Args:
        height: Height of the feature map.
        width: Width of the feature map.
        levels: Number of scales, starting with the largest squares. Scales
            with squares of less than one cell are left out.

    Returns:
        Top, left and size of each square, in cells of the map.
    """
    short, long = min(height, width), max(height, width)

    def overlap(count):
        return 1.0 - (long - short) / (count - 1) / short

    extra = 0  # m - 1
    if long > short:
        counts = range(2, long + 2)
        extra = min(counts, key=lambda m: abs(overlap(m) - 0.4)) - 1
    regions = []
    for level in range(1, levels + 1):
        size = 2 * short // (level + 1)
        if size < 1:
            break
        rows = level + (extra if height > width else 0)
        columns = level + (extra if width > height else 0)
        regions += [
            (top, left, size)
            for top in _starts(height, size, rows)
            for left in _starts(width, size, columns)
        ]
    return regions


def _starts(side: int, size: int, count: int) -> list[int]:
    """Spaces `count` squares evenly along a side."""
    if count == 1:
        return [(side - size) // 2]
    return [i * (side - size) // (count - 1) for i in range(count)]
