"""The nightly refresh: what is embedded, what is published, what is refused."""

import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tiny_runs import draw, encoder, make_run

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.data import crops
from tf_triplet.servable import (
    fingerprint,
    parity,
    saved_model,
    versions,
    warmup,
)
from tf_triplet.workflows.embed_catalog import CACHE
from tf_triplet.workflows.export import _lock, _read_catalog


def publish(folder, new_encoder=False, **given):
    return workflows.export(
        folder,
        workflows.ExportOptions(**given),
        same_encoder=not new_encoder,
        progress=False,
    )


def embed(folder, path=None):
    """The first half of an export alone."""
    options = workflows.ExportOptions(catalog=path)
    catalog = _read_catalog(builders.load_config(folder), options)
    return workflows.embed_catalog(folder, catalog, progress=False)


def counts(work):
    return work.cached, work.embedded, work.repeated, work.unreadable


def work(published):
    record = dict(published.record["work"])
    assert record.pop("pictures") == record["images"]  # Its former name.
    return counts(workflows.EmbeddingCounts(**record))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "run"
    frame = make_run(folder, 400, columns=("price",))
    return folder, frame, publish(folder, index="scann")


@pytest.fixture
def small(tmp_path):
    return tmp_path / "run", make_run(tmp_path / "run", 12)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """12 images of 3 products, grouped; not to be written to."""
    folder = tmp_path_factory.mktemp("once") / "run"
    make_run(folder, 12, group_by_product=True)
    return publish(folder)


@pytest.fixture
def again(once, tmp_path):
    """A copy of it that may be."""
    folder = shutil.copytree(once.folder.parents[2], tmp_path / "run")
    config = builders.load_config(folder)
    config.data.path = str(folder / "shop.csv")
    (folder / "config.json").write_text(configs.to_json(config))
    return folder


def nightly(folder, frame):
    """1 in 40 changed in place, 1 in 40 new, as many removed; one renamed."""
    changed = frame.iloc[10:].copy()
    for i in range(20, 30):
        draw(folder / "images", f"{i}.png", 1000 + i)
    for i in range(10):
        draw(folder / "images", f"new{i}.png", 2000 + i)
    new = frame.iloc[:10].assign(
        path=[f"images/new{i}.png" for i in range(10)], price="9"
    )
    shutil.copy(folder / "images/50.png", folder / "images/moved.png")
    changed = changed.replace({"images/50.png": "images/moved.png"})
    pd.concat([changed, new]).to_csv(folder / "new.csv", index=False)
    return folder / "new.csv"


def test_a_nightly_refresh_embeds_only_what_changed(shop):
    folder, frame, first = shop
    assert work(first) == (0, 400, 0, 0)
    path = nightly(folder, frame)
    second = publish(folder, catalog=str(path))
    assert second.folder.name == "2"
    assert work(second) == (380, 20, 0, 0)
    assert second.record["encoder"] == first.record["encoder"]
    assert second.record["index_sha256"] != first.record["index_sha256"]
    # What is answered is what a fresh embedding of all would be.
    config = builders.load_config(folder)
    config.data.path = str(path)
    catalog = builders.build_catalog(config)
    model = builders.load_encoder(folder)
    want = builders.compute_embeddings(config, model, catalog, progress=False)
    loaded = tf.saved_model.load(str(second.folder)).signatures
    answer = loaded["search_exact"](embedding=tf.constant(want.vectors))
    truth = -np.sort(-(want.vectors @ want.vectors.T))[:, :3]
    np.testing.assert_allclose(answer["scores"], truth, atol=1e-5)
    first_paths = answer["paths"].numpy()[:, 0].astype(str)
    assert (first_paths == catalog.path_values).mean() > 0.99
    # Once more: nothing is new.
    assert counts(embed(folder, str(path))[1]) == (400, 0, 0, 0)


