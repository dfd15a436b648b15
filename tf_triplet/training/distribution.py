"""The devices that a run trains on."""

from __future__ import annotations

import functools

import tensorflow as tf


def build_strategy(replicas: int = 0) -> tf.distribute.Strategy:
    """Builds a strategy that mirrors the model over devices of this machine.

    Calls with the same devices return the same strategy.

    Args:
        replicas: Number of GPUs or, on a machine without GPUs, of logical CPU
            devices. 0 takes all GPUs, or one CPU device.

    Returns:
        The strategy.

    Raises:
        ValueError: There are fewer GPUs, or TensorFlow has already started
            with fewer logical CPU devices.

    Example:
        >>> from tf_triplet.training import build_strategy
        >>> strategy = build_strategy(replicas=1)
        >>> strategy.num_replicas_in_sync
        1
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas > len(gpus):
            raise ValueError(
                "`training.replicas` must be at most the number of GPUs. "
                f"Received: {replicas} with {len(gpus)} GPUs. Lower it, or "
                "use 0 for all."
            )
        count = replicas or len(gpus)
        return _mirrored(tuple(f"/gpu:{i}" for i in range(count)))
    count = max(replicas, 1)
    if count > 1:
        _split_cpu(count)
    return _mirrored(tuple(f"/cpu:{i}" for i in range(count)))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """Creates one strategy per set of devices and process.

    Two strategies would give their collective operations the same numbers,
    and TensorFlow 2.15 would confuse them.
    """
    return tf.distribute.MirroredStrategy(list(devices))


def _split_cpu(count: int) -> None:
    """Divides the CPU into logical devices, unless there are enough."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        existing = len(
            tf.config.get_logical_device_configuration(cpu) or [None]
        )
        if existing < count:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
    except RuntimeError as error:
        raise ValueError(
            f"`training.replicas` is {count}, but TensorFlow has already "
            "started with fewer logical CPU devices. Start a new process."
        ) from error
