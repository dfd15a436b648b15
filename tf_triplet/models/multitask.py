"""An encoder that is trained on attributes and landmarks too.

Three heads share the feature map of the backbone: embedding, attributes and
landmarks. The embedding can use the features around the landmarks as well.
These are the landmarks that the network predicts, so no annotation is needed
at test time.

References:
    Liu et al., 2016, DeepFashion (FashionNet),
    https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html.
    Sun et al., 2018, https://arxiv.org/abs/1711.08229 (soft-argmax).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_triplet.models import encoder as encoders
from tf_triplet.models.batch_norm import with_batch_norm
from tf_triplet.models.pooling import Pooling

EMBEDDINGS = "embeddings"
ATTRIBUTES = "attributes"
PLACES = "places"
VISIBILITY = "visibility"


class Network(NamedTuple):
    """Two models that share their layers.

    Attributes:
        encoder: Model from pixels to embeddings of unit length. This is the
            model to save and serve.
        training: Model from pixels to a dictionary of float32 outputs, or
            None if there is no other head than the embedding. The outputs
            are `embeddings` and, for the heads that exist, `attributes`
            (`[batch, A]` logits), `places` (`[batch, L, 2]` x and y in
            [0, 1]) and `visibility` (`[batch, L]` logits that the landmark is
            visible).
    """

    encoder: tf.keras.Model
    training: tf.keras.Model | None


def cell_places(height: int, width: int) -> tf.Tensor:
    """Returns the centers of the cells of a feature map.

    Args:
        height: Height of the map in cells.
        width: Width of the map in cells.

    Returns:
        `[height * width, 2]` float32 x and y in [0, 1], row by row.
    """
    y, x = tf.meshgrid(
        (tf.range(height, dtype=tf.float32) + 0.5) / height,
        (tf.range(width, dtype=tf.float32) + 0.5) / width,
        indexing="ij",
    )
    return tf.reshape(tf.stack([x, y], -1), [-1, 2])


@tf.keras.utils.register_keras_serializable("tf_triplet")
class SoftArgmax(tf.keras.layers.Layer):
    """Soft argmax: the mean position under the softmax of each channel.

    The result is differentiable, and more precise than the cells of the map.

    References:
        Sun et al., 2018, https://arxiv.org/abs/1711.08229.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Computes in float32, as float16 positions are off by a pixel.

        Args:
            **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, scores: tf.Tensor) -> tf.Tensor:
        """Maps `[b, h, w, L]` scores to `[b, L, 2]` x and y in [0, 1]."""
        height, width, channels = scores.shape[1:]
        flat = tf.reshape(scores, [-1, height * width, channels])
        weights = tf.nn.softmax(flat, axis=1)
        return tf.einsum("bcl,cd->bld", weights, cell_places(height, width))


