"""Checks the arguments of `Learner`; errors tell how to fix them.

The validation of a config asks `check_scope` and `check_micro_batch` too,
before there is an encoder.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.training.tasks import Tasks

SCOPES = ("global", "replica")


def check_loss(batch_loss: Any) -> None:
    """Raises a TypeError unless the loss is an instance of `BatchLoss`."""
    if isinstance(batch_loss, BatchLoss):
        return
    if isinstance(batch_loss, type) and issubclass(batch_loss, BatchLoss):
        fix = f"Create an instance: {batch_loss.__name__}(...)."
    else:
        fix = (
            "A plain Keras loss compares each output with its own target; "
            "train with it by `encoder.compile(loss=...)`. For a loss over "
            "embeddings use one of tf_triplet.losses, or subclass "
            "tf_triplet.losses.BatchLoss."
        )
    raise TypeError(
        "`batch_loss` must be an instance of tf_triplet.losses.BatchLoss, "
        "which compares the embeddings of a whole batch. Received: "
        f"{batch_loss!r}. {fix}"
    )


def check_scope(scope: str, has_memory: bool, batch_loss: BatchLoss) -> None:
    """Raises a ValueError for a scope or a memory that cannot be used."""
    if scope not in SCOPES:
        raise ValueError(
            f"`scope` must be global or replica. Received: {scope!r}"
        )
    if has_memory and not batch_loss.takes_keys:
        raise ValueError(
            "`memory` needs a loss that accepts keys (`takes_keys`). Received: "
            f"{batch_loss.name}, which compares with proxies or within the "
            "batch only. Use a loss over pairs, or memory=None."
        )
    if has_memory and scope != "global":
        raise ValueError(
            "`memory` must be the same on every replica, so it needs "
            f"`scope=global`. Received: {scope!r}"
        )


def check_micro_batch(micro_batch: int, has_tasks: bool) -> None:
    """Raises a ValueError if the batch cannot be divided like this."""
    if micro_batch < 0:
        raise ValueError(
            "`micro_batch` must be at least 0, where 0 takes all images at "
            f"once. Received: {micro_batch}"
        )
    if micro_batch and has_tasks:
        raise ValueError(
            "`micro_batch` does not work with `tasks` (attributes, "
            "landmarks), because it computes gradients of the embeddings "
            f"only. Received: micro_batch={micro_batch}. Set it to 0, or "
            "train without tasks."
        )


def check_tasks(
    encoder: tf.keras.Model,
    network: tf.keras.Model | None,
    tasks: Tasks | None,
) -> None:
    """Raises a ValueError for tasks that cannot be learned."""
    if (network is None) != (tasks is None):
        raise ValueError(
            "`network` and `tasks` need each other: the network has the heads "
            f"that the tasks train. Received: network={network}, "
            f"tasks={tasks}. Pass both or neither."
        )
    if tasks is None:
        return
    shared = {id(variable) for variable in network.variables}
    if not all(id(variable) in shared for variable in encoder.variables):
        raise ValueError(
            "`network` must contain the layers of `encoder`; otherwise the "
            f"encoder would not be trained. Received: {network.name!r}"
        )
