"""Losses of attributes and landmarks, as sums and what they are sums over.

A mean over a batch of which each replica holds a part is the sum of the
parts' totals over the sum of their counts; so a loss here gives both.

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
        total: scalar float32.
        count: scalar float32, how many terms `total` has; no gradient.
    """

    total: tf.Tensor
    count: tf.Tensor


def attribute_loss(
    attributes: tf.Tensor, logits: tf.Tensor, positive_weight: float = 1.0
) -> Sum:
    """Sigmoid cross entropy of the attributes that are known.

    Args:
        attributes: `[batch, A]` 1 (has it), 0 (has not), -1 (unknown).
        logits: `[batch, A]` floats; arithmetic is float32.
        positive_weight: times the loss of an attribute that is there; most
            are rare, and without it none is the best guess.
    """
    logits = tf.cast(logits, tf.float32)
    attributes = tf.cast(attributes, tf.float32)
    known = attributes >= 0.0
    values = tf.nn.weighted_cross_entropy_with_logits(
        tf.maximum(attributes, 0.0), logits, positive_weight
    )
    return _sum(values, known)


def place_loss(landmarks: tf.Tensor, places: tf.Tensor) -> Sum:
    """Squared distance of the visible landmarks.

    Args:
        landmarks: `[batch, L, 3]` x and y in [0, 1], and visibility: 0
            (visible), 1 (hidden), 2 (cut off), NaN (not annotated).
        places: `[batch, L, 2]` floats, the predictions.
    """
    landmarks = tf.cast(landmarks, tf.float32)
    visible = landmarks[..., 2] == 0.0
    # NaN times a gradient of 0 is NaN, so it must not get as far.
    wanted = tf.where(visible[..., None], landmarks[..., :2], 0.0)
    gaps = tf.cast(places, tf.float32) - wanted
    return _sum(tf.reduce_sum(gaps**2, -1), visible)


def visibility_loss(landmarks: tf.Tensor, logits: tf.Tensor) -> Sum:
    """Sigmoid cross entropy of visible against hidden or cut off.

    Args:
        landmarks: `[batch, L, 3]`, see `place_loss`; those that are not
            annotated are left out.
        logits: `[batch, L]` floats, of being visible.
    """
    visibility = tf.cast(landmarks, tf.float32)[..., 2]
    values = tf.nn.sigmoid_cross_entropy_with_logits(
        tf.cast(visibility == 0.0, tf.float32), tf.cast(logits, tf.float32)
    )
    return _sum(values, ~tf.math.is_nan(visibility))


def _sum(values: tf.Tensor, counted: tf.Tensor) -> Sum:
    return Sum(
        tf.reduce_sum(tf.where(counted, values, 0.0)),
        tf.reduce_sum(tf.cast(counted, tf.float32)),
    )
