"""Encoders whose last part is chosen by an input: a domain or a category.

Street photos and shop images look different, and what makes two bags alike
is not what makes two dresses alike. A branched encoder takes pixels and the
number of a branch, and embeds every image by its own branch, all of them
into one space.

References:
    Huang et al., 2015, https://arxiv.org/abs/1505.07922 (DARN: a network a
    domain). Hadi Kiapour et al., 2015, Where to Buy It, ICCV (a similarity a
    category, over fixed features).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.models import encoder as embedding
from tf_triplet.models.pooling import Pooling

CHOSEN_BY = ("domain", "category")
KINDS = ("heads", "networks", "weights")


@dataclasses.dataclass(frozen=True)
class Branches:
    """What the numbers of a model's branches stand for.

    Attributes:
        by: "domain" or "category", of an image.
        names: Of the branches, in their order.
        default: The one meant where nothing is said, or "" for none.
    """

    by: str
    names: tuple[str, ...]
    default: str = ""

    def __post_init__(self):
        if self.by not in CHOSEN_BY:
            raise ValueError(
                f"`by` must be domain or category. Received: {self.by!r}"
            )
        names = tuple(map(str, self.names))
        object.__setattr__(self, "names", names)
        if not names or len(set(names)) < len(names):
            raise ValueError(
                "`names` must name each branch once, and one at least. "
                f"Received: {names}"
            )
        if self.default and self.default not in names:
            raise ValueError(
                f"`default` must be one of `names`, {', '.join(names)}. "
                f"Received: {self.default!r}"
            )

    def index(self, names: Sequence[str]) -> np.ndarray:
        """The branch of each image, by name.

        Args:
            names: `[n]` strings, the domain or category of each image.

        Returns:
            `[n]` int32.

        Raises:
            ValueError: the model has no branch for one of the names.
        """
        number = {name: i for i, name in enumerate(self.names)}
        kinds, places = np.unique(np.asarray(names, str), return_inverse=True)
        for i, kind in enumerate(kinds.tolist()):
            if kind not in number:
                raise ValueError(
                    f"The model has no branch for {self.by} {kind!r} (of "
                    f"{np.sum(places == i)} images); it has "
                    f"{', '.join(map(repr, self.names))}. Leave these "
                    "images out, or train with this "
                    f"{self.by} too."
                )
        numbers = [number[kind] for kind in kinds.tolist()]
        return np.asarray(numbers, np.int32)[places.reshape(-1)]


@tf.keras.saving.register_keras_serializable("tf_triplet")
class BranchOneHot(tf.keras.layers.Layer):
    """`[b]` numbers of branches to `[b, branches]` of 0 and 1.

    The only layer of a branched encoder that is not Keras's own: it keeps
    the names, so that a saved encoder knows them, and refuses a number that
    no branch has (its row of zeros would become an embedding).
    """

    def __init__(
        self, by: str, names: Sequence[str], default: str = "", **kwargs
    ):
        """See `Branches`."""
        super().__init__(**kwargs)
        self.branches = Branches(by, tuple(names), default)

    def call(self, inputs):
        """`[b]` integers to `[b, branches]` float32."""
        count = len(self.branches.names)
        known = tf.debugging.Assert(
            tf.reduce_all((inputs >= 0) & (inputs < count)),
            [f"`branch` must be at least 0 and below {count}. Received:"]
            + [inputs],
        )
        with tf.control_dependencies([known]):
            return tf.one_hot(inputs, count, dtype=tf.float32)

    def get_config(self):
        """With the names."""
        branches = self.branches
        return {
            **super().get_config(),
            "by": branches.by,
            "names": list(branches.names),
            "default": branches.default,
        }


def find(encoder) -> Branches | None:
    """The branches of an encoder, None where it has none."""
    for layer in getattr(encoder, "layers", ()):
        if isinstance(layer, BranchOneHot):
            return layer.branches
    return None


def build_branched_encoder(
    backbone: tf.keras.Model | Sequence[tf.keras.Model],
    embedding_size: int,
    branches: Branches,
    kind: str = "heads",
    batch_norm: str = "train",
    seed: int | None = None,
    pooling: Pooling = "average",
) -> tf.keras.Model:
    """Builds (images, branches) → embeddings.

    All branches start as the same function: two unrelated random heads would
    put the two sides of a pair into unrelated spaces.

    Args:
        backbone: a model from `[batch, size, size, 3]` pixels in [0, 1] to
            features; for "networks" a list, one a branch.
        embedding_size: width of the linear head; 0 leaves it out. "heads"
            needs one, "weights" has none.
        branches: their names, which the model keeps.
        kind: "heads": one backbone, a linear head a branch. "networks": a
            backbone and head a branch; every image runs through all of
            them and one answer is taken, so a step costs as many passes,
            and batch norm in training sees the images of all branches.
            "weights": the backbone is frozen, in place; its features, at unit
            length, are multiplied by a vector a branch that is learned, not
            negative and 1 at the start. Of two images of one branch the
            cosine is then a weighted one.
        batch_norm: see `embedding.build_encoder`; "weights" freezes it.
        seed: of the heads' initial weights.
        pooling: see `embedding.build_encoder`.

    Returns:
        A model from `{"pixels": [batch, size, size, 3] float32, "branch":
        [batch] int32}` to float32 `[batch, dim]` of unit length. To load
        its `.keras` file, import this module first.

    Raises:
        ValueError: an unknown kind, or one that does not go with the other
            arguments.
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
    unit = embedding.unit_length()(features)
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


def _check_count(backbone, branches: Branches, kind: str) -> None:
    count = 1 if isinstance(backbone, tf.keras.Model) else len(backbone)
    wanted = len(branches.names) if kind == "networks" else 1
    if count != wanted:
        raise ValueError(
            f"`kind={kind}` with the branches {', '.join(branches.names)} "
            f"needs {wanted} backbones. Received: {count}"
        )


def _trunk(
    backbone: tf.keras.Model, batch_norm: str, pooling: Pooling, name: str
) -> tf.keras.Model:
    """Its pooled features, as one layer: two networks may share names."""
    backbone = embedding.with_batch_norm(backbone, batch_norm)
    pool = embedding.pooled_by(backbone, pooling)
    return tf.keras.Model(backbone.input, pool(backbone.output), name=name)


def _heads(features: list, size: int, count: int, seed: int | None) -> list:
    """`count` linear heads of one start, on one trunk or on one each."""
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


def _select(features: list, chosen):
    """`[b, dim]` of the branch that `chosen` marks in each row."""
    layers = tf.keras.layers
    if len(features) == 1:
        return features[0]
    stacked = layers.Concatenate(name="all_branches")(features)
    stacked = layers.Reshape([len(features), -1], name="by_branch")(stacked)
    return layers.Dot(axes=1, name="own_branch")([chosen, stacked])


def _weigh(features, chosen):
    """Unit features times the squares of a vector a branch."""
    layers = tf.keras.layers
    unit = embedding.unit_length("unit_features")(features)
    roots = layers.Dense(
        features.shape[-1],
        use_bias=False,
        kernel_initializer="ones",
        dtype="float32",
        name="weight_roots",
    )(chosen)
    # A square is never negative, whatever steps it; a constraint holds only
    # where an optimizer heeds it.
    weights = layers.Multiply(dtype="float32", name="weights")([roots, roots])
    return layers.Multiply(dtype="float32", name="weighted")([unit, weights])
