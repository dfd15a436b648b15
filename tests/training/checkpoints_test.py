"""Damaged checkpoints, and what a kill or a full disk leaves behind."""

import errno
import math
import os
from pathlib import Path

import pytest
import tensorflow as tf
import tiny_training
from tiny_training import assert_equal, rows, train

from tf_triplet.training import checkpoints, run_files


def files(workdir, pattern):
    return sorted(p.name for p in (workdir / "checkpoints").glob(pattern))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), 7):
        data[i] ^= 0xFF
    path.write_bytes(bytes(data))


DAMAGES = {
    "data cut": ("data", truncate),
    "data changed": ("data", flip),
    "data empty": ("data", lambda path: path.write_bytes(b"")),
    "data gone": ("data", lambda path: path.unlink()),
    "index cut": ("index", truncate),
    "index changed": ("index", flip),
    "index empty": ("index", lambda path: path.write_bytes(b"")),
    "index gone": ("index", lambda path: path.unlink()),
}


def damage(workdir, name, kind):
    suffix, change = DAMAGES[kind]
    (path,) = (workdir / "checkpoints").glob(f"{name}.{suffix}*")
    change(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return train(workdir), rows(workdir)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_falls_back(tmp_path, whole, kind, caplog):
    train(tmp_path, steps=6)
    damage(tmp_path, "step-6", kind)
    learner = train(tmp_path)
    (told,) = [r for r in caplog.records if "cannot be read" in r.msg]
    message = told.getMessage()
    assert str(tmp_path / "checkpoints" / "step-6") in message
    assert "continues from the one before, step-3" in message
    assert_equal(learner, whole[0])
    assert rows(tmp_path) == whole[1]
    # The damaged one was replaced by a good one.
    assert files(tmp_path, "*.index") == ["step-6.index", "step-9.index"]
    assert tf.train.latest_checkpoint(tmp_path / "checkpoints")
    caplog.clear()
    train(tmp_path)
    assert not [r for r in caplog.records if "cannot be read" in r.msg]


def test_without_a_good_checkpoint_it_says_how_to_go_on(tmp_path):
    train(tmp_path, steps=6)
    for name in ("step-3", "step-6"):
        damage(tmp_path, name, "data cut")
    lines = rows(tmp_path)
    with pytest.raises(
        ValueError, match=r"No checkpoint in .*: step-6 .*; step-3 .*--noresume"
    ):
        train(tmp_path)
    # Nothing was lost over it.
    assert rows(tmp_path) == lines and len(files(tmp_path, "*.index")) == 2
    train(tmp_path, resume=False)
    assert files(tmp_path, "*.index") == ["step-6.index", "step-9.index"]


@pytest.mark.parametrize("text", [None, "", "\0\0\0garbage"])
def test_a_damaged_list_of_checkpoints_is_found_again(tmp_path, whole, text):
    train(tmp_path, steps=6)
    state = tmp_path / "checkpoints" / "checkpoint"
    state.unlink() if text is None else state.write_text(text)
    learner = train(tmp_path)
    assert_equal(learner, whole[0])
    assert rows(tmp_path) == whole[1]
    assert files(tmp_path, "*.index") == ["step-6.index", "step-9.index"]


def test_a_kill_in_the_first_save_begins_at_step_0(tmp_path, whole):
    folder = tmp_path / "checkpoints"
    (folder / "step-3_temp").mkdir(parents=True)
    (folder / "step-3_temp" / "part-00000-of-00001.index").write_bytes(b"")
    (folder / "step-3.index").write_bytes(b"")
    (folder / "checkpoint.tmp0815").write_text("model")
    assert_equal(train(tmp_path), whole[0])


def test_leftovers_are_removed_at_the_next_start(tmp_path, whole):
    train(tmp_path, steps=6)
    folder = tmp_path / "checkpoints"
    left = [
        tmp_path / "partial-encoder.keras",
        tmp_path / "partial-encoder_last.keras",
        tmp_path / "best.partial",
        tmp_path / "metrics.partial",
        folder / "step-9_temp" / "part-00000-of-00001.data-00000-of-00001",
        folder / "step-9.data-00000-of-00001",
        folder / "step-9.index",
        folder / "checkpoint.tmp0815",
    ]
    own = tmp_path / "notes.txt"
    for path in [*left, own]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    train(tmp_path, steps=6)  # The run is complete already.
    assert not [path for path in left if path.exists()]
    assert own.exists() and not (folder / "step-9_temp").exists()
    assert_equal(train(tmp_path), whole[0])


def test_the_list_is_read_in_any_form(tmp_path):
    state = tmp_path / "checkpoint"
    assert checkpoints.list_checkpoints(tmp_path) is None
    state.write_text(
        'model_checkpoint_path: "/former/place/step-12"\n'
        'all_model_checkpoint_paths: "/former/place/step-9"\n'
        'all_model_checkpoint_paths: "/former/place/step-12"\n'
        "all_model_checkpoint_timestamps: 1764.5\n"
    )
    assert checkpoints.list_checkpoints(tmp_path) == ["step-12", "step-9"]


def test_a_full_disk_names_the_checkpoint_and_keeps_the_others(
    tmp_path, whole, monkeypatch
):
    train(tmp_path, steps=6)
    save = tf.train.CheckpointManager.save

    def full(manager, checkpoint_number):
        save(manager, checkpoint_number)
        folder = tmp_path / "checkpoints"
        # What TensorFlow leaves, by its own words.
        (folder / "step-9_temp").mkdir()
        checkpoints._write_list(folder, ["step-6", "step-3"])
        raise tf.errors.ResourceExhaustedError(
            None, None, "x/step-9_temp/part-0; No space left on device"
        )

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", full)
        message = (
            r"The disk is full, so .*checkpoints/step-9 could not be written. "
            "Free some space; the same command continues the run."
        )
        with pytest.raises(run_files.DiskFullError, match=message):
            train(tmp_path)
    assert not files(tmp_path, "step-9*")
    assert files(tmp_path, "step-6*")
    assert_equal(train(tmp_path), whole[0])


@pytest.mark.parametrize("name", ["encoder.keras", "metrics.jsonl"])
def test_a_full_disk_names_any_file(tmp_path, monkeypatch, name):
    def full(*arguments, **more):
        for argument in arguments:
            if isinstance(argument, Path):
                argument.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = (
        (tf.keras.Model, "save")
        if name == "encoder.keras"
        else (run_files.json, "dumps")
    )
    with monkeypatch.context() as patch:
        patch.setattr(*where, full)
        with pytest.raises(run_files.DiskFullError, match=name):
            train(tmp_path, evaluate=lambda _: {"recall@1": 0.5}, steps=1)
    assert not list(tmp_path.glob("partial-*"))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_damaged_best_json_is_named(tmp_path, text):
    options = {"evaluate": lambda _: {"recall@1": 0.5}, "evaluate_every": 3}
    train(tmp_path, steps=6, **options)
    (tmp_path / "best.json").write_bytes(text.encode("latin1"))
    message = r"best.json is damaged: .*delete it: the best step is then chosen"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **options)
    # The advice works.
    (tmp_path / "best.json").unlink()
    train(tmp_path, **options)
    assert (tmp_path / "best.json").exists()