@tf.keras.utils.register_keras_serializable("tf_triplet")
class LandmarkPooling(tf.keras.layers.Layer):
    """Averages the feature map around each landmark.

    The weights are a Gaussian around the landmark. Features, positions and
    gates all receive gradients. FashionNet pools the maximum of a square
    instead. The square moves by whole cells, so its position gets no gradient.
    """

    def __init__(self, cells: float = 1.0, **kwargs: Any) -> None:
        """Sets the width of the Gaussian.

        Args:
            cells: Standard deviation of the Gaussian, in cells of the map.
            **kwargs: Arguments of `keras.layers.Layer`.

        Raises:
            ValueError: If `cells` is not greater than 0.
        """
        super().__init__(**{"dtype": "float32", **kwargs})
        if cells <= 0:
            raise ValueError(
                f"`cells` must be greater than 0. Received: {cells}"
            )
        self.cells = cells

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Pools the features around each landmark.

        Args:
            inputs: `[b, h, w, c]` features, `[b, L, 2]` positions in [0, 1],
                and `[b, L]` gates in [0, 1].

        Returns:
            `[b, L, c]`, the mean around each landmark times its gate.
        """
        features, places, gates = inputs
        height, width, channels = features.shape[1:]
        size = tf.constant([width, height], tf.float32)
        gaps = places[:, :, None] - cell_places(height, width)
        squared = tf.reduce_sum((gaps * size) ** 2, -1)
        # Softmax is the normalized Gaussian. Far outside of the map it selects
        # the nearest cell, where dividing by the sum would be 0 / 0.
        weights = tf.nn.softmax(-squared / (2.0 * self.cells**2), axis=-1)
        flat = tf.reshape(features, [-1, height * width, channels])
        return tf.einsum("blc,bcf->blf", weights, flat) * gates[..., None]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "cells": self.cells}


def build_multitask(
    backbone: tf.keras.Model,
    embedding_size: int = 512,
    attributes: int = 0,
    landmarks: int = 0,
    landmark_features: int = 0,
    batch_norm: str = "train",
    seed: int | None = None,
    pooling: Pooling = "average",
    unit_features: bool = False,
    head_norm: bool = False,
) -> Network:
    """Builds an encoder, and the model with further heads that trains it.

    Args:
        backbone: Model from `[batch, size, size, 3]` pixels in [0, 1] to a
            `[batch, height, width, channels]` map of known size.
        embedding_size: Width of the linear head. 0 leaves the head out.
        attributes: Number A of attributes to predict. 0 leaves this head out.
        landmarks: Number L of landmarks to predict. 0 leaves this head out.
        landmark_features: Width of the features around the predicted
            landmarks, which are concatenated to the pooled features before
            the embedding. 0 leaves them out.
        batch_norm: See `build_encoder`.
        seed: Seed of the initial weights of the heads.
        pooling: See `build_encoder`.
        unit_features: See `build_encoder`. The features include those around
            the landmarks.
        head_norm: See `build_encoder`.

    Returns:
        The encoder and the training model.

    Raises:
        ValueError: If the backbone does not return a map, or if there are
            landmark features without landmarks.
    """
    if landmark_features and not landmarks:
        raise ValueError(
            "`landmark_features` are pooled around landmarks, so they need "
            f"`landmarks`. Received: {landmark_features} and {landmarks}"
        )
    backbone = with_batch_norm(backbone, batch_norm)
    features = backbone.output
    if features.shape.rank != 4 or None in features.shape[1:]:
        raise ValueError(
            "Attributes and landmarks need a backbone that returns a [batch, "
            "height, width, channels] map of known size. Received shape: "
            f"{features.shape}"
        )
    seeds = (None if seed is None else seed + i for i in range(1, 5))
    glorots = [tf.keras.initializers.GlorotUniform(one) for one in seeds]
    pooled = encoders.pooling_for(backbone, pooling)(features)
    outputs = {}
    if landmarks:
        outputs = _landmark_head(features, pooled, landmarks, glorots[:2])
    if landmark_features:
        pooled = _with_local(
            features, pooled, outputs, landmark_features, glorots[2]
        )
    if attributes:
        head = tf.keras.layers.Dense(
            attributes,
            kernel_initializer=glorots[3],
            dtype="float32",
            name=ATTRIBUTES,
        )
        outputs[ATTRIBUTES] = head(pooled)
    outputs[EMBEDDINGS] = encoders.embed(
        pooled, embedding_size, seed, unit_features, head_norm
    )
    return Network(
        tf.keras.Model(backbone.input, outputs[EMBEDDINGS], name="encoder"),
        tf.keras.Model(backbone.input, outputs, name="training"),
    )


def _landmark_head(
    features: tf.Tensor,
    pooled: tf.Tensor,
    landmarks: int,
    initializers: Sequence[tf.keras.initializers.Initializer],
) -> dict[str, tf.Tensor]:
    """Predicts positions from score maps, visibility from pooled features."""
    layers = tf.keras.layers
    scores = layers.Conv2D(
        landmarks,
        1,
        use_bias=False,  # The softmax over the map would cancel a bias.
        kernel_initializer=initializers[0],
        name="landmark_scores",
    )(features)
    visibility = layers.Dense(
        landmarks,
        kernel_initializer=initializers[1],
        dtype="float32",
        name=VISIBILITY,
    )(pooled)
    return {PLACES: SoftArgmax(name=PLACES)(scores), VISIBILITY: visibility}


def _with_local(
    features: tf.Tensor,
    pooled: tf.Tensor,
    outputs: dict[str, tf.Tensor],
    width: int,
    initializer: tf.keras.initializers.Initializer,
) -> tf.Tensor:
    """Concatenates pooled features and those around the landmarks."""
    layers = tf.keras.layers
    gates = layers.Activation("sigmoid", dtype="float32", name="gates")(
        outputs[VISIBILITY]
    )
    local = LandmarkPooling(name="landmark_pool")(
        [features, outputs[PLACES], gates]
    )
    local = layers.Dense(
        width,
        "relu",
        kernel_initializer=initializer,
        name="landmark_features",
    )(layers.Flatten(name="landmark_flat")(local))
    return layers.Concatenate(name="global_and_local")([pooled, local])
