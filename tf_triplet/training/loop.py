"""Runs a training: batches, checkpoints, evaluation and callbacks.

All parts come in as objects. `tf_triplet.workflows.train` builds them from a
config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging

from tf_triplet.data import pipeline
from tf_triplet.training import callbacks as cb
from tf_triplet.training import evaluator as evaluating
from tf_triplet.training import growth, guards
from tf_triplet.training.learner import Learner


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a run.

    Attributes:
        steps: Number of steps of the whole run.
        checkpoint_every: Number of steps between checkpoints.
        log_every: Number of steps between lines of metrics.jsonl.
        evaluate_every: Number of steps between evaluations; 0 evaluates only
            at the end.
        collapse_every: Number of steps between checks whether the embeddings
            have collapsed; 0 never checks.
        stop_on_collapse: Whether a collapse ends the run. Otherwise it is
            logged.
        monitor: Name of the metric by which the best encoder is chosen.

    Example:
        >>> from tf_triplet.training import Settings
        >>> settings = Settings(
        ...     steps=1_000,
        ...     checkpoint_every=500,
        ...     log_every=50,
        ...     evaluate_every=500,
        ...     collapse_every=100,
        ...     stop_on_collapse=True,
        ...     monitor="recall@1",
        ... )
        >>> settings.steps
        1000
    """

    steps: int
    checkpoint_every: int
    log_every: int
    evaluate_every: int
    collapse_every: int
    stop_on_collapse: bool
    monitor: str


def train(
    learner: Learner,
    batches: Callable[[int], tf.data.Dataset],
    evaluate: Callable[[tf.keras.Model], dict[str, float]] | None,
    bad_images: pipeline.BadImages,
    workdir: Path,
    settings: Settings,
    resume: bool = True,
    verbose: int | None = None,
    *,
    choice: evaluating.StepChoice | None = None,
    collapse_images: tf.Tensor | dict[str, tf.Tensor] | None = None,
    build_smaller: Callable[[int], Learner] | None = None,
) -> int:
    """Trains up to `settings.steps`, continuing the run of the folder.

    Args:
        learner: The compiled learner, created under its strategy's scope.
        batches: Returns the endless dataset of batches from a given step on.
        evaluate: Computes the metrics of an encoder on validation images,
            including `settings.monitor`. If it is None, the encoder of the
            last step is kept.
        bad_images: The unreadable images that the dataset collects.
        workdir: Folder of the run, for checkpoints, metrics and encoders.
        settings: The numbers of the run.
        resume: Whether to continue from the last checkpoint. Otherwise the
            run starts again.
        verbose: 1 shows Keras's progress bar, 0 logs a line now and then, and
            None shows the bar on a terminal only.
        choice: What best.json says about the choice of the step.
        collapse_images: Images to look for a collapse of the embeddings, as
            the encoder takes them. By default, images of the first batch.
        build_smaller: Builds a learner of the same network for a smaller
            number of products. It is called if the checkpoint has variables
            of fewer products than `learner`.

    Returns:
        The last step.

    Raises:
        TrainingStopped: SIGINT or SIGTERM ended the run. A checkpoint is saved
            first, and an evaluation is skipped.
        DivergedError: The loss or the gradients are not finite.
        CollapseError: The embeddings have collapsed.
        ValueError: An image cannot be read, and bad images stop the run.

    Example:
        >>> import pathlib, tempfile
        >>> import tensorflow as tf
        >>> from tf_triplet.data import BadImages
        >>> from tf_triplet.losses import TripletLoss
        >>> from tf_triplet.training import Learner, Settings, train
        >>> encoder = tf.keras.Sequential([
        ...     tf.keras.Input([3]),
        ...     tf.keras.layers.Dense(2),
        ...     tf.keras.layers.UnitNormalization(),
        ... ])
        >>> learner = Learner(encoder, TripletLoss())
        >>> # For a few steps, a graph would take longer than it saves.
        >>> learner.compile("sgd", run_eagerly=True)
        >>> batch = tf.random.stateless_normal([4, 3], [0, 0]), [0, 0, 1, 1]
        >>> dataset = tf.data.Dataset.from_tensors(batch).repeat()
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     train(
        ...         learner,
        ...         batches=lambda start: dataset,
        ...         evaluate=lambda encoder: {"recall@1": 0.5},
        ...         bad_images=BadImages(),
        ...         workdir=pathlib.Path(workdir),
        ...         settings=Settings(2, 2, 1, 0, 0, True, "recall@1"),
        ...         verbose=0,
        ...     )
        2
    """
    manager = _checkpoint_manager(learner, workdir)
    start = 0
    if resume:
        # Outside the scope, the replicas' momentum is not restored.
        with learner.distribute_strategy.scope():
            start = _restore(manager, learner, build_smaller)
    choice = choice or evaluating.StepChoice()
    if start >= settings.steps:
        logging.info("The run is complete: step %d.", start)
        _complete(learner, manager, workdir, evaluate, settings, choice)
        return start
    if verbose is None:
        verbose = int(sys.stdout.isatty())
    stop, run_callbacks = _callbacks(
        learner,
        batches,
        evaluate,
        workdir,
        settings,
        manager,
        start,
        choice,
        collapse_images,
    )
    if not verbose:
        run_callbacks.insert(0, cb.ProgressLog(settings.steps))
    with _named_bad_images(bad_images):
        learner.fit(
            batches(start),
            steps_per_epoch=settings.steps - start,
            epochs=1,
            callbacks=run_callbacks,
            verbose=verbose,
        )
    step = int(learner.optimizer.iterations.numpy())
    evaluating.save_encoder(learner.encoder, workdir / "encoder_last.keras")
    if evaluate is None:
        evaluating.keep_last(learner.encoder, step, workdir, choice)
    if stop.signal is not None:
        raise cb.TrainingStopped(step, settings.steps, stop.signal)
    if bad_images.counts:
        logging.warning(
            "%d images could not be read and were skipped.",
            len(bad_images.counts),
        )
    return step


