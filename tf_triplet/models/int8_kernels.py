"""Layers that keep their kernels in int8, a quarter of the bytes of float32.

A kernel is whole numbers from -127 to 127 and one scale an output channel
(symmetric and per channel: Krishnamoorthi 2018, "Quantizing deep convolutional
networks for efficient inference", arXiv:1806.08342, section 3). Each call makes
the floats anew, in plain TensorFlow, which any server loads.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

_LARGEST = 127
# What Keras calls kernels, with the axes that are not an output's.
_INPUT_AXES = {
    "kernel": (0, 1, 2),
    "depthwise_kernel": (0, 1),
    "pointwise_kernel": (0, 1, 2),
}


def quantize(
    kernel: np.ndarray, axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and their scales.

    Args:
        kernel: float32.
        axes: that share a scale.

    Returns:
        int8 of the kernel's shape, and float32 scales that broadcast to it;
        the largest error is half a scale.
    """
    scale = np.abs(kernel).max(axes, keepdims=True) / np.float32(_LARGEST)
    # A channel of zeros, or of numbers too small to divide by.
    scale = np.where(scale < np.finfo(np.float32).tiny, 1, scale)
    return np.rint(kernel / scale).astype(np.int8), np.float32(scale)


@functools.cache
def with_int8_kernels(kind: type) -> type:
    """A class of layers like `kind`, its kernels kept in int8."""
    return type(f"Int8{kind.__name__}", (_Int8Kernels, kind), {})


def _kernel(name: str) -> property:
    """Floats that are made anew at each look."""

    def get(self):
        numbers, scales = self._int8[name]
        return tf.cast(numbers, tf.float32) * scales

    def ignore(self, value):
        """Keras sets what `add_weight` gave."""

    return property(get, ignore)


class _Int8Kernels:
    """Mixed into a Keras layer, before its class."""

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
        return None  # `kernel` above is made of these two.

    def copy_weights(self, layer: tf.keras.layers.Layer) -> None:
        """Takes those of the layer that this one was made from."""
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
        """Of a kernel's name its numbers and scales; Keras tracks them."""
        return self.__dict__.setdefault("_int8_of_kernels", {})

    def _axes(self, name, rank):
        if isinstance(self, tf.keras.layers.Conv2DTranspose):
            return 0, 1, 3  # Outputs come before inputs.
        # Of a dense layer's kernel the last axis is the output's too.
        return tuple(axis for axis in _INPUT_AXES[name] if axis < rank - 1)
