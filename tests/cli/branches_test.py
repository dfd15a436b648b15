"""Two domains with a network each, and weights a category, by the programs."""

import json

import numpy as np
import pandas as pd
import programs
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet import builders
from tf_triplet.models import branches as br
from tf_triplet.serving import server


def run(verb, *arguments, code=0):
    done = programs.run(verb, *arguments)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-500:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight products, two photos and two shop images each; a network."""
    folder = tmp_path_factory.mktemp("shop")
    rows = []
    random = np.random.default_rng(0)
    for product in range(8):
        color = random.integers(40, 200, 3)
        for view in range(4):
            path = folder / f"{product}_{view}.png"
            shade = tuple(map(int, color + 9 * view))
            Image.new("RGB", (16, 16), shade).save(path)
            rows.append(
                {
                    "path": path.name,
                    "product_id": f"p{product}",
                    "category": ("bags", "hats")[product % 2],
                    "domain": ("street", "shop")[view // 2],
                    "split": ("train", "test")[product // 4],
                }
            )
    pd.DataFrame(rows).to_csv(folder / "shop.csv", index=False)
    tf.keras.utils.set_random_seed(0)
    tf.keras.Sequential(
        [tf.keras.Input([16, 16, 3]), tf.keras.layers.Conv2D(6, 5, 4)]
    ).save(folder / "net.keras")
    return folder


def train(folder, workdir, **fields):
    fields = {
        "data.path": folder / "shop.csv",
        "data.image_size": 16,
        "model.backbone": "imported",
        "model.path": folder / "net.keras",
        "model.embedding_size": 8,
        "sampling.units_per_batch": 2,
        "evaluation.ks": "(1,5)",
        "training.steps": 2,
        **fields,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    run("train", f"--workdir={workdir}", *flags)


def test_a_network_a_domain_from_training_to_the_answer(folder, tmp_path):
    train(
        folder,
        tmp_path,
        **{
            "model.branch_by": "domain",
            "model.branches": "networks",
            "sampling.query_domain": "street",
            "sampling.gallery_domain": "shop",
            "evaluation.query_domain": "street",
            "evaluation.gallery_domain": "shop",
        },
    )
    encoder = builders.load_encoder(tmp_path)
    assert br.find(encoder).names == ("street", "shop")
    run("evaluate", f"--workdir={tmp_path}")
    (path,) = (tmp_path / "report").glob("evaluation-*.json")
    overall = json.loads(path.read_text())["trained"]["overall"]
    assert overall["queries"] == 8
    # The index holds both sides, each through its own network.
    text = run("export", f"--workdir={tmp_path}", "--index=exact")
    assert "on 32 images" in text
    models = tmp_path / "models" / "product_search"
    record = (models / "1" / "assets.extra" / "fingerprint.json").read_text()
    wanted = {"by": "domain", "names": ["street", "shop"], "default": "street"}
    assert json.loads(record)["branches"] == wanted
    running, port, model = server.start(models, port=0)
    image = folder / "5_3.png"
    text = run(
        "query",
        f"--image={image}",
        f"--server=localhost:{port}",
        "--domain=shop",
        "--json",
    )
    running.stop(0).wait()
    model.release()
    (rows,) = json.loads(text[text.index("{") : text.rindex("}") + 1]).values()
    assert rows[0]["path"] == image.name
    assert rows[0]["score"] == pytest.approx(1, abs=1e-4)


def test_weights_a_category(folder, tmp_path):
    train(
        folder,
        tmp_path,
        **{
            "model.branch_by": "category",
            "model.branches": "weights",
            "model.embedding_size": 0,
            "model.batch_norm": "frozen",
            "sampling.single_category_probability": 1,
            "evaluation.protocol": "within_category",
        },
    )
    config = builders.load_config(tmp_path)
    encoder = builders.load_encoder(tmp_path)
    assert br.find(encoder).names == ("bags", "hats")
    catalog = builders.build_catalog(config)
    got = builders.compute_embeddings(config, encoder, catalog).vectors
    plain = builders.compute_embeddings(
        config, builders.build_baseline(config), catalog
    ).vectors
    roots = encoder.get_layer("weight_roots").kernel.numpy()
    names = catalog.category_names[catalog.categories]
    want = plain * roots[(names == "hats").astype(int)] ** 2
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(roots - 1).max() > 1e-4
