"""Trains an encoder from a config: `train(config, workdir)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

from tf_triplet import builders, evaluation
from tf_triplet.workflows.options import EvaluateOptions
from tf_triplet.workflows.train_folder import (
    TrainResult,
    claim_folder,
    write_versions,
)

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.data.catalog import Catalog
    from tf_triplet.data.pipeline import BadImages
    from tf_triplet.data.sampling import GroupedSampler
    from tf_triplet.models import Branches

    # From an encoder to its metrics on the held-out images.
    Evaluate = Callable[[tf.keras.Model], dict[str, float]]


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    resume: bool = True,
) -> TrainResult:
    """Trains an encoder, evaluates it and saves the best.

    The first SIGINT (Ctrl-C) or SIGTERM saves a checkpoint and ends the run.
    A second call with the same config continues it.

    Args:
        config: The config of the run, see `tf_triplet.config.base_config`.
        workdir: The folder of the run. The config, checkpoints, metrics and
            encoders are written there.
        resume: Whether to continue the run in the folder. Otherwise the run
            begins anew, and the former one is deleted.

    Returns:
        The metrics on the held-out split, and where the encoder is.

    Raises:
        ValueError: If a field of the config is wrong, or if the folder holds
            a run with another config.

    Example:

    >>> from tf_triplet import config as configs
    >>> from tf_triplet import workflows
    >>> config = configs.base_config()
    >>> config.data.path = "shop/manifest.csv"
    >>> result = workflows.train(config, "runs/shop")  # doctest: +SKIP
    >>> result.metrics["recall@1"]  # doctest: +SKIP
    0.5448
    """
    from tf_triplet.training import distribution

    workdir = Path(workdir)
    builders.validate(config)
    claim_folder(workdir, config, resume)
    strategy = distribution.build_strategy(config.training.replicas)
    write_versions(workdir)
    catalog = builders.build_catalog(config)
    training = builders.training_catalog(config, catalog)
    held_out = catalog.split(config.evaluation.split)
    if config.training.steps:
        _train_encoder(config, workdir, resume, strategy, training, held_out)
    else:
        _build_untrained(config, workdir, resume, training, held_out)
    return TrainResult.read(workdir)


def _train_encoder(
    config: ml_collections.ConfigDict,
    workdir: Path,
    resume: bool,
    strategy: tf.distribute.Strategy,
    training: Catalog,
    held_out: Catalog,
) -> None:
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.training import loop

    sampler = builders.build_sampler(config, training)
    print(_describe(training, held_out, sampler, strategy))
    bad_images = pipeline.BadImages(config.data.on_bad_image)
    branches = builders.build_branches(config, training)
    # An image without a branch raises now, not at the first evaluation.
    evaluation.branch_of_rows(branches, held_out)
    batches = _batches(config, training, sampler, branches, bad_images)
    _check_whole_pairs(config, sampler, strategy)
    with strategy.scope():
        tf.keras.utils.set_random_seed(config.seed)
        network = builders.build_network(config, training, branches)
        # A resumed run restores its head from the checkpoint.
        saved = tf.train.latest_checkpoint(str(workdir / "checkpoints"))
        if config.model.whitening and not (resume and saved):
            builders.whiten(config, network.encoder, training)
        learner = builders.build_learner(config, network, training)
    loop.train(
        learner,
        batches,
        _evaluator(config, held_out),
        bad_images,
        workdir,
        loop.Settings(
            steps=config.training.steps,
            checkpoint_every=config.training.checkpoint_every,
            log_every=config.training.log_every,
            evaluate_every=config.evaluation.every,
            collapse_every=config.training.collapse_every,
            stop_on_collapse=config.training.stop_on_collapse,
            monitor=_monitor(config),
        ),
        resume=resume,
    )


def _build_untrained(
    config: ml_collections.ConfigDict,
    workdir: Path,
    resume: bool,
    training: Catalog,
    held_out: Catalog,
) -> None:
    """Builds, evaluates and saves the encoder of a run of 0 steps."""
    from tf_triplet.training import loop

    def build() -> tf.keras.Model:
        encoder = builders.build_encoder(config)
        if config.model.whitening:
            builders.whiten(config, encoder, training)
        return encoder

    evaluate = _evaluator(config, held_out)
    loop.finish_untrained(build, evaluate, workdir, _monitor(config), resume)


def _batches(
    config: ml_collections.ConfigDict,
    training: Catalog,
    sampler: GroupedSampler,
    branches: Branches | None,
    bad_images: BadImages,
) -> Callable[[int], tf.data.Dataset]:
    """Returns a function from the first step to the batches from there on."""
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
            rows_together=2 if config.sampling.units == "pairs" else 1,
            resize=config.data.resize,
            use_boxes=config.data.use_boxes,
            bad_images=bad_images,
            sides=builders.sampling_sides(config, training),
            branches=evaluation.branch_of_rows(branches, training),
            targets=tasks.targets if tasks else (),
        )

    return batches


def _check_whole_pairs(
    config: ml_collections.ConfigDict,
    sampler: GroupedSampler,
    strategy: tf.distribute.Strategy,
) -> None:
    """Raises an error if a replica would get half a pair."""
    whole = 2 * strategy.num_replicas_in_sync
    if (
        config.loss.scope == "replica"
        and sampler.batch_size % whole
        and builders.build_loss(config).in_pairs
    ):
        raise ValueError(
            "`loss.scope=replica` gives each replica whole pairs, so the "
            f"batch size must be a multiple of {whole}. Received: "
            f"{sampler.batch_size} images a batch. Change "
            "`sampling.units_per_batch` or `training.replicas`."
        )


def _monitor(config: ml_collections.ConfigDict) -> str:
    """Returns the name of the metric by which the best encoder is chosen."""
    return f"recall@{min(config.evaluation.ks)}"


def _evaluator(
    config: ml_collections.ConfigDict, held_out: Catalog
) -> Evaluate:
    options = EvaluateOptions().resolve(config)

    def evaluate(encoder: tf.keras.Model) -> dict[str, float]:
        embeddings = builders.compute_embeddings(
            config, encoder, held_out, progress=False
        )
        result = evaluation.evaluate(
            embeddings,
            held_out,
            options.ks,
            options.protocol_spec,
            options.ties,
        )
        return result.overall.named()

    return evaluate


def _describe(
    training: Catalog,
    held_out: Catalog,
    sampler: GroupedSampler,
    strategy: tf.distribute.Strategy,
) -> str:
    return (
        f"{len(training)} training images of {len(training.product_ids)} "
        f"products ({sampler.dropped_singletons} without a pair left out), "
        f"{len(held_out)} held-out images of {len(held_out.product_ids)} "
        f"products; {sampler.batch_size} images a batch, "
        f"{sampler.steps_per_epoch} batches an epoch, "
        f"{strategy.num_replicas_in_sync} replicas"
    )
