"""Which step's encoder is kept, and what best.json says about it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import StepChoice, guards, loop
from tf_triplet.training.learner import Learner

LAST = StepChoice(0, "The last step is kept.")


def make():
    tf.keras.utils.set_random_seed(1)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([3]),
            tf.keras.layers.Dense(2),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    learner = Learner(encoder, TripletLoss("batch_hard", margin=0.5))
    learner.compile("sgd", run_eagerly=True)
    return learner


def batches(start):
    batch = tf.random.stateless_normal([4, 3], [0, 0]), [0, 0, 1, 1]
    return tf.data.Dataset.from_tensors(batch).repeat()


def train(workdir, steps=4, evaluate=None, choice=LAST, **more):
    settings = loop.Settings(
        steps, 2, 1, 1, more.pop("collapse_every", 0), True, "recall@1"
    )
    learner = make()
    loop.train(
        learner,
        batches,
        evaluate,
        pipeline.BadImages(),
        workdir,
        settings,
        verbose=0,
        choice=choice,
        **more,
    )
    return learner


def best(workdir):
    return json.loads((workdir / "best.json").read_text())


def kept(workdir, name="encoder"):
    return tf.keras.models.load_model(workdir / f"{name}.keras").get_weights()


def test_without_validation_the_last_step_is_kept(tmp_path):
    learner = train(tmp_path)
    assert best(tmp_path) == {
        "step": 4,
        "chosen_on": "last",
        "validation_products": 0,
        "sentence": LAST.sentence,
    }
    for name in ("encoder", "encoder_last"):
        np.testing.assert_array_equal(
            kept(tmp_path, name)[0], learner.encoder.get_weights()[0]
        )
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "eval/" not in text


def test_a_chosen_step_says_by_what_it_was_chosen(tmp_path):
    values = iter([0.2, 0.9, 0.4, 0.1])
    choice = StepChoice(20, "Chosen by recall@1.")
    train(tmp_path, 4, lambda encoder: {"recall@1": next(values)}, choice)
    assert best(tmp_path) == {
        "step": 2,
        "monitor": "recall@1",
        "value": 0.9,
        "chosen_on": "validation",
        "validation_products": 20,
        "sentence": "Chosen by recall@1.",
    }


def test_more_steps_keep_the_later_step(tmp_path):
    train(tmp_path, 2)
    before = kept(tmp_path)
    learner = train(tmp_path, 4)
    assert best(tmp_path)["step"] == 4
    assert np.abs(kept(tmp_path)[0] - before[0]).max() > 0
    np.testing.assert_array_equal(
        kept(tmp_path)[0], learner.encoder.get_weights()[0]
    )


@pytest.mark.parametrize("lost", [["best.json"], ["encoder_last.keras"]])
def test_a_complete_run_gets_what_a_kill_left_out(tmp_path, lost):
    train(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    train(tmp_path)
    assert best(tmp_path)["step"] == 4
    np.testing.assert_array_equal(
        kept(tmp_path)[0], kept(tmp_path, "encoder_last")[0]
    )


def test_a_finished_run_of_an_earlier_version_keeps_its_encoder(tmp_path):
    train(tmp_path)
    old = {"step": 2, "monitor": "recall@1", "value": 0.5}
    (tmp_path / "best.json").write_text(json.dumps(old))
    before = (tmp_path / "encoder.keras").read_bytes()
    train(tmp_path)
    assert best(tmp_path) == old
    assert (tmp_path / "encoder.keras").read_bytes() == before


def test_an_untrained_encoder_is_kept_as_the_last(tmp_path):
    loop.finish_untrained(lambda: make().encoder, tmp_path, LAST)
    assert best(tmp_path)["chosen_on"] == "last"
    assert best(tmp_path)["step"] == 0
    loop.finish_untrained(lambda: 1 / 0, tmp_path, LAST)


def test_a_collapse_is_looked_for_on_the_images_given(tmp_path):
    # The batch has not collapsed, but these images are all the same.
    images = tf.ones([4, 3])
    with pytest.raises(guards.CollapseError):
        train(tmp_path, 4, collapse_every=1, collapse_images=images)
    train(tmp_path / "batch", 4, collapse_every=1)


def test_a_run_with_positives_warns_of_nothing(tmp_path, caplog):
    # The last step is logged, which resets the metrics.
    train(tmp_path)
    assert not any("has a positive" in r.message for r in caplog.records)
