"""ABE: several learners that look at different parts of one map.

The backbone is cut in two. Its first part makes a map S of the image; of
it each learner hides what its attention mask says; the second part, the
trunk G, with the same weights for all, makes an embedding of what is left.

References:
    Kim et al., 2018, https://arxiv.org/abs/1804.00382 (ABE-M).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_triplet.models import cutting

# The last output of conv4: 14 x 14 places at 224 pixels in ResNet50, and 7 x
# 7 in ResNet50V2, which strides at the end of conv4.
ATTENTION_AT = "conv4_block6_out"
# The paper's attention is an Inception block; this is a bottleneck.
_BOTTLENECK = 4


def attend(
    backbone: tf.keras.Model,
    learners: int,
    attention_at: str = "",
    seed: int | None = None,
) -> list:
    """The map of each learner.

    Args:
        backbone: images to a feature map.
        learners: M, at least 2.
        attention_at: layer of the backbone that the masks are laid on;
            empty: `ATTENTION_AT`.
        seed: of the attention's weights.

    Returns:
        M Keras tensors, each `trunk(S * mask_m(S))`, of the backbone's
        output shape. A mask is `[batch, height, width, channels]` in
        (0, 1): two 1x1 convolutions, a sigmoid.

    Raises:
        ValueError: there is no such layer, or it cannot be split there.
    """
    spatial, trunk = cutting.split(backbone, attention_at or ATTENTION_AT)
    return [
        trunk(_masked(spatial, i, None if seed is None else seed + 2 * i))
        for i in range(learners)
    ]


def _masked(spatial, learner: int, seed: int | None):
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


def join(maps: list, embed: Callable):
    """Embeds each learner's map, and makes one unit vector of all.

    Args:
        maps: M Keras tensors.
        embed: a map to `[batch, dim]` of unit length, float32.

    Returns:
        `[batch, M * dim]` float32 of unit length. The dot product of two is
        the mean of the learners' cosines.
    """
    whole = tf.keras.layers.Concatenate(dtype="float32", name="learners")(
        [embed(features) for features in maps]
    )
    return tf.keras.layers.Rescaling(
        len(maps) ** -0.5, dtype="float32", name="unit_length"
    )(whole)
