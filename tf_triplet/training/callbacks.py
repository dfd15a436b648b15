"""Keras callbacks of a run: metrics, evaluation, checkpoints, collapse."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

# Steps in a row, all of whose float16 gradients overflowed, that end a run.
_OVERFLOWS = 20


class StepCounter(tf.keras.callbacks.Callback):
    """Base: knows the run's true step, also after a resume."""

    @property
    def step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())


class MetricsWriter(StepCounter):
    """Appends a line a logged step to metrics.jsonl, and to TensorBoard.

    A metric is the mean over the steps since the line before.
    """

    def __init__(self, workdir: Path, every: int, start_step: int = 0):
        """Drops lines past `start_step`, which the run will write again."""
        super().__init__()
        self._path = Path(workdir) / "metrics.jsonl"
        self._every = every
        _truncate(self._path, start_step)
        self._writer = tf.summary.create_file_writer(
            str(Path(workdir) / "tensorboard")
        )

    def on_train_batch_end(self, batch, logs=None):
        step = self.step
        if step % self._every == 0:
            rate = self.model.optimizer.learning_rate
            # TF Addons' optimizers hold the schedule, Keras's its value.
            if isinstance(
                rate, tf.keras.optimizers.schedules.LearningRateSchedule
            ):
                rate = rate(step)
            rate = tf.keras.backend.get_value(rate)
            self.write(step, {**(logs or {}), "learning_rate": rate})
            self.model.reset_metrics()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes metrics of one step."""
        values = {k: float(v) for k, v in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)

    def on_train_end(self, logs=None):
        self._writer.flush()


def _truncate(path: Path, last_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # A line that a kill cut short.
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, path)


class ProgressLog(StepCounter):
    """A line of log every so many seconds, for where a bar is of no use."""

    def __init__(self, steps: int, seconds: float = 10.0):
        """`steps` are the whole run's."""
        super().__init__()
        self._steps, self._seconds = steps, seconds

    def on_train_begin(self, logs=None):
        self._start_step, self._start = self.step, None

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._start is None:
            # The first step traces the graph: it is no measure of speed.
            self._start = self._last = now
            self._start_step = self.step
            return
        if now - self._last < self._seconds:
            return
        self._last = now
        speed = (self.step - self._start_step) / (now - self._start)
        metrics = "  ".join(f"{k} {float(v):.4f}" for k, v in logs.items())
        logging.info(
            "step %d of %d  %s  (%.2f steps a second, %.0f minutes left)",
            self.step,
            self._steps,
            metrics,
            speed,
            (self._steps - self.step) / speed / 60,
        )


class Checkpointer(StepCounter):
    """Saves encoder and optimizer every so many steps, and at the end."""

    def __init__(self, manager: tf.train.CheckpointManager, every: int):
        """`manager` keeps the files."""
        super().__init__()
        self._manager, self._every = manager, every

    def on_train_batch_end(self, batch, logs=None):
        if self.step % self._every == 0:
            self.save()

    def save(self) -> None:
        """Saves now, unless this step is saved already."""
        latest = self._manager.latest_checkpoint or ""
        if not latest.endswith(f"-{self.step}"):
            self._manager.save(checkpoint_number=self.step)

    def on_train_end(self, logs=None):
        self.save()


class Evaluator(StepCounter):
    """Evaluates every so many steps; keeps the best encoder."""

    def __init__(
        self,
        evaluate: Callable[[tf.keras.Model], dict[str, float]],
        every: int,
        workdir: Path,
        writer: MetricsWriter,
        monitor: str,
    ):
        """Sets the metric `monitor` by which the best is chosen."""
        super().__init__()
        self._evaluate, self._every = evaluate, every
        self._workdir, self._writer = Path(workdir), writer
        self._monitor = monitor
        self._last = -1

    def on_train_batch_end(self, batch, logs=None):
        if self._every and self.step % self._every == 0:
            self.run()

    def on_train_end(self, logs=None):
        self.run()

    def run(self) -> None:
        """Evaluates this step once, writes, and keeps the encoder if best."""
        step = self.step
        if step == self._last:
            return
        self._last = step
        metrics = self._evaluate(self.model.encoder)
        self._writer.write(step, {f"eval/{k}": v for k, v in metrics.items()})
        shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
        logging.info("step %d: %s", step, shown)
        keep_best(
            self.model.encoder,
            step,
            self._monitor,
            metrics[self._monitor],
            self._workdir,
        )


def keep_best(
    encoder: tf.keras.Model,
    step: int,
    monitor: str,
    value: float,
    workdir: Path,
) -> None:
    """Saves the encoder, unless one as good is there already."""
    best = workdir / "best.json"
    if best.exists() and json.loads(best.read_text())["value"] >= value:
        return
    save_encoder(encoder, workdir / "encoder.keras")
    text = {"step": step, "monitor": monitor, "value": value}
    best.write_text(json.dumps(text))


def save_encoder(encoder: tf.keras.Model, path: Path) -> None:
    """Writes the file whole, or not at all."""
    partial = path.with_name("partial-" + path.name)
    encoder.save(partial)
    os.replace(partial, path)


