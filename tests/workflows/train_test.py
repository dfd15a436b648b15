"""Which folder a run may claim, and with which config it goes on."""

import importlib
import json
import logging

import pytest
import tensorflow as tf

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.data.bad_images import BadImages, leave_out
from tf_triplet.training import TrainingStopped
from tf_triplet.workflows import train_batches
from tf_triplet.workflows.train_folder import (
    check_folder,
    claim_folder,
    has_begun,
    last_step,
)


def config(**changes):
    made = configs.paper_config()
    made.data.source = "rendered"
    made.update_from_flattened_dict(changes)
    return made


def begin(workdir, **changes):
    claim_folder(workdir, config(**changes), resume=True)
    (workdir / "metrics.jsonl").write_text("{}\n")


def test_a_try_that_never_began_is_no_run(tmp_path):
    claim_folder(tmp_path, config(), resume=True)
    assert not has_begun(tmp_path)
    other = config(**{"loss.margin": 0.3})
    claim_folder(tmp_path, other, resume=True)
    saved = configs.from_json((tmp_path / "config.json").read_text())
    assert saved.loss.margin == 0.3


def test_a_run_that_began_keeps_its_config(tmp_path):
    begin(tmp_path)
    assert has_begun(tmp_path)
    with pytest.raises(ValueError, match="loss.margin: 0.1 -> 0.3"):
        check_folder(tmp_path, config(**{"loss.margin": 0.3}))
    # But for what its exports hold.
    assert check_folder(tmp_path, config(**{"export.k": 7})).export.k == 7


def test_steps_may_grow_but_not_shrink(tmp_path, caplog):
    begin(tmp_path, **{"training.steps": 300, "optimizer.schedule": "cosine"})
    more = {"training.steps": 600, "optimizer.schedule": "cosine"}
    assert check_folder(tmp_path, config(**more)).training.steps == 600
    (message,) = [r.getMessage() for r in caplog.records]
    assert "grows from 300 to 600. The cosine schedule now ends at" in message
    fewer = {**more, "training.steps": 200}
    with pytest.raises(ValueError, match="training.steps: 300 -> 200"):
        check_folder(tmp_path, config(**fewer))


def test_a_schedule_that_does_not_depend_on_the_steps_goes_on(tmp_path, caplog):
    begin(tmp_path, **{"training.steps": 300})
    check_folder(tmp_path, config(**{"training.steps": 600}))
    assert "(piecewise) does not depend" in caplog.records[0].getMessage()


def test_the_table_may_be_another_file_if_that_is_accepted(tmp_path):
    begin(tmp_path, **{"data.path": "may.csv"})
    other = config(**{"data.path": "june.csv"})
    with pytest.raises(ValueError, match="data.path: 'may.csv' -> 'june.csv'"):
        check_folder(tmp_path, other)
    assert check_folder(tmp_path, other, accept_new_catalog=True) == other


def old_text(**changes):
    """A config as the versions before the draw by hash wrote it."""
    tree = config(**changes).to_dict()
    for name in ("split_draw", "validation_fraction", "max_bad_share"):
        del tree["data"][name]
    return json.dumps(tree)


def test_a_run_of_an_earlier_version_keeps_its_draw(tmp_path, caplog):
    (tmp_path / "config.json").write_text(old_text())
    caplog.set_level(logging.WARNING)
    kept = check_folder(tmp_path, config())
    assert kept.data.split_draw == "permutation"
    assert kept.data.validation_fraction == 0
    assert "earlier version" in caplog.records[0].getMessage()
    # From now on its own config says so.
    claim_folder(tmp_path, kept, resume=True)
    again = configs.from_json((tmp_path / "config.json").read_text())
    assert configs.difference(again, kept) == []
    assert check_folder(tmp_path, config()) == kept
    with pytest.raises(ValueError, match="loss.margin"):
        check_folder(tmp_path, config(**{"loss.margin": 0.3}))


