"""Runs of 0 steps, and a layer before the embedding, as they are used."""

import json

import numpy as np
import programs
import pytest
import tensorflow as tf

from tf_triplet import builders, evaluation
from tf_triplet.data import InputSpec
from tf_triplet.servable import saved_model


def run(verb, *arguments, code=0):
    done = programs.run(verb, *arguments)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-500:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """A workdir of neural codes over a small network with GeM."""
    folder = tmp_path_factory.mktemp("codes")
    tf.keras.utils.set_random_seed(0)
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            tf.keras.layers.Conv2D(8, 5, 4, activation="relu"),
        ]
    ).save(folder / "net.keras")
    fields = {
        "data.source": "rendered",
        "data.image_size": 32,
        "data.rendered.products": 12,
        "data.rendered.images_per_product": 4,
        "model.backbone": "imported",
        "model.path": folder / "net.keras",
        "model.pooling": "gem",
        "model.embedding_size": 4,
        "model.whitening": 4,
        "training.steps": 0,
        "evaluation.ks": "(1,5)",
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    text = run("train", f"--workdir={folder / 'run'}", *flags)
    assert "Built without training" in text
    return folder / "run"


def test_a_run_of_0_steps_leaves_what_training_would(codes):
    best = json.loads((codes / "best.json").read_text())
    assert (best["step"], best["chosen_on"]) == (0, "last")
    assert "the encoder is not trained" in best["sentence"]
    config = builders.load_config(codes)
    catalog = builders.build_catalog(config)
    for checkpoint in ("best", "last"):
        encoder = builders.load_encoder(codes, checkpoint)
        head = encoder.get_layer("embedding")
        unit = builders.load_encoder(codes, checkpoint, "features")
        training = builders.compute_embeddings(
            config, unit, catalog.split("train"), progress=False
        )
        # Whitened on the training split: no mean, unit variance.
        white = head(training.vectors).numpy()
        np.testing.assert_allclose(white.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=5e-3)


def test_evaluate_reads_a_layer_beside_neural_codes(codes):
    text = run(
        "evaluate",
        f"--workdir={codes}",
        "--layer=pool",
        "--baseline=neural_codes",
        "--components=3",
    )
    assert "trained encoder, layer pool" in " ".join(text.split())
    report = json.loads(
        (codes / "report" / "evaluation-test-pool.json").read_text()
    )
    assert report["layer"] == "pool"
    assert report["baseline_kind"] == "neural_codes"
    pooled = evaluation.load_embeddings(
        codes / "embeddings" / "test-best-pool.npz"
    )
    assert pooled.vectors.shape[1] == 8
    assert pooled.source.endswith(", layer pool")
    white = evaluation.load_embeddings(
        codes / "embeddings" / "test-neural_codes.npz"
    )
    assert white.vectors.shape[1] == 3
    assert not (codes / "report" / "evaluation-test.json").exists()


def test_a_layer_is_served(codes, tmp_path):
    encoder = builders.load_encoder(codes, layer="pool")
    pixels = np.random.default_rng(0).random([1, 32, 32, 3], np.float32)
    pixels = np.uint8(pixels * 255)
    vectors = encoder(pixels / np.float32(255)).numpy()
    saved_model.ServedModel(
        encoder,
        vectors,
        ["one"],
        ["1.png"],
        inputs=InputSpec(image_size=32),
        index="exact",
    ).save(tmp_path)
    served = tf.saved_model.load(str(tmp_path)).signatures["encode"]
    answer = served(image_bytes=tf.io.encode_png(pixels[0])[None])
    np.testing.assert_allclose(answer["embedding"], vectors, atol=1e-4)


def test_an_unknown_layer_lists_those_there_are(codes):
    with pytest.raises(
        ValueError, match="no layer 'pol'.*embedding, features, .*pool, "
    ):
        builders.load_encoder(codes, layer="pol")
