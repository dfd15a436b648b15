"""How a signal ends a training: it saves first, and evaluates no more."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

import tensorflow as tf
from absl import logging

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStopped(Exception):
    """A signal has ended the training, after a checkpoint was saved.

    Attributes:
        step: The last step.
        steps: Number of steps of the whole run.
        signal: The number of the signal.

    Example:
        >>> from tf_triplet.training import TrainingStopped
        >>> str(TrainingStopped(step=7, steps=40, signal=15))
        'Stopped at step 7 of 40. The same command continues.'
    """

    def __init__(self, step: int, steps: int, signal: int):
        """Sets what the message says.

        Args:
            step: The last step.
            steps: Number of steps of the whole run.
            signal: The number of the signal.
        """
        super().__init__(
            f"Stopped at step {step} of {steps}. The same command continues."
        )
        self.step, self.steps, self.signal = step, steps, signal


class EvaluationInterrupted(KeyboardInterrupt):
    """A signal has arrived during an evaluation.

    As a `KeyboardInterrupt`, it passes through any `except Exception`.
    """


class GracefulStop(tf.keras.callbacks.Callback):
    """Ends a training after the current step on SIGINT or SIGTERM.

    Signals are handled inside of its `with` block. A second signal raises a
    `KeyboardInterrupt`, with the number of the signal as its argument. Outside
    of the main thread, Python allows no handlers, and nothing is handled.

    Attributes:
        signal: The signal that was received, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal: int | None = None
        self._previous = {}
        self._interrupting = False

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Breaks off what runs inside, by an `EvaluationInterrupted`.

        An evaluation takes minutes, and whoever stops a container waits for
        seconds only.
        """
        self._interrupting = True
        try:
            if self.signal is not None:  # It came before the block.
                raise EvaluationInterrupted
            yield
        finally:
            self._interrupting = False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.signal is not None:
            raise KeyboardInterrupt(number)
        self.signal = number
        logging.warning(
            "Saving and stopping after this step. A second signal stops at "
            "once, without saving."
        )
        if self._interrupting:
            self._interrupting = False
            raise EvaluationInterrupted

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.signal is not None:
            self.model.stop_training = True
