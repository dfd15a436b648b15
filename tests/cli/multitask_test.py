"""Attributes and landmarks on the whole road, from a manifest."""

import json
import os

import numpy as np
import programs
import pytest
import tensorflow as tf

from tf_triplet import builders
from tf_triplet.data.sources import rendered


def run(verb, *arguments, code=0):
    done = programs.run(verb, *arguments)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-500:]
    return done.stdout + done.stderr


@pytest.fixture
def shop(tmp_path):
    catalog = rendered.read_rendered(
        tmp_path / "images",
        products=12,
        images_per_product=4,
        test_fraction=0.5,
        image_size=32,
        show_progress=False,
    )
    frame = catalog.to_frame()[["path", "product_id", "category", "domain"]]
    frame["path"] = [os.path.relpath(p, tmp_path) for p in frame["path"]]
    odd = np.arange(len(frame)) % 2 == 1
    frame["attributes"] = frame["category"] + np.where(odd, "|odd", "")
    for i, (x, y) in enumerate([(10, 12), (20, 12), (15, 25)], 1):
        frame[f"landmark{i}_x"], frame[f"landmark{i}_y"] = x, y
    frame["landmark1_visible"] = np.where(odd, 1, 0)
    frame.to_csv(tmp_path / "shop.csv", index=False)
    layers = tf.keras.layers
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            layers.Conv2D(8, 5, 2, activation="relu"),
            layers.Conv2D(16, 3, 2, activation="relu"),
        ]
    ).save(tmp_path / "net.keras")
    return tmp_path


def test_train_evaluate_export(shop):
    workdir = shop / "run"
    fields = {
        "data.path": shop / "shop.csv",
        "data.image_size": 32,
        "model.backbone": "imported",
        "model.path": shop / "net.keras",
        "model.embedding_size": 8,
        "model.landmark_features": 5,
        "loss.attribute_weight": 0.5,
        "loss.landmark_weight": 2.0,
        "loss.attribute_positive_weight": 3.0,
        "optimizer.learning_rate": 0.05,
        "sampling.units_per_batch": 4,
        "evaluation.ks": "(1,5)",
        "evaluation.every": 0,
        "training.steps": 12,
        "training.checkpoint_every": 6,
        "training.log_every": 1,
        "training.collapse_every": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    run("train", f"--workdir={workdir}", *flags)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if "loss" in row]
    assert len(rows) == 12
    for row in rows:
        total = row["metric_loss"] + 0.5 * row["attribute_loss"]
        total += 2.0 * row["landmark_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-4)
    assert rows[-1]["landmark_loss"] < rows[0]["landmark_loss"]
    encoder = builders.load_encoder(workdir)
    assert encoder.output_shape == (None, 8)
    assert encoder.get_layer("landmark_features").units == 5
    run("evaluate", f"--workdir={workdir}", "--ks=1,3")
    report = json.loads(
        (workdir / "report" / "evaluation-test.json").read_text()
    )
    # The hash holds out 5 of the 12 products.
    assert report["trained"]["overall"]["queries"] == 20
    text = run("export", f"--workdir={workdir}", "--index=exact", "--k=3")
    assert "served = evaluated" in " ".join(text.split())
