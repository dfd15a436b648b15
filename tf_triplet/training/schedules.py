"""Learning-rate schedules and optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("tf_triplet")
class Warmup(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly from 0 to another schedule's rate."""

    def __init__(self, after, steps: int):
        """`after` is the schedule from step `steps` on."""
        self._after, self._steps = after, steps

    def __call__(self, step):
        share = (tf.cast(step, tf.float32) + 1.0) / self._steps
        return self._after(step) * tf.minimum(share, 1.0)

    def get_config(self):
        return {"after": self._after, "steps": self._steps}


def build_schedule(
    schedule: str,
    learning_rate: float,
    steps: int,
    boundaries: Sequence[int] = (),
    warmup_steps: int = 0,
):
    """Returns "constant", "piecewise" (x 0.1 at each boundary) or "cosine".

    Args:
        schedule: its name.
        learning_rate: the highest rate.
        steps: of the run; cosine reaches 0 there.
        boundaries: steps at which piecewise divides by ten.
        warmup_steps: of linear growth before.
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
    learning_rate,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> tf.keras.optimizers.Optimizer:
    """Returns "sgd" (Nesterov), "adam" or TF Addons' "lamb"."""
    clip = clip_norm or None
    if name == "sgd":
        return tf.keras.optimizers.SGD(
            learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay or None,
            global_clipnorm=clip,
        )
    if name == "adam":
        return tf.keras.optimizers.Adam(
            learning_rate,
            weight_decay=weight_decay or None,
            global_clipnorm=clip,
        )
    if name == "lamb":
        import tensorflow_addons as tfa

        arguments = {"global_clipnorm": clip} if clip else {}
        return tfa.optimizers.LAMB(
            learning_rate, weight_decay=weight_decay, **arguments
        )
    raise ValueError(f"`name` must be sgd, adam or lamb. Received: {name!r}")