@pytest.mark.slow
def test_a_refresh_of_20000_images(tmp_path):
    frame = make_run(tmp_path / "run", 20_000, index="scann")
    assert work(publish(tmp_path / "run"))[:2] == (0, 20_000)
    for i in range(0, 20_000, 20):
        draw(tmp_path / "run" / "images", f"{i}.png", 50_000 + i)
    frame.to_csv(tmp_path / "run" / "new.csv", index=False)
    second = publish(
        tmp_path / "run", catalog=str(tmp_path / "run" / "new.csv")
    )
    assert work(second) == (19_000, 1_000, 0, 0)
    assert second.record["parity"]["recall"] >= 0.95
    assert second.record["tuning"]["leaves"] == 141


def test_further_columns_come_back(shop):
    _, frame, first = shop
    assert first.record["columns"] == ["price"]
    loaded = tf.saved_model.load(str(first.folder))
    images = [
        tf.io.read_file(str(shop[0] / path)).numpy()
        for path in frame["path"][[100, 203]]
    ]
    answer = loaded.signatures["serving_default"](
        image_bytes=tf.constant(images)
    )
    loaded.release()
    assert answer["price"].numpy()[:, 0].tolist() == [b"100.50", b"203.50"]


def test_the_warm_up_file_replays_every_signature(shop):
    folder = shop[2].folder
    loaded = tf.saved_model.load(str(folder))
    requests = warmup.read(folder)
    names = [request.model_spec.signature_name for request in requests]
    assert set(names) == set(loaded.signatures) and len(names) == 14
    assert {r.model_spec.name for r in requests} == {"product_search"}
    assert shop[2].record["parity"]["warmed_up"] == 14
    for request in requests:
        taken = loaded.signatures[request.model_spec.signature_name]
        assert set(request.inputs) == set(taken.structured_input_signature[1])
        if "image_bytes" in request.inputs:
            data = tf.make_ndarray(request.inputs["image_bytes"])
            assert data[0].startswith(b"\x89PNG")
    assert warmup.replay(loaded.signatures, folder) == 14
    loaded.release()
    assert warmup.read(folder / "variables") == []


def test_the_fingerprint_tells_what_was_made(shop):
    folder, _, first = shop
    record = fingerprint.read(first.folder)
    assert record == json.loads(json.dumps(first.record))
    assert record["images"] == 400 and record["products"] == 100
    assert record["index"] == "scann" and record["dim"] == 8
    assert record["tuning"]["leaves"] == 0  # Brute force for so few.
    assert record["packages"]["scann"] == "1.3.0"
    config = builders.load_config(folder)
    assert record["encoder"] == builders.encoder_sha256(config, folder)
    config.data.resize = "bilinear"
    assert record["encoder"] != builders.encoder_sha256(config, folder)


def test_each_product_is_answered_once(once):
    assert once.record["group_by_product"]
    assert once.record["parity"]["recall"] == 1
    signature = tf.saved_model.load(str(once.folder)).signatures["search"]
    answer = signature(embedding=tf.eye(8))
    ids = answer["product_ids"].numpy()
    assert ids.shape == (8, 3)
    assert all(set(row) == {b"p0", b"p1", b"p2"} for row in ids)


