"""Fits a training to the time that it may take."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from tf_triplet import builders
from tf_triplet.builders import Choice

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.training import Learner

# Sizes to choose from without a GPU, in pixels.
_SIZES = (64, 96, 128, 160, 224)
# With fewer epochs than this, more steps are worth more than larger images.
_EPOCHS = 10
# With more epochs than this, a training learns its products by heart.
_MOST_EPOCHS = 60
# Share of the time that is kept for validation and checkpoints.
_SPARE = 0.15


def fit_to_time(
    config: ml_collections.ConfigDict,
    minutes: float,
    products: np.ndarray,
    seconds_per_step: Callable[[ml_collections.ConfigDict], float],
) -> tuple[ml_collections.ConfigDict, list[Choice]]:
    """Chooses the number of steps, and the size of the images, by a time.

    Args:
        config: The config of the run, which leaves `training.steps` open.
        minutes: The time for the training.
        products: `[rows]` product of each training image.
        seconds_per_step: Measures the time of a step for a config.

    Returns:
        The config as `builders.resolve` returns it, and all choices.

    Raises:
        ValueError: If the config gives the number of steps.

    Example:

    >>> from tf_triplet import config as configs
    >>> config = configs.base_config()
    >>> config.data.image_size = 64
    >>> products = np.repeat(np.arange(1_000), 4)
    >>> fitted, choices = fit_to_time(config, 10, products, lambda config: 0.5)
    >>> fitted.training.steps
    1020
    """
    left = builders.open_fields(config)
    if "training.steps" not in left:
        raise ValueError(
            "`minutes` chooses the number of steps, which the config gives: "
            f"training.steps={config.training.steps}. Leave out one of them."
        )
    chosen, _ = builders.resolve(config, products)
    batch, images = builders.batch_size(chosen), len(products)
    seconds = minutes * 60 * (1 - _SPARE)
    size = chosen.data.image_size
    step = seconds_per_step(chosen)
    values = {}
    if "data.image_size" in left and size in _SIZES:
        larger = _largest(size, step, seconds, batch, images)
        if larger > size:
            values["data.image_size"] = larger
            larger_config = builders.with_fields(config, values)
            chosen, _ = builders.resolve(larger_config, products)
            step = seconds_per_step(chosen)
    most = max(20, math.ceil(_MOST_EPOCHS * images / batch))
    steps = max(1, int(seconds / step))
    reason = f"{minutes:g} minutes at {step:.2f} seconds a step"
    if steps > most:
        steps, reason = most, f"more than {_MOST_EPOCHS} epochs bring nothing"
    values["training.steps"] = steps
    final, others = builders.resolve(
        builders.with_fields(config, values), products
    )
    told = [Choice("training.steps", steps, reason)]
    if "data.image_size" in values:
        told.append(
            Choice(
                "data.image_size",
                values["data.image_size"],
                f"the largest with at least {_EPOCHS} epochs in that time",
            )
        )
    return final, [*others, *told]


def time_steps(
    learner: Learner, batches: tf.data.Dataset, steps: int = 4
) -> float:
    """Measures the time of a training step.

    Args:
        learner: A compiled learner, whose weights change.
        batches: Its batches.
        steps: Number of steps that are timed.

    Returns:
        Seconds per step. The first steps, which trace the graph and fill the
        queue of batches, do not count.
    """
    batches = iter(batches)
    fit = functools.partial(learner.fit, batches, epochs=1, verbose=0)
    fit(steps_per_epoch=2)
    start = time.perf_counter()
    fit(steps_per_epoch=steps)
    return (time.perf_counter() - start) / steps


def _largest(
    size: int, step: float, seconds: float, batch: int, images: int
) -> int:
    """Returns the largest size at which there is time for some epochs."""
    needed = _EPOCHS * images / batch
    fitting = [size]
    for other in _SIZES:
        # The time of a convolution grows with the number of pixels.
        grown = step * (other / size) ** 2
        if other > size and seconds / grown >= needed:
            fitting.append(other)
    return max(fitting)