def finish_untrained(
    build: Callable[[], tf.keras.Model],
    workdir: Path,
    choice: evaluating.StepChoice,
    resume: bool = True,
) -> None:
    """Completes a run of 0 steps, with the same encoders as after training.

    Args:
        build: Creates the encoder. It is not called if the run is complete.
        workdir: Folder of the run, for the encoders.
        choice: What best.json says about the choice of the step.
        resume: Whether to keep a complete run. Otherwise it starts again.
    """
    last = workdir / "encoder_last.keras"
    if resume and last.exists():
        logging.info("The run is complete: step 0.")
        return
    encoder = build()
    evaluating.keep_last(encoder, 0, workdir, choice)
    evaluating.save_encoder(encoder, last)


def _complete(learner, manager, workdir, evaluate, settings, choice) -> None:
    """Makes up for what a stop after the last checkpoint has left out."""
    encoder, step = learner.encoder, int(learner.optimizer.iterations.numpy())
    last = workdir / "encoder_last.keras"
    checkpoint = Path(f"{manager.latest_checkpoint}.index")
    # A run that was stopped has left the encoder of an earlier step.
    if (
        not last.exists()
        or last.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns
    ):
        evaluating.save_encoder(encoder, last)
    if evaluate is not None and not evaluating.has_evaluation(workdir, step):
        writer = cb.MetricsWriter(workdir, settings.log_every, step)
        evaluator = evaluating.Evaluator(
            evaluate,
            settings.evaluate_every,
            workdir,
            writer,
            settings.monitor,
            choice,
            cb.GracefulStop(),
        )
        evaluator.set_model(learner)
        evaluator.run()
    best = evaluating.read_best(workdir)
    # A finished run of an earlier version keeps the encoder that it chose.
    behind = best.get("chosen_on") == "last" and best["step"] < step
    if evaluate is None and (not best or behind):
        evaluating.keep_last(encoder, step, workdir, choice)


@contextlib.contextmanager
def _named_bad_images(bad_images: pipeline.BadImages) -> Iterator[None]:
    """Raises a ValueError that names the image that stopped the dataset."""
    try:
        yield
    except tf.errors.OpError as error:
        if bad_images.on_bad_image == "stop" and bad_images.counts:
            raise ValueError(bad_images.message) from error
        raise


