"""Each benchmark's config in smoke size through every verb."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs
import pytest
import scipy.io
import tensorflow as tf
from PIL import Image

ROOT = Path(__file__).parents[2]


def image(path, product, view):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(product)
    color = random.integers(0, 200, 3) + 3 * view
    Image.new("RGB", (40, 36), tuple(map(int, color))).save(path, "JPEG")


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
                image(root / name, product, view)
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
            image(root / name, product, view)
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
            image(root / "images" / name, product, view)
    (root / "images.txt").write_text("\n".join(images))
    (root / "image_class_labels.txt").write_text("\n".join(labels))


def cars_tree(root):
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class")
    kinds = [(name, "O") for name in (*fields, "relative_im_path")]
    rows = []
    for i, product in enumerate([*range(1, 9), *range(99, 103)]):
        for view in range(3):
            name = f"car_ims/{3 * i + view + 1:06}.jpg"
            rows.append((2, 2, 38, 34, product, name))
            image(root / name, product, view)
    table = np.zeros([1, len(rows)], kinds)
    for i, row in enumerate(rows):
        table[0, i] = row
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": table})


def consumer2shop_tree(root):
    rows = []
    for product in range(12):
        kind = ("TOPS/T_Shirt", "DRESSES/Lace_Dress")[product % 2]
        folder = f"img/{kind}/id_{product:08}"
        status = "train" if product < 8 else ("val", "test")[product % 2]
        for view in range(2):
            consumer = f"{folder}/comsumer_0{view}.jpg"
            image(root / consumer, product, view)
            for shop in range(2):
                name = f"{folder}/shop_0{shop}.jpg"
                image(root / name, product, 2 + shop)
                rows.append(f"{consumer} {name} id_{product:08} {status}")
    header = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    text = "\n".join([str(len(rows)), header, *rows]) + "\n"
    (root / "list_eval_partition.txt").write_text(text)


def street2shop_tree(root):
    lists = root / "meta" / "json"
    lists.mkdir(parents=True)
    photo = 0
    for category in ("bags", "hats"):
        rows = {"train_pairs": [], "test_pairs": [], "retrieval": []}
        for product in range(6):
            pairs = "train_pairs" if product < 4 else "test_pairs"
            for kind in (pairs, pairs, "retrieval", "retrieval"):
                photo += 1
                box = {"left": 2, "top": 2, "width": 30, "height": 30}
                rows[kind].append({"photo": photo, "product": product})
                if kind != "retrieval":
                    rows[kind][-1]["bbox"] = box
                name = f"images/{photo:09}.jpg"
                image(root / name, 10 * (category == "hats") + product, photo)
        for kind, entries in rows.items():
            text = json.dumps(entries)
            (lists / f"{kind}_{category}.json").write_text(text)


def ask_the_server(workdir, file):
    """Serves as the README says, and asks as a shopper would."""
    command = [sys.executable, "-m", "tf_triplet.cli.serve"]
    server = subprocess.Popen(
        [*command, f"--workdir={workdir}", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        address = server.stdout.readline().split()[-1]
        return run("query", f"--server={address}", f"--image={file}")
    finally:
        server.terminate()
        server.wait(60)


def run(verb, *arguments):
    done = programs.run(verb, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "name,tree,queries,indexed",
    [
        ("sop", sop_tree, 12, 12),
        pytest.param("inshop", inshop_tree, 8, 8, marks=pytest.mark.slow),
        pytest.param("cub200", cub_tree, 12, 12, marks=pytest.mark.slow),
        pytest.param("cars196", cars_tree, 12, 12, marks=pytest.mark.slow),
        ("consumer2shop", consumer2shop_tree, 4, 4),
        pytest.param(
            "street2shop", street2shop_tree, 8, 24, marks=pytest.mark.slow
        ),
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
    # One with the recipe's own network, which takes its time to build.
    backbone = (
        []
        if name == "inshop"
        else [
            "--config.model.backbone=imported",
            f"--config.model.path={tmp_path / 'net.keras'}",
        ]
    )
    run(
        "train",
        f"--config=configs/{name}.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        *backbone,
    )
    run("evaluate", f"--workdir={workdir}")
    (path,) = (workdir / "report").glob("evaluation-test*.json")
    report = json.loads(path.read_text())["trained"]
    assert report["overall"]["queries"] == queries
    run("export", f"--workdir={workdir}", "--index=exact")
    folder = workdir / "models" / "product_search" / "1"
    record = json.loads((folder / "assets.extra/fingerprint.json").read_text())
    assert record["images"] == indexed
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    file = next(data.rglob("*.[jJ][pP][gG]"))
    answer = signature(image_bytes=tf.constant([file.read_bytes()]))
    assert answer["scores"].shape == (1, min(5, indexed))
    # Wherever the benchmark lies, a path is relative to its folder.
    assert (data / answer["paths"].numpy()[0, 0].decode()).is_file()
    assert not answer["paths"].numpy()[0, 0].startswith(b"/")
    if name == "consumer2shop":
        flags = ("--protocol=per_pair", "--split=val+test", "--clustering")
        assert "NMI" in run("evaluate", f"--workdir={workdir}", *flags)
        (path,) = (workdir / "report").glob("*val_test*per_pair.json")
        overall = json.loads(path.read_text())["trained"]["overall"]
        assert overall["queries"] == 16 and 0 <= overall["f1"] <= 1
        found = answer["product_ids"].numpy()[0, 0].decode()
        assert found in ask_the_server(workdir, file)
    verified = run(
        "train",
        f"--config=configs/{name}.py",
        f"--config.data.path={data}",
        "--verify",
    )
    assert "PUBLISHED" in verified
