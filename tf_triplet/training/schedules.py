"""Learning-rate schedules and optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_triplet.training import group_rates


@tf.keras.utils.register_keras_serializable("tf_triplet")
class Warmup(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that grows linearly before another schedule."""

    def __init__(
        self,
        after: tf.keras.optimizers.schedules.LearningRateSchedule,
        steps: int,
    ):
        """Wraps a schedule.

        Args:
            after: The schedule that applies from step `steps` on. Before, its
                rate is multiplied by the share of the warm-up that is over.
            steps: Number of steps of the warm-up.
        """
        self._after, self._steps = after, steps

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the learning rate of a step."""
        share = (tf.cast(step, tf.float32) + 1.0) / self._steps
        return self._after(step) * tf.minimum(share, 1.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"after": self._after, "steps": self._steps}


def build_schedule(
    schedule: str,
    learning_rate: float,
    steps: int,
    boundaries: Sequence[int] = (),
    warmup_steps: int = 0,
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """Builds a learning-rate schedule by name.

    Args:
        schedule: "constant", "piecewise" (divided by ten at each boundary) or
            "cosine" (decays to 0).
        learning_rate: The highest rate.
        steps: Number of steps of the run, after which cosine reaches 0.
        boundaries: Steps at which piecewise divides the rate.
        warmup_steps: Number of steps during which the rate grows linearly.

    Returns:
        The schedule.

    Raises:
        ValueError: `schedule` is unknown.

    Example:
        >>> from tf_triplet.training import build_schedule
        >>> schedule = build_schedule("piecewise", 0.1, 900, [500, 800])
        >>> [round(float(schedule(step)), 4) for step in (0, 600, 850)]
        [0.1, 0.01, 0.001]
    """
    schedules = tf.keras.optimizers.schedules
    boundaries = list(boundaries)
    if schedule == "cosine":
        rate = schedules.CosineDecay(learning_rate, steps)
    elif schedule == "piecewise" and boundaries:
        rates = [learning_rate * 0.1**i for i in range(len(boundaries) + 1)]
        rate = schedules.PiecewiseConstantDecay(boundaries, rates)
    elif schedule in ("piecewise", "constant"):
        rate = schedules.PiecewiseConstantDecay([0], [learning_rate] * 2)
    else:
        raise ValueError(
            "`schedule` must be constant, piecewise or cosine. "
            f"Received: {schedule!r}"
        )
    return Warmup(rate, warmup_steps) if warmup_steps else rate


def build_optimizer(
    name: str,
    learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    groups: group_rates.Groups | None = None,
) -> tf.keras.optimizers.Optimizer:
    """Builds an optimizer by name.

    Args:
        name: "sgd" (with Nesterov momentum), "adam", or "lamb" (that of
            TensorFlow Addons).
        learning_rate: A rate or a schedule.
        momentum: Momentum of "sgd".
        weight_decay: Weight decay; 0 for none.
        clip_norm: Largest global norm of the gradients; 0 for no limit.
        groups: Variables with a rate of their own (`group_rates`). None: all
            learn alike.

    Returns:
        The optimizer.

    Raises:
        ValueError: `name` is unknown, or cannot have groups.

    References:
        You et al., 2020, https://arxiv.org/abs/1904.00962 (LAMB).

    Example:
        >>> from tf_triplet.training import build_optimizer
        >>> optimizer = build_optimizer("sgd", 0.1, momentum=0.9)
        >>> optimizer.nesterov, round(float(optimizer.learning_rate), 2)
        (True, 0.1)
    """
    clip = clip_norm or None
    if name == "sgd":
        return _grouped(tf.keras.optimizers.SGD, groups)(
            learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay or None,
            global_clipnorm=clip,
        )
    if name == "adam":
        return _grouped(tf.keras.optimizers.Adam, groups)(
            learning_rate,
            weight_decay=weight_decay or None,
            global_clipnorm=clip,
        )
    if name == "lamb":
        check_groups(name, groups is not None)
        import tensorflow_addons as tfa

        arguments = {"global_clipnorm": clip} if clip else {}
        return tfa.optimizers.LAMB(
            learning_rate, weight_decay=weight_decay, **arguments
        )
    raise ValueError(f"`name` must be sgd, adam or lamb. Received: {name!r}")


def check_groups(name: str, has_groups: bool) -> None:
    """Checks that an optimizer can have groups.

    Args:
        name: See `build_optimizer`.
        has_groups: Whether there are to be any.

    Raises:
        ValueError: It cannot, and there are.
    """
    if has_groups and name == "lamb":
        raise ValueError(
            "`optimizer.head_rate` and `optimizer.head_warmup_steps` do not "
            "work with the optimizer of TensorFlow Addons. Received: "
            "`optimizer.name=lamb`. Use sgd or adam, or leave them at 1 and 0."
        )


def _grouped(kind: type, groups: group_rates.Groups | None) -> type:
    return kind if groups is None else group_rates.with_groups(kind, groups)
