"""Losses at rest, metrics below the start, schedules without effect."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_training

from tf_triplet import losses
from tf_triplet.training import progress_guards, schedule_checks

LABELS = np.repeat(np.arange(4), 2)


def feed(values, every=100, at=0.1, loss=None):
    """Gives a guard one loss a step."""

    class Step(progress_guards.RestGuard):
        step = 0

    guard = Step(at, every)
    guard.set_model(tiny_training.make(loss or losses.TripletLoss()))
    for value in values:
        Step.step += 1
        guard.on_train_batch_end(0, {"loss": value})
    guard.on_train_end()
    return guard


def told(caplog):
    return [r.getMessage() for r in caplog.records if "rest" in r.getMessage()]


def test_a_loss_at_its_margin_is_told_once_and_at_the_end(caplog):
    noise = np.random.default_rng(0).normal(0, 3e-4, 240)
    start = np.linspace(0.3, 0.1001, 40)
    feed([*start, *(0.1001 + noise)])
    first, last = told(caplog)
    assert first.startswith("step 140: the loss has been at rest since step 41")
    assert "would give 0.1000" in first
    for advice in ("learning_rate", "loss.mining=semi_hard", "whitening"):
        assert advice in first
    assert "was at rest from step 41 to the end" in last


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0.14, 0.06, 400),  # Passes through.
        np.linspace(0.102, 0.0985, 400),  # Falls slowly.
        0.1 + 0.01 * np.sin(np.arange(400) / 9),  # Not at rest.
        np.full(400, 0.3),
        np.full(400, np.nan),
        np.full(30, 0.1),  # Too short to tell.
    ],
)
def test_a_loss_that_moves_or_lies_elsewhere_is_left_alone(values, caplog):
    feed(values)
    assert not told(caplog)


def test_a_loss_that_leaves_its_rest_is_not_told_at_the_end(caplog):
    feed([*np.full(120, 0.1), *np.linspace(0.1, 0.05, 200)])
    assert len(told(caplog)) == 1


def test_a_resting_loss_of_a_few_steps_needs_forty(caplog):
    feed(np.full(39, 0.1), every=1)
    assert not told(caplog)
    feed(np.full(40, 0.1), every=1)
    assert len(told(caplog)) == 1


def test_the_value_of_tasks_is_not_looked_at(caplog):
    guard = progress_guards.RestGuard(0.1, 40)
    guard.set_model(tiny_training.make())
    for step in range(40):
        guard.on_train_batch_end(0, {"loss": 5 - step, "metric_loss": 0.1})
    assert len(told(caplog)) == 1


@pytest.mark.parametrize(
    "loss,want",
    [
        (losses.TripletLoss(margin=0.3), 0.3),
        (losses.ContrastiveLoss(margin=0.5), 0.25 * 48 / 56),
        (losses.NPairsLoss(), np.log(4)),
        (losses.NormSoftmaxLoss(), None),
        (losses.EnsembleLoss(losses.TripletLoss(), 2), None),
    ],
)
def test_the_value_of_equal_embeddings(loss, want):
    got = progress_guards.value_at_collapse(loss, LABELS, 4)
    assert got == (want if want is None else pytest.approx(want, rel=1e-5))


def test_a_run_at_rest_is_told(tmp_path, caplog):
    """Distances are large: each image is embedded by its own direction."""
    learner = tiny_training.make(losses.TripletLoss(margin=0.5))
    learner.optimizer.learning_rate.assign(0.0)

    # A positive is as far away as a negative.
    def batches(start):
        images = np.concatenate([np.eye(6), np.zeros([2, 6])])[:4]
        batch = images.astype(np.float32), np.repeat([0, 1], 2)
        return tf.data.Dataset.from_tensors(batch).repeat()

    learner.encoder.set_weights([np.eye(6, 4, dtype=np.float32), np.zeros(4)])
    tiny_training.train(
        tmp_path, 44, learner=learner, batches=batches, collapse_every=40
    )
    (message,) = told(caplog)
    assert "All embeddings equal would give 0.5000" in message
    assert not any("have collapsed" in r.getMessage() for r in caplog.records)


def train(workdir, start, later, steps=6, **more):
    """Trains with given metrics, and returns the calls of the start."""
    calls, values = [], iter(later)

    def start_encoders(encoder):
        calls.append(encoder)
        return {"pretrained": encoder}

    def evaluate(encoder):
        at_start = calls and calls[-1] is encoder
        calls[-1:] = [None] if at_start else calls[-1:]
        return {"recall@1": start if at_start else next(values)}

    tiny_training.train(
        workdir,
        steps,
        evaluate,
        start_encoders=start_encoders,
        evaluate_every=3,
        **more,
    )
    return calls


def below(caplog):
    return [r.getMessage() for r in caplog.records if "below" in r.getMessage()]


def test_a_run_below_its_start_is_told_at_the_first_validation(
    tmp_path, caplog
):
    assert len(train(tmp_path, 0.46, [0.4, 0.43])) == 1
    first, last = below(caplog)
    assert "step 3: at the first validation, recall@1 is 0.4000" in first
    assert "below the 0.4600 of the pretrained features" in first
    assert "optimizer.learning_rate" in first and "steps=0" in first
    assert "at the best validation of the run, recall@1 is 0.4300" in last
    stored = json.loads((tmp_path / "pretrained.json").read_text())
    of = {"pretrained": 0.46}
    assert stored == {"monitor": "recall@1", "value": 0.46, "of": of}
    # What it began with is better than anything since, and stays.
    best = json.loads((tmp_path / "best.json").read_text())
    assert (best["step"], best["value"]) == (0, 0.46)


def test_a_run_above_its_start_is_not_told(tmp_path, caplog):
    train(tmp_path, 0.46, [0.46, 0.5])
    assert not below(caplog)


def test_a_run_that_recovers_is_told_once(tmp_path, caplog):
    train(tmp_path, 0.46, [0.4, 0.5])
    assert len(below(caplog)) == 1


def test_a_resumed_run_remembers_its_start(tmp_path, caplog):
    train(tmp_path, 0.46, [0.5], steps=3)
    assert not below(caplog)
    assert not train(tmp_path, 0.9, [0.45], steps=6)
    assert "below the 0.4600" in below(caplog)[0]


def test_a_start_without_readable_images_is_left_out(tmp_path, caplog):
    tiny_training.train(
        tmp_path,
        3,
        lambda encoder: {},
        start_encoders=lambda encoder: {"pretrained": encoder},
    )
    assert not below(caplog)
    assert not (tmp_path / "pretrained.json").exists()


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"boundaries": (50_000,)}, ["never falls", "schedule=cosine"]),
        ({"boundaries": (10, 199)}, ["not fall as often"]),
        ({"boundaries": (50_000,), "schedule": "cosine"}, []),
        ({"boundaries": (10, 150)}, []),
        ({"warmup_steps": 200}, ["still growing", "tenth"]),
        ({"warmup_steps": 20}, []),
        ({"head_warmup_steps": 200}, ["backbone never learns"]),
        ({"memory_warmup": 1000}, ["never used", "memory_size=0"]),
        ({"collapse_every": 201}, ["never looked for"]),
        ({"collapse_every": 200}, []),
    ],
)
def test_what_lies_beyond_the_last_step_is_named(changes, words):
    arguments = {"schedule": "piecewise", "boundaries": (), "warmup_steps": 0}
    found = schedule_checks.unreached(200, **{**arguments, **changes})
    assert len(found) == bool(words)
    for word in words:
        assert word in found[0]
    if found:
        assert next(iter(changes)) in found[0] and "200 steps" in found[0]


@pytest.mark.parametrize("text", ["", "[]", '{"monitor": "recall@1"}'])
def test_a_damaged_start_is_told_and_left_out(tmp_path, text, caplog):
    train(tmp_path, 0.46, [0.5], steps=3)
    (tmp_path / "pretrained.json").write_text(text)
    train(tmp_path, 0.9, [0.45], steps=6)
    assert f"{tmp_path / 'pretrained.json'} cannot be used" in caplog.text
    assert not below(caplog)
