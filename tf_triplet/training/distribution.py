"""On which devices a run trains."""

from __future__ import annotations

import functools

import tensorflow as tf


def build_strategy(replicas: int = 0) -> tf.distribute.Strategy:
    """Mirrors the model over the devices of this machine.

    Args:
        replicas: 0 for all GPUs (or the one CPU); N for N GPUs or, without
            GPUs, N logical CPU devices.

    Raises:
        ValueError: there are fewer GPUs, or TensorFlow has already started
            with fewer logical CPU devices.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas > len(gpus):
            raise ValueError(
                f"`training.replicas` is {replicas} but there are only "
                f"{len(gpus)} GPUs. Lower it, or use 0 for all."
            )
        count = replicas or len(gpus)
        return _mirrored(tuple(f"/gpu:{i}" for i in range(count)))
    count = max(replicas, 1)
    if count > 1:
        _split_cpu(count)
    return _mirrored(tuple(f"/cpu:{i}" for i in range(count)))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """One strategy for the same devices in a process.

    Two of them number their collective operations alike, and TensorFlow
    2.15 then takes one's for the other's.
    """
    return tf.distribute.MirroredStrategy(list(devices))


def _split_cpu(count: int) -> None:
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
            f"`training.replicas` is {count} but TensorFlow already runs "
            "with fewer logical CPU devices. Start a fresh process."
        ) from error
