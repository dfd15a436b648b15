"""Trains an encoder from a config: `train(config, workdir)`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

from tf_triplet import builders, evaluation
from tf_triplet.workflows.mirroring import decide_mirroring
from tf_triplet.workflows.refit import restore_first, train_again
from tf_triplet.workflows.train_batches import (
    build_batches,
    check_whole_pairs,
    describe,
    seconds_per_step,
)
from tf_triplet.workflows.train_folder import (
    TrainResult,
    check_folder,
    claim_folder,
    has_begun,
    last_step,
    write_config,
    write_versions,
)
from tf_triplet.workflows.train_products import (
    check_init_from,
    decide_products,
    store_products,
)
from tf_triplet.workflows.train_recipe import (
    choose_before_reading,
    choose_for_table,
    tell,
    warn_of_unreached,
)
from tf_triplet.workflows.train_validation import (
    build_served,
    collapse_images,
    monitored_metric,
    start_encoders,
    step_choice,
    validation_metrics,
)

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.builders import TrainingSplit
    from tf_triplet.data.catalog import Catalog
    from tf_triplet.training import Learner


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    resume: bool = True,
    *,
    init_from: str | Path = "",
    accept_new_catalog: bool = False,
    refit: bool = False,
    minutes: float | None = None,
    require_gain: bool = False,
) -> TrainResult:
    """Trains an encoder, and saves the one of the chosen step.

    The step is chosen by validation products, which the run is not trained
    on. Without such products, the last step is kept. Images of the test split
    are never looked at.

    The first SIGINT (Ctrl-C) or SIGTERM saves a checkpoint and ends the run.
    A second call with the same config continues it; `training.steps` may
    then be higher.

    Args:
        config: The config of the run, see `tf_triplet.config.base_config`.
            Its paths may be relative; the run's config.json has them
            absolute.
        workdir: The folder of the run. The config, checkpoints, metrics and
            encoders are written there.
        resume: Whether to continue the run in the folder. Otherwise the run
            begins anew, and the former one is deleted.
        init_from: The folder of another run, from whose encoder this run
            begins. What that run was trained on does not become a validation
            product.
        accept_new_catalog: Whether to continue the run although its table has
            changed. New products are trained on; each product keeps its label
            and its variables.
        refit: Whether to train again on all training products, validation
            products included, up to the chosen step. That encoder is kept in
            place of the first.
        minutes: Time for the training, by which `training.steps` and, without
            a GPU, `data.image_size` are chosen where the config leaves them
            open. By default, they are chosen by the table.
        require_gain: Whether it is an error if the kept encoder is no better
            on the validation products than before training.

    Returns:
        The metrics on the validation products, and where the encoder is. If
        a signal has stopped the run, `signal` is its number.

    Raises:
        ValueError: If a field of the config is wrong, if the folder holds a
            run with another config, if its table has changed, or if there is
            no gain and `require_gain` is set.
        OSError: If another process trains in the folder. The message names
            it.

    Example:

    >>> from tf_triplet import config as configs
    >>> from tf_triplet import workflows
    >>> config = configs.base_config()
    >>> config.data.path = "shop/manifest.csv"
    >>> result = workflows.train(config, "runs/shop")  # doctest: +SKIP
    >>> result.metrics["recall@1"]  # doctest: +SKIP
    0.5468
    """
    workdir = Path(workdir)
    init_from = str(Path(init_from).resolve()) if init_from else ""
    from tf_triplet.training import TrainingStopped, folder_lock

    config = builders.resolve_paths(config)
    builders.validate(config)
    in_refit = False
    with folder_lock.locked(workdir):
        try:
            step = _run(
                config,
                workdir,
                resume,
                init_from,
                accept_new_catalog,
                minutes=minutes,
            )
            config = _chosen(config, workdir)
            if refit and step >= config.training.steps:
                in_refit = True
                train_again(workdir, config, _run)
        except TrainingStopped as stopped:
            return TrainResult.of_stopped(
                workdir, stopped.step, stopped.signal, stopped.steps, in_refit
            )
        result = TrainResult.read(workdir)
    if require_gain and not result.gained:
        raise ValueError(
            f"`require_gain`: {result.describe_gain()} Train for longer "
            "(--minutes), or on a table with more products."
        )
    return result


def _chosen(
    config: ml_collections.ConfigDict, workdir: Path
) -> ml_collections.ConfigDict:
    """Returns the config with the fields that the run has chosen."""
    if builders.open_fields(config):
        return builders.load_config(workdir)
    return config


def _run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    resume: bool = True,
    init_from: str = "",
    accept_new_catalog: bool = False,
    stop_at: int = 0,
    minutes: float | None = None,
) -> int:
    """Trains one run, and returns its last step.

    Args:
        config: As in `train`.
        workdir: As in `train`.
        resume: As in `train`.
        init_from: As in `train`, an absolute path.
        accept_new_catalog: As in `train`.
        stop_at: The last step, if it is not `training.steps`, on which the
            schedule of the learning rate depends.
        minutes: As in `train`.
    """
    from tf_triplet.training import distribution

    begun = resume and has_begun(workdir)
    if begun:
        config = check_folder(workdir, config, accept_new_catalog)
    check_init_from(config, workdir, init_from)
    config = choose_before_reading(config, "" if begun else init_from)
    # Before the first operation: choosing may look at the user's network.
    strategy = distribution.build_strategy(config.training.replicas)
    catalog = builders.build_catalog(config)
    held_out = catalog.split(config.evaluation.split)
    config, split, choices = choose_for_table(
        config,
        catalog,
        lambda chosen: decide_products(
            chosen,
            workdir,
            catalog,
            begun=begun,
            init_from=init_from,
            accept_new_catalog=accept_new_catalog,
        ),
        minutes,
        seconds_per_step,
    )
    tell(choices)
    _check_branches(config, split, held_out)
    claim_folder(workdir, config, resume)
    goes_on = last_step(workdir) < (stop_at or config.training.steps)
    store_products(workdir, split, goes_on)
    write_versions(workdir)
    if not config.training.steps:
        _build_untrained(config, workdir, resume, split)
        return 0
    if goes_on:
        restore_first(workdir)
        if not stop_at:
            warn_of_unreached(config)
    return _train_encoder(config, workdir, resume, strategy, split, stop_at)


def _check_branches(
    config: ml_collections.ConfigDict, split: TrainingSplit, held_out: Catalog
) -> None:
    """Raises the error of an image without a branch before the training."""
    branches = builders.build_branches(config, split.training)
    for images in filter(None, (held_out, split.validation)):
        evaluation.branch_of_rows(branches, images)


def _train_encoder(
    config: ml_collections.ConfigDict,
    workdir: Path,
    resume: bool,
    strategy: tf.distribute.Strategy,
    split: TrainingSplit,
    stop_at: int,
) -> int:
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.training import loop

    training = split.training
    sampler = builders.build_sampler(config, training)
    print(describe(split, sampler, strategy))
    bad_images = pipeline.BadImages(
        config.data.on_bad_image, max_share=config.data.max_bad_share
    )
    branches = builders.build_branches(config, training)
    check_whole_pairs(config, sampler, strategy)
    with strategy.scope():
        tf.keras.utils.set_random_seed(config.seed)
        network = builders.build_network(config, training, branches)
        is_new = not (resume and last_step(workdir))
        if is_new:
            _set_first_weights(config, network.encoder, split)
        config = _decide_mirroring(config, workdir, network.encoder, split)
        learner = builders.build_learner(config, network, training)
        if is_new and config.loss.proxy_start == "means":
            builders.start_proxies(config, learner, training)
    batches = build_batches(config, training, sampler, branches, bad_images)

    def build_smaller(products: int) -> Learner:
        with strategy.scope():
            return builders.build_learner(config, network, training, products)

    return loop.train(
        learner,
        batches,
        validation_metrics(config, split.validation),
        bad_images,
        workdir,
        loop.Settings(
            steps=stop_at or config.training.steps,
            checkpoint_every=config.training.checkpoint_every,
            log_every=config.training.log_every,
            evaluate_every=config.evaluation.every,
            collapse_every=config.training.collapse_every,
            stop_on_collapse=config.training.stop_on_collapse,
            monitor=monitored_metric(config),
            ema_momentum=config.optimizer.ema_momentum,
        ),
        resume=resume,
        choice=step_choice(split),
        collapse_images=collapse_images(config, branches, split.validation),
        build_smaller=build_smaller,
        start_encoders=start_encoders(config, split),
        served=build_served(config),
    )


def _set_first_weights(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    split: TrainingSplit,
) -> None:
    """Sets what a new run begins with, besides the pretrained weights."""
    if split.products is not None and split.products.init_from:
        builders.copy_weights(encoder, config, split.products.init_from)
    elif config.model.whitening:
        builders.whiten(config, encoder, split.training)


def _decide_mirroring(
    config: ml_collections.ConfigDict,
    workdir: Path,
    encoder: tf.keras.Model,
    split: TrainingSplit,
) -> ml_collections.ConfigDict:
    """Decides what needs the network, and records it before the first step."""
    config, choices = decide_mirroring(config, encoder, split)
    if choices:
        tell(choices)
        write_config(workdir, config)
    return config


def _build_untrained(
    config: ml_collections.ConfigDict,
    workdir: Path,
    resume: bool,
    split: TrainingSplit,
) -> None:
    """Builds and saves the encoder of a run of 0 steps."""
    from tf_triplet.training import loop

    def build() -> tf.keras.Model:
        encoder = builders.build_encoder(config)
        _set_first_weights(config, encoder, split)
        chosen = _decide_mirroring(config, workdir, encoder, split)
        return build_served(chosen)(encoder)

    loop.finish_untrained(build, workdir, step_choice(split), resume)
