"""Losses of attributes and landmarks, as totals and counts.

When each replica holds a part of the batch, the mean over the batch is the
sum of the parts' totals divided by the sum of their counts. The losses here
therefore return both numbers.

References:
    Liu et al., 2016, DeepFashion (FashionNet),
    https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html.
    Huang et al., 2015, https://arxiv.org/abs/1505.07922 (DARN).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Sum(NamedTuple):
    """A loss before its mean is taken.

    Attributes:
        total: Scalar float32, the sum of the terms.
        count: Scalar float32, the number of terms, without gradient.
    """

    total: tf.Tensor
    count: tf.Tensor


def attribute_loss(
    attributes: tf.Tensor, logits: tf.Tensor, positive_weight: float = 1.0
) -> Sum:
    """Computes the sigmoid cross entropy of the known attributes.

    Args:
        attributes: `[batch, attributes]`. 1: the image has the attribute; 0:
            it does not; -1: unknown.
        logits: `[batch, attributes]` floats. Arithmetic is float32.
        positive_weight: Factor on the loss of attributes that an image has.
            Most attributes are rare, so with the weight 1 a network may
            learn to predict none.

    Returns:
        The total and count over all known attributes.
    """
    logits = tf.cast(logits, tf.float32)
    attributes = tf.cast(attributes, tf.float32)
    known = attributes >= 0.0
    values = tf.nn.weighted_cross_entropy_with_logits(
        tf.maximum(attributes, 0.0), logits, positive_weight
    )
    return _sum(values, known)


def place_loss(landmarks: tf.Tensor, places: tf.Tensor) -> Sum:
    """Computes the squared distance of predicted and visible landmarks.

    Args:
        landmarks: `[batch, landmarks, 3]`: x and y in [0, 1], and the
            visibility: 0 (visible), 1 (hidden), 2 (cut off) or NaN (not
            annotated).
        places: `[batch, landmarks, 2]` floats, the predicted x and y.

    Returns:
        The total and count over all visible landmarks.
    """
    landmarks = tf.cast(landmarks, tf.float32)
    visible = landmarks[..., 2] == 0.0
    # NaN must be replaced before the square: NaN times a gradient of 0 is NaN.
    wanted = tf.where(visible[..., None], landmarks[..., :2], 0.0)
    gaps = tf.cast(places, tf.float32) - wanted
    return _sum(tf.reduce_sum(gaps**2, -1), visible)


def visibility_loss(landmarks: tf.Tensor, logits: tf.Tensor) -> Sum:
    """Computes the sigmoid cross entropy of the visibility of landmarks.

    Hidden landmarks and those that are cut off count as not visible.

    Args:
        landmarks: `[batch, landmarks, 3]`, see `place_loss`.
        logits: `[batch, landmarks]` floats, the logits of being visible.

    Returns:
        The total and count over all annotated landmarks.
    """
    visibility = tf.cast(landmarks, tf.float32)[..., 2]
    values = tf.nn.sigmoid_cross_entropy_with_logits(
        tf.cast(visibility == 0.0, tf.float32), tf.cast(logits, tf.float32)
    )
    return _sum(values, ~tf.math.is_nan(visibility))


def _sum(values: tf.Tensor, counted: tf.Tensor) -> Sum:
    """Sums the values whose boolean in `counted` is True."""
    return Sum(
        tf.reduce_sum(tf.where(counted, values, 0.0)),
        tf.reduce_sum(tf.cast(counted, tf.float32)),
    )