def _checkpoint_manager(
    learner: Learner, workdir: Path
) -> tf.train.CheckpointManager:
    """Manages the last two checkpoints of the run."""
    return tf.train.CheckpointManager(
        _checkpoint(learner),
        str(workdir / "checkpoints"),
        max_to_keep=2,
        checkpoint_name="step",
    )


def _checkpoint(learner: Learner) -> tf.train.Checkpoint:
    """Collects everything that a resumed run needs."""
    parts = {
        "encoder": learner.encoder,
        "network": learner.network,
        "optimizer": learner.optimizer,
        "loss_parameters": learner.loss_parameters,
        "loss_optimizer": learner.loss_optimizer,
        "memory": learner.memory,
    }
    return tf.train.Checkpoint(
        **{name: part for name, part in parts.items() if part is not None}
    )


def _restore(
    manager: tf.train.CheckpointManager,
    learner: Learner,
    build_smaller: Callable[[int], Learner] | None,
) -> int:
    """Restores the latest checkpoint, if any, and returns its step."""
    path = manager.latest_checkpoint
    if not path:
        return 0
    products = growth.count_in_checkpoint(path)
    if build_smaller and products < growth.count_in_loss(learner):
        former = build_smaller(products)
        if not (_build_optimizers(former) and _build_optimizers(learner)):
            raise ValueError(
                f"{learner.batch_loss.name} has variables of each product, "
                "and this optimizer creates its own at the first step only, "
                "so the run cannot go on with more products. Restore the "
                "table, or choose another --workdir."
            )
        _checkpoint(former).restore(path).assert_consumed()
        growth.copy_grown(former, learner)
    elif _build_optimizers(learner):
        manager.checkpoint.restore(path).assert_consumed()
    else:
        status = manager.checkpoint.restore(path)
        status.assert_existing_objects_matched()
    step = int(learner.optimizer.iterations.numpy())
    logging.info("Resuming at step %d.", step)
    return step


def _build_optimizers(learner: Learner) -> bool:
    """Creates all variables of both optimizers, and returns whether it can."""
    built = _build_optimizer(learner.optimizer, learner.optimized_variables)
    if learner.loss_optimizer is not None:
        built &= _build_optimizer(
            learner.loss_optimizer, learner.loss_variables
        )
    return built


def _build_optimizer(optimizer, variables) -> bool:
    """Creates the optimizer's variables, and returns whether all exist."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
        return True
    # Optimizers of TF Addons create their variables at the first step. Each
    # is restored when it is created.
    optimizer.iterations  # noqa: B018
    return False


def _callbacks(
    learner,
    batches,
    evaluate,
    workdir,
    settings,
    manager,
    start,
    choice,
    collapse_images,
) -> tuple[cb.GracefulStop, list]:
    """Creates the callbacks in the order in which they must run."""
    writer = cb.MetricsWriter(workdir, settings.log_every, start)
    stop = cb.GracefulStop()
    chain = [
        guards.NaNGuard(),
        writer,
        cb.Checkpointer(manager, settings.checkpoint_every),
    ]
    if evaluate is not None:
        evaluator = evaluating.Evaluator(
            evaluate,
            settings.evaluate_every,
            workdir,
            writer,
            settings.monitor,
            choice,
            stop,
        )
        chain.append(evaluator)
    if settings.collapse_every:
        images = collapse_images
        if images is None:
            images, _ = next(iter(batches(0).take(1)))
        at_collapse = learner.batch_loss.loss_at_collapse
        if learner.memory is not None:
            # The logged loss then includes the comparison with the memory.
            at_collapse = None
        guard = guards.CollapseGuard(
            tf.nest.map_structure(lambda values: values[:32], images),
            settings.collapse_every,
            at_collapse,
            settings.stop_on_collapse,
        )
        chain.insert(0, guard)
    # Last, so that signals are handled until all others have ended.
    return stop, [*chain, stop]
