"""A feature map to one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import tensorflow as tf

POOLINGS = ("average", "max", "average_max", "gem", "rmac")
# One of `POOLINGS`, or a function that makes a Keras layer.
Pooling = Union[str, Callable[[], tf.keras.layers.Layer]]


def build_pooling(pooling: Pooling) -> Callable:
    """Makes the layers; what is returned may be called several times.

    Args:
        pooling: "average", "max", "average_max" (the sum of both), "gem"
            (`GeneralizedMean`) or "rmac" (`RegionalMax`); or a function
            without arguments that makes a Keras layer of your own from
            `[batch, height, width, channels]` to `[batch, channels]`.

    Returns:
        A function from a `[batch, height, width, channels]` Keras tensor to
        a `[batch, channels]` one. The first three are Keras's own layers;
        a model with one of the others loads after
        `import tf_triplet.models.pooling`.
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
    # Powers and lengths want float32, whatever the policy.
    if pooling == "gem":
        return GeneralizedMean(name="pool", dtype="float32")
    if pooling == "rmac":
        return RegionalMax(name="pool", dtype="float32")
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="pool")
    return layers.GlobalAveragePooling2D(name="pool")


def _checked(layer: tf.keras.layers.Layer) -> Callable:
    """The layer, which must give one vector for each image."""
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
    """GeM: the mean of the p-th powers, and of that the p-th root.

    p = 1 is the average, a large p nearly the maximum. One p for all
    channels is learned.

    References:
        Radenovic et al., 2017, https://arxiv.org/abs/1711.02512.
    """

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, **kwargs):
        """Sets the start.

        Args:
            p: before training; more than 0.
            epsilon: activations below it, negative ones too, count as it:
                a power of a negative number is none.
            **kwargs: for `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        for name, value in (("p", p), ("epsilon", epsilon)):
            if not value > 0:
                raise ValueError(
                    f"`{name}` must be more than 0. Received: {value}"
                )
        self._start, self._epsilon = float(p), float(epsilon)
        self.p = None

    def build(self, input_shape):
        """Makes p."""
        del input_shape
        self.p = self.add_weight(
            "p", [], initializer=tf.keras.initializers.Constant(self._start)
        )
        self.built = True

    def call(self, inputs):
        """`[batch, height, width, channels]` to `[batch, channels]`."""
        x = tf.maximum(inputs, self._epsilon)
        # Relative to the largest: its power neither overflows nor vanishes.
        # The result does not depend on this scale, so it needs no gradient.
        scale = tf.stop_gradient(tf.reduce_max(x, [1, 2], keepdims=True))
        mean = tf.reduce_mean(tf.pow(x / scale, self.p), [1, 2])
        return tf.pow(mean, 1.0 / self.p) * scale[:, 0, 0]

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "p": self._start,
            "epsilon": self._epsilon,
        }


@tf.keras.utils.register_keras_serializable("tf_triplet")
class RegionalMax(tf.keras.layers.Layer):
    """R-MAC: maxima of regions, each of unit length, summed.

    Nothing is learned: the paper's whitening of each region is left out.

    References:
        Tolias et al., 2015, https://arxiv.org/abs/1511.05879.
    """

    def __init__(self, levels: int = 3, **kwargs):
        """Sets the number of scales; the paper: 3."""
        super().__init__(**kwargs)
        if levels < 1:
            raise ValueError(f"`levels` must be at least 1. Received: {levels}")
        self._levels = int(levels)
        self._regions = []

    def build(self, input_shape):
        """Lays out the regions."""
        height, width = input_shape[1:3]
        if height is None or width is None:
            raise ValueError(
                "R-MAC needs a feature map of a known size. Received shape: "
                f"{tuple(input_shape)}. Give the backbone images of one "
                "size, or take gem."
            )
        self._regions = rmac_regions(height, width, self._levels)
        self.built = True

    def call(self, inputs):
        """`[batch, height, width, channels]` to `[batch, channels]`."""
        vectors = [
            tf.reduce_max(
                inputs[:, top : top + size, left : left + size], [1, 2]
            )
            for top, left, size in self._regions
        ]
        return tf.add_n([tf.math.l2_normalize(v, -1) for v in vectors])

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {**super().get_config(), "levels": self._levels}


def rmac_regions(
    height: int, width: int, levels: int
) -> list[tuple[int, int, int]]:
    """The squares of R-MAC.

    At scale l they are `2 min(height, width) / (l + 1)` wide, l of them
    along the shorter side and l + m - 1 along the longer, evenly spaced. m
    is such that neighbors of the first scale overlap by nearly 40 %.

    Args:
        height: of the map.
        width: of the map.
        levels: scales, from the largest square down; those smaller than one
            place of the map are left out.

    Returns:
        (top, left, size) of each.
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
    if count == 1:
        return [(side - size) // 2]
    return [i * (side - size) // (count - 1) for i in range(count)]
