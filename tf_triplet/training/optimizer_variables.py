"""Creates the variables of optimizers before the first step.

A checkpoint restores variables that exist. And in a graph, variables that are
created inside of a branch cannot be initialized on several replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from tf_triplet.training.learner import Learner


def create_all(learner: Learner) -> bool:
    """Creates the variables of both optimizers of a learner.

    Args:
        learner: The compiled learner.

    Returns:
        Whether all exist. An optimizer of your own may create its variables
        at the first step only.
    """
    with learner.distribute_strategy.scope():
        created = _create(learner.optimizer, learner.optimized_variables)
        if learner.loss_optimizer is not None:
            created &= _create(learner.loss_optimizer, learner.loss_variables)
    return created


def get_all(
    optimizer: tf.keras.optimizers.Optimizer,
) -> Sequence[tf.Variable]:
    """Returns the variables of an optimizer, which must exist.

    Args:
        optimizer: The optimizer.
    """
    found = optimizer.variables
    # It is a method in the class that those of TensorFlow Addons have.
    return found() if callable(found) else found


def _create(
    optimizer: tf.keras.optimizers.Optimizer, variables: Sequence[tf.Variable]
) -> bool:
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
        return True
    if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        # Those of TensorFlow Addons are of this class. It has no public
        # method for it; its own `apply_gradients` begins with this one.
        optimizer._create_all_weights(variables)
        return True
    optimizer.iterations  # noqa: B018
    return False
