"""One run: the road from a catalog to a trained encoder.

Everything comes in as objects; `cli/train.py` makes them from the config.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import logging

from tf_triplet.data import pipeline
from tf_triplet.training import callbacks as cb
from tf_triplet.training.learner import Learner


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a run; see `config.training` for their meaning."""

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
    evaluate: Callable[[tf.keras.Model], dict[str, float]],
    bad_images: pipeline.BadImages,
    workdir: Path,
    settings: Settings,
    resume: bool = True,
    verbose: int | None = None,
) -> int:
    """Trains to `settings.steps`, from where the workdir left off.

    Args:
        learner: compiled, made under its strategy's scope.
        batches: a start step to its endless dataset.
        evaluate: an encoder to held-out metrics, among them the monitor.
        bad_images: collected by the dataset; names what stopped a run.
        workdir: gets checkpoints, metrics and encoders.
        settings: the numbers.
        resume: go on from the last checkpoint; else begin anew.
        verbose: 1 for Keras's progress bar, 0 for a line of log now and
            then; None takes the bar on a terminal.

    Returns:
        The last step; below `settings.steps` if a signal ended the run.
    """
    manager = tf.train.CheckpointManager(
        _checkpoint(learner),
        str(workdir / "checkpoints"),
        max_to_keep=2,
        checkpoint_name="step",
    )
    start = 0
    if resume:
        # Outside the scope a replica's momentum is not the checkpoint's.
        with learner.distribute_strategy.scope():
            start = _restore(manager, learner)
    if start >= settings.steps:
        logging.info("The run is complete: step %d.", start)
        return start
    if verbose is None:
        verbose = int(sys.stdout.isatty())
    stop, run_callbacks = _callbacks(
        learner, batches, evaluate, workdir, settings, manager, start
    )
    if not verbose:
        run_callbacks.insert(0, cb.ProgressLog(settings.steps))
    try:
        learner.fit(
            batches(start),
            steps_per_epoch=settings.steps - start,
            epochs=1,
            callbacks=run_callbacks,
            verbose=verbose,
        )
    except tf.errors.OpError as error:
        if bad_images.on_bad_image == "stop" and bad_images.counts:
            raise ValueError(bad_images.message) from error
        raise
    cb.save_encoder(learner.encoder, workdir / "encoder_last.keras")
    step = int(learner.optimizer.iterations.numpy())
    if stop.signal is not None:
        logging.warning("Stopped at step %d; run again to go on.", step)
    if bad_images.counts:
        logging.warning(
            "%d images could not be read and were skipped.",
            len(bad_images.counts),
        )
    return step


def finish_untrained(
    build: Callable[[], tf.keras.Model],
    evaluate: Callable[[tf.keras.Model], dict[str, float]],
    workdir: Path,
    monitor: str,
    resume: bool = True,
) -> None:
    """A run of 0 steps: leaves in the workdir what training would.

    Args:
        build: makes the encoder; not called if the run is complete.
        evaluate: an encoder to held-out metrics, among them the monitor.
        workdir: gets metrics and encoders.
        monitor: the metric that best.json holds.
        resume: keep a complete run; else begin anew.
    """
    last = workdir / "encoder_last.keras"
    if resume and last.exists():
        logging.info("The run is complete: step 0.")
        return
    encoder = build()
    metrics = evaluate(encoder)
    # A line of step 0 is from a run that was cut short.
    writer = cb.MetricsWriter(workdir, every=1, start_step=-1)
    writer.write(0, {f"eval/{k}": v for k, v in metrics.items()})
    writer.on_train_end()
    cb.keep_best(encoder, 0, monitor, metrics[monitor], workdir)
    cb.save_encoder(encoder, last)


def _checkpoint(learner: Learner) -> tf.train.Checkpoint:
    """Everything that a resumed run needs; what is None is left out."""
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


def _restore(manager: tf.train.CheckpointManager, learner: Learner) -> int:
    if not manager.latest_checkpoint:
        return 0
    built = _build_optimizer(learner.optimizer, learner.optimized_variables)
    if learner.loss_optimizer is not None:
        built &= _build_optimizer(
            learner.loss_optimizer, learner.loss_variables
        )
    status = manager.checkpoint.restore(manager.latest_checkpoint)
    if built:
        status.assert_consumed()
    else:
        status.assert_existing_objects_matched()
    step = int(learner.optimizer.iterations.numpy())
    logging.info("Resuming at step %d.", step)
    return step


def _build_optimizer(optimizer, variables) -> bool:
    """Returns whether all its variables exist now."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
        return True
    # TF Addons' optimizers make their variables at the first step, and each
    # is restored when it is made.
    optimizer.iterations  # noqa: B018
    return False


def _callbacks(
    learner, batches, evaluate, workdir, settings, manager, start
) -> tuple[cb.GracefulStop, list]:
    writer = cb.MetricsWriter(workdir, settings.log_every, start)
    stop = cb.GracefulStop()
    chain = [
        cb.NaNGuard(),
        writer,
        cb.Evaluator(
            evaluate,
            settings.evaluate_every,
            workdir,
            writer,
            settings.monitor,
        ),
        cb.Checkpointer(manager, settings.checkpoint_every),
        stop,
    ]
    if settings.collapse_every:
        images, _ = next(iter(batches(0).take(1)))
        guard = cb.CollapseGuard(
            tf.nest.map_structure(lambda values: values[:32], images),
            settings.collapse_every,
            # With a memory the logged loss is of two comparisons.
            None
            if learner.memory is not None
            else learner.batch_loss.loss_at_collapse,
            settings.stop_on_collapse,
        )
        chain.insert(0, guard)
    return stop, chain
