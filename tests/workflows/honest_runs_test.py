"""Runs from Python that choose honestly and know what they were trained on."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tiny_runs import draw

from tf_triplet import builders, evaluation, workflows
from tf_triplet import config as configs
from tf_triplet.builders import RunProducts
from tf_triplet.data import ids
from tf_triplet.data.sources import splits

EARLIER_RUN = Path(__file__).parent.parent / "earlier_run"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A manifest without splits, and a small network of the user's own."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "images").mkdir()
    tf.keras.utils.set_random_seed(0)
    tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            tf.keras.layers.Conv2D(4, 3, 2, activation="relu"),
        ]
    ).save(folder / "net.keras")
    rows = []
    for i in range(300):
        draw(folder / "images", f"{i}.png", i)
        rows.append({"path": f"images/{i}.png", "product_id": f"P{i // 3}"})
    write(folder, pd.DataFrame(rows))
    return folder


def write(folder, frame):
    frame.to_csv(folder / "shop.csv", index=False)
    return frame


def read(folder):
    return pd.read_csv(folder / "shop.csv", dtype=str)


def config(shop, **changes):
    made = configs.paper_config()
    made.data.path = str(shop / "shop.csv")
    made.data.image_size = 8
    made.data.on_bad_image = "stop"
    made.model.backbone = "imported"
    made.model.path = str(shop / "net.keras")
    made.model.embedding_size = 4
    made.sampling.units = "products"
    made.sampling.units_per_batch = 4
    made.loss.mining = "batch_hard"
    made.optimizer.learning_rate = 0.05
    made.optimizer.schedule = "constant"
    made.training.steps = 4
    made.training.checkpoint_every = 2
    made.training.log_every = 1
    made.training.collapse_every = 0
    made.evaluation.every = 1
    made.evaluation.ks = (1,)
    made.update_from_flattened_dict(changes)
    return made


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    """A run of four steps, evaluated after each of them."""
    workdir = tmp_path_factory.mktemp("runs") / "shop"
    # Not one image of the test split can be read.
    held_out = builders.build_catalog(config(shop)).split("test")
    hidden = {path: Path(path).read_bytes() for path in held_out.paths}
    for path in hidden:
        Path(path).write_bytes(b"")
    workflows.train(config(shop), workdir)
    for path, content in hidden.items():
        Path(path).write_bytes(content)
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, and the config it goes on with."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def changed_shop(shop, tmp_path):
    """A copy of the shop that a test may change."""
    shutil.copytree(shop, tmp_path / "shop")
    return tmp_path / "shop"


def best(workdir):
    return json.loads((workdir / "best.json").read_text())


def evaluations(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {
        row["step"]: row["eval/recall@1"]
        for row in map(json.loads, lines)
        if "eval/recall@1" in row
    }


def weights(workdir, name="encoder"):
    path = workdir / f"{name}.keras"
    return tf.keras.models.load_model(path, compile=False).get_weights()


def assert_same(got, want):
    for one, other in zip(got, want):
        np.testing.assert_array_equal(one, other)


def recall_of(made, encoder, images):
    found = builders.compute_embeddings(made, encoder, images, progress=False)
    return evaluation.evaluate(found, images, ks=[1]).overall.recall[1]


def test_the_step_is_chosen_on_products_that_were_not_trained_on(trained, shop):
    made = config(shop)
    catalog = builders.build_catalog(made)
    record = RunProducts.read(trained)
    train, test = (set(catalog.split(s).product_ids) for s in ("train", "test"))
    assert set(record.train) | set(record.validation) == train
    assert not set(record.train) & set(record.validation)
    assert not record.trained & test
    assert len(record.validation) == len(train) // 4
    chosen = best(trained)
    values = evaluations(trained)
    assert list(values) == [1, 2, 3, 4]
    assert chosen["value"] == max(values.values())
    assert chosen["step"] == max(values, key=values.get)
    assert chosen["chosen_on"] == "validation"
    assert chosen["validation_products"] == len(record.validation)
    assert chosen["sentence"] == record.how
    encoder = builders.load_encoder(trained)
    images = record.validation_images(catalog)
    assert recall_of(made, encoder, images) == chosen["value"]


def test_the_result_says_how_the_step_was_chosen(trained):
    result = workflows.TrainResult.read(trained)
    assert result.step == 4 and result.best_step == best(trained)["step"]
    assert result.metrics["recall@1"] == evaluations(trained)[4]
    assert "validation products" in result.how


def test_without_validation_products_the_last_step_is_kept(shop, tmp_path):
    made = config(shop, **{"data.validation_fraction": 0.0})
    result = workflows.train(made, tmp_path)
    assert best(tmp_path)["chosen_on"] == "last"
    assert (result.best_step, result.step, result.metrics) == (4, 4, {})
    assert "The last step is kept" in result.how
    assert evaluations(tmp_path) == {}
    assert_same(weights(tmp_path), weights(tmp_path, "encoder_last"))
    record = RunProducts.read(tmp_path)
    train = builders.build_catalog(made).split("train").product_ids
    assert set(record.train) == set(train)


def test_a_growing_table_moves_no_product(run, changed_shop):
    made = config(changed_shop)
    before = builders.build_catalog(made).split("test").product_ids
    frame = read(changed_shop)
    more = frame.tail(30).assign(product_id=[f"N{i // 3}" for i in range(30)])
    write(changed_shop, pd.concat([frame, more]))
    after = builders.build_catalog(made).split("test")
    assert set(before) <= set(after.product_ids)
    assert not RunProducts.read(run).was_trained(after).any()


def test_more_steps_continue_a_finished_run(run, shop, tmp_path, caplog):
    made = config(shop, **{"training.steps": 6})
    result = workflows.train(made, run)
    assert result.step == 6 and list(evaluations(run)) == [1, 2, 3, 4, 5, 6]
    assert any("grows from 4 to 6" in r.getMessage() for r in caplog.records)
    # Its schedule is constant, so it is the run of six steps.
    workflows.train(made, tmp_path / "whole")
    assert_same(
        weights(run, "encoder_last"),
        weights(tmp_path / "whole", "encoder_last"),
    )


def test_a_changed_table_ends_a_run_that_would_go_on(run, changed_shop, shop):
    write(changed_shop, read(changed_shop).iloc[3:])
    made = config(shop, **{"training.steps": 6})
    made.data.path = str(changed_shop / "shop.csv")
    with pytest.raises(ValueError, match="data.path"):
        workflows.train(made, run)
    text = (run / "config.json").read_text()
    moved = text.replace(str(config_path(text)), made.data.path)
    (run / "config.json").write_text(moved)
    with pytest.raises(ValueError, match="1 product was removed \\(P0\\)"):
        workflows.train(made, run)
    # Nothing of the run has changed.
    assert (run / "config.json").read_text() == moved
    result = workflows.train(made, run, accept_new_catalog=True)
    assert result.step == 6


def config_path(text):
    return json.loads(text)["data"]["path"]


def proxies_of(workdir):
    state = tf.train.latest_checkpoint(workdir / "checkpoints")
    reader = tf.train.load_checkpoint(state)
    return reader.get_tensor(
        "loss_parameters/proxies/.ATTRIBUTES/VARIABLE_VALUE"
    )


def test_proxies_stay_with_their_products(changed_shop, tmp_path):
    still = {
        "loss.name": "proxy_anchor",
        "optimizer.name": "adam",
        # Rows that a step moves would hide rows that are exchanged.
        "optimizer.learning_rate": 1e-12,
    }
    workdir = tmp_path / "run"
    workflows.train(config(changed_shop, **still), workdir)
    first, before = RunProducts.read(workdir), proxies_of(workdir)
    frame = read(changed_shop)
    gone, new = first.train[2], "A0"
    # "A0" stands first in the table, and takes the first label there.
    frame["product_id"] = frame["product_id"].replace(gone, new)
    frame["split"] = np.where(
        frame["product_id"].isin(splits_of(first)), "train", "test"
    )
    frame.loc[frame["product_id"] == new, "split"] = "train"
    write(changed_shop, frame)
    made = config(changed_shop, **{**still, "training.steps": 5})
    workflows.train(made, workdir, accept_new_catalog=True)
    second, after = RunProducts.read(workdir), proxies_of(workdir)
    assert second.train == (*first.train, new)
    np.testing.assert_allclose(after[:-1], before, atol=1e-6)
    assert len(after) == len(before) + 1


def splits_of(record):
    return {*record.train, *record.validation}


def test_a_run_begins_from_another_run_s_encoder(
    run, changed_shop, monkeypatch
):
    frame = read(changed_shop)
    more = frame.tail(150).assign(product_id=[f"N{i // 3}" for i in range(150)])
    write(changed_shop, pd.concat([frame, more]))
    made = config(
        changed_shop,
        **{"training.steps": 1, "optimizer.learning_rate": 1e-12},
    )
    monkeypatch.chdir(run.parent)
    workflows.train(made, "second", init_from="run")
    second = run.parent / "second"
    for got, want in zip(weights(second), weights(run)):
        np.testing.assert_allclose(got, want, atol=1e-6)
    record, first = RunProducts.read(second), RunProducts.read(run)
    # The relative path was made absolute.
    assert record.init_from == str(run)
    assert set(record.earlier) == first.trained
    assert record.validation and not first.trained & set(record.validation)


def test_an_encoder_of_another_shape_is_refused(run, shop, tmp_path):
    made = config(shop, **{"model.embedding_size": 6})
    with pytest.raises(ValueError, match="embedding_size: 4 -> 6"):
        workflows.train(made, tmp_path / "second", init_from=run)


def test_a_refit_trains_on_all_products_to_the_chosen_step(run, shop):
    # The first run has chosen a step that is not its last.
    values = {**best(run), "step": 2}
    (run / "best.json").write_text(json.dumps(values))
    first = (run / "encoder.keras").read_bytes()
    record = RunProducts.read(run)
    made = config(shop)
    workflows.train(made, run, refit=True)
    again = RunProducts.read(run)
    train = set(builders.build_catalog(made).split("train").product_ids)
    assert again.refit and again.trained == train
    assert set(RunProducts.read(run / "refit").train) == train
    assert (run / "encoder_first.keras").read_bytes() == first
    chosen = best(run)
    assert (chosen["step"], chosen["refit"]) == (2, True)
    assert f"on all {len(train)} training products" in chosen["sentence"]
    assert_same(weights(run), weights(run / "refit"))
    assert tf.train.latest_checkpoint(run / "refit/checkpoints").endswith("-2")
    # The same schedule: a run of all steps without validation is at step 2
    # where the refit ended.
    saved = configs.from_json((run / "refit/config.json").read_text())
    assert saved.training.steps == 4

    # A second time there is nothing left to do.
    kept = (run / "encoder.keras").read_bytes()
    workflows.train(made, run, refit=True)
    assert (run / "encoder.keras").read_bytes() == kept
    assert (run / "encoder_first.keras").read_bytes() == first

    # When the first run goes on, it does so with its own encoder.
    workflows.train(config(shop, **{"training.steps": 5}), run)
    assert not RunProducts.read(run).refit
    assert "refit" not in best(run)
    assert RunProducts.read(run).trained == record.trained


def test_a_refit_of_a_run_without_validation_does_nothing(
    shop, tmp_path, capsys
):
    made = config(shop, **{"data.validation_fraction": 0.0})
    workflows.train(made, tmp_path, refit=True)
    assert "nothing to train again" in capsys.readouterr().out
    assert not (tmp_path / "refit").exists()


def test_a_run_of_an_earlier_version_goes_on_as_it_was(tmp_path, shop, caplog):
    """The folder was written before there were validation products."""
    workdir = tmp_path / "run"
    shutil.copytree(EARLIER_RUN, workdir)
    text = (workdir / "config.json").read_text()
    assert "validation_fraction" not in text and "split_draw" not in text
    net = tmp_path / "net.keras"
    tf.keras.Sequential(
        [
            tf.keras.Input([16, 16, 3]),
            tf.keras.layers.Conv2D(4, 3, 2, activation="relu"),
        ]
    ).save(net)
    (workdir / "config.json").write_text(text.replace("net.keras", str(net)))
    old = builders.load_config(workdir)
    catalog = builders.build_catalog(old)
    held_out = splits.draw_by_permutation(
        catalog.products, catalog.categories, 0.5, seed=0
    )
    assert set(catalog.split("test").product_ids) == set(
        catalog.product_ids[held_out]
    )
    # A rerun of the finished run leaves its encoder alone.
    same = configs.paper_config()
    same.update_from_flattened_dict(
        {
            name: value
            for name, value in configs.flatten(old.to_dict()).items()
            if name not in ("data.split_draw", "data.validation_fraction")
        }
    )
    kept, chosen = (workdir / "encoder.keras").read_bytes(), best(workdir)
    workflows.train(same, workdir)
    assert (workdir / "encoder.keras").read_bytes() == kept
    assert best(workdir) == chosen

    caplog.set_level(logging.INFO, "absl")
    same.training.steps = 6
    workflows.train(same, workdir)
    messages = [record.getMessage() for record in caplog.records]
    assert "Resuming at step 4." in messages
    assert any("begun by an earlier version" in m for m in messages)
    assert best(workdir)["chosen_on"] == "last"
    assert best(workdir)["step"] == 6
    assert "earlier version" in best(workdir)["sentence"]
    assert not (workdir / "products.json").exists()
    assert list(evaluations(workdir)) == [1, 2, 3, 4]


def test_an_untrained_encoder_records_what_its_whitening_saw(shop, tmp_path):
    for name, whitening in (("features", 0), ("codes", 4)):
        made = config(
            shop,
            **{
                "training.steps": 0,
                "model.embedding_size": whitening,
                "model.whitening": whitening,
            },
        )
        result = workflows.train(made, tmp_path / name)
        assert (result.step, result.best_step) == (0, 0)
        record = RunProducts.read(tmp_path / name)
        assert bool(record.train) == bool(whitening)
        assert record.validation == ()


def test_validation_is_not_scored_on_the_training_order(trained):
    """The record holds ids, whose hash chose them."""
    record = RunProducts.read(trained)
    chosen = ids.stable_hash(record.validation, "validation").max()
    assert (ids.stable_hash(record.train, "validation") > chosen).all()
