"""An encoder that learns attributes and landmarks beside the embedding.

One backbone map feeds three heads: the embedding, attributes, and landmarks.
The embedding may also look at the map around the landmarks that the network
itself predicts, so at test time it needs no annotation.

References:
    Liu et al., 2016, DeepFashion (FashionNet),
    https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html.
    Sun et al., 2018, https://arxiv.org/abs/1711.08229 (soft-argmax).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_triplet.models import encoder as embedding
from tf_triplet.models.pooling import Pooling

EMBEDDINGS = "embeddings"
ATTRIBUTES = "attributes"
PLACES = "places"
VISIBILITY = "visibility"


class Network(NamedTuple):
    """Two models of the same layers.

    Attributes:
        encoder: pixels to unit embeddings; what is saved and served.
        training: None without heads; else pixels to a dictionary:
            `embeddings`, and as far as there are such heads `attributes`
            (`[b, A]` logits), `places` (`[b, L, 2]` x and y in [0, 1]) and
            `visibility` (`[b, L]` logits of being visible). float32.
    """

    encoder: tf.keras.Model
    training: tf.keras.Model | None


def cell_places(height: int, width: int) -> tf.Tensor:
    """`[height * width, 2]` x and y of a map's cells, their middles."""
    y, x = tf.meshgrid(
        (tf.range(height, dtype=tf.float32) + 0.5) / height,
        (tf.range(width, dtype=tf.float32) + 0.5) / width,
        indexing="ij",
    )
    return tf.reshape(tf.stack([x, y], -1), [-1, 2])


@tf.keras.utils.register_keras_serializable("tf_triplet")
class SoftArgmax(tf.keras.layers.Layer):
    """The mean place of each channel's softmax over the map.

    `[b, h, w, L]` scores to `[b, L, 2]` x and y in [0, 1]: differentiable,
    and finer than a cell.
    """

    def __init__(self, **kwargs):
        """Computes in float32: a place in float16 is off by a pixel."""
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, scores):
        height, width, channels = scores.shape[1:]
        flat = tf.reshape(scores, [-1, height * width, channels])
        weights = tf.nn.softmax(flat, axis=1)
        return tf.einsum("bcl,cd->bld", weights, cell_places(height, width))


@tf.keras.utils.register_keras_serializable("tf_triplet")
class LandmarkPooling(tf.keras.layers.Layer):
    """The map's mean around each landmark, under a Gaussian.

    Takes `[b, h, w, c]` features, `[b, L, 2]` places and `[b, L]` gates in
    [0, 1]; gives `[b, L, c]`, each times its gate. Gradients reach all three.
    FashionNet cuts a square out by max pooling, which moves by whole cells
    and gives its place no gradient.
    """

    def __init__(self, cells: float = 1.0, **kwargs):
        """Sets the Gaussian's standard deviation, in cells of the map."""
        super().__init__(**{"dtype": "float32", **kwargs})
        if cells <= 0:
            raise ValueError(f"`cells` must be more than 0. Received: {cells}")
        self.cells = cells

    def call(self, inputs):
        features, places, gates = inputs
        height, width, channels = features.shape[1:]
        size = tf.constant([width, height], tf.float32)
        gaps = places[:, :, None] - cell_places(height, width)
        squared = tf.reduce_sum((gaps * size) ** 2, -1)
        # A softmax: beyond the edge it takes the nearest cells, never 0 / 0.
        weights = tf.nn.softmax(-squared / (2.0 * self.cells**2), axis=-1)
        flat = tf.reshape(features, [-1, height * width, channels])
        return tf.einsum("blc,bcf->blf", weights, flat) * gates[..., None]

    def get_config(self):
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
) -> Network:
    """Builds an encoder and the training model around it.

    Args:
        backbone: from `[batch, size, size, 3]` pixels in [0, 1] to a
            `[batch, height, width, channels]` map of known size.
        embedding_size: width of the linear head; 0 leaves it out.
        attributes: A, outputs of the attribute head; 0 = no such head.
        landmarks: L, of the landmark head; 0 = no such head.
        landmark_features: width of what is seen around the predicted
            landmarks, put beside the pooled features before the embedding;
            0 = nothing.
        batch_norm: see `embedding.build_encoder`.
        seed: of the heads' initial weights.
        pooling: see `embedding.build_encoder`.
        unit_features: see `embedding.build_encoder`; the features are those
            around the landmarks too.

    Raises:
        ValueError: the backbone gives no map, or landmark features are asked
            for without landmarks.
    """
    if landmark_features and not landmarks:
        raise ValueError(
            "`landmark_features` are pooled around landmarks, so they need "
            f"`landmarks`. Received: {landmark_features} and {landmarks}"
        )
    backbone = embedding.with_batch_norm(backbone, batch_norm)
    features = backbone.output
    if features.shape.rank != 4 or None in features.shape[1:]:
        raise ValueError(
            "Attributes and landmarks need a backbone that gives a [batch, "
            "height, width, channels] map of known size. Received shape: "
            f"{features.shape}"
        )
    seeds = (None if seed is None else seed + i for i in range(1, 5))
    glorots = [tf.keras.initializers.GlorotUniform(one) for one in seeds]
    pooled = embedding.pooled_by(backbone, pooling)(features)
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
    outputs[EMBEDDINGS] = embedding.embed(
        pooled, embedding_size, seed, unit_features
    )
    return Network(
        tf.keras.Model(backbone.input, outputs[EMBEDDINGS], name="encoder"),
        tf.keras.Model(backbone.input, outputs, name="training"),
    )


def _landmark_head(features, pooled, landmarks: int, initializers) -> dict:
    """Places from a map of scores each, visibility from the whole."""
    layers = tf.keras.layers
    scores = layers.Conv2D(
        landmarks,
        1,
        use_bias=False,  # The softmax over the map would cancel it.
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


def _with_local(features, pooled, outputs, width: int, initializer):
    """The pooled features, and beside them those around the landmarks."""
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
