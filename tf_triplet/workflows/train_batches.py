"""The batches that a run is trained on, and what is known before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from tf_triplet import builders, evaluation
from tf_triplet.workflows.time_budget import time_steps

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.builders import TrainingSplit
    from tf_triplet.data.catalog import Catalog
    from tf_triplet.data.pipeline import BadImages
    from tf_triplet.data.sampling import GroupedSampler
    from tf_triplet.models import Branches


def build_batches(
    config: ml_collections.ConfigDict,
    training: Catalog,
    sampler: GroupedSampler,
    branches: Branches | None,
    bad_images: BadImages,
) -> Callable[[int], tf.data.Dataset]:
    """Returns the batches of a run, from any step on.

    Args:
        config: The config of the run.
        training: The images to train on.
        sampler: The result of `builders.build_sampler`.
        branches: The result of `builders.build_branches`.
        bad_images: Collects the images that cannot be read.

    Returns:
        A function from the first step to the endless dataset of batches.
    """
    from tf_triplet.data import pipeline

    tasks = builders.build_tasks(config, training)

    def batches(start_step: int) -> tf.data.Dataset:
        return pipeline.training_batches(
            training,
            sampler,
            config.data.image_size,
            builders.build_augmentation(config),
            start_step=start_step,
            seed=config.seed,
            rows_together=rows_together(config),
            resize=config.data.resize,
            use_boxes=config.data.use_boxes,
            bad_images=bad_images,
            sides=builders.sampling_sides(config, training),
            branches=evaluation.branch_of_rows(branches, training),
            targets=tasks.targets if tasks else (),
            max_megapixels=config.data.max_megapixels,
            cache_dir=config.data.cache_dir,
        )

    return batches


def rows_together(config: ml_collections.ConfigDict) -> int:
    """Returns how many neighboring rows an unreadable image takes along."""
    from tf_triplet.training import distribution

    if config.sampling.units != "pairs":
        return 1
    strategy = distribution.build_strategy(config.training.replicas)
    # The replicas share the rest of a batch equally.
    return 2 * strategy.num_replicas_in_sync if _pairs_apart(config) else 2


def _pairs_apart(config: ml_collections.ConfigDict) -> bool:
    """Whether each replica needs whole pairs."""
    return config.loss.scope == "replica" and (
        builders.build_loss(config).in_pairs
    )


def seconds_per_step(
    config: ml_collections.ConfigDict, training: Catalog
) -> float:
    """Measures the time of a step, the reading of its images included.

    Args:
        config: The config of the run.
        training: The images to train on.

    Returns:
        Seconds. The network that was built for it is forgotten.
    """
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.training import distribution

    strategy = distribution.build_strategy(config.training.replicas)
    config = builders.with_fields(
        config, {"augment.flip": bool(config.augment.flip)}
    )
    sampler = builders.build_sampler(config, training)
    branches = builders.build_branches(config, training)
    bad_images = pipeline.BadImages("skip", max_share=1.0)
    batches = build_batches(config, training, sampler, branches, bad_images)
    with strategy.scope():
        network = builders.build_network(config, training, branches)
        learner = builders.build_learner(config, network, training)
    seconds = time_steps(learner, batches(0))
    # The names of layers are counted anew in the run itself.
    tf.keras.backend.clear_session()
    return seconds


def check_whole_pairs(
    config: ml_collections.ConfigDict,
    sampler: GroupedSampler,
    strategy: tf.distribute.Strategy,
) -> None:
    """Checks that no replica would get half a pair.

    Args:
        config: The config of the run.
        sampler: The result of `builders.build_sampler`.
        strategy: The strategy of the run.

    Raises:
        ValueError: If one would.
    """
    whole = 2 * strategy.num_replicas_in_sync
    if sampler.batch_size % whole and _pairs_apart(config):
        raise ValueError(
            "`loss.scope=replica` gives each replica whole pairs, so the "
            f"batch size must be a multiple of {whole}. Received: "
            f"{sampler.batch_size} images a batch. Change "
            "`sampling.units_per_batch` or `training.replicas`."
        )


def describe(
    split: TrainingSplit,
    sampler: GroupedSampler,
    strategy: tf.distribute.Strategy,
) -> str:
    """Returns what a run is trained on, and how its step is chosen.

    Args:
        split: The images of the run.
        sampler: The result of `builders.build_sampler`.
        strategy: The strategy of the run.

    Returns:
        Two lines of text.
    """
    training, validation = split.training, split.validation
    held = "no validation images"
    if validation is not None:
        held = (
            f"{len(validation)} validation images of "
            f"{len(validation.product_ids)} products"
        )
    return (
        f"{len(training)} training images of "
        f"{len(np.unique(training.products))} products "
        f"({sampler.dropped_singletons} without a pair left out), {held}; "
        f"{sampler.batch_size} images a batch, "
        f"{sampler.steps_per_epoch} batches an epoch, "
        f"{strategy.num_replicas_in_sync} replicas\n{split.how}"
    )
