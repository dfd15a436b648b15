"""Two logical CPU devices for every test, before TensorFlow starts."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import tensorflow as tf
from shop_fixtures import exported, shop

__all__ = ["exported", "shop"]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(scope="session")
def two_replicas():
    from tf_triplet.training import distribution

    # That of runs in this process: two would mix up their collectives.
    return distribution.build_strategy(2)
