"""The guards by themselves: divergence, collapse, missing positives."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.losses.proxies import NormSoftmaxLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import guards
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

PAIRED = np.repeat(np.arange(4), 2)
ALL_DIFFERENT = np.arange(8)


def make(loss=None, **kwargs):
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    learner = Learner(encoder, loss or TripletLoss(margin=0.5), **kwargs)
    learner.compile(tf.keras.optimizers.SGD(0.01))
    return learner


def test_spread_of_known_sets():
    corners = np.eye(4)
    distance, rank = guards.spread(corners)
    assert distance == pytest.approx(2**0.5) and rank == pytest.approx(3)
    assert guards.spread(np.ones([5, 3]))[0] == 0
    assert guards.spread(np.full([5, 3], np.nan)) == (0, 0)
    line = np.outer(np.linspace(-1, 1, 6), [1, 0, 0])
    assert guards.spread(line)[1] == pytest.approx(1)


def test_overflow_warns_once_and_ends_a_run_that_learns_nothing(caplog):
    guard = guards.NaNGuard()
    guard.set_model(make())
    # The share is a mean over a window, in which not every step overflowed.
    for share in [0.0, 1.0, 0.5] + [0.9] * 40 + [1.0] * 19:
        guard.on_train_batch_end(0, {"loss": 0.4, "overflowed": share})
    told = [r for r in caplog.records if "overflowed in float16" in r.message]
    assert len(told) == 1
    message = "20 steps.*mixed_precision=fa"
    with pytest.raises(guards.DivergedError, match=message):
        guard.on_train_batch_end(0, {"loss": 0.4, "overflowed": 1.0})


def message_of_collapse(loss):
    learner = make()
    kernel = np.zeros([6, 4], np.float32)
    learner.encoder.set_weights([kernel, np.float32([1, 0, 0, 0])])
    learner.batch_loss = loss
    images = np.zeros([3, 6], np.float32)
    guard = guards.CollapseGuard(images, 1, None, stop=True)
    guard.set_model(learner)
    guard.on_train_batch_end(0, {"loss": 0.5})
    with pytest.raises(guards.CollapseError) as caught:
        guard.on_train_batch_end(0, {"loss": 0.5})
    return str(caught.value)


@pytest.mark.parametrize(
    "loss", [TripletLoss(), EnsembleLoss(TripletLoss(), 2)]
)
def test_a_collapse_repeats_the_advice_of_the_loss(loss):
    message = message_of_collapse(loss)
    assert "loss.soft=true, loss.mining=semi_hard, or model.batch" in message


def test_a_collapse_without_advice_of_the_loss():
    message = message_of_collapse(NormSoftmaxLoss())
    assert "optimizer.warmup_steps, or model.batch_norm=frozen" in message


def fit(learner, labels, caplog, steps=40, epochs=1, **kwargs):
    """Returns the warnings about missing positives, and the metrics."""
    images = np.random.default_rng(0).normal(size=[8, 6]).astype(np.float32)
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    history = learner.fit(
        data, steps_per_epoch=steps, epochs=epochs, verbose=0, **kwargs
    )
    told = [r.message for r in caplog.records if "has a positive" in r.message]
    return told, history.history


def test_batches_without_positives_warn_once(caplog):
    told, metrics = fit(make(), ALL_DIFFERENT, caplog, epochs=2)
    assert len(told) == 1
    assert "triplet_loss cannot learn which images belong together" in told[0]
    assert "GroupedSampler" in told[0] and "after 30 steps" in told[0]
    assert metrics["with_positive"] == [0, 0]


def test_a_short_epoch_without_positives_warns(caplog):
    told, _ = fit(make(), ALL_DIFFERENT, caplog, steps=2)
    assert len(told) == 1 and "after 2 steps" in told[0]


def test_rare_positives_do_not_warn(caplog):
    """One pair among eight rows: two of the anchors have a positive."""
    labels = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    told, metrics = fit(make(), labels, caplog)
    assert not told and metrics["with_positive"] == [0.25]


def test_a_sample_of_the_steps_must_fail_three_times_in_a_row(caplog):
    guard = guards.PositivesGuard(every=2, patience=3)
    guard.set_model(make())
    for found in [0, 0, 0, 0, 0, 1] * 4:
        guard.on_train_batch_end(0, {"with_positive": found})
    assert not caplog.records
    for _ in range(6):
        guard.on_train_batch_end(0, {"with_positive": 0})
    assert len(caplog.records) == 1


def test_two_domains_need_a_positive_on_the_other_side(caplog):
    same_side = np.stack([PAIRED, np.zeros(8, int)], 1)
    told, metrics = fit(make(), same_side, caplog)
    assert len(told) == 1 and metrics["with_positive"] == [0]
    caplog.clear()
    told, metrics = fit(make(), np.stack([PAIRED, np.arange(8) % 2], 1), caplog)
    assert not told and metrics["with_positive"] == [1]


def test_proxies_and_a_memory_need_no_positives_in_the_batch(caplog):
    loss = NormSoftmaxLoss()
    loss.build(8, 4)
    told, metrics = fit(make(loss), ALL_DIFFERENT, caplog)
    assert not told and "with_positive" not in metrics
    memory = CrossBatchMemory(16, 4, warmup_steps=0)
    told, metrics = fit(make(memory=memory), ALL_DIFFERENT, caplog)
    assert not told and metrics["with_positive"] == [0]


@pytest.mark.parametrize("form", ["none", "empty", "single", "list"])
def test_the_warning_comes_with_any_form_of_callbacks(form, caplog):
    seen = []
    own = tf.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(epoch)
    )
    forms = {"none": None, "empty": [], "single": own, "list": [own]}
    told, _ = fit(make(), ALL_DIFFERENT, caplog, callbacks=forms[form])
    assert len(told) == 1
    assert len(seen) == (form in ("single", "list"))