class GracefulStop(StepCounter):
    """The first SIGINT or SIGTERM ends the run after its step."""

    def __init__(self):
        """Installs nothing until training begins."""
        super().__init__()
        self.signal: int | None = None
        self._previous = {}

    def on_train_begin(self, logs=None):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._stop)

    def _stop(self, number, frame):
        if self.signal is not None:
            raise KeyboardInterrupt  # The second time: at once.
        self.signal = number
        logging.warning("Stopping after this step; once more aborts.")
        self.model.stop_training = True

    def on_train_batch_end(self, batch, logs=None):
        # An evaluation or a save of the same step sees the flag too late.
        if self.signal is not None:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class DivergedError(ValueError):
    """The loss is no number any more."""


class NaNGuard(StepCounter):
    """Ends a run whose loss is NaN or infinite before anything is saved, and
    one that no longer learns, because all its float16 gradients overflow."""

    def __init__(self):
        """Begins to count."""
        super().__init__()
        self._overflows = 0
        self._told = False

    def on_train_batch_end(self, batch, logs=None):
        self._watch_overflow(float((logs or {}).get("overflowed", 0.0)))
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise DivergedError(
                f"step {self.step}: the loss is {loss}. The last checkpoint "
                "is from before. Lower optimizer.learning_rate, raise "
                "optimizer.warmup_steps or set optimizer.clip_norm, and "
                "begin anew with --noresume."
            )

    def _watch_overflow(self, share: float) -> None:
        """`share` is of the steps since the last line of metrics.jsonl."""
        if share and not self._told:
            self._told = True
            logging.warning(
                "step %d: gradients overflowed in float16, and the step "
                "learned nothing. A rare overflow is harmless; `overflowed` "
                "in metrics.jsonl tells how often it happens.",
                self.step,
            )
        self._overflows = self._overflows + 1 if share == 1 else 0
        if self._overflows >= _OVERFLOWS:
            raise DivergedError(
                f"step {self.step}: the gradients of {_OVERFLOWS} steps in a "
                "row overflowed in float16 or are NaN, so nothing is "
                "learned. Set training.mixed_precision=false, lower "
                "optimizer.learning_rate, and begin anew with --noresume."
            )


class CollapseError(ValueError):
    """All images are mapped to (nearly) one point."""


class CollapseGuard(StepCounter):
    """Looks whether all embeddings have become one point.

    At an exact collapse the loss rests at the margin (ln 2 for the soft
    one) with no gradient, for ever; nothing else tells.
    """

    def __init__(
        self,
        images,
        every: int,
        at_collapse: float | None,
        stop: bool,
    ):
        """Watches the embeddings of a fixed batch of images.

        Args:
            images: what the encoder takes, `[n, size, size, 3]` pixels or
                a dictionary of them and their branches, n at least 2.
            every: steps between looks.
            at_collapse: the loss when all embeddings are equal; None where
                it is not known (proxies), and only the distance tells.
            stop: raise at the second bad look in a row; else only warn.
        """
        super().__init__()
        self._images, self._every = images, every
        self._at_collapse, self._stop = at_collapse, stop
        self._bad_looks = 0

    def on_train_batch_end(self, batch, logs=None):
        if self.step % self._every:
            return
        vectors = self.model.encoder(self._images, training=False).numpy()
        distance, rank = spread(vectors)
        logs = logs or {}
        # Tasks learned beside go on after a collapse.
        loss = float(logs.get("metric_loss", logs.get("loss", np.nan)))
        rest = self._at_collapse
        at_rest = rest is None or abs(loss - rest) <= 0.02 * rest
        if distance > 0.02 or (rank > 1.5 and not at_rest):
            self._bad_looks = 0
            return
        self._bad_looks += 1
        advice = ["a lower optimizer.learning_rate", "optimizer.warmup_steps"]
        loss_object = getattr(self.model, "batch_loss", None)
        advice += getattr(loss_object, "collapse_advice", ())
        message = (
            f"step {self.step}: the embeddings have collapsed: mean pairwise "
            f"distance {distance:.2g} (of at most 2), effective rank "
            f"{rank:.2f}, loss {loss:.6f}"
            + ("" if rest is None else f" where a point costs {rest:.6f}")
            + f". Try {', '.join(advice)}, or model.batch_norm=frozen."
        )
        if self._stop and self._bad_looks > 1:
            raise CollapseError(message)
        logging.warning("%s", message)


def spread(vectors: np.ndarray) -> tuple[float, float]:
    """Mean pairwise distance and effective rank of `[n, dim]` vectors.

    The effective rank is exp(entropy of the shares of variance), Roy and
    Vetterli, 2007.
    """
    vectors = np.float64(vectors)
    if not np.isfinite(vectors).all():
        return 0.0, 0.0
    gaps = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    n = len(vectors)
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    shares = values / max(values.sum(), 1e-30)
    shares = shares[shares > 0]
    rank = float(np.exp(-(shares * np.log(shares)).sum()))
    return float(gaps.sum() / (n * (n - 1))), rank
