"""Rates of the head and of the backbone, beside those of Keras."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.models import encoder as encoders
from tf_triplet.models import multitask
from tf_triplet.training import distribution, group_rates, schedules
from tf_triplet.training.learner import Learner

LAYERS = tf.keras.layers
NAMES = ("sgd", "adam")


def build(name, head_rate=1.0, warmup=0, decay=0.0, size=3, replicas=1):
    with distribution.build_strategy(replicas).scope():
        tf.keras.utils.set_random_seed(1)
        backbone = tf.keras.Sequential(
            [tf.keras.Input([4, 4, 3]), LAYERS.Conv2D(5, 3, name="first")]
        )
        encoder = encoders.build_encoder(backbone, size)
        learner = Learner(encoder, TripletLoss("batch_hard", margin=0.5))
        groups = group_rates.find_groups(encoder, head_rate, warmup)
        rate = schedules.build_schedule("constant", 0.05, 10)
        optimizer = schedules.build_optimizer(
            name, rate, 0.9, decay, 0.0, groups
        )
        learner.compile(optimizer)
    return learner


def fit(learner, steps):
    images = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)
    labels = np.repeat(np.arange(4), 2)
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    learner.fit(data, steps_per_epoch=steps, verbose=0)
    return weights(learner)


def weights(learner):
    return {w.name.split(":")[0]: w.numpy() for w in learner.encoder.weights}


@pytest.mark.parametrize(
    "name,decay,replicas", [("sgd", 0.1, 2), ("adam", 0.1, 1), ("adam", 0.0, 2)]
)
def test_the_update_of_the_head_is_scaled(name, decay, replicas):
    start = weights(build(name))
    plain = fit(build(name, decay=decay), 1)
    fast = fit(build(name, 10.0, decay=decay, replicas=replicas), 1)
    for key, before in start.items():
        factor = 10.0 if key.startswith("embedding") else 1.0
        wanted = before + factor * (plain[key] - before)
        np.testing.assert_allclose(fast[key], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_backbone_rests_for_the_first_steps(name):
    learner = build(name, warmup=2, decay=0.1)
    start = weights(learner)
    for step in (1, 2, 3):
        now = fit(learner, 1)
        moved = {key: np.abs(now[key] - start[key]).max() > 0 for key in start}
        assert moved["embedding/kernel"]
        assert moved["first/kernel"] == (step > 2)


def test_one_rate_for_all_is_the_optimizer_of_keras():
    assert group_rates.find_groups(tf.keras.Sequential(), 1.0, 0) is None
    optimizer = schedules.build_optimizer("adam", 0.1)
    assert type(optimizer) is tf.keras.optimizers.Adam


def test_a_resume_goes_on_with_the_same_rates(tmp_path):
    whole = fit(build("adam", 5.0, 2), 4)
    first = build("adam", 5.0, 2)
    fit(first, 1)
    path = tf.train.Checkpoint(
        encoder=first.encoder, optimizer=first.optimizer
    ).save(str(tmp_path / "step"))
    again = build("adam", 5.0, 2)
    again.optimizer.build(again.optimized_variables)
    tf.train.Checkpoint(
        encoder=again.encoder, optimizer=again.optimizer
    ).restore(path).assert_consumed()
    for key, got in fit(again, 3).items():
        np.testing.assert_array_equal(got, whole[key])


def test_an_encoder_without_a_head_is_refused():
    with pytest.raises(ValueError, match="need an encoder with a head"):
        build("sgd", 2.0, size=0)


@pytest.mark.parametrize(
    "field,value", [("head_rate", 2.0), ("head_warmup_steps", 5)]
)
def test_lamb_is_refused(field, value):
    config = configs.paper_config()
    config.data.source = "rendered"
    config.optimizer.name = "lamb"
    config.optimizer[field] = value
    with pytest.raises(ValueError, match="Received: `optimizer.name=lamb`"):
        builders.validate(config)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_the_rate_is_positive(value):
    config = configs.paper_config()
    config.data.source = "rendered"
    config.optimizer.head_rate = value
    with pytest.raises(ValueError, match="head_rate` must be more than 0"):
        builders.validate(config)


def test_the_heads_of_all_tasks_are_found():
    backbone = tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), LAYERS.Conv2D(5, 3, name="first")]
    )
    network = multitask.build_multitask(backbone, 4, 2, 1, 3, pooling="gem")
    groups = group_rates.find_groups(network.training, 2.0, 0)
    assert {v.name.split("/")[0] for v in groups.backbone} == {"first"}
    assert len(groups.head) + len(groups.backbone) == len(
        network.training.trainable_variables
    )