def test_the_exact_model_loads_where_scann_cannot(once):
    code = f"""
        import sys
        sys.modules["scann"] = None
        import tensorflow as tf
        model = tf.saved_model.load({str(once.folder)!r})
        answer = model.signatures["search_filtered"](
            embedding=tf.zeros([1, 8]),
            category_filter=tf.constant(["bags"]),
            domain_filter=tf.constant([""]))
        assert answer["paths"].shape == (1, 3)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120
    )


def test_another_encoder_is_refused_by_index_and_not_by_export(again):
    target = again / "models" / "product_search"
    was = fingerprint.read(target / "1")["encoder"]
    encoder(seed=1).save(again / "encoder.keras")
    with pytest.raises(ValueError) as caught:
        publish(again)
    text = str(caught.value)
    assert f"/1 was made by encoder {was[:16]}, and this run's is " in text
    assert "with tf-triplet-export" in text and "Nothing was pub" in text
    assert versions.list_versions(target) == [1]
    second = publish(again, new_encoder=True)
    # Nothing of the other encoder's is taken for this one's.
    assert second.folder.name == "2" and work(second)[:2] == (0, 12)
    (second.folder / fingerprint.FILE).unlink()
    with pytest.raises(
        ValueError, match="/2 has no fingerprint .*this run's is"
    ):
        publish(again)


def test_embeddings_of_another_encoder_are_refused(again):
    (cache,) = (again / CACHE).iterdir()
    encoder(seed=1).save(again / "encoder.keras")
    config = builders.load_config(again)
    other = builders.encoder_sha256(config, again)
    cache.rename(cache.with_name(other[:16]))
    with pytest.raises(ValueError, match="holds embeddings of another enc.*R"):
        publish(again, new_encoder=True)


def test_images_that_repeat_or_cannot_be_read(small):
    folder, frame = small
    shutil.copy(folder / "images/3.png", folder / "images/1.png")
    (folder / "images/5.png").write_text("no image")
    (folder / "images/7.png").unlink()
    found, work_ = embed(folder)
    assert counts(work_) == (0, 9, 1, 2) and work_.images == 12
    assert [path[-5:] for path in found.skipped] == ["5.png", "7.png"]
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 6, 8, 9, 10, 11]
    # Of twins, the one that was not embedded has the other's.
    np.testing.assert_array_equal(found.vectors[1], found.vectors[3])
    assert np.abs(found.vectors[0] - found.vectors[3]).max() > 1e-3
    config = builders.load_config(folder)
    config.data.on_bad_image = "stop"
    (folder / "config.json").write_text(configs.to_json(config))
    with pytest.raises(ValueError, match="5.png.*on_bad_image=skip"):
        embed(folder)


def test_nothing_that_can_be_read(small):
    folder, frame = small
    for path in frame["path"]:
        (folder / path).write_text("no image")
    with pytest.raises(ValueError, match="Received: 12 images, all unread"):
        embed(folder)


def test_an_image_that_changes_meanwhile_is_not_cached(small, monkeypatch):
    folder, _ = small
    batches = builders.embed_batches

    def meddle(*arguments):
        for batch in batches(*arguments):
            draw(folder / "images", "4.png", 77)
            yield batch

    monkeypatch.setattr(builders, "embed_batches", meddle)
    assert counts(embed(folder)[1]) == (0, 11, 0, 1)
    monkeypatch.undo()
    assert counts(embed(folder)[1]) == (11, 1, 0, 0)


def test_a_box_is_part_of_an_image(small):
    folder, frame = small
    sides = {"x1": 0, "y1": 0, "x2": 4, "y2": 4}
    boxed = frame.assign(**{s: [v] + [""] * 11 for s, v in sides.items()})
    boxed.to_csv(folder / "boxed.csv", index=False)
    embed(folder)
    assert counts(embed(folder, folder / "boxed.csv")[1]) == (11, 1, 0, 0)


def test_a_catalog_of_boxed_images_is_served_their_crops(small, monkeypatch):
    folder, frame = small
    sides = {"x1": 0, "y1": 0, "x2": 4, "y2": 4}
    frame.assign(**sides).to_csv(folder / "boxed.csv", index=False)
    published = publish(folder, catalog=folder / "boxed.csv")
    metrics = published.record["parity"]
    assert metrics["images"] == 12 and metrics["largest_difference"] < 1e-6
    # Whole, they are other images.
    monkeypatch.setattr(crops, "crop_image_bytes", lambda data, *_: data)
    with pytest.raises(parity.ParityError, match="differs from evaluation"):
        publish(folder, catalog=folder / "boxed.csv")


@pytest.mark.parametrize(
    "precision", ["int8", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_an_encoder_of_less_precision_tells_what_it_costs(again, precision):
    first = publish(again, precision=precision, new_encoder=True)
    # Another precision is another encoder: nothing cached is taken for it.
    assert first.folder.name == "2" and work(first)[:2] == (0, 12)
    cost = first.record["precision"]
    assert cost["precision"] == precision and cost["images"] == 12
    assert 1e-6 < cost["largest_difference"] < 0.02
    # What is served is that encoder, not the one in float32.
    served = first.record["parity"]["largest_difference"]
    assert served < cost["largest_difference"] / 10
    assert 0.5 < cost["neighbors_kept"] <= 1
    # Of three products of four images; noise, so alike in both.
    assert abs(cost["recall_at_1"] - cost["recall_at_1_float32"]) < 0.5
    text = first.describe()
    assert f"encoder in {precision}, on 12 images: embeddings" in text
    # It is kept from version to version, and no float32 index follows.
    second = publish(again)
    assert second.record["export"]["precision"] == precision
    assert work(second)[:2] == (12, 0)
    assert second.record["precision"] == cost
    with pytest.raises(ValueError, match="was made by encoder"):
        publish(again, precision="float32")
    third = publish(again, precision="float32", new_encoder=True)
    assert "precision" not in third.record and work(third)[:2] == (12, 0)


def test_another_precision_beside_the_embeddings_is_seen(again, monkeypatch):
    saved = saved_model.ServedModel

    def in_float32(encoder, *arguments, **more):
        return saved(builders.load_encoder(again), *arguments, **more)

    monkeypatch.setattr(saved_model, "ServedModel", in_float32)
    with pytest.raises(parity.ParityError, match="differs from evaluation"):
        publish(again, precision="bfloat16", new_encoder=True)


def test_the_next_version_takes_split_and_checkpoint_of_the_last(again):
    frame = pd.read_csv(again / "shop.csv")
    frame["split"] = ["train"] * 8 + ["test"] * 4
    frame.to_csv(again / "shop.csv", index=False)
    encoder(seed=1).save(again / "encoder_last.keras")
    first = publish(
        again, split="test", checkpoint="last", new_encoder=True
    ).record
    assert (first["images"], first["checkpoint"]) == (4, "last")
    second = publish(again)
    assert second.record["images"] == 4 and work(second)[:2] == (4, 0)
    assert second.record["checkpoint"] == "last"
    # A manifest of its own is indexed whole.
    third = publish(again, catalog=again / "shop.csv").record
    assert third["images"] == 12
    assert publish(again, allow_smaller_catalog=True).record["images"] == 4
    assert publish(again, new_encoder=True).record["images"] == 12


def test_what_the_last_version_had_can_be_taken_back(again):
    manifest = again / "shop.csv"
    first = publish(
        again, catalog=manifest, domains=["shop"], columns=["price"]
    ).record
    assert (first["images"], first["columns"]) == (6, ["price"])
    second = publish(again, catalog=manifest).record
    assert (second["images"], second["columns"]) == (6, ["price"])
    third = publish(again, catalog=manifest, domains=(), columns=())
    assert (third.record["images"], third.record["columns"]) == (12, [])


def test_with_one_neighbor_the_recall_is_of_others(shop):
    folder, _, _ = shop
    record = publish(folder, k=1, storage="int8", min_recall=0.0).record
    # Itself is found by any search; int8 mixes up who is nearest but that.
    assert record["parity"]["k"] == 1
    assert record["parity"]["recall"] == record["tuning"]["recall"] < 1
    assert record["tuning"]["recall_cost"] == 1 - record["tuning"]["recall"]


def test_one_at_a_time(again):
    target = again / "models" / "product_search"
    with _lock(target):
        with pytest.raises(ValueError, match="Another process publishes"):
            publish(again)
    (target / ".partial-killed").mkdir()
    with _lock(target):
        assert sorted(p.name for p in target.iterdir()) == [".lock", "1"]


def test_columns_that_there_are_not(again):
    with pytest.raises(ValueError, match="no extra column 'color'. Its ex"):
        publish(again, columns=("color",))
    config = builders.load_config(again)
    config.data.source = "rendered"
    with pytest.raises(ValueError, match="Only a manifest has extra colum"):
        builders.build_catalog(config, ("price",))


def test_too_little_recall_publishes_nothing(again, monkeypatch):
    monkeypatch.setattr(
        parity.recall, "is_found", lambda found, _: np.full(found.shape, 0.9)
    )
    with pytest.raises(ValueError, match="0.9000 of the exact 3.*min_recall"):
        publish(again)
    target = again / "models" / "product_search"
    assert sorted(p.name for p in target.iterdir()) == [".lock", "1"]


KILLER = """
    import os, signal, sys, time
    from tf_triplet.cli import index
    from tf_triplet.servable import embedding_cache, fingerprint, saved_model

    # A shard a batch.
    embedding_cache.SHARD_IMAGES = 5

    def die(*arguments, **more):
        os.kill(os.getpid(), signal.SIGKILL)

    def before(module, name):
        setattr(module, name, die)

    def after(module, name):
        call = getattr(module, name)
        setattr(module, name, lambda *a, **m: (call(*a, **m), die()))

    def second(module, name):
        call, calls = getattr(module, name), []
        def count(*a, **m):
            calls.append(1)
            return die() if len(calls) == 2 else call(*a, **m)
        setattr(module, name, count)

    moments = [
        lambda: before(os, "fsync"),
        lambda: second(os, "replace"),
        lambda: after(saved_model.ServedModel, "save"),
        lambda: before(fingerprint, "write"),
        lambda: before(os, "rename"),
        0.1, 1.0,
    ]
    for moment in [*moments, None]:
        child = os.fork()
        if not child:
            if callable(moment):
                moment()
            # The program itself; a catalog that is the run's own.
            sys.argv = ["index", "--workdir=" + {folder!r}]
            sys.argv += ["--catalog=" + {folder!r} + "/shop.csv", "--k=2"]
            index.run()
        if isinstance(moment, float):
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        target = {folder!r} + "/models/product_search"
        names = sorted(n for n in os.listdir(target) if n.isdigit())
        print("row", status, *names, flush=True)
