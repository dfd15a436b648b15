"""The whole road with one's own manifest, as a user walks it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import programs
import pytest
import tensorflow as tf

from tf_triplet.data.sources import rendered


def command(verb, *arguments):
    return [sys.executable, "-m", f"tf_triplet.cli.{verb}", *arguments]


def run(verb, *arguments, code=0):
    done = programs.run(verb, *arguments)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-500:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A manifest, and a small network of the user's own."""
    folder = tmp_path_factory.mktemp("shop")
    catalog = rendered.read_rendered(
        folder / "images",
        products=24,
        images_per_product=4,
        seed=0,
        test_fraction=0.5,
        image_size=32,
    )
    frame = catalog.to_frame()[["path", "product_id", "category", "domain"]]
    frame["path"] = [os.path.relpath(p, folder) for p in frame["path"]]
    frame.to_csv(folder / "shop.csv", index=False)
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            layers.Conv2D(8, 5, 2, activation="relu"),
            layers.Conv2D(16, 3, 2, activation="relu"),
        ]
    ).save(folder / "net.keras")
    return folder


def flags(shop, **more):
    fields = {
        "data.path": shop / "shop.csv",
        "data.image_size": 32,
        "model.backbone": "imported",
        "model.path": shop / "net.keras",
        "model.embedding_size": 8,
        "sampling.units_per_batch": 6,
        "evaluation.ks": "(1,5)",
        "evaluation.every": 0,
        "training.steps": 8,
        "training.checkpoint_every": 2,
        "training.log_every": 1,
        "training.collapse_every": 0,
        **more,
    }
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="session")
def trained(shop, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "shop"
    run("train", f"--workdir={workdir}", *flags(shop))
    return workdir


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_evaluate_writes_before_and_after(trained):
    text = run(
        "evaluate",
        f"--workdir={trained}",
        "--baseline=pretrained",
        "--ks=1,3",
        "--neighbours=2",  # The former spelling of --neighbors.
    )
    assert (trained / "report" / "neighbours-test.png").is_file()
    path = trained / "report" / "evaluation-test.json"
    report = json.loads(path.read_text())
    assert 0 <= report["trained"]["overall"]["recall@3"] <= 1
    assert report["baseline"]["overall"]["queries"] == 40
    assert "every image queries all others" in " ".join(text.split())


@pytest.mark.parametrize(
    "index", ["scann", pytest.param("exact", marks=pytest.mark.slow)]
)
def test_export_serve_query(trained, shop, index, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    run("export", f"--workdir={workdir}", f"--index={index}", "--k=3")
    server = subprocess.Popen(
        command("serve", f"--workdir={workdir}", "--port=0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = server.stdout.readline().split()[-1]
        frame = pd.read_csv(shop / "shop.csv").astype(str)
        chosen = frame.iloc[[0, 1, 50]]
        images = ",".join(str(shop / path) for path in chosen["path"])
        for extra in ([], ["--exact"]):
            text = run(
                "query",
                f"--image={images}",
                f"--server={address}",
                "--json",
                *extra,
            )
            answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
            # The whole catalog is indexed: each finds itself.
            for product, rows in zip(chosen["product_id"], answer.values()):
                assert len(rows) == 3
                assert rows[0]["product_id"] == product
                assert rows[0]["score"] == pytest.approx(1, abs=1e-4)
        text = run(
            "query",
            f"--image={shop / chosen['path'].iloc[0]}",
            f"--server={address}",
            "--only_category=none such",
            "--box=0,0,20,20",
            code=2,
        )
        assert "Nothing found." in text
        assert "No indexed image matches --only_category=none such." in text
        text = run(
            "query",
            f"--image={images}",
            f"--server={address}",
            "--box=0,0,20,20",
            code=2,
        )
        assert "Received: --box and 3 images" in text
        # A file that begins as a JPEG does. The others are answered.
        torn = tmp_path / "torn.jpg"
        torn.write_bytes(b"\xff\xd8\xff\xe0" + bytes(400))
        text = run(
            "query",
            f"--image={torn},{shop / chosen['path'].iloc[0]}",
            f"--server={address}",
            code=2,
        )
        assert f"{torn}: The JPEG image cannot be decoded" in text
        assert str(chosen["product_id"].iloc[0]) in text
        text = run("query", f"--image={images}", "--rows=0", code=1)
        assert "--rows" in text
        bad = tmp_path / "text.jpg"
        bad.write_text("no image")
        text = run("query", f"--image={bad}", f"--server={address}", code=2)
        assert "text.jpg is not an image" in text
        text = run(
            "query",
            f"--image={images}",
            f"--server={address}",
            "--model=zzz",
            code=2,
        )
        assert "NOT_FOUND" in text and "Latest(zzz)" in text
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    text = run(
        *("query", f"--image={images}", f"--server={address}"),
        "--timeout_s=2",
        code=2,
    )
    assert f"No gRPC server answers at {address} yet. Waiting for" in text
    assert f"No gRPC server answers at {address} within 2 s." in text


@pytest.mark.parametrize(
    "replicas", [0, pytest.param(2, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_equals_uninterrupted(
    trained, shop, tmp_path, replicas
):
    workdir = tmp_path / "run"
    # Mined over the global batch, two replicas equal the one of `trained`.
    changed = flags(shop, **{"training.replicas": replicas})
    arguments = [f"--workdir={workdir}", *changed]
    process = subprocess.Popen(
        command("train", *map(str, arguments)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # After the first checkpoint, in the midst of things.
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "checkpoint").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    text = run("train", *arguments)
    assert "Resuming at step" in text
    whole, resumed = losses(trained), losses(workdir)
    assert sorted(resumed) == list(range(1, 9))
    for step, loss in whole.items():
        assert loss == pytest.approx(resumed[step], rel=1e-4)
    weights = [
        tf.keras.models.load_model(folder / "encoder_last.keras").get_weights()
        for folder in (trained, workdir)
    ]
    for got, want in zip(*weights):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "number,code",
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_interrupted_training_saves_and_goes_on(shop, tmp_path, number, code):
    workdir = tmp_path / "run"
    changed = flags(shop, **{"training.steps": 100_000})
    process = subprocess.Popen(
        command("train", *map(str, [f"--workdir={workdir}", *changed])),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "checkpoint").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    text, _ = process.communicate(timeout=120)
    # So that `train && evaluate && export` ends here.
    assert process.returncode == code, text[-2000:]
    told = re.search(
        r"Stopped at step (\d+) of 100000\. The same command continues", text
    )
    assert told and "Traceback" not in text and "Trained" not in text
    step = int(told[1])
    state = tf.train.latest_checkpoint(workdir / "checkpoints")
    assert state.endswith(f"-{step}")
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert not [row for row in rows if "eval/" in row]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.name": "lamb", "augment.rotation": 20},
        pytest.param(
            {"training.mixed_precision": True, "augment.blur": 1},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "model.batch_norm": "sync",
                "model.backbone": "resnet50v2",
                "model.weights": "random",
                "training.replicas": 2,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "sampling.units": "products",
                "loss.mining": "batch_all",
                "loss.scope": "replica",
                "training.replicas": 2,
                "augment.cutout": 0.3,
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_options_train_and_resume(shop, tmp_path, change):
    arguments = [
        f"--workdir={tmp_path}",
        *flags(shop, **{"training.steps": 2, **change}),
    ]
    run("train", *arguments)
    arguments[arguments.index("--config.training.steps=2")] = (
        "--config.training.steps=4"
    )
    assert "Resuming at step 2" in run("train", *arguments)
    got = losses(tmp_path)
    assert sorted(got) == [1, 2, 3, 4] and np.isfinite(list(got.values())).all()
    encoder = tf.keras.models.load_model(tmp_path / "encoder_last.keras")
    pixels = np.random.default_rng(0).random([2, 32, 32, 3], np.float32)
    whole = flags(shop, **{**change, "training.steps": 4})
    run("train", f"--workdir={tmp_path / 'whole'}", *whole)
    for step, loss in losses(tmp_path / "whole").items():
        assert loss == pytest.approx(got[step], rel=0.01)
    vectors = encoder(pixels).numpy()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)


def test_another_config_in_the_workdir_shows_the_difference(trained, shop):
    changed = flags(shop, **{"loss.margin": 0.3})
    text = run("train", f"--workdir={trained}", *changed, code=2)
    assert "loss.margin: 0.1 -> 0.3" in text and "Traceback" not in text


@pytest.mark.parametrize(
    "change,message",
    [
        ({"data.path": "nowhere.csv"}, "nowhere.csv"),
        ({"sampling.units_per_batch": 600}, "units_per_batch` is 600"),
        ({"model.path": "nowhere.keras"}, "nowhere.keras"),
        ({"lss.margin": 1}, 'Did you mean "loss" instead of "lss"'),
        ({"loss.margin": "wide"}, "could not convert string to float: 'wide'"),
        ({"loss.margn": 1}, 'Did you mean "margin"'),
        (
            {"model.backbone": "resnet50", "model.weights": "nowhere.h5"},
            "nowhere.h5",
        ),
    ],
)
def test_bad_input_is_one_clear_message(shop, tmp_path, change, message):
    arguments = [f"--workdir={tmp_path / 'r'}", *flags(shop, **change)]
    # absl itself leaves with 1.
    code = 1 if change == {"loss.margin": "wide"} else 2
    text = run("train", *arguments, code=code)
    assert "error: " in text.lower() and message in text
    assert "Traceback" not in text


@pytest.mark.parametrize("on_bad_image,code", [("skip", 0), ("stop", 2)])
def test_unreadable_images(shop, tmp_path, on_bad_image, code):
    frame = pd.read_csv(shop / "shop.csv")
    frame["path"] = [str(shop / path) for path in frame["path"]]
    names = ["text.jpg", "empty.png", "missing.jpg"]
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    rows = frame.drop_duplicates("product_id").index[: len(names)]
    frame.loc[rows, "path"] = names
    frame["split"] = "train"
    held_out = frame[~frame["path"].isin(names)].assign(split="test")
    pd.concat([frame, held_out]).to_csv(tmp_path / "bad.csv", index=False)
    changed = {
        "data.path": tmp_path / "bad.csv",
        "data.on_bad_image": on_bad_image,
        "data.validation_fraction": 0,
        "training.steps": 12,
    }
    text = run(
        "train",
        f"--workdir={tmp_path / 'run'}",
        *flags(shop, **changed),
        code=code,
    )
    if on_bad_image == "stop":
        assert any(name in text for name in names)
        assert "on_bad_image=skip" in text
        return
    assert all(name in text for name in names)
    assert "3 images could not be read and were skipped" in text


def test_check_reports_and_fails_on_problems(shop, tmp_path):
    text = run("train", "--check", *flags(shop))
    assert "96" in text and "24" in text
    frame = pd.read_csv(shop / "shop.csv")
    frame.loc[3, "path"] = "lost.jpg"
    path = shop / "lost.csv"
    frame.to_csv(path, index=False)
    text = run("train", "--check", *flags(shop, **{"data.path": path}), code=2)
    assert "lost.jpg" in text and "missing" in text.lower()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"evaluation.split": "val"}, "has no split 'val'"),
        (
            {"sampling.units_per_batch": 600},
            "(--config.sampling.units_per_batch=",
        ),
    ],
)
def test_check_says_what_training_would(shop, change, message):
    text = run("train", "--check", *flags(shop, **change), code=2)
    assert "No problem found in the images." in text
    assert message in text


def test_a_config_that_is_not_there(tmp_path):
    text = run("train", "--config=configs/shop.py", "--check", code=2)
    assert "Received: 'configs/shop.py', which does not exist" in text


def test_int64_ids_and_boxes_walk_the_road(shop, tmp_path):
    frame = pd.read_csv(shop / "shop.csv")
    codes = 10**15 + np.unique(frame["product_id"], return_inverse=True)[1]
    frame["product_id"] = codes
    frame["path"] = [str(shop / path) for path in frame["path"]]
    frame["x1"], frame["y1"] = 2, 2
    frame["x2"], frame["y2"] = 30, 28
    # Served images are whole: parity needs some without a box.
    frame.loc[frame.index % 2 == 0, ["x1", "y1", "x2", "y2"]] = np.nan
    frame.to_parquet(tmp_path / "shop.parquet")
    changed = {"data.path": tmp_path / "shop.parquet", "training.steps": 2}
    run("train", f"--workdir={tmp_path / 'run'}", *flags(shop, **changed))
    run("export", f"--workdir={tmp_path / 'run'}", "--index=exact")
    folder = tmp_path / "run" / "models" / "product_search" / "1"
    image = tf.io.read_file(frame["path"][0])
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](
        image_bytes=image[None]
    )
    assert int(answer["product_ids"][0, 0].numpy()) == codes[0]


def test_help_is_quick_and_teaches():
    start = time.monotonic()
    text = run("train", "--help", code=1)
    # TensorFlow alone takes longer to import than this allows.
    assert time.monotonic() - start < 2
    assert "manifest.csv" in text


@pytest.mark.parametrize(
    "verb,flag",
    [
        ("train", "--config"),
        ("evaluate", "--protocol"),
        ("compare", "--study"),
        ("export", "--precision"),
        ("index", "--catalog"),
        ("serve", "--rest_port"),
        ("query", "--only_category"),
    ],
)
def test_help_of_an_installed_program(verb, flag):
    # As pip's stub starts it: the module is not __main__.
    code = (
        f"import sys; sys.argv = ['bin/tf-triplet-{verb}', '--help']; "
        f"from tf_triplet.cli.{verb} import run; sys.exit(run())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    text = " ".join(done.stdout.split())
    assert done.returncode == 1 and done.stderr == ""
    assert f"{flag}: " in text
    assert f"tf-triplet-{verb} --" in text  # The example of its first lines.


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys, tf_triplet; assert 'tensorflow' not in sys.modules; "
        "assert tf_triplet.TripletLoss.__name__ == 'TripletLoss'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
