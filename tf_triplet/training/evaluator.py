"""Evaluates during a training, and keeps the best or the last encoder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf
from absl import logging

from tf_triplet.training import run_files
from tf_triplet.training.callbacks import MetricsWriter, StepCounter
from tf_triplet.training.run_files import read_best
from tf_triplet.training.stops import EvaluationInterrupted, GracefulStop

# From the encoder before the first step to what the run can fall back on.
StartEncoders = Callable[[tf.keras.Model], Mapping[str, tf.keras.Model]]


@dataclasses.dataclass(frozen=True)
class StepChoice:
    """What best.json says about the choice of the step.

    Attributes:
        products: Number of validation products; 0 if the last step is kept.
        sentence: One sentence that says how the step is chosen.

    Example:
        >>> from tf_triplet.training import StepChoice
        >>> StepChoice(products=20, sentence="Chosen by recall@1.").products
        20
    """

    products: int = 0
    sentence: str = ""


class Evaluator(StepCounter):
    """Evaluates the encoder regularly and keeps the best one."""

    def __init__(
        self,
        evaluate: Callable[[tf.keras.Model], dict[str, float]],
        every: int,
        workdir: Path,
        writer: MetricsWriter,
        monitor: str,
        choice: StepChoice,
        stop: GracefulStop,
        served: Callable[[tf.keras.Model], tf.keras.Model] = lambda e: e,
    ):
        """Sets what to evaluate, and when.

        Args:
            evaluate: Computes the metrics of an encoder. Without `monitor`
                among them, or if it is NaN, nothing is kept, and the
                evaluation does not count.
            every: Number of steps between evaluations; 0 evaluates only at
                the end of the run.
            workdir: Folder of the run.
            writer: Receives the metrics.
            monitor: Name of the metric by which the best encoder is chosen.
            choice: What best.json says about the choice.
            stop: Tells whether a signal ends the run. An evaluation is then
                skipped, or broken off if it is under way.
            served: Makes the model that is evaluated and saved from the
                encoder that is trained.
        """
        super().__init__()
        self._evaluate, self._every = evaluate, every
        self._served = served
        self.workdir, self._writer = Path(workdir), writer
        self.monitor, self._choice = monitor, choice
        self._stop = stop
        self._last = -1
        # Duration of the last evaluation. The first of a run also traces.
        self.seconds: float | None = None
        # The metrics of the last evaluation that counts.
        self.latest: dict[str, float] | None = None

    @property
    def best(self) -> float | None:
        """The best value of the run so far, without that of step 0."""
        name = f"eval/{self.monitor}"
        rows = run_files.read_rows(self.workdir / "metrics.jsonl")
        values = [row[name] for row in rows if name in row]
        return max(values, default=None)

    def on_train_begin(self, logs: dict | None = None) -> None:
        # A signal may have skipped the evaluation of the step that was saved.
        if self._every and self.step and self.step % self._every == 0:
            if not has_evaluation(self.workdir, self.step):
                self.run()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._every and self.step % self._every == 0:
            self.run()

    def on_train_end(self, logs: dict | None = None) -> None:
        self.run()

    def keep_start(self, encoders: StartEncoders) -> dict[str, float]:
        """Evaluates what the run begins with, and keeps the best as step 0.

        Args:
            encoders: Returns the encoders, by name.

        Returns:
            The monitored metric of each. Encoders for which there is none are
            left out, and all are if a signal ends the run.
        """
        values = {}
        for name, encoder in encoders(self.model.encoder).items():
            encoder = self._served(encoder)
            try:
                metrics = self._timed(encoder)
            except EvaluationInterrupted:
                return {}
            value = metrics.get(self.monitor, math.nan)
            if not math.isnan(value):
                values[name] = value
                self._keep(encoder, 0, value)
        return values

    def count(self, step: int, last: int) -> int:
        """Returns the number of evaluations after a step.

        Args:
            step: The step.
            last: The last step of the run.
        """
        if not self._every:
            return 1
        return (
            last // self._every - step // self._every + (last % self._every > 0)
        )

    def _timed(self, encoder: tf.keras.Model) -> dict[str, float]:
        start = time.monotonic()
        with self._stop.interrupting():
            metrics = self._evaluate(encoder)
        self.seconds = time.monotonic() - start
        return metrics

    def _keep(self, encoder: tf.keras.Model, step: int, value: float) -> None:
        keep_best(
            encoder, step, self.monitor, value, self.workdir, self._choice
        )

    def run(self) -> None:
        """Evaluates the encoder, unless this step was evaluated already."""
        step = self.step
        if step == self._last or self._stop.signal is not None:
            return
        encoder = self._served(self.model.encoder)
        try:
            metrics = self._timed(encoder)
        except EvaluationInterrupted:
            return
        self._last = step
        # NaN compares as neither better nor worse, so it chooses nothing.
        if math.isnan(metrics.get(self.monitor, math.nan)):
            return
        self.latest = metrics
        shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
        logging.info("step %d: %s", step, shown)
        self._keep(encoder, step, metrics[self.monitor])
        # Last, so that a step that has this line needs no evaluation any more.
        self._writer.write(step, {f"eval/{k}": v for k, v in metrics.items()})


def has_evaluation(workdir: Path, step: int) -> bool:
    """Tells whether metrics.jsonl has the evaluation of a step.

    Args:
        workdir: Folder of the run.
        step: The step.
    """
    return any(
        row["step"] == step and any(name.startswith("eval/") for name in row)
        for row in run_files.read_rows(workdir / "metrics.jsonl")
    )


def keep_best(
    encoder: tf.keras.Model,
    step: int,
    monitor: str,
    value: float,
    workdir: Path,
    choice: StepChoice,
) -> None:
    """Saves the encoder to encoder.keras if it is better than the last one.

    Args:
        encoder: The encoder to save.
        step: Step of the run.
        monitor: Name of the metric that is compared.
        value: Its value for this encoder; larger is better.
        workdir: Folder of the run, in which best.json holds the best value.
        choice: What best.json says about the choice of the step.
    """
    if read_best(workdir).get("value", -math.inf) >= value:
        return
    save_encoder(encoder, workdir / "encoder.keras")
    values = {"step": step, "monitor": monitor, "value": value}
    _write_best(workdir, "validation", values, choice)


def keep_last(
    encoder: tf.keras.Model, step: int, workdir: Path, choice: StepChoice
) -> None:
    """Saves the encoder of the last step to encoder.keras.

    Args:
        encoder: The encoder to save.
        step: The last step of the run.
        workdir: Folder of the run.
        choice: What best.json says about the choice of the step.
    """
    save_encoder(encoder, workdir / "encoder.keras")
    _write_best(workdir, "last", {"step": step}, choice)


def _write_best(
    workdir: Path, chosen_on: str, values: dict, choice: StepChoice
) -> None:
    text = json.dumps(
        {
            **values,
            "chosen_on": chosen_on,
            "validation_products": choice.products,
            "sentence": choice.sentence,
        },
        indent=2,
    )
    run_files.write_text(workdir / "best.json", text + "\n")


def save_encoder(encoder: tf.keras.Model, path: Path) -> None:
    """Saves an encoder, so that the file is never incomplete.

    Args:
        encoder: The encoder to save.
        path: The `.keras` file.

    Raises:
        run_files.DiskFullError: The disk is full.
    """
    # The move is atomic.
    partial = path.with_name("partial-" + path.name)
    try:
        with run_files.writing(path):
            # In other threads, Keras takes the suffix for the old format.
            encoder.save(partial, save_format="keras_v3")
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
