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

from tf_triplet import builders, evaluation
from tf_triplet.builders import Choice
from tf_triplet.workflows.options import EvaluateOptions

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
    plain, mean = found["plain"], found["mean"]
    if field == _SAME:
        return mean > plain, (
            f"Recall@1 before training is {mean:.3f} with the mean of both "
            f"images, and {plain:.3f} without"
        )
    mirrored = found["mirrored"]
    if not steps:
        return False, "nothing is trained"
    return False, (
        "few steps teach more without; Recall@1 of mirrored queries before "
        f"training is {mirrored:.3f}, of others {plain:.3f}"
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
    """Scores images as they are, and by the mean with their mirror images.

    Returns:
        Recall@1 of the "plain" images and of the "mean". Empty if it cannot
        be computed, because too few images can be read.
    """
    from tf_triplet.models import mirroring

    encoders = {
        "plain": encoder,
        "mean": mirroring.with_mirror_image(encoder),
    }
    try:
        return {
            name: _recall(config, model, images)
            for name, model in encoders.items()
        }
    except ValueError:
        return {}


def _recall(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    images: Catalog,
) -> float:
    options = EvaluateOptions(ks=(1,)).resolve(config)
    result = evaluation.evaluate(
        builders.compute_embeddings(config, encoder, images, progress=False),
        images,
        options.ks,
        options.protocol_spec,
        options.ties,
    )
    return float(result.overall.recall[1])
