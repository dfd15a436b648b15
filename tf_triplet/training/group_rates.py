"""Learning rates of their own for the head and for the backbone.

A new head begins at random, and at first its gradients say little about the
backbone, which is pretrained. So the backbone may rest for the first steps,
and the head may learn faster.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

# Layers on top of the backbone that have weights, as `models` names them.
_HEADS = (
    *("embedding", "weight_roots", "pool", "landmark_scores"),
    *("landmark_features", "attributes", "visibility"),
)
_HEAD_PREFIXES = ("head_", "attention_")


@dataclasses.dataclass(frozen=True)
class Groups:
    """Which variables learn at a rate of their own.

    Attributes:
        head: The variables of the layers on top of the backbone.
        backbone: The variables of the backbone.
        head_rate: Factor of the learning rate of the head.
        head_warmup_steps: Number of steps in which the backbone stays as it
            is.
    """

    head: list[tf.Variable]
    backbone: list[tf.Variable]
    head_rate: float
    head_warmup_steps: int


def find_groups(
    model: tf.keras.Model, head_rate: float, head_warmup_steps: int
) -> Groups | None:
    """Divides the variables of a model that is trained.

    Args:
        model: An encoder, or the network around it.
        head_rate: See `Groups`.
        head_warmup_steps: See `Groups`.

    Returns:
        The groups, or None if all variables learn alike from the first step.

    Raises:
        ValueError: The encoder has no head.
    """
    if head_rate == 1.0 and not head_warmup_steps:
        return None
    head = [
        variable
        for layer in model.layers
        if layer.name in _HEADS or layer.name.startswith(_HEAD_PREFIXES)
        for variable in layer.trainable_variables
    ]
    if not head:
        raise ValueError(
            "`optimizer.head_rate` and `optimizer.head_warmup_steps` need an "
            "encoder with a head. Received one without: set "
            "model.embedding_size, or leave them at 1 and 0."
        )
    known = {id(variable) for variable in head}
    backbone = [v for v in model.trainable_variables if id(v) not in known]
    return Groups(head, backbone, head_rate, head_warmup_steps)


def with_groups(kind: type, groups: Groups) -> type:
    """Returns a subclass of an optimizer that treats each group by itself.

    Args:
        kind: An optimizer of `tf.keras.optimizers`.
        groups: The groups. Other variables are updated as before.
    """

    class GroupedOptimizer(kind):
        """Scales the update of the head, and leaves the backbone at rest."""

        def _apply_weight_decay(self, variables):
            # A part of `update_step`, so that it is scaled as well.
            del variables

        def update_step(self, gradient, variable):
            before = tf.identity(variable)
            if self.weight_decay and self._use_weight_decay(variable):
                rate = tf.cast(self.learning_rate, variable.dtype)
                decay = tf.cast(self.weight_decay, variable.dtype)
                variable.assign_sub(variable * decay * rate)
            super().update_step(gradient, variable)
            key = self._var_key(variable)
            if key in self._keys(groups.head) and groups.head_rate != 1.0:
                step = variable - before
                variable.assign(before + groups.head_rate * step)
            elif (
                key in self._keys(groups.backbone) and groups.head_warmup_steps
            ):
                rests = self.iterations < groups.head_warmup_steps
                variable.assign(tf.where(rests, before, variable))

        def _keys(self, variables):
            return {self._var_key(variable) for variable in variables}

    GroupedOptimizer.__name__ = kind.__name__
    return GroupedOptimizer
