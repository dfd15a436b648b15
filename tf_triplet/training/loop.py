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
from tf_triplet.training import guards, progress_guards, run_files
from tf_triplet.training.averaging import WeightAverage
from tf_triplet.training.checkpoints import Checkpoints
from tf_triplet.training.forecast import Forecast
from tf_triplet.training.learner import Learner
from tf_triplet.training.stops import GracefulStop, TrainingStopped

_LAST = "encoder_last.keras"
_NOTHING_CHOSEN = evaluating.StepChoice(
    0,
    "The last step is kept and none is chosen, because too few of the "
    "validation images could be read.",
)


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
        ema_momentum: Momentum of the average of the weights that is evaluated
            and kept, below 1; 0 keeps the weights themselves.

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
    ema_momentum: float = 0.0


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
    start_encoders: evaluating.StartEncoders | None = None,
    served: Callable[[tf.keras.Model], tf.keras.Model] = lambda encoder: (
        encoder
    ),
) -> int:
    """Trains up to `settings.steps`, continuing the run of the folder.

    Args:
        learner: The compiled learner, created under its strategy's scope.
        batches: Returns the endless dataset of batches from a given step on.
        evaluate: Computes the metrics of an encoder on validation images,
            including `settings.monitor`, unless too few of them can be read.
            If it is None, the encoder of the last step is kept.
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
        start_encoders: Returns the encoders that a new run begins with, by
            name, given the encoder before the first step. They are evaluated,
            the best is kept as that of step 0, and the run warns if its own
            metrics are below.
        served: Makes the model that is evaluated and saved from an encoder.

    Returns:
        The last step.

    Raises:
        TrainingStopped: SIGINT or SIGTERM has ended the run. A checkpoint was
            saved first, and an evaluation was skipped.
        DivergedError: The loss or the gradients are not finite.
        CollapseError: The embeddings have collapsed.
        ValueError: Images cannot be read, and bad images stop the run or are
            too many; or no checkpoint can be read.
        run_files.DiskFullError: The disk is full.

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
    run_files.remove_partial(workdir)
    run_files.remove_damaged_encoders(workdir)
    average, start = _average(learner, settings.ema_momentum), 0
    checkpoints = Checkpoints(learner, workdir, average)
    if resume:
        # Outside the scope, the replicas' momentum is not restored.
        with learner.distribute_strategy.scope():
            start = checkpoints.restore(build_smaller)
    else:
        checkpoints.delete()
    run = _Run(
        learner,
        evaluate,
        workdir,
        settings,
        choice or evaluating.StepChoice(),
        start_encoders,
        served,
        average,
    )
    with run.stop, _explained(bad_images, checkpoints):
        if start < settings.steps:
            callbacks = run.callbacks(checkpoints, start)
            if settings.collapse_every:
                callbacks[:0] = progress_guards.loss_guards(
                    learner,
                    settings.collapse_every,
                    settings.stop_on_collapse,
                    collapse_images,
                    batches,
                )
            run.fit(batches(start), start, callbacks, verbose)
        else:
            logging.info("The run is complete: step %d.", start)
            run.catch_up(start)
        step = int(learner.optimizer.iterations.numpy())
        run.save_encoders(checkpoints, step, trained=start < step)
    if run.stop.signal is not None:
        raise TrainingStopped(step, settings.steps, run.stop.signal)
    _report_losses(learner, bad_images)
    return step


def _average(learner: Learner, momentum: float) -> WeightAverage | None:
    """Returns the average of the weights, if there is to be one."""
    if not momentum:
        return None
    with learner.distribute_strategy.scope():
        return WeightAverage(learner.encoder, momentum)


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
    last = workdir / _LAST
    if resume and last.exists():
        logging.info("The run is complete: step 0.")
        return
    encoder = build()
    evaluating.keep_last(encoder, 0, workdir, choice)
    evaluating.save_encoder(encoder, last)


class _Run:
    """What the parts of a run share."""

    def __init__(
        self,
        learner: Learner,
        evaluate: Callable[[tf.keras.Model], dict[str, float]] | None,
        workdir: Path,
        settings: Settings,
        choice: evaluating.StepChoice,
        start_encoders: evaluating.StartEncoders | None,
        served: Callable[[tf.keras.Model], tf.keras.Model],
        average: WeightAverage | None,
    ):
        self._learner, self._evaluate = learner, evaluate
        self._workdir, self._settings = workdir, settings
        self._choice, self._start_encoders = choice, start_encoders
        self._serve, self._average = served, average
        self.stop = GracefulStop()

    def _served(self, encoder: tf.keras.Model) -> tf.keras.Model:
        """Returns the model that is evaluated and saved for an encoder."""
        if self._average is not None and encoder is self._learner.encoder:
            encoder = self._average.encoder
        return self._serve(encoder)

    def callbacks(self, checkpoints: Checkpoints, start: int) -> list:
        """Returns the callbacks in the order in which they must run."""
        settings = self._settings
        writer = cb.MetricsWriter(self._workdir, settings.log_every, start)
        # The checkpoint comes before the evaluation, which takes longer. What
        # a kill in between leaves out, the next start makes up for.
        chain = [
            guards.NaNGuard(),
            *filter(None, [self._average]),
            writer,
            cb.Checkpointer(checkpoints, settings.checkpoint_every),
        ]
        evaluator = None
        if self._evaluate is not None:
            evaluator = self._evaluator(writer)
            chain.append(evaluator)
            if self._start_encoders is not None:
                chain.append(
                    progress_guards.PretrainedGuard(
                        self._start_encoders, evaluator, self.stop
                    )
                )
        return [*chain, Forecast(settings.steps, evaluator), self.stop]

    def _evaluator(self, writer: cb.MetricsWriter) -> evaluating.Evaluator:
        return evaluating.Evaluator(
            self._evaluate,
            self._settings.evaluate_every,
            self._workdir,
            writer,
            self._settings.monitor,
            self._choice,
            self.stop,
            self._served,
        )

    def fit(
        self,
        dataset: tf.data.Dataset,
        start: int,
        callbacks: list,
        verbose: int | None,
    ) -> None:
        """Trains from step `start` on, or up to the step of a signal."""
        steps = self._settings.steps
        if verbose is None:
            verbose = int(sys.stdout.isatty())
        if not verbose:
            callbacks = [cb.ProgressLog(steps), *callbacks]
        self._learner.fit(
            dataset,
            steps_per_epoch=steps - start,
            epochs=1,
            callbacks=callbacks,
            verbose=verbose,
        )

    def catch_up(self, step: int) -> None:
        """Evaluates the last step, if a kill or a lost file asks for it."""
        if self._evaluate is None:
            return
        is_scored = evaluating.has_evaluation(self._workdir, step)
        if not is_scored or not evaluating.read_best(self._workdir):
            every = self._settings.log_every
            writer = cb.MetricsWriter(self._workdir, every, step)
            evaluator = self._evaluator(writer)
            evaluator.set_model(self._learner)
            evaluator.run()

    def save_encoders(
        self, checkpoints: Checkpoints, step: int, trained: bool
    ) -> None:
        """Saves the encoders that do not belong to this step yet."""
        encoder = self._served(self._learner.encoder)
        last = self._workdir / _LAST
        # After a kill, the encoder of an earlier stop may still be there.
        if not last.exists() or _is_older(last, checkpoints.latest):
            evaluating.save_encoder(encoder, last)
        if self.stop.signal is not None:
            return
        best = evaluating.read_best(self._workdir)
        choice = self._choice if self._evaluate is None else _NOTHING_CHOSEN
        behind = best and best["step"] < step
        # Earlier versions did not say how they chose. Their complete runs keep
        # the encoder that they chose.
        chosen_on = best.get("chosen_on", "last" if trained else "")
        if not best or (behind and chosen_on == "last"):
            evaluating.keep_last(encoder, step, self._workdir, choice)


def _is_older(path: Path, checkpoint: Path | None) -> bool:
    if checkpoint is None:
        return False
    saved = checkpoint.with_name(f"{checkpoint.name}.index").stat()
    return path.stat().st_mtime_ns < saved.st_mtime_ns


@contextlib.contextmanager
def _explained(
    bad_images: pipeline.BadImages, checkpoints: Checkpoints
) -> Iterator[None]:
    """Raises a ValueError that names the images that ended the dataset."""
    try:
        yield
    except tf.errors.OpError as error:
        if bad_images.error:
            message = f"{bad_images.error} {checkpoints.describe()}"
            raise ValueError(message) from error
        raise


def _report_losses(learner: Learner, bad_images: pipeline.BadImages) -> None:
    if bad_images.counts:
        logging.warning(
            "%d images could not be read and were skipped.",
            len(bad_images.counts),
        )
    if learner.skipped_batches:
        logging.warning(
            "%d minibatches could not teach and were skipped.",
            learner.skipped_batches,
        )
