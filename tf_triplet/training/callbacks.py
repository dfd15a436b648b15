"""Keras callbacks that log, save and stop a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging


class StepCounter(tf.keras.callbacks.Callback):
    """Base class: knows the step of the run, also after a resume."""

    @property
    def step(self) -> int:
        """Number of steps that the optimizer has made."""
        return int(self.model.optimizer.iterations.numpy())


class MetricsWriter(StepCounter):
    """Writes metrics to metrics.jsonl and to TensorBoard.

    A metric is the mean over the steps since the previous line.
    """

    def __init__(self, workdir: Path, every: int, start_step: int = 0):
        """Opens the files.

        Args:
            workdir: Folder of the run.
            every: Number of steps between lines.
            start_step: The step at which the run continues. Lines of later
                steps are removed, because the run will write them again.
        """
        super().__init__()
        self._path = Path(workdir) / "metrics.jsonl"
        self._every = every
        _truncate(self._path, start_step)
        self._writer = tf.summary.create_file_writer(
            str(Path(workdir) / "tensorboard")
        )

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = self.step
        if step % self._every == 0:
            rate = self.model.optimizer.learning_rate
            # Optimizers of TF Addons have the schedule here, those of Keras
            # its current value.
            if isinstance(
                rate, tf.keras.optimizers.schedules.LearningRateSchedule
            ):
                rate = rate(step)
            rate = tf.keras.backend.get_value(rate)
            self.write(step, {**(logs or {}), "learning_rate": rate})
            self.model.reset_metrics()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of one step.

        Args:
            step: The step.
            values: The metrics by name.
        """
        values = {k: float(v) for k, v in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._writer.flush()


def _truncate(path: Path, last_step: int) -> None:
    """Removes the lines of later steps, and lines that are incomplete."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # The run was killed while it wrote this line.
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, path)


class ProgressLog(StepCounter):
    """Logs the progress regularly, for output that is not a terminal."""

    def __init__(self, steps: int, seconds: float = 10.0):
        """Sets the interval.

        Args:
            steps: Number of steps of the whole run.
            seconds: Seconds between two lines.
        """
        super().__init__()
        self._steps, self._seconds = steps, seconds

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start_step, self._start = self.step, None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.monotonic()
        if self._start is None:
            # The first step also traces the graph, so its time does not count.
            self._start = self._last = now
            self._start_step = self.step
            return
        if now - self._last < self._seconds:
            return
        self._last = now
        speed = (self.step - self._start_step) / (now - self._start)
        metrics = "  ".join(f"{k} {float(v):.4f}" for k, v in logs.items())
        logging.info(
            "step %d of %d  %s  (%.2f steps per second, %.0f minutes left)",
            self.step,
            self._steps,
            metrics,
            speed,
            (self._steps - self.step) / speed / 60,
        )


class Checkpointer(StepCounter):
    """Saves checkpoints regularly and at the end of the run."""

    def __init__(self, manager: tf.train.CheckpointManager, every: int):
        """Sets the interval.

        Args:
            manager: Writes the checkpoints.
            every: Number of steps between checkpoints.
        """
        super().__init__()
        self._manager, self._every = manager, every

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.step % self._every == 0:
            self.save()

    def save(self) -> None:
        """Saves a checkpoint, unless there is one of this step."""
        latest = self._manager.latest_checkpoint or ""
        if not latest.endswith(f"-{self.step}"):
            self._manager.save(checkpoint_number=self.step)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.save()


class TrainingStopped(Exception):
    """A signal has ended the training, after a checkpoint was saved.

    Attributes:
        step: The last step.
        steps: Number of steps of the whole run.
        signal: The number of the signal.

    Example:
        >>> from tf_triplet.training import TrainingStopped
        >>> str(TrainingStopped(step=7, steps=40, signal=15))
        'Stopped at step 7 of 40. The same command continues the run.'
    """

    def __init__(self, step: int, steps: int, signal: int):
        """Sets what the message says.

        Args:
            step: The last step.
            steps: Number of steps of the whole run.
            signal: The number of the signal.
        """
        super().__init__(
            f"Stopped at step {step} of {steps}. The same command continues "
            "the run."
        )
        self.step, self.steps, self.signal = step, steps, signal


class EvaluationInterrupted(Exception):
    """A signal has arrived during an evaluation."""


class GracefulStop(StepCounter):
    """Ends the run after the current step on SIGINT or SIGTERM.

    A second signal ends the run at once.

    Attributes:
        signal: The signal that was received, or None.
    """

    def __init__(self) -> None:
        """Handlers are installed when training begins."""
        super().__init__()
        self.signal: int | None = None
        self._previous = {}
        self._interrupting = False

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Breaks off what runs inside, by an `EvaluationInterrupted`.

        An evaluation takes minutes, and whoever stops a container waits for
        seconds only.
        """
        self._interrupting = True
        try:
            yield
        finally:
            self._interrupting = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._stop)

    def _stop(self, number, frame):
        """Handles a signal."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        logging.warning(
            "Stopping after this step. A second signal stops the run at once."
        )
        self.model.stop_training = True
        if self._interrupting:
            raise EvaluationInterrupted

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Again, in case something else in this step has reset the flag.
        if self.signal is not None:
            self.model.stop_training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
