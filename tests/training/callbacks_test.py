"""Metrics, evaluation, the collapse guard, and what a resume goes on from."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import callbacks as cb
from tf_triplet.training import guards
from tf_triplet.training import loop as run
from tf_triplet.training.learner import Learner


def make(rate=0.1):
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    learner = Learner(encoder, TripletLoss("batch_hard", margin=0.5))
    learner.compile(tf.keras.optimizers.SGD(rate, momentum=0.9))
    return learner


def batch_of(step):
    random = np.random.default_rng(step)
    images = random.normal(size=[12, 6]).astype(np.float32)
    return images, np.repeat(np.arange(4), 3).astype(np.int32)


def batches(start):
    steps = tf.data.Dataset.range(start, 1 << 40)

    def draw(step):
        x, y = tf.numpy_function(batch_of, [step], [tf.float32, tf.int32])
        return tf.ensure_shape(x, [12, 6]), tf.ensure_shape(y, [12])

    return steps.map(draw)


def train(workdir, steps=9, evaluate=None, learner=None, resume=True, **more):
    settings = {
        "checkpoint_every": 3,
        "log_every": 3,
        "evaluate_every": 0,
        "collapse_every": 0,
        "stop_on_collapse": True,
        "monitor": "recall@1",
        **more,
    }
    learner = learner or make()
    step = run.train(
        learner,
        batches,
        evaluate or (lambda encoder: {"recall@1": 0.5}),
        pipeline.BadImages(),
        workdir,
        run.Settings(steps=steps, **settings),
        resume=resume,
        verbose=0,
    )
    return learner, step


def rows(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_metrics_are_the_means_of_their_window(tmp_path):
    train(tmp_path / "every", steps=6, log_every=1)
    train(tmp_path / "third", steps=6, log_every=3)
    each = [row["loss"] for row in rows(tmp_path / "every") if "loss" in row]
    third = {
        row["step"]: row["loss"]
        for row in rows(tmp_path / "third")
        if "loss" in row
    }
    assert third[3] == pytest.approx(np.mean(each[:3]), rel=1e-5)
    assert third[6] == pytest.approx(np.mean(each[3:]), rel=1e-5)
    assert list((tmp_path / "third" / "tensorboard").glob("events*"))


def test_resumed_equals_uninterrupted(tmp_path):
    whole, _ = train(tmp_path / "whole")
    train(tmp_path / "parts", steps=6)
    # What a killed run wrote past its checkpoint, and a line cut short.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 77.0}\n{"step": 9, "lo')
    resumed, step = train(tmp_path / "parts")
    assert step == 9
    for got, want in zip(resumed.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(got, want)
    logged = [
        [row for row in rows(tmp_path / name) if "loss" in row]
        for name in ("whole", "parts")
    ]
    assert logged[0] == logged[1]


def test_a_complete_run_is_left_alone(tmp_path):
    train(tmp_path)
    before = rows(tmp_path)
    learner, step = train(tmp_path)
    assert step == 9 and rows(tmp_path) == before


def test_without_resume_it_begins_anew(tmp_path):
    train(tmp_path, steps=6)
    learner, _ = train(tmp_path, steps=3, resume=False)
    fresh, _ = train(tmp_path / "fresh", steps=3)
    for got, want in zip(learner.get_weights(), fresh.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_best_encoder_is_of_the_best_evaluation(tmp_path):
    metrics = iter([0.2, 0.9, 0.4])
    seen = []

    def evaluate(encoder):
        seen.append(encoder.get_weights())
        return {"recall@1": next(metrics)}

    learner, _ = train(tmp_path, evaluate=evaluate, evaluate_every=3)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["step"] == 6 and best["value"] == 0.9
    for name, weights in (("encoder", seen[1]), ("encoder_last", seen[2])):
        model = tf.keras.models.load_model(tmp_path / f"{name}.keras")
        for got, want in zip(model.get_weights(), weights):
            np.testing.assert_array_equal(got, want)
    logged = [r["eval/recall@1"] for r in rows(tmp_path) if len(r) == 2]
    assert logged == [0.2, 0.9, 0.4]


def collapsed():
    learner = make()
    kernel = np.zeros([6, 4], np.float32)
    learner.encoder.set_weights([kernel, np.float32([1, 0, 0, 0])])
    return learner


def test_collapse_stops_at_the_second_failed_check(tmp_path):
    with pytest.raises(
        guards.CollapseError, match=r"step 4.*\(at a collapse 0\.5.*mining=semi"
    ):
        train(tmp_path, learner=collapsed(), collapse_every=2)


def test_collapse_only_warns_when_asked(tmp_path, caplog):
    _, step = train(
        tmp_path,
        learner=collapsed(),
        collapse_every=4,
        stop_on_collapse=False,
    )
    assert step == 9
    assert sum("have collapsed" in r.message for r in caplog.records) == 2


def test_collapse_is_noticed_without_a_known_loss(tmp_path):
    learner = collapsed()

    class Unknown(type(learner.batch_loss)):
        loss_at_collapse = None

    learner.batch_loss = Unknown("batch_hard", margin=0.5)
    with pytest.raises(guards.CollapseError, match=r"loss 0\.5\d*\. Try a"):
        train(tmp_path, learner=learner, collapse_every=2)


def test_a_healthy_run_is_no_collapse(tmp_path):
    _, step = train(tmp_path, collapse_every=1)
    assert step == 9


def test_nan_ends_the_run(tmp_path):
    learner = make()
    learner.encoder.set_weights(
        [np.full([6, 4], np.nan, np.float32), np.zeros(4, np.float32)]
    )
    with pytest.raises(guards.DivergedError, match="step 1: the loss is nan"):
        train(tmp_path, learner=learner)
    assert not (tmp_path / "checkpoints" / "checkpoint").exists()


def test_progress_is_logged_where_there_is_no_bar(caplog):
    learner = make()
    log = cb.ProgressLog(steps=5, seconds=0)
    caplog.set_level("INFO", logger="absl")
    learner.fit(batches(0), steps_per_epoch=5, callbacks=[log], verbose=0)
    lines = [r.getMessage() for r in caplog.records if "of 5" in r.message]
    assert [line.split()[1] for line in lines] == ["2", "3", "4", "5"]
    assert "  loss 1.5" in lines[-1] and "0 minutes left" in lines[-1]
