"""Keras callbacks that notice a training without progress.

`RestGuard` looks at the loss, and `PretrainedGuard` at the validation metrics.
Both only warn: a run may recover, and whoever reads the warning decides.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.training import guards, run_files
from tf_triplet.training.callbacks import StepCounter
from tf_triplet.training.evaluator import Evaluator, StartEncoders
from tf_triplet.training.learner import Learner
from tf_triplet.training.stops import GracefulStop

# Number of batches among which one has images to look at for a collapse.
_TRIED = 10
# Number of steps whose losses are averaged before they are compared.
_BLOCK = 10
# Smallest number of such means that tell a rest from a passage.
_BLOCKS = 4
# Largest difference from the value at a collapse, as a share of that value.
_GAP = 0.02


def loss_guards(
    learner: Learner,
    every: int,
    stop: bool,
    images: tf.Tensor | dict[str, tf.Tensor] | None,
    batches: Callable[[int], tf.data.Dataset],
) -> list[tf.keras.callbacks.Callback]:
    """Returns the guards that look at the loss and at a few embeddings.

    Args:
        learner: The learner.
        every: Number of steps between checks.
        stop: Whether a collapse ends the run.
        images: Images to look for a collapse of the embeddings, as the
            encoder takes them. None: images of the first batch.
        batches: Returns the dataset of batches from a step on.
    """
    at_rest = at_collapse = learner.batch_loss.loss_at_collapse
    found = []
    if images is None or at_collapse is None:
        # The first batches may have lost their images.
        for batch, labels in batches(0).take(_TRIED):
            if len(tf.nest.flatten(batch)[0]) > 1:
                images = batch if images is None else images
                at_rest = value_at_collapse(
                    learner.batch_loss,
                    labels["labels"] if isinstance(labels, dict) else labels,
                    learner.encoder.output_shape[-1],
                )
                break
    if learner.memory is not None:
        # The logged loss then includes the comparison with the memory.
        at_rest = at_collapse = None
    if at_rest:
        found.append(RestGuard(at_rest, every))
    if images is not None:
        few = tf.nest.map_structure(lambda values: values[:32], images)
        found.append(guards.CollapseGuard(few, every, at_collapse, stop))
    return found


def value_at_collapse(
    loss: BatchLoss, labels: tf.Tensor | np.ndarray, width: int
) -> float | None:
    """Returns the loss of a batch whose embeddings are all equal.

    Args:
        loss: The loss.
        labels: Labels of a batch, as the loss takes them.
        width: Width of the embeddings.

    Returns:
        `loss.loss_at_collapse`, if the loss knows it. Otherwise the loss of
        such a batch, or None where the variables of the loss or the parts of
        an ensemble decide it too.
    """
    if loss.loss_at_collapse is not None:
        return loss.loss_at_collapse
    if loss.has_variables or isinstance(loss, EnsembleLoss):
        return None
    equal = tf.fill([tf.shape(labels)[0], width], width**-0.5)
    value = float(tf.reduce_mean(loss.compute(labels, equal).values))
    return value if math.isfinite(value) and value > 0 else None


class RestGuard(StepCounter):
    """Warns of a loss at rest where it would be if all embeddings were equal.

    A triplet loss then stays at its margin. The embeddings may still be far
    apart, so that `CollapseGuard` finds nothing, but positives are no nearer
    than negatives, and the mined triplets teach little or nothing.

    A loss that passes through this value, or falls slowly, is not at rest.
    """

    def __init__(self, at_collapse: float, every: int):
        """Sets the value and the time.

        Args:
            at_collapse: The loss when all embeddings are equal, more than 0.
            every: Number of steps that the loss must stay at this value, at
                least 40.
        """
        super().__init__()
        self._at_collapse = at_collapse
        count = max(_BLOCKS, math.ceil(every / _BLOCK))
        self._means = collections.deque(maxlen=count)
        self._block: list[float] = []
        self._since = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        logs = logs or {}
        # The losses of other tasks change at a rest too.
        self._block.append(
            float(logs.get("metric_loss", logs.get("loss", np.nan)))
        )
        if len(self._block) < _BLOCK:
            return
        self._means.append(float(np.mean(self._block)))
        self._block = []
        if not self._is_at_rest():
            self._since = 0
        elif not self._since:
            self._since = self.step - _BLOCK * len(self._means) + 1
            self._warn(f"has been at rest since step {self._since}")

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._since and self.step > self._since + 2 * _BLOCK * _BLOCKS:
            self._warn(f"was at rest from step {self._since} to the end")

    def _is_at_rest(self) -> bool:
        """Whether all means lie at the value, and do not fall."""
        means = np.array(self._means)
        if len(means) < self._means.maxlen:
            return False
        gaps = np.abs(means - self._at_collapse)
        if not (gaps <= _GAP * self._at_collapse).all():
            return False
        first, second = np.array_split(means, 2)
        error = math.sqrt(first.var() / len(first) + second.var() / len(second))
        return bool(second.mean() >= first.mean() - 2.0 * error)

    def _warn(self, what: str) -> None:
        loss = self.model.batch_loss
        advice = [
            "a lower optimizer.learning_rate",
            "optimizer.warmup_steps",
            "model.whitening=<model.embedding_size>",
            *getattr(loss, "collapse_advice", ()),
        ]
        if loss.name != "multi_similarity_loss":
            advice.append("loss.name=multi_similarity")
        logging.warning(
            "step %d: the loss %s, at %.4f. All embeddings equal would give "
            "%.4f: positives are no nearer than negatives, so the run learns "
            "little or nothing, although the embeddings may be far apart. "
            "Try %s or model.batch_norm=frozen.",
            self.step,
            what,
            self._means[-1],
            self._at_collapse,
            ", ".join(advice),
        )


class PretrainedGuard(StepCounter):
    """Warns if the validation metric is below that of the pretrained features.

    It also makes the `Evaluator` keep the best of what the run begins with, so
    that a run without a gain leaves the pretrained encoder. It stands after
    the `Evaluator` in the list of callbacks. The values before the first step
    are kept in the folder of the run (pretrained.json), for a run that is
    resumed.
    """

    def __init__(
        self,
        encoders: StartEncoders,
        evaluator: Evaluator,
        stop: GracefulStop,
    ):
        """Sets what is compared.

        Args:
            encoders: Returns the encoders that the run begins with, by name,
                given the encoder before its first step.
            evaluator: Evaluates the encoder during the run.
            stop: Tells whether a signal ends the run.
        """
        super().__init__()
        self._encoders, self._evaluator = encoders, evaluator
        self._monitor = evaluator.monitor
        self._path = evaluator.workdir / "pretrained.json"
        self._stop = stop
        self._start: float | None = None
        self._first: float | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.step == 0:
            self._start = self._measure()
        elif self._path.exists():
            self._start = run_files.read_pretrained(self._path, self._monitor)

    def _measure(self) -> float | None:
        """Returns the best value before the first step, and stores all."""
        if self._stop.signal is not None:
            return None
        values = self._evaluator.keep_start(self._encoders)
        if not values:
            return None
        value = max(values.values())
        stored = {"monitor": self._monitor, "value": value, "of": values}
        run_files.write_text(self._path, json.dumps(stored, indent=2) + "\n")
        for name, value_of in values.items():
            logging.info(
                "%s features: %s %.4f on the validation products",
                name,
                self._monitor,
                value_of,
            )
        return value

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._first is None and self._evaluator.latest is not None:
            self._first = self._evaluator.latest[self._monitor]
            self._compare(self._first, "at the first validation")

    def on_train_end(self, logs: dict | None = None) -> None:
        best = self._evaluator.best
        # If there was no evaluation during the run, this is the first.
        if best is not None and best != self._first:
            self._compare(best, "at the best validation of the run")

    def _compare(self, value: float, when: str) -> None:
        if self._start is None or value >= self._start:
            return
        logging.warning(
            "step %d: %s, %s is %.4f, below the %.4f of the pretrained "
            "features: so far, training makes the encoder worse. Try a lower "
            "optimizer.learning_rate, optimizer.name=adam with a rate of 1e-4, "
            "optimizer.warmup_steps, model.whitening=<model.embedding_size>, "
            "loss.mining=semi_hard or loss.name=multi_similarity. "
            "training.steps=0 keeps the pretrained features.",
            self.step,
            when,
            self._monitor,
            value,
            self._start,
        )
