"""What a training tells of its time after the first steps."""

import re

import pytest
import tensorflow as tf

from tf_triplet.training import forecast
from tf_triplet.training.evaluator import Evaluator


class _Clock:
    """A clock that goes on by two seconds a step, after three slow steps."""

    def __init__(self):
        self.steps = 0

    def monotonic(self):
        return 100.0 + 2 * self.steps


class _Model:
    def __init__(self, step):
        self.optimizer = tf.keras.optimizers.SGD()
        self.optimizer.iterations.assign(step)


def _told(capsys, monkeypatch, steps, start=0, evaluator=None):
    clock = _Clock()
    monkeypatch.setattr(forecast, "time", clock)
    callback, model = forecast.Forecast(steps, evaluator), _Model(start)
    callback.set_model(model)
    callback.on_train_begin()
    for step in range(start, steps):
        clock.steps += 1
        model.optimizer.iterations.assign(step + 1)
        callback.on_train_batch_end(step)
    return capsys.readouterr().out


def _evaluator(every, seconds):
    evaluator = Evaluator(
        lambda encoder: {}, every, "run", None, "recall@1", None, None
    )
    evaluator.seconds = seconds
    return evaluator


def test_time_is_that_of_the_other_steps_and_evaluations(capsys, monkeypatch):
    evaluator = _evaluator(every=100, seconds=60.0)
    out = _told(capsys, monkeypatch, 311, evaluator=evaluator)
    # 300 steps of 2 seconds, and evaluations at 100, 200, 300 and 311.
    assert "The other 300 steps take about 14 minutes" in out
    assert "with 4 validations" in out
    assert re.search(r"[0-9.]+ GB of memory", out)
    assert out.count("steps take") == 1


@pytest.mark.parametrize(
    ("steps", "words"), [(41, "60 seconds"), (20_011, "11.1 hours")]
)
def test_time_is_in_the_unit_that_suits(capsys, monkeypatch, steps, words):
    assert f"about {words}." in _told(capsys, monkeypatch, steps)


def test_resumed_run_foretells_what_is_left(capsys, monkeypatch):
    out = _told(capsys, monkeypatch, 241, start=200)
    assert "The other 30 steps take about 60 seconds." in out


def test_short_training_foretells_nothing(capsys, monkeypatch):
    assert _told(capsys, monkeypatch, 15) == ""


@pytest.mark.parametrize(
    ("every", "step", "last", "count"),
    [(0, 5, 100, 1), (10, 5, 100, 10), (10, 10, 100, 9), (30, 1, 100, 4)],
)
def test_evaluations_are_counted_as_they_are_run(every, step, last, count):
    assert _evaluator(every, 1.0).count(step, last) == count