def test_damaged_lines_of_metrics_are_left_out(tmp_path, whole):
    train(tmp_path, steps=6)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "loss": 77.0}\nnull\n\xff\xfe\n{"step": 8, "l')
    train(tmp_path)
    assert rows(tmp_path) == whole[1]


@pytest.mark.parametrize("lost", [{}, {"recall@1": math.nan}])
def test_validation_images_that_are_lost_choose_no_step(tmp_path, lost):
    found = iter([{"recall@1": 0.2}, lost, lost, {"recall@1": 0.9}])
    options = {"evaluate": lambda _: next(found), "evaluate_every": 3}
    train(tmp_path, **options)
    best = run_files.read_json(tmp_path / "best.json", "")
    assert (best["step"], best["value"]) == (3, 0.2)
    # They are back, and the last step is scored after all.
    train(tmp_path, **options)
    best = run_files.read_json(tmp_path / "best.json", "")
    assert (best["step"], best["value"]) == (9, 0.9)


def test_without_any_evaluation_the_last_step_is_kept(tmp_path):
    train(tmp_path, evaluate=lambda _: {})
    best = run_files.read_json(tmp_path / "best.json", "")
    assert (best["step"], best["chosen_on"]) == (9, "last")
    assert "too few of the validation images" in best["sentence"]


def test_skipped_batches_are_in_the_metrics(tmp_path):
    """Where a whole window was skipped, there is no loss to write."""

    def with_bad(start):
        def spoil(step, batch):
            images, labels = batch
            bad = (step == 2) | (step >= 5)
            return images, tf.where(bad, tf.zeros_like(labels), labels)

        steps = tf.data.Dataset.range(start, 1 << 40)
        pairs = tf.data.Dataset.zip((steps, tiny_training.batches(start)))
        return pairs.map(spoil)

    train(tmp_path, steps=9, log_every=3, batches=with_bad)
    lines = {row["step"]: row for row in rows(tmp_path)}
    assert [lines[s].get("skipped_batches") for s in (3, 6, 9)] == [1, 1, 3]
    assert lines[3]["loss"] > 0 and lines[6]["loss"] > 0
    assert set(lines[9]) == {"step", "skipped_batches", "learning_rate"}


@pytest.mark.parametrize("name", ["encoder.keras", "encoder_last.keras"])
@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_encoder_is_saved_again(
    tmp_path, whole, name, damage, caplog
):
    options = {"evaluate": lambda _: {"recall@1": 0.5}, "evaluate_every": 3}
    train(tmp_path, **options)
    damage(tmp_path / name)
    assert run_files.find_damage(tmp_path / name)
    # Here, the step of encoder.keras was the first, and its weights are lost.
    train(tmp_path, **options)
    assert f"{tmp_path / name} is damaged" in caplog.text
    best = run_files.read_best(tmp_path)
    assert best["step"] == (9 if name == "encoder.keras" else 3)
    assert best["chosen_on"] == "validation"
    for file in ("encoder.keras", "encoder_last.keras"):
        assert not run_files.find_damage(tmp_path / file)


def test_best_json_may_be_deleted(tmp_path):
    options = {"evaluate": lambda _: {"recall@1": 0.5}, "evaluate_every": 3}
    train(tmp_path, **options)
    (tmp_path / "best.json").unlink()
    train(tmp_path, **options)
    best = run_files.read_best(tmp_path)
    assert (best["step"], best["chosen_on"]) == (9, "validation")
