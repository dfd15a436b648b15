"""How the step of a run is chosen: by its validation products."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_collections
import numpy as np
from absl import logging

from tf_triplet import builders, evaluation
from tf_triplet.workflows.options import EvaluateOptions

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.builders import TrainingSplit
    from tf_triplet.data.catalog import Catalog
    from tf_triplet.models import Branches
    from tf_triplet.training import StepChoice
    from tf_triplet.training.evaluator import StartEncoders

# Number of images whose embeddings are watched for a collapse.
_COLLAPSE_IMAGES = 32


def step_choice(split: TrainingSplit) -> StepChoice:
    """Returns what best.json says about the choice of the step."""
    from tf_triplet.training import StepChoice

    count = 0
    if split.validation is not None:
        count = len(split.validation.product_ids)
    return StepChoice(products=count, sentence=split.how)


def monitored_metric(config: ml_collections.ConfigDict) -> str:
    """Returns the name of the metric by which the best encoder is chosen."""
    return f"recall@{min(config.evaluation.ks)}"


def validation_metrics(
    config: ml_collections.ConfigDict, validation: Catalog | None
) -> Callable[[tf.keras.Model], dict[str, float]] | None:
    """Returns what scores an encoder on the validation products.

    Args:
        config: The config of the run.
        validation: The images of the validation products, or None.

    Returns:
        A function from an encoder to metrics by name, which are empty if too
        many of the images cannot be read. None if there are no such products.
    """
    if validation is None:
        return None
    options = EvaluateOptions().resolve(config)

    def evaluate(encoder: tf.keras.Model) -> dict[str, float]:
        embeddings = _embed(config, encoder, validation)
        if embeddings is None:
            return {}
        result = evaluation.evaluate(
            embeddings,
            validation,
            options.ks,
            options.protocol_spec,
            options.ties,
        )
        return result.overall.named()

    return evaluate


def _embed(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    validation: Catalog,
) -> evaluation.Embeddings | None:
    """Embeds the validation images; None if too few of them can be read.

    Metrics of a part of the images do not compare with those of all, so they
    must not choose a step. They do not end the training either.
    """
    from tf_triplet.data import pipeline

    bad = pipeline.BadImages(config.data.on_bad_image)
    batches = list(builders.embed_batches(config, encoder, validation, bad))
    lost = len(bad.counts)
    if not batches or lost > config.data.max_bad_share * len(validation):
        logging.warning(
            "%d of %d validation images (%.1f %%) cannot be read, the first "
            "is %s. More than data.max_bad_share (%.1f %%) are missing, so "
            "this evaluation chooses no step.",
            lost,
            len(validation),
            100 * lost / len(validation),
            next(iter(bad.counts)),
            100 * config.data.max_bad_share,
        )
        return None
    rows, vectors = (np.concatenate(parts) for parts in zip(*batches))
    evaluation.check_finite(vectors, validation.paths[rows])
    skipped = np.delete(validation.paths, rows)
    return evaluation.Embeddings(vectors, rows, tuple(map(str, skipped)))


def start_encoders(
    config: ml_collections.ConfigDict, split: TrainingSplit
) -> StartEncoders | None:
    """Returns what a new run begins with, and can fall back on.

    Args:
        config: The config of the run.
        split: The images of the run.

    Returns:
        A function of the encoder before its first step, to encoders by name:
        "pretrained" gives the pooled features, "whitened" the embedding whose
        head was whitened, and "earlier" the encoder of the run from which this
        one begins. None if nothing is pretrained, or if there are no
        validation products.
    """
    model = config.model
    begun = split.products is not None and bool(split.products.init_from)
    if split.validation is None:
        return None
    if not (begun or builders.is_pretrained(config)):
        return None

    def encoders(encoder: tf.keras.Model) -> dict[str, tf.keras.Model]:
        from tf_triplet.models import at_layer

        if begun:
            return {"earlier": encoder}
        found = {}
        # A head that was not whitened is random, and hides what the features
        # are worth.
        names = [layer.name for layer in encoder.layers]
        one_head = model.learners < 2 and not model.branch_by
        if not model.embedding_size and one_head:
            found["pretrained"] = encoder
        elif "pool" in names and one_head:
            found["pretrained"] = at_layer(encoder, "pool")
        if model.whitening:
            found["whitened"] = encoder
        return found

    return encoders


def build_served(
    config: ml_collections.ConfigDict,
) -> Callable[[tf.keras.Model], tf.keras.Model]:
    """Returns what makes the model that is kept from a trained encoder.

    Args:
        config: The config of the run.

    Returns:
        A function that returns one model for each encoder: the encoder itself,
        or with `data.mirrored_is_same` the mean over an image and its mirror
        image.
    """
    if not config.data.mirrored_is_same:
        return lambda encoder: encoder
    from tf_triplet.models import mirroring

    made: list[tuple[tf.keras.Model, tf.keras.Model]] = []

    def served(encoder: tf.keras.Model) -> tf.keras.Model:
        for other, model in made:
            if other is encoder:
                return model
        made.append((encoder, mirroring.with_mirror_image(encoder)))
        return made[-1][1]

    return served


def collapse_images(
    config: ml_collections.ConfigDict,
    branches: Branches | None,
    validation: Catalog | None,
) -> tf.Tensor | dict[str, tf.Tensor] | None:
    """Returns validation images, to look for a collapse of embeddings."""
    if validation is None or not config.training.collapse_every:
        return None
    from tf_triplet.data import pipeline

    # Of many products: neighbors in the table are often of one.
    rows = np.linspace(0, len(validation) - 1, _COLLAPSE_IMAGES).astype(int)
    chosen = validation.select(np.unique(rows))
    batches = pipeline.evaluation_batches(
        chosen, builders.input_spec(config), len(chosen), on_bad_image="skip"
    )
    rows, pixels = next(iter(batches))
    if len(rows) < 2:
        return None
    branch = evaluation.branch_of_rows(branches, chosen)
    if branch is None:
        return pixels
    return {"pixels": pixels, "branch": branch[rows.numpy()]}
