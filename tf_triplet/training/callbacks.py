"""Keras callbacks that log and save a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf
from absl import logging

from tf_triplet.training import run_files

if TYPE_CHECKING:
    from tf_triplet.training.checkpoints import Checkpoints


class StepCounter(tf.keras.callbacks.Callback):
    """Base class: knows the step of the run, also after a resume."""

    @property
    def step(self) -> int:
        """Number of steps that the optimizer has made."""
        return int(self.model.optimizer.iterations.numpy())


class MetricsWriter(StepCounter):
    """Writes metrics to metrics.jsonl and to TensorBoard.

    A metric is the mean over the steps since the previous line. If batches
    were skipped in these steps, `skipped_batches` is their number. If all
    were, there is nothing to average, and no other metric is written.
    """

    def __init__(self, workdir: Path, every: int, start_step: int = 0):
        """Opens the files.

        Args:
            workdir: Folder of the run.
            every: Number of steps between lines.
            start_step: The step at which the run continues. Lines of later
                steps are removed, because the run will write them again.

        Raises:
            run_files.DiskFullError: The disk is full.
        """
        super().__init__()
        self._path = Path(workdir) / "metrics.jsonl"
        self._every = every
        self._last, self._skipped = start_step, 0
        _truncate(self._path, start_step)
        self._writer = tf.summary.create_file_writer(
            str(Path(workdir) / "tensorboard")
        )

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._skipped = self.model.skipped_batches

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = self.step
        if step % self._every:
            return
        skipped = self.model.skipped_batches - self._skipped
        values = dict(logs or {}) if skipped < step - self._last else {}
        if skipped:
            values["skipped_batches"] = skipped
        self.write(step, {**values, "learning_rate": self._learning_rate(step)})
        self.model.reset_metrics()
        self._last, self._skipped = step, self._skipped + skipped

    def _learning_rate(self, step: int) -> float:
        rate = self.model.optimizer.learning_rate
        # Optimizers of TF Addons have the schedule here, those of Keras its
        # current value.
        if isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        return float(tf.keras.backend.get_value(rate))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of one step.

        Args:
            step: The step.
            values: The metrics by name.

        Raises:
            run_files.DiskFullError: The disk is full.
        """
        values = {k: float(v) for k, v in values.items()}
        with run_files.writing(self._path), self._path.open("a") as file:
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
    rows = run_files.read_rows(path)
    kept = [json.dumps(r) + "\n" for r in rows if r["step"] <= last_step]
    run_files.write_text(path, "".join(kept))


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

    def __init__(self, checkpoints: Checkpoints, every: int):
        """Sets the interval.

        Args:
            checkpoints: Writes the checkpoints.
            every: Number of steps between checkpoints.
        """
        super().__init__()
        self._checkpoints, self._every = checkpoints, every

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.step % self._every == 0:
            self._checkpoints.save()

    def on_train_end(self, logs: dict | None = None) -> None:
        self._checkpoints.save()