"""


def test_kill_9_at_any_moment_leaves_no_half_version(small):
    folder, _ = small
    code = textwrap.dedent(KILLER).format(folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = [line[1:] for line in lines if line[0] == "row"]
    assert len(rows) == 8, done.stderr[-2000:]
    # Killed at each named moment: no version yet.
    assert rows[:5] == [["9"]] * 5
    assert rows[-1][0] == "0", done.stderr[-2000:]
    target = folder / "models" / "product_search"
    assert "0 unreadable." in done.stdout
    assert f"Published: {target}/{rows[-1][-1]}\n" in done.stdout
    known = versions.list_versions(target)
    assert [str(v) for v in known] == rows[-1][1:]
    for number in known:
        record = fingerprint.read(target / str(number))
        assert record["images"] == 12 and record["parity"]["k"] == 2
        loaded = tf.saved_model.load(str(target / str(number)))
        assert warmup.replay(loaded.signatures, target / str(number)) == 14
    assert not list(folder.rglob("*.partial*"))
    # The first shard's images were not embedded twice.
    record = fingerprint.read(target / str(known[0]))["work"]
    assert record["cached"] >= 5
    assert record["cached"] + record["embedded"] == 12


def test_the_next_version_is_asked_as_the_last_was(tmp_path):
    folder = tmp_path / "run"
    make_run(folder, 12, columns=("price",))
    first = publish(folder, index="exact", k=2, new_encoder=True)
    second = publish(folder)
    for published in (first, second):
        assert published.record["index"] == "exact"
        assert published.record["columns"] == ["price"]
        assert published.record["parity"]["k"] == 2
    third = publish(folder, k=3, group_by_product=True)
    assert third.record["parity"]["k"] == 3
    assert third.record["group_by_product"] is True
    with pytest.raises(ValueError, match="`export.storage=int8`"):
        publish(folder, storage="int8")
