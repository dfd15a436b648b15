"""A signal saves first, evaluates no more, and the next start goes on."""

import json
import os
import signal
import threading
import time
import zipfile

import pytest
import tensorflow as tf
import tiny_training
from tiny_training import assert_equal, rows, train

from tf_triplet.training import stops

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number):
    os.kill(os.getpid(), number)


def signaled(step, number=signal.SIGTERM, times=1):
    """Batches that send a signal before a step."""

    def interrupt():
        for _ in range(times):
            send(number)
            time.sleep(0.05)

    return lambda start: tiny_training.batches(start, {step: interrupt})


def last_step(workdir):
    path = tf.train.latest_checkpoint(workdir / "checkpoints")
    return int(path.rpartition("-")[2])


@BOTH
def test_a_signal_saves_and_ends(tmp_path, number):
    evaluated, before = [], signal.getsignal(number)
    with pytest.raises(
        stops.TrainingStopped,
        match=r"^Stopped at step \d of 9. The same command continues.$",
    ) as stopped:
        train(
            tmp_path / "a",
            evaluate=evaluated.append,
            batches=signaled(4, number),
        )
    error = stopped.value
    assert (error.signal, error.steps) == (number, 9)
    assert 1 <= error.step < 9 and last_step(tmp_path / "a") == error.step
    assert not evaluated and not (tmp_path / "a" / "best.json").exists()
    assert signal.getsignal(number) is before
    whole = train(tmp_path / "whole")
    assert_equal(train(tmp_path / "a"), whole)
    assert rows(tmp_path / "a") == rows(tmp_path / "whole")


def test_a_run_that_keeps_the_last_step_keeps_none_when_it_is_stopped(tmp_path):
    with pytest.raises(stops.TrainingStopped):
        train(tmp_path, batches=signaled(4))
    assert not (tmp_path / "encoder.keras").exists()
    # Whoever wants it can still evaluate the last one.
    assert (tmp_path / "encoder_last.keras").exists()


@BOTH
def test_a_second_signal_ends_at_once(tmp_path, number):
    before = signal.getsignal(number)

    def evaluate(encoder):
        raise AssertionError("An evaluation took place.")

    with pytest.raises(KeyboardInterrupt) as aborted:
        train(
            tmp_path,
            steps=100_000,
            evaluate=evaluate,
            checkpoint_every=100_000,
            batches=signaled(50, number, times=2),
        )
    assert aborted.value.args == (number,)
    assert signal.getsignal(number) is before
    # On a busy machine, the checkpoint may be written between the signals.
    assert not (tmp_path / "encoder_last.keras").exists()


@pytest.mark.parametrize("at", [6, 9])
def test_a_signal_in_an_evaluation_breaks_it_off(tmp_path, at):
    """The next start makes up for it; the best step is the same."""
    values = {3: 0.2, 6: 0.9, 9: 0.4}
    learner = tiny_training.make()

    def score(encoder):
        return {"recall@1": values[int(learner.optimizer.iterations)]}

    def stopping(encoder):
        if int(learner.optimizer.iterations) != at:
            return score(encoder)
        try:
            send(signal.SIGTERM)
            time.sleep(60)
        except Exception:  # As a library may do.
            pass
        raise AssertionError("The evaluation went on.")

    options = {"evaluate_every": 3, "checkpoint_every": 100}
    start = time.monotonic()
    with pytest.raises(stops.TrainingStopped, match=f"at step {at} of 9"):
        train(tmp_path / "a", evaluate=stopping, learner=learner, **options)
    assert time.monotonic() - start < 30
    assert last_step(tmp_path / "a") == at
    for name in ("a", "whole"):
        learner = tiny_training.make()
        train(tmp_path / name, evaluate=score, learner=learner, **options)
    assert rows(tmp_path / "a") == rows(tmp_path / "whole")
    best = json.loads((tmp_path / "a" / "best.json").read_text())
    assert (best["step"], best["value"]) == (6, 0.9)
    for name in ("encoder", "encoder_last"):
        assert_equal(
            *(
                tf.keras.models.load_model(tmp_path / run / f"{name}.keras")
                for run in ("a", "whole")
            )
        )


def test_a_kill_in_an_evaluation_is_made_up_for(tmp_path):
    """The checkpoint is saved before the evaluation of the same step."""

    def killed(encoder):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, evaluate=killed, evaluate_every=3)
    assert last_step(tmp_path) == 3
    seen = []

    def score(encoder):
        seen.append(1)
        return {"recall@1": 0.5}

    train(tmp_path, evaluate=score, evaluate_every=3)
    assert len(seen) == 3
    assert [r["step"] for r in rows(tmp_path) if len(r) == 2] == [3, 6, 9]


def test_a_kill_before_best_json_is_made_up_for(tmp_path, monkeypatch):
    from tf_triplet.training import evaluator

    def killed(*arguments):
        raise RuntimeError("killed")

    values = iter([0.9, 0.9, 0.5, 0.5])
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "keep_best", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(
                tmp_path,
                evaluate=lambda _: {"recall@1": next(values)},
                evaluate_every=3,
            )
    train(
        tmp_path,
        evaluate=lambda _: {"recall@1": next(values)},
        evaluate_every=3,
    )
    best = json.loads((tmp_path / "best.json").read_text())
    assert (best["step"], best["value"]) == (3, 0.9)


def test_the_last_encoder_of_a_stopped_run_is_replaced(tmp_path):
    train(tmp_path, steps=6)
    old = (tmp_path / "encoder_last.keras").read_bytes()
    train(tmp_path)
    # A kill between the last checkpoint and the encoder leaves the old one.
    (tmp_path / "encoder_last.keras").write_bytes(old)
    os.utime(tmp_path / "encoder_last.keras", (0, 0))
    learner = train(tmp_path)
    last = tf.keras.models.load_model(tmp_path / "encoder_last.keras")
    assert_equal(last, learner.encoder)
    new = (tmp_path / "encoder_last.keras").read_bytes()
    train(tmp_path)
    assert (tmp_path / "encoder_last.keras").read_bytes() == new


def test_another_thread_trains_without_handling_signals(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train, args=[tmp_path])
    thread.start()
    thread.join()
    assert last_step(tmp_path) == 9
    assert signal.getsignal(signal.SIGTERM) is before
    # Keras writes its format only in the main thread, unless it is told to.
    assert zipfile.is_zipfile(tmp_path / "encoder.keras")
