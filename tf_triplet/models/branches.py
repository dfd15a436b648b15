"""The branches of an encoder, and the layer that stores their names.

Street photos look different from shop images, and two bags are similar for
other reasons than two dresses. So an encoder can have a branch for each domain
or category; see `branched_encoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_triplet.models import mirroring

CHOSEN_BY = ("domain", "category")


@dataclasses.dataclass(frozen=True)
class Branches:
    """Names of the branches of an encoder.

    Attributes:
        by: "domain" or "category", which of the two selects the branch of an
            image.
        names: Names of the branches. The position of a name is the number of
            its branch.
        default: Name of the branch to use for an image whose domain or
            category is not given. Empty if there is no such branch.

    Raises:
        ValueError: If `by` is unknown, a name is repeated, there is no name,
            or the default is not one of the names.

    Example:

    >>> branches = Branches("domain", ("street", "shop"), default="street")
    >>> branches.index(["shop", "street", "shop"]).tolist()
    [1, 0, 1]
    """

    by: str
    names: tuple[str, ...]
    default: str = ""

    def __post_init__(self) -> None:
        if self.by not in CHOSEN_BY:
            raise ValueError(
                f"`by` must be domain or category. Received: {self.by!r}"
            )
        names = tuple(map(str, self.names))
        object.__setattr__(self, "names", names)
        if not names or len(set(names)) < len(names):
            raise ValueError(
                "`names` must hold at least one name, and each name once. "
                f"Received: {names}"
            )
        if self.default and self.default not in names:
            raise ValueError(
                f"`default` must be one of `names`, {', '.join(names)}. "
                f"Received: {self.default!r}"
            )

    def index(self, names: Sequence[str]) -> np.ndarray:
        """Finds the branch of each image by name.

        Args:
            names: `[n]` strings, the domain or category of each image.

        Returns:
            `[n]` int32 numbers of branches.

        Raises:
            ValueError: If the model has no branch for one of the names.
        """
        number = {name: i for i, name in enumerate(self.names)}
        kinds, places = np.unique(np.asarray(names, str), return_inverse=True)
        for i, kind in enumerate(kinds.tolist()):
            if kind not in number:
                raise ValueError(
                    f"The model has no branch for {self.by} {kind!r} (of "
                    f"{np.sum(places == i)} images); it has "
                    f"{', '.join(map(repr, self.names))}. Leave these "
                    "images out, or include them in the training."
                )
        numbers = [number[kind] for kind in kinds.tolist()]
        return np.asarray(numbers, np.int32)[places.reshape(-1)]


@tf.keras.saving.register_keras_serializable("tf_triplet")
class BranchOneHot(tf.keras.layers.Layer):
    """One-hot encodes the numbers of branches.

    This is the only layer of a branched encoder that is not part of Keras. It
    stores the names of the branches in a saved encoder. It also refuses a
    number that belongs to no branch, because `tf.one_hot` turns such a number
    into zeros, from which the encoder would compute a meaningless embedding.
    """

    def __init__(
        self, by: str, names: Sequence[str], default: str = "", **kwargs: Any
    ) -> None:
        """Sets the names of the branches.

        Args:
            by: See `Branches`.
            names: See `Branches`.
            default: See `Branches`.
            **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.branches = Branches(by, tuple(names), default)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps `[batch]` integers to `[batch, branches]` float32."""
        count = len(self.branches.names)
        known = tf.debugging.Assert(
            tf.reduce_all((inputs >= 0) & (inputs < count)),
            [f"`branch` must be at least 0 and below {count}. Received:"]
            + [inputs],
        )
        with tf.control_dependencies([known]):
            return tf.one_hot(inputs, count, dtype=tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        branches = self.branches
        return {
            **super().get_config(),
            "by": branches.by,
            "names": list(branches.names),
            "default": branches.default,
        }


def find(encoder: Any) -> Branches | None:
    """Returns the branches of an encoder.

    Args:
        encoder: A Keras model or any other callable.

    Returns:
        The branches, or None if the encoder has none.
    """
    encoder = mirroring.without_mirror_image(encoder)
    for layer in getattr(encoder, "layers", ()):
        if isinstance(layer, BranchOneHot):
            return layer.branches
    return None
