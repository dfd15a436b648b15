"""Two logical CPU devices for every test, before TensorFlow starts."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Before TensorFlow: the package chooses how TensorFlow computes.
import tf_triplet  # noqa: F401  isort: skip

import pytest
import tensorflow as tf
from shop_fixtures import exported, index_names, shop, watch

__all__ = ["exported", "index_names", "shop", "watch"]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(scope="session")
def two_replicas():
    from tf_triplet.training import distribution

    # The one that runs in this process use. Two strategies for the same
    # devices would mix up their collective operations.
    return distribution.build_strategy(2)
