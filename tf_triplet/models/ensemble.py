"""Attention-based ensemble (ABE): several learners share one backbone.

The backbone is split in two. Its first part turns an image into a feature map
S. Each learner multiplies S by an attention mask of its own. The second part,
the trunk G, has the same weights for all learners and turns each masked map
into the features of that learner.

References:
    Kim et al., 2018, https://arxiv.org/abs/1804.00382 (ABE-M).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_triplet.models import layer_outputs

# The last output of conv4. At 224 pixels it is 14 x 14 in ResNet50, and 7 x 7
# in ResNet50V2, which has a stride at the end of conv4.
ATTENTION_AT = "conv4_block6_out"
# A mask takes two 1x1 convolutions, the first with 1/4 of the channels. The
# paper uses an Inception block instead.
_BOTTLENECK = 4


def attend(
    backbone: tf.keras.Model,
    learners: int,
    attention_at: str = "",
    seed: int | None = None,
) -> list[tf.Tensor]:
    """Builds the masks and returns the feature map of each learner.

    Args:
        backbone: Model from images to a feature map.
        learners: Number of learners M, at least 2.
        attention_at: Name of the layer whose output is masked. Empty for
            `ATTENTION_AT`.
        seed: Seed of the initial weights of the masks.

    Returns:
        M Keras tensors `trunk(S * mask_m(S))`, each with the output shape of
        the backbone. A mask is `[batch, height, width, channels]` with values
        in (0, 1).

    Raises:
        ValueError: If there is no such layer, or the backbone cannot be split
            there.
    """
    spatial, trunk = layer_outputs.split_at_layer(
        backbone, attention_at or ATTENTION_AT
    )
    return [
        trunk(_masked(spatial, i, None if seed is None else seed + 2 * i))
        for i in range(learners)
    ]


def _masked(spatial: tf.Tensor, learner: int, seed: int | None) -> tf.Tensor:
    """Multiplies a map by the mask of one learner."""
    layers = tf.keras.layers
    channels = spatial.shape[-1]

    def convolution(filters, part, activation, offset):
        start = None if seed is None else seed + offset
        return layers.Conv2D(
            filters,
            1,
            activation=activation,
            kernel_initializer=tf.keras.initializers.GlorotUniform(start),
            name=f"attention_{learner}_{part}",
        )

    hidden = max(channels // _BOTTLENECK, 1)
    mask = convolution(hidden, "hidden", "relu", 0)(spatial)
    mask = convolution(channels, "mask", "sigmoid", 1)(mask)
    return layers.Multiply(name=f"attended_{learner}")([spatial, mask])


def join(maps: list[tf.Tensor], embed: Callable) -> tf.Tensor:
    """Embeds the map of each learner and concatenates the embeddings.

    Args:
        maps: M Keras tensors, from `attend`.
        embed: Function from one of them to `[batch, dim]` float32 embeddings
            of unit length.

    Returns:
        `[batch, M * dim]` float32 of unit length. The dot product of two such
        embeddings is the mean of the cosines of the learners.
    """
    whole = tf.keras.layers.Concatenate(dtype="float32", name="learners")(
        [embed(features) for features in maps]
    )
    return tf.keras.layers.Rescaling(
        len(maps) ** -0.5, dtype="float32", name="unit_length"
    )(whole)
