"""Continues a run with more products than its checkpoint knows.

A loss may have variables of each product (proxies, boundaries), and the
optimizer has slots of these variables. Products keep their labels, so the rows
of a checkpoint are the first rows of the larger variables. The other rows stay
as they were created.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.training.learner import Learner
from tf_triplet.training.optimizer_variables import get_all


def count_in_checkpoint(path: str) -> int:
    """Returns the number of products that a checkpoint has variables of.

    Args:
        path: The checkpoint, as `CheckpointManager.latest_checkpoint` has it.

    Returns:
        The length of the loss's longest variable; 0 if it has none.
    """
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    lengths = [
        shape[0]
        for name, shape in shapes.items()
        if name.startswith("loss_parameters/") and shape
    ]
    return max(lengths, default=0)


def count_in_loss(learner: Learner) -> int:
    """Returns the same number for the loss of a learner.

    Args:
        learner: The learner.
    """
    lengths = [v.shape[0] for v in learner.loss_variables if v.shape.rank]
    return max(lengths, default=0)


def copy_grown(former: Learner, learner: Learner) -> None:
    """Copies the state of a learner into one for more products.

    Both train the same network. Call it in the scope of their strategy.

    Args:
        former: The learner of the checkpoint, with its optimizers built.
        learner: The learner that continues, with its optimizers built.

    Raises:
        ValueError: If a variable is larger in another way than by rows.
    """
    pairs = [
        (former.loss_variables, learner.loss_variables),
        [get_all(one.optimizer) for one in (former, learner)],
    ]
    if learner.loss_optimizer is not None:
        pairs.append([get_all(one.loss_optimizer) for one in (former, learner)])
    if learner.memory is not None:
        pairs.append((former.memory.variables, learner.memory.variables))
    for old_variables, new_variables in pairs:
        for old, new in zip(old_variables, new_variables):
            _copy(old, new, learner.batch_loss.name)


def _copy(old: tf.Variable, new: tf.Variable, loss: str) -> None:
    if old.shape == new.shape:
        new.assign(old)
        return
    rows = old.shape[0]
    if old.shape[1:] != new.shape[1:] or rows > new.shape[0]:
        raise ValueError(
            f"{loss} cannot go on with other products, because its variable "
            f"{new.name} does not have one row per product. Received shapes: "
            f"{old.shape} in the checkpoint and {new.shape} now. Restore the "
            "table, or choose another --workdir."
        )
    new.assign(tf.concat([tf.identity(old), tf.identity(new)[rows:]], 0))
