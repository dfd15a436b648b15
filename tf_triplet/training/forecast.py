"""Foretells how long a training takes, and how much memory."""

from __future__ import annotations

import resource
import sys
import time

import tensorflow as tf

from tf_triplet.training.callbacks import StepCounter
from tf_triplet.training.evaluator import Evaluator

# The first steps trace the graph and fill the queue of batches.
_SKIPPED = 3
_TIMED = 8


class Forecast(StepCounter):
    """Prints the time and the memory of a training after its first steps.

    Nothing is printed for a training that is over soon after.
    """

    def __init__(self, steps: int, evaluator: Evaluator | None = None):
        """Sets what is foretold.

        Args:
            steps: Number of steps of the whole run.
            evaluator: Evaluates the encoder during the run, or None.
        """
        super().__init__()
        self._steps, self._evaluator = steps, evaluator

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._first = self.step
        self._start = 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        done = self.step - self._first
        if done == _SKIPPED:
            self._start = time.monotonic()
        elif done == _SKIPPED + _TIMED:
            left = self._steps - self.step
            if left > _TIMED:
                seconds = (time.monotonic() - self._start) / _TIMED
                self._print(left * seconds)

    def _print(self, seconds: float) -> None:
        note = ""
        evaluator = self._evaluator
        if evaluator is not None and evaluator.seconds is not None:
            count = evaluator.count(self.step, self._steps)
            seconds += count * evaluator.seconds
            note = f" with {count} validation{'s' if count > 1 else ''}"
        print(
            f"The other {self._steps - self.step:,} steps take about "
            f"{_in_words(seconds)}{note}. The process has used up to "
            f"{_memory()} of memory."
        )


def _in_words(seconds: float) -> str:
    """Returns a time in the unit that a reader would use."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _memory() -> str:
    """Returns the most memory that the process has used so far."""
    used = f"{_peak_bytes() / 2**30:.1f} GB"
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        peak = max(
            tf.config.experimental.get_memory_info(gpu.name)["peak"]
            for gpu in gpus
        )
        used += f", and {peak / 2**30:.1f} GB of each GPU's,"
    return used


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
