"""Builds encoders with a branch for each domain or category.

A branched encoder takes the pixels of an image and the number of a branch. It
embeds each image with the weights of its branch; all branches embed into the
same space.

References:
    Huang et al., 2015, https://arxiv.org/abs/1505.07922 (DARN: one network per
    domain). Hadi Kiapour et al., 2015, Where to Buy It, ICCV (one similarity
    per category, over fixed features).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_triplet.models import encoder as encoders
from tf_triplet.models.batch_norm import with_batch_norm
from tf_triplet.models.branches import Branches, BranchOneHot
from tf_triplet.models.pooling import Pooling

KINDS = ("heads", "networks", "weights")


def build_branched_encoder(
    backbone: tf.keras.Model | Sequence[tf.keras.Model],
    embedding_size: int,
    branches: Branches,
    kind: str = "heads",
    batch_norm: str = "train",
    seed: int | None = None,
    pooling: Pooling = "average",
) -> tf.keras.Model:
    """Builds a Keras model from images and branches to embeddings.

    All branches start with the same weights. Two random heads would embed the
    two sides of a pair into unrelated spaces.

    The kinds of branches are:

    * "heads": One backbone, and a linear head for each branch.
    * "networks": A backbone and a head for each branch. Every image runs
      through all of them, and the output of one is used. So the cost of a step
      grows with the number of branches, and batch normalization sees the
      images of all branches in training.
    * "weights": One backbone, which is frozen in place. Its features are
      scaled to unit length and multiplied by a weight vector for each branch.
      The weights are learned, start at 1, and cannot become negative.

    Args:
        backbone: A model from `[batch, size, size, 3]` pixels in [0, 1] to
            features. For "networks", a list with one model per branch.
        embedding_size: Width of the linear heads. 0 leaves the heads out,
            which "heads" does not allow and "weights" requires.
        branches: The names of the branches.
        kind: "heads", "networks" or "weights".
        batch_norm: See `build_encoder`. "weights" freezes it in any case.
        seed: Seed of the initial weights of the heads.
        pooling: See `build_encoder`.

    Returns:
        A model from `{"pixels": [batch, size, size, 3] float32, "branch":
        [batch] int32}` to `[batch, dim]` float32 of unit length. Import this
        module before you load a saved model.

    Raises:
        ValueError: If the kind is unknown, or does not fit the other
            arguments.

    Example:

    >>> backbone = tf.keras.Sequential(
    ...     [tf.keras.Input([32, 32, 3]), tf.keras.layers.Conv2D(8, 3)]
    ... )
    >>> branches = Branches("domain", ("street", "shop"))
    >>> encoder = build_branched_encoder(backbone, 4, branches)
    >>> images = {"pixels": tf.zeros([2, 32, 32, 3]), "branch": tf.range(2)}
    >>> encoder(images).shape
    TensorShape([2, 4])
    """
    check_kind(kind, embedding_size)
    _check_count(backbone, branches, kind)
    layers = tf.keras.layers
    networks = [backbone] if isinstance(backbone, tf.keras.Model) else backbone
    pixels = layers.Input(networks[0].input_shape[1:], name="pixels")
    branch = layers.Input((), dtype=tf.int32, name="branch")
    chosen = BranchOneHot(
        branches.by, branches.names, branches.default, name="branches"
    )(branch)
    trunks = [
        _trunk(network, batch_norm, pooling, f"network_{i}")
        for i, network in enumerate(networks)
    ]
    if kind == "weights":
        trunks[0].trainable = False
        features = _weigh(trunks[0](pixels), chosen)
    else:
        features = [trunk(pixels) for trunk in trunks]
        if embedding_size:
            features = _heads(
                features, embedding_size, len(branches.names), seed
            )
        features = _select(features, chosen)
    unit = encoders.unit_length()(features)
    inputs = {"pixels": pixels, "branch": branch}
    return tf.keras.Model(inputs, unit, name="encoder")


def check_kind(kind: str, embedding_size: int) -> None:
    """Checks a kind of branches before there is a backbone.

    Args:
        kind: See `build_branched_encoder`.
        embedding_size: Width of the linear head; 0 leaves it out.

    Raises:
        ValueError: If the kind is unknown, or does not go with the width.
    """
    if kind not in KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}"
        )
    if kind == "heads" and embedding_size < 1:
        raise ValueError(
            "`kind=heads` needs `embedding_size` of at least 1. "
            f"Received: {embedding_size}"
        )
    if kind == "weights" and embedding_size:
        raise ValueError(
            "`kind=weights` weighs the features of the backbone itself, so it "
            f"needs `embedding_size=0`. Received: {embedding_size}"
        )


def _check_count(
    backbone: tf.keras.Model | Sequence[tf.keras.Model],
    branches: Branches,
    kind: str,
) -> None:
    count = 1 if isinstance(backbone, tf.keras.Model) else len(backbone)
    wanted = len(branches.names) if kind == "networks" else 1
    if count != wanted:
        raise ValueError(
            f"`kind={kind}` with the branches {', '.join(branches.names)} "
            f"takes {wanted} of `backbone`. Received: {count}"
        )


def _trunk(
    backbone: tf.keras.Model, batch_norm: str, pooling: Pooling, name: str
) -> tf.keras.Model:
    """Wraps backbone and pooling in a model, so that layer names are apart.

    Two backbones may have layers of the same name, which one Keras model
    cannot contain.
    """
    backbone = with_batch_norm(backbone, batch_norm)
    pool = encoders.pooling_for(backbone, pooling)
    return tf.keras.Model(backbone.input, pool(backbone.output), name=name)


def _heads(
    features: list[tf.Tensor], size: int, count: int, seed: int | None
) -> list[tf.Tensor]:
    """Adds `count` linear heads that start with the same weights.

    Args:
        features: Features of one trunk that all heads share, or of one trunk
            per head.
        size: Width of a head.
        count: Number of heads.
        seed: Seed of the initial weights.

    Returns:
        The outputs of the heads.
    """
    trunks = features if len(features) == count else features * count
    heads = [
        tf.keras.layers.Dense(
            size,
            kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
            name=f"head_{i}",
        )
        for i in range(count)
    ]
    outputs = [head(trunk) for head, trunk in zip(heads, trunks)]
    for head in heads[1:]:
        head.set_weights(heads[0].get_weights())
    return outputs


def _select(features: list[tf.Tensor], chosen: tf.Tensor) -> tf.Tensor:
    """Selects one branch for each image.

    Args:
        features: `[batch, dim]` of each branch.
        chosen: `[batch, branches]` one-hot.

    Returns:
        `[batch, dim]` of the branch of each image.
    """
    layers = tf.keras.layers
    if len(features) == 1:
        return features[0]
    stacked = layers.Concatenate(name="all_branches")(features)
    stacked = layers.Reshape([len(features), -1], name="by_branch")(stacked)
    return layers.Dot(axes=1, name="own_branch")([chosen, stacked])


def _weigh(features: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Multiplies unit features by the weight vector of each image's branch.

    Args:
        features: `[batch, dim]`.
        chosen: `[batch, branches]` one-hot.

    Returns:
        `[batch, dim]`.
    """
    layers = tf.keras.layers
    unit = encoders.unit_length("unit_features")(features)
    roots = layers.Dense(
        features.shape[-1],
        use_bias=False,
        kernel_initializer="ones",
        dtype="float32",
        name="weight_roots",
    )(chosen)
    # The layer learns the square roots of the weights, because a square is
    # never negative. A Keras constraint would depend on the optimizer.
    weights = layers.Multiply(dtype="float32", name="weights")([roots, roots])
    return layers.Multiply(dtype="float32", name="weighted")([unit, weights])
