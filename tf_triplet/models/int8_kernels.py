"""Keras layers that store their kernels as int8, a quarter of float32's size.

A kernel is stored as integers from -127 to 127 and one float32 scale per output
channel. Each call of a layer multiplies the two to get a float32 kernel. This
takes only plain TensorFlow operations, so any server can load the model.

References:
    Krishnamoorthi, 2018, https://arxiv.org/abs/1806.08342, section 3
    (symmetric quantization per channel).
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

_LARGEST = 127
# Names that Keras gives to kernels, with the axes that share a scale.
_INPUT_AXES = {
    "kernel": (0, 1, 2),
    "depthwise_kernel": (0, 1),
    "pointwise_kernel": (0, 1, 2),
}


def quantize(
    kernel: np.ndarray, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a kernel to integers times a scale.

    Args:
        kernel: Floats of any shape.
        axes: The axes along which all numbers share a scale.

    Returns:
        The int8 numbers in the shape of the kernel, and float32 scales that
        broadcast to it. No number is off by more than half a scale.
    """
    scale = np.abs(kernel).max(axes, keepdims=True) / np.float32(_LARGEST)
    # Channels of zeros, or of numbers too small to divide by, become zeros.
    scale = np.where(scale < np.finfo(np.float32).tiny, 1, scale)
    return np.rint(kernel / scale).astype(np.int8), np.float32(scale)


@functools.cache
def with_int8_kernels(kind: type) -> type:
    """Makes a subclass of a layer class that stores its kernels as int8.

    Args:
        kind: Class of a Keras layer, for instance `tf.keras.layers.Conv2D`.

    Returns:
        The subclass, which has a method `copy_weights` besides.
    """
    return type(f"Int8{kind.__name__}", (_Int8Kernels, kind), {})


def _kernel(name: str) -> property:
    """Makes a property that computes a float32 kernel when it is read."""

    def get(self):
        numbers, scales = self._int8[name]
        return tf.cast(numbers, tf.float32) * scales

    def ignore(self, value):
        """Ignores the assignment of what `add_weight` returned."""

    return property(get, ignore)


class _Int8Kernels:
    """Mixin that comes before a Keras layer class in the bases."""

    kernel = _kernel("kernel")
    depthwise_kernel = _kernel("depthwise_kernel")
    pointwise_kernel = _kernel("pointwise_kernel")

    def add_weight(self, name=None, shape=None, **settings):
        if name not in _INPUT_AXES:
            return super().add_weight(name=name, shape=shape, **settings)
        axes = self._axes(name, len(shape))
        settings = {"trainable": False, "experimental_autocast": False}
        numbers = super().add_weight(
            name=f"{name}_int8",
            shape=shape,
            dtype="int8",
            initializer="zeros",
            **settings,
        )
        scales = super().add_weight(
            name=f"{name}_scale",
            shape=[1 if i in axes else n for i, n in enumerate(shape)],
            dtype="float32",
            initializer="ones",
            **settings,
        )
        self._int8[name] = numbers, scales
        return None  # The property `kernel` reads the two variables.

    def copy_weights(self, layer: tf.keras.layers.Layer) -> None:
        """Copies the weights of a layer, and quantizes its kernels.

        Args:
            layer: A layer of the original class with the same configuration.
        """
        for name, (numbers, scales) in self._int8.items():
            kernel = getattr(layer, name).numpy()
            whole, scale = quantize(kernel, self._axes(name, kernel.ndim))
            numbers.assign(whole)
            scales.assign(scale)
        kernels = {id(getattr(layer, name)) for name in self._int8}
        own = {id(v) for pair in self._int8.values() for v in pair}
        rest = [w for w in self.weights if id(w) not in own]
        others = [w for w in layer.weights if id(w) not in kernels]
        for variable, value in zip(rest, others, strict=True):
            variable.assign(value)

    @property
    def _int8(self):
        """Maps a kernel's name to its numbers and scales."""
        return self.__dict__.setdefault("_int8_of_kernels", {})

    def _axes(self, name, rank):
        if isinstance(self, tf.keras.layers.Conv2DTranspose):
            return 0, 1, 3  # The output axis comes before the input axis.
        # The last axis of a kernel is the output, also in dense layers.
        return tuple(axis for axis in _INPUT_AXES[name] if axis < rank - 1)
