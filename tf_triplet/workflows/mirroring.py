"""Decides whether a mirrored image shows the same product.

There are two decisions. `augment.flip` is whether training mirrors images, and
`data.mirrored_is_same` whether embeddings are averaged with those of the
mirrored images. Where the config leaves them open, they are decided once, on
images that the encoder has not been trained on, before the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from tf_triplet import builders
from tf_triplet.builders import Choice

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.builders import TrainingSplit
    from tf_triplet.data.catalog import Catalog

_FLIP, _SAME = "augment.flip", "data.mirrored_is_same"
# More images than this only take time.
_MOST_IMAGES = 2_000


def decide_mirroring(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    split: TrainingSplit,
) -> tuple[ml_collections.ConfigDict, list[Choice]]:
    """Chooses `augment.flip` and `data.mirrored_is_same` where they are open.

    Args:
        config: The config of the run, all other fields of which are chosen.
        encoder: The encoder before the first step.
        split: The images of the run.

    Returns:
        The config, and the choices with their reasons.
    """
    left = [f for f in (_FLIP, _SAME) if f in builders.open_fields(config)]
    if not left:
        return config, []
    images = _untrained_images(config, split)
    found = {}
    if images is not None:
        found = _compare(config, encoder, images)
    choices = [
        Choice(field, *_decide(field, found, config.training.steps))
        for field in left
    ]
    values = {choice.field: choice.value for choice in choices}
    return builders.with_fields(config, values), choices


def _decide(
    field: str, found: dict[str, float], steps: int
) -> tuple[bool, str]:
    """Returns the value of a field, and the reason."""
    if not found:
        return False, "there are no validation products to decide it on"
    plain, mean, mirrored = (found[n] for n in ("plain", "mean", "mirrored"))
    if field == _SAME:
        return mean > plain, (
            f"Recall@1 before training is {mean:.3f} with the mean of both "
            f"images, and {plain:.3f} without"
        )
    if not steps:
        return False, "nothing is trained"
    return mirrored >= plain, (
        f"Recall@1 before training is {mirrored:.3f} for mirrored queries, "
        f"and {plain:.3f} for others"
    )


def _untrained_images(
    config: ml_collections.ConfigDict, split: TrainingSplit
) -> Catalog | None:
    """Returns images that the encoder is not trained on, or None."""
    images = split.validation
    if images is None and not config.training.steps:
        # Not even the whitening may have seen them.
        images = None if config.model.whitening else split.training
    if images is None or len(images) <= _MOST_IMAGES:
        return images
    # Whole products, so that each image has others to find.
    products = np.unique(images.products)
    rng = np.random.default_rng(config.data.split_seed)
    share = _MOST_IMAGES / len(images)
    some = rng.permutation(products)[: max(2, int(share * len(products)))]
    return images.select(np.isin(images.products, some))


def _compare(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    images: Catalog,
) -> dict[str, float]:
    """Scores images as they are, mirrored, and by the mean of both.

    Returns:
        Recall@1 of "plain" and of "mirrored" queries among plain images, and
        of the "mean" among means. Empty if too few images can be read.
    """
    from tf_triplet.models import mirroring

    try:
        plain, mirrored = (
            builders.compute_embeddings(config, model, images, progress=False)
            for model in (encoder, mirroring.of_mirror_image(encoder))
        )
    except ValueError:  # No image can be read.
        return {}
    products = images.products[plain.rows]
    mean = plain.vectors + mirrored.vectors
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    found = {
        "plain": _recall(plain.vectors, plain.vectors, products),
        "mirrored": _recall(mirrored.vectors, plain.vectors, products),
        "mean": _recall(mean, mean, products),
    }
    return found if np.isfinite(list(found.values())).all() else {}


def _recall(
    queries: np.ndarray, gallery: np.ndarray, products: np.ndarray
) -> float:
    """Returns Recall@1 where each query leaves out its own image.

    Args:
        queries: `[n, dim]` embeddings.
        gallery: `[n, dim]` embeddings of the same images.
        products: `[n]` their products.

    Returns:
        The share of the queries with another image of their product whose
        nearest image is one. NaN if there is no such query.
    """
    cosines = queries @ gallery.T
    np.fill_diagonal(cosines, -np.inf)
    found = products[np.argmax(cosines, axis=1)] == products
    counts = np.unique(products, return_inverse=True, return_counts=True)
    several = counts[2][counts[1]] > 1
    return float(found[several].mean()) if several.any() else float("nan")
