"""Keras callbacks that notice a training that cannot succeed.

`NaNGuard` looks at the loss, `CollapseGuard` at the embeddings, and
`PositivesGuard` and `SkippedBatchesGuard` at the batches.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.training.callbacks import StepCounter

# Number of steps in a row with overflowed float16 gradients that end a run.
_OVERFLOWS = 20
# Number of skipped batches in a row that end a run.
_SKIPPED = 100
# Embeddings have collapsed if their mean distance is at most this, and either
# their effective rank is at most the second number, or the loss differs from
# its value at a collapse by at most the third, as a share of that value.
_SMALL_DISTANCE, _SMALL_RANK, _SMALL_GAP = 0.02, 1.5, 0.02


class DivergedError(ValueError):
    """Training has diverged: the loss or the gradients are not finite.

    Example:
        >>> from tf_triplet.training import DivergedError
        >>> try:
        ...     raise DivergedError("step 7: the loss is nan.")
        ... except DivergedError as error:
        ...     print(error)
        step 7: the loss is nan.
    """


class NaNGuard(StepCounter):
    """Ends a run that has diverged, before anything is saved.

    A run has diverged if its loss is NaN or infinite, or if the float16
    gradients of many steps in a row overflow, so that it learns nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._overflows = 0
        self._warned = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._check_overflow(float((logs or {}).get("overflowed", 0.0)))
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise DivergedError(
                f"step {self.step}: the loss is {loss}. The last checkpoint "
                "was saved before this happened. Lower "
                "optimizer.learning_rate, raise optimizer.warmup_steps or set "
                "optimizer.clip_norm, and start again with --noresume."
            )

    def _check_overflow(self, share: float) -> None:
        """Counts overflows.

        Args:
            share: Share of the steps since the last line of metrics.jsonl
                whose gradients overflowed.
        """
        if share and not self._warned:
            self._warned = True
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
                "learned. Set training.mixed_precision=false or lower "
                "optimizer.learning_rate, and start again with --noresume."
            )


class CollapseError(ValueError):
    """The embeddings have collapsed: all images have nearly the same one.

    Example:
        >>> from tf_triplet.training import CollapseError
        >>> try:
        ...     raise CollapseError("step 7: the embeddings have collapsed.")
        ... except CollapseError as error:
        ...     print(error)
        step 7: the embeddings have collapsed.
    """


class CollapseGuard(StepCounter):
    """Checks whether all embeddings have become equal.

    At a collapse, a triplet loss stays at its margin (at softplus(margin), if
    soft) with a gradient of 0, and never recovers. No other metric shows this
    clearly.

    Example:
        An encoder that ignores its input:

        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import TripletLoss
        >>> from tf_triplet.training import (
        ...     CollapseError, CollapseGuard, Learner
        ... )
        >>> encoder = tf.keras.Sequential([
        ...     tf.keras.Input([3]),
        ...     tf.keras.layers.Dense(2, None, True, "zeros", "ones"),
        ...     tf.keras.layers.UnitNormalization(),
        ... ])
        >>> loss = TripletLoss(margin=0.1)
        >>> learner = Learner(encoder, loss)
        >>> # For a few steps, a graph would take longer than it saves.
        >>> learner.compile("sgd", run_eagerly=True)
        >>> images, labels = np.eye(4, 3), np.array([0, 0, 1, 1])
        >>> guard = CollapseGuard(
        ...     images, every=1, at_collapse=loss.loss_at_collapse, stop=True
        ... )
        >>> try:
        ...     history = learner.fit(
        ...         images, labels, epochs=2, callbacks=[guard], verbose=0
        ...     )
        ... except CollapseError as error:
        ...     print(str(error)[:43])
        step 2: the embeddings have collapsed: mean
    """

    def __init__(
        self,
        images: tf.Tensor | dict[str, tf.Tensor],
        every: int,
        at_collapse: float | None,
        stop: bool,
    ):
        """Checks the embeddings of a fixed batch of images.

        Args:
            images: What the encoder takes: `[n, size, size, 3]` pixels or a
                dictionary of them and their branches, n at least 2.
            every: Number of steps between checks.
            at_collapse: The loss when all embeddings are equal
                (`BatchLoss.loss_at_collapse`). If it is None, only the
                distances and the rank of the embeddings count.
            stop: Whether to raise `CollapseError` at the second failed check
                in a row. Otherwise each failed check logs a warning.
        """
        super().__init__()
        self._images, self._every = images, every
        self._at_collapse, self._stop = at_collapse, stop
        self._failed_checks = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.step % self._every:
            return
        vectors = self.model.encoder(self._images, training=False).numpy()
        distance, rank = spread(vectors)
        logs = logs or {}
        # The losses of other tasks keep changing after a collapse.
        loss = float(logs.get("metric_loss", logs.get("loss", np.nan)))
        expected = self._at_collapse
        at_rest = (
            expected is None or abs(loss - expected) <= _SMALL_GAP * expected
        )
        if distance > _SMALL_DISTANCE or (rank > _SMALL_RANK and not at_rest):
            self._failed_checks = 0
            return
        self._failed_checks += 1
        message = self._message(distance, rank, loss)
        if self._stop and self._failed_checks > 1:
            raise CollapseError(message)
        logging.warning("%s", message)

    def _message(self, distance: float, rank: float, loss: float) -> str:
        """Describes the collapse, and what to change."""
        batch_loss = getattr(self.model, "batch_loss", None)
        advice = [
            "a lower optimizer.learning_rate",
            "optimizer.warmup_steps",
            *getattr(batch_loss, "collapse_advice", ()),
        ]
        expected = self._at_collapse
        return (
            f"step {self.step}: the embeddings have collapsed: mean pairwise "
            f"distance {distance:.2g} (of at most 2), effective rank "
            f"{rank:.2f}, loss {loss:.6f}"
            + ("" if expected is None else f" (at a collapse {expected:.6f})")
            + f". Try {', '.join(advice)}, or model.batch_norm=frozen."
        )