def test_anew_leaves_nothing_of_the_old_run(tmp_path):
    claim_folder(tmp_path, config(), resume=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "refit").mkdir()
    names = ["metrics.jsonl", "products.json", "best.json", "encoder.keras"]
    for name in [*names, "encoder_first.keras", "encoder_last.keras"]:
        (tmp_path / name).write_text("{}\n")
    claim_folder(tmp_path, config(**{"loss.margin": 0.3}), resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "text,step",
    [
        ('model_checkpoint_path: "step-40"\nall_model: "step-20"\n', 40),
        ('model_checkpoint_path: "/a/step-7/checkpoints/step-300"\n', 300),
        ("", 0),
    ],
)
def test_the_last_step_is_that_of_the_last_checkpoint(tmp_path, text, step):
    assert last_step(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").write_text(text)
    assert last_step(tmp_path) == step


def test_a_damaged_list_of_checkpoints_is_made_up_for(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-9.index", "step-40.index", "other-50.index"):
        (folder / name).touch()
    assert last_step(tmp_path) == 40
    for damaged in (b"", b"model_check", b"\xff\xfe\x00"):
        (folder / "checkpoint").write_bytes(damaged)
        assert last_step(tmp_path) == 40


def test_a_damaged_config_says_how_to_go_on(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.json").write_text('{"data": ')
    with pytest.raises(ValueError, match="config.json is damaged"):
        check_folder(tmp_path, config())
    (tmp_path / "config.json").unlink()  # As the message says.
    assert check_folder(tmp_path, config()) == config()


def test_a_path_may_be_relative_to_another_folder(tmp_path, monkeypatch):
    begin(tmp_path, **{"data.path": str(tmp_path / "shop" / "may.csv")})
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    for path in ("may.csv", "../shop/may.csv", tmp_path / "shop" / "may.csv"):
        made = builders.resolve_paths(config(**{"data.path": str(path)}))
        assert check_folder(tmp_path, made) == made


def test_the_result_of_a_run_with_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="not kept an encoder yet"):
        workflows.TrainResult.read(tmp_path)
    (tmp_path / "best.json").write_text('{"step": 2, "sentence": "It is."}')
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 2, "eval/recall@1": 0.5}\n{"step": 3, "eval/rec'
    )
    result = workflows.TrainResult.read(tmp_path)
    assert (result.best_step, result.metrics) == (2, {"recall@1": 0.5})
    for damaged in ("", "[]", '{"step": "2"}', '{"step": 2, "value": "x"}'):
        (tmp_path / "best.json").write_text(damaged)
        with pytest.raises(ValueError, match="best.json is damaged"):
            workflows.TrainResult.read(tmp_path)


@pytest.mark.parametrize("in_refit", [False, True])
def test_a_stop_is_told_with_the_steps_of_its_training(
    tmp_path, monkeypatch, in_refit
):
    def stop(*args, **kwargs):
        raise TrainingStopped(step=1, steps=3, signal=15)

    module = importlib.import_module("tf_triplet.workflows.train")
    first, second = stop, None
    if in_refit:
        first, second = (lambda *args, **more: 10), stop
    monkeypatch.setattr(module, "_run", first)
    monkeypatch.setattr(module, "train_again", second)
    made = config(**{"training.steps": 10})
    result = workflows.train(made, tmp_path, refit=in_refit)
    assert (result.step, result.steps, result.signal) == (1, 3, 15)
    assert result.in_refit == in_refit


@pytest.mark.parametrize(
    "units,scope,mining,expected",
    [
        ("products", "replica", "batch_hard", 1),
        ("pairs", "global", "paper", 2),
        ("pairs", "replica", "batch_hard", 2),
        ("pairs", "replica", "paper", 4),
    ],
)
def test_an_unreadable_image_leaves_each_replica_whole_pairs(
    two_replicas, units, scope, mining, expected
):
    made = config(
        **{
            "sampling.units": units,
            "loss.scope": scope,
            "loss.mining": mining,
            "training.replicas": 2,
        }
    )
    together = train_batches.rows_together(made)
    assert together == expected
    readable = tf.constant([i for i in range(12) if i != 5])
    paths = tf.constant([f"{i}.png" for i in range(12)])
    rows, *_ = leave_out(readable, paths, BadImages(), together)
    left = tf.data.Dataset.from_tensors(rows)
    (shares,) = two_replicas.experimental_distribute_dataset(left)
    shares = two_replicas.experimental_local_results(shares)
    if expected == 4:  # Rows 0 and 1 are a pair, and so on.
        assert [s.numpy().tolist() for s in shares] == [
            [0, 1, 2, 3],
            [8, 9, 10, 11],
        ]


def test_replicas_get_whole_pairs(tmp_path):
    uneven = config(
        **{
            "data.image_size": 32,
            "data.rendered.products": 12,
            "data.rendered.images_per_product": 4,
            "model.weights": "random",
            "sampling.units_per_batch": 3,
            "training.replicas": 2,
            "loss.scope": "replica",
        }
    )
    with pytest.raises(ValueError, match="a multiple of 4. Received: 6 images"):
        workflows.train(uneven, tmp_path / "run")
