"""Moves landmarks along with the pixels of an image.

All functions take and return `[L, 3]` x, y and visibility. Visibility is 0
(visible), 1 (hidden), 2 (cut off) or NaN (not annotated). Unless stated
otherwise, x and y run from 0 to 1 over the width and height of the image,
from edge to edge.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.data.annotations import CUT_OFF, HIDDEN, VISIBLE


def crop(landmarks: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Crops the image to a window and marks landmarks outside as cut off.

    Args:
        landmarks: `[L, 3]`, x and y in pixels of the whole image.
        window: `[4]` integers top, left, bottom, right, in pixels.
    """
    top, left, bottom, right = tf.unstack(tf.cast(window, tf.float32))
    x, y, visibility = tf.unstack(landmarks, axis=-1)
    x, y = (x - left) / (right - left), (y - top) / (bottom - top)
    # A later rotation must not bring back what the crop has removed.
    return outside_is_cut(tf.stack([x, y, visibility], -1))


def mirror(landmarks: tf.Tensor, paired: bool) -> tf.Tensor:
    """Mirrors the image left to right.

    Args:
        landmarks: `[L, 3]`.
        paired: Whether to swap landmarks 1 and 2, 3 and 4, and so on, which
            are the left and right of a pair.
    """
    x, y, visibility = tf.unstack(landmarks, axis=-1)
    mirrored = tf.stack([1.0 - x, y, visibility], -1)
    if not paired:
        return mirrored
    rows = tf.range(tf.shape(landmarks)[0])
    partner = tf.bitwise.bitwise_xor(rows, 1)
    # The last landmark of an odd number has no partner.
    partner = tf.where(partner < tf.size(rows), partner, rows)
    return tf.gather(mirrored, partner)


def rotate(landmarks: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Rotates a square image about its center.

    Args:
        landmarks: `[L, 3]`.
        angle: Scalar angle in radians, counterclockwise.
    """
    x, y, visibility = tf.unstack(landmarks, axis=-1)
    x, y = x - 0.5, y - 0.5
    cos, sin = tf.cos(angle), tf.sin(angle)
    # y points down.
    x, y = cos * x + sin * y, cos * y - sin * x
    return tf.stack([x + 0.5, y + 0.5, visibility], -1)


def cover(landmarks: tf.Tensor, center: tf.Tensor, side: float) -> tf.Tensor:
    """Hides the visible landmarks under a square.

    Args:
        landmarks: `[L, 3]`.
        center: `[2]` y and x of the center of the square.
        side: Side of the square.
    """
    x, y, visibility = tf.unstack(landmarks, axis=-1)
    center = tf.cast(center, tf.float32)
    under = (tf.abs(x - center[1]) < side / 2) & (
        tf.abs(y - center[0]) < side / 2
    )
    hidden = under & (visibility == VISIBLE)
    visibility = tf.where(hidden, float(HIDDEN), visibility)
    return tf.stack([x, y, visibility], -1)


def outside_is_cut(landmarks: tf.Tensor) -> tf.Tensor:
    """Marks landmarks outside the image as cut off."""
    x, y, visibility = tf.unstack(landmarks, axis=-1)
    outside = (x < 0) | (x > 1) | (y < 0) | (y > 1)
    visibility = tf.where(outside, float(CUT_OFF), visibility)
    return tf.stack([x, y, visibility], -1)