def spread(vectors: np.ndarray) -> tuple[float, float]:
    """Measures how far apart vectors lie.

    Args:
        vectors: `[n, dim]` floats, n at least 2.

    Returns:
        The mean pairwise distance and the effective rank, exp(entropy of the
        shares of variance). Both are 0 if a number is not finite.

    References:
        Roy and Vetterli, 2007, "The effective rank: A measure of effective
        dimensionality", EUSIPCO.
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


class PositivesGuard(tf.keras.callbacks.Callback):
    """Warns once if no anchor has a positive in the batches.

    `Learner.fit` adds this callback. It reads the metric `with_positive`.
    """

    def __init__(self, every: int = 10, patience: int = 3) -> None:
        """Starts without a warning.

        Args:
            every: Number of steps between checks.
            patience: Number of failed checks in a row before the warning.
        """
        super().__init__()
        self._every, self._patience = every, patience
        self._steps = self._failed_checks = 0
        self._skipped = 0
        self._warned = False
        self._last = 1.0
        # Keras then passes tensors, and does not wait for every step to copy
        # its metrics.
        self._supports_tf_logs = True

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._steps += 1
        self._last = (logs or {}).get("with_positive", 1.0)
        if self._warned or self._steps % self._every:
            return
        self._failed_checks = (
            0 if float(self._last) else self._failed_checks + 1
        )
        if self._failed_checks >= self._patience:
            self._warn()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # An epoch may be shorter than the patience. Its own logs are zeros
        # if another callback has just reset the metrics.
        if not self._warned and not float(self._last):
            self._warn()

    def _warn(self) -> None:
        self._warned = True
        logging.warning(
            "No anchor has a positive in its batch (`with_positive` is 0 "
            "after %d steps), so %s cannot learn which images belong together. "
            "A batch needs at least two images of a product; with two "
            "domains, one image of each. Draw batches with "
            "tf_triplet.data.GroupedSampler, or use a loss over proxies such "
            "as tf_triplet.losses.ProxyAnchorLoss.",
            self._steps,
            self.model.batch_loss.name,
        )


class SkippedBatchesGuard(tf.keras.callbacks.Callback):
    """Warns once of batches that cannot teach, and ends a run of only such.

    `Learner.fit` adds this callback.
    """

    def __init__(self, every: int = 10) -> None:
        """Starts without a warning.

        Args:
            every: Number of steps between checks.
        """
        super().__init__()
        self._every = every
        self._steps = self._skipped = self._in_a_row = 0
        self._warned = False
        self._supports_tf_logs = True  # As in `PositivesGuard`.

    def on_train_begin(self, logs: dict | None = None) -> None:
        # An earlier `fit` of the same learner may have skipped batches.
        self._skipped = self.model.skipped_batches

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._steps += 1
        if self._steps % self._every == 0:
            self._check(self._every)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._check(self._steps % self._every)

    def _check(self, steps: int) -> None:
        """Looks at the last steps.

        Args:
            steps: Number of steps since the last check.
        """
        new = self.model.skipped_batches - self._skipped
        self._skipped += new
        self._in_a_row = self._in_a_row + new if new >= steps else 0
        if new and not self._warned:
            self._warned = True
            logging.warning(
                "%d of the last %d batches could not teach and were skipped, "
                "because they were empty or all their images were of one "
                "product. `skipped_batches` in metrics.jsonl counts them.",
                new,
                steps,
            )
        if self._in_a_row >= _SKIPPED:
            raise ValueError(
                f"The last {self._in_a_row} batches could not teach, because "
                "they were empty or all their images were of one product. "
                "Draw more products for a batch "
                "(sampling.units_per_batch), or fewer batches of one category "
                "(sampling.single_category_probability)."
            )
