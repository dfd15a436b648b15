"""Each benchmark's config in smoke size through every verb."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

ROOT = Path(__file__).parents[2]


def picture(path, product, view):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(product)
    colour = random.integers(0, 200, 3) + 3 * view
    Image.new("RGB", (40, 36), tuple(map(int, colour))).save(path, "JPEG")


def sop_tree(root):
    number = 0
    for split, products in (("train", range(1, 9)), ("test", range(9, 13))):
        lines = ["image_id class_id super_class_id path"]
        for product in products:
            kind = ("mug", "lamp")[product % 2]
            for view in range(3):
                number += 1
                name = f"{kind}_final/{product}_{view}.JPG"
                lines.append(f"{number} {product} {1 + product % 2} {name}")
                picture(root / name, product, view)
        (root / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")


def inshop_tree(root):
    rows, boxes = [], []
    for product in range(12):
        kind = ("WOMEN/Dresses", "MEN/Denim")[product % 2]
        for view in range(4):
            name = f"img/{kind}/id_{product:08}/{view:02}_1_front.jpg"
            status = "train" if product < 8 else ("query", "gallery")[view % 2]
            rows.append(f"{name:<70}id_{product:08} {status}")
            if view == 3:  # Some without a box, which parity can compare.
                boxes.append(f"{name} 1 1 002 002 038 034")
            picture(root / name, product, view)
    header = "image_name item_id evaluation_status"
    text = "\n".join([str(len(rows)), header, *rows]) + "\n"
    (root / "list_eval_partition.txt").write_text(text)
    header = "image_name clothes_type pose_type x_1 y_1 x_2 y_2"
    text = "\n".join([str(len(boxes)), header, *boxes]) + "\n"
    (root / "list_bbox_inshop.txt").write_text(text)


def cub_tree(root):
    images, labels = [], []
    for i, product in enumerate([*range(1, 9), *range(101, 105)]):
        for view in range(3):
            name = f"{product:03}.Bird/{view}.jpg"
            images.append(f"{3 * i + view + 1} {name}")
            labels.append(f"{3 * i + view + 1} {product}")
            picture(root / "images" / name, product, view)
    (root / "images.txt").write_text("\n".join(images))
    (root / "image_class_labels.txt").write_text("\n".join(labels))


def run(verb, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"tf_triplet.cli.{verb}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "name,tree,queries,indexed",
    [
        ("sop", sop_tree, 12, 12),
        ("inshop", inshop_tree, 8, 8),
        ("cub200", cub_tree, 12, 12),
    ],
)
def test_smoke(tmp_path, name, tree, queries, indexed):
    data, workdir = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    tree(data)
    tf.keras.utils.set_random_seed(0)
    tf.keras.Sequential(
        [tf.keras.Input([32, 32, 3]), tf.keras.layers.Conv2D(4, 5, 4)]
    ).save(tmp_path / "net.keras")
    run(
        "train",
        f"--config=configs/{name}.py",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        "--config.data.image_size=32",
        "--config.model.backbone=imported",
        f"--config.model.path={tmp_path / 'net.keras'}",
        "--config.training.steps=2",
        "--config.sampling.units_per_batch=2",
    )
    run("evaluate", f"--workdir={workdir}")
    (path,) = (workdir / "report").glob("evaluation-test*.json")
    report = json.loads(path.read_text())["trained"]
    assert report["overall"]["queries"] == queries
    run("export", f"--workdir={workdir}", "--index=exact")
    folder = workdir / "models" / "product_search" / "1"
    record = json.loads((folder / "assets.extra/export.json").read_text())
    assert record["pictures"] == indexed
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    file = next(data.rglob("*.[jJ][pP][gG]")).read_bytes()
    answer = signature(image_bytes=tf.constant([file]))
    assert answer["scores"].shape == (1, min(10, indexed))
