"""Learning rates at the relevant steps, and every optimizer by name."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.training import schedules


def rates(schedule, steps):
    return [float(schedule(tf.constant(step))) for step in steps]


def test_the_papers_piecewise_rate():
    schedule = schedules.build_schedule(
        "piecewise", 1e-2, 250_000, (50_000, 60_000)
    )
    got = rates(schedule, [0, 50_000, 50_001, 60_001, 249_999])
    np.testing.assert_allclose(got, [1e-2, 1e-2, 1e-3, 1e-4, 1e-4], rtol=1e-5)


def test_cosine_ends_at_zero():
    schedule = schedules.build_schedule("cosine", 1.0, 100)
    np.testing.assert_allclose(
        rates(schedule, [0, 50, 100]), [1, 0.5, 0], atol=1e-6
    )


@pytest.mark.parametrize("name", ["constant", "piecewise"])
def test_constant(name):
    schedule = schedules.build_schedule(name, 0.3, 10)
    np.testing.assert_allclose(rates(schedule, [0, 5, 99]), 0.3, rtol=1e-6)


def test_warmup_grows_to_the_rate():
    schedule = schedules.build_schedule("constant", 0.4, 10, warmup_steps=4)
    np.testing.assert_allclose(
        rates(schedule, range(6)), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6
    )


def test_unknown_names():
    with pytest.raises(ValueError, match="Received: 'step'"):
        schedules.build_schedule("step", 0.1, 10)
    with pytest.raises(ValueError, match="Received: 'rmsprop'"):
        schedules.build_optimizer("rmsprop", 0.1)


@pytest.mark.parametrize("name", ["sgd", "adam", "lamb"])
@pytest.mark.parametrize("decay,clip", [(0.0, 0.0), (0.01, 0.5)])
def test_every_optimizer_descends(name, decay, clip):
    rate = schedules.build_schedule("cosine", 0.05, 40, warmup_steps=2)
    optimizer = schedules.build_optimizer(name, rate, 0.9, decay, clip)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=[32, 4]).astype(np.float32)
    y = x @ np.float32([[1], [-2], [0.5], [3]])
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=32, epochs=40, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.7 * before
    assert int(model.optimizer.iterations.numpy()) == 40
