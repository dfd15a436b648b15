"""Training with fields left open, from the table to the kept encoder."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.models import mirroring
from tf_triplet.workflows.mirroring import decide_mirroring
from tf_triplet.workflows.time_budget import fit_to_time


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    tf.keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("network") / "net.keras"
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            tf.keras.layers.Conv2D(12, 5, 4, activation="relu"),
            tf.keras.layers.BatchNormalization(),
        ]
    ).save(path)
    return str(path)


def config(network, products, **fields):
    config = configs.base_config()
    config.data.source = "rendered"
    config.data.image_size = 32
    config.data.rendered.products = products
    config.data.rendered.images_per_product = 4
    config.model.path = network
    config.evaluation.ks = (1,)
    config.update_from_flattened_dict(fields)
    return config


def test_a_run_chooses_once_and_tells(network, tmp_path, capsys):
    made = config(network, 48, **{"training.steps": 2})
    result = workflows.train(made, tmp_path / "run")
    text = capsys.readouterr().out
    assert "model.backbone = imported: model.path is given" in text
    assert "data.mirrored_is_same = " in text
    saved = builders.load_config(tmp_path / "run")
    assert builders.open_fields(saved) == []
    assert saved.model.pooling == "average_max"
    start = json.loads((tmp_path / "run/pretrained.json").read_text())
    assert result.pretrained == start["value"]
    assert result.value >= result.pretrained
    assert result.gained == (result.best_step > 0)
    kept = builders.load_encoder(tmp_path / "run")
    assert mirroring.is_mirrored(kept) == saved.data.mirrored_is_same
    # The same call again finds the run complete, with what was chosen.
    again = workflows.train(made, tmp_path / "run")
    assert "Chosen for this catalog" not in capsys.readouterr().out
    assert again.value == result.value
    # The next run from its encoder has the same network.
    other = workflows.train(
        config(network, 48, **{"training.steps": 1}),
        tmp_path / "next",
        init_from=tmp_path / "run",
    )
    start = json.loads((tmp_path / "next/pretrained.json").read_text())
    assert list(start["of"]) == ["earlier"]
    assert other.step == 1


def test_too_few_products_keep_the_pretrained_features(network, tmp_path):
    with pytest.raises(ValueError, match="`require_gain`: .* not known"):
        workflows.train(config(network, 16), tmp_path, require_gain=True)
    saved = builders.load_config(tmp_path)
    assert (saved.training.steps, saved.model.embedding_size) == (0, 0)
    assert builders.load_encoder(tmp_path).output_shape == (None, 12)
    report = workflows.evaluate(tmp_path)
    assert 0 <= report.trained.overall.recall[1] <= 1


def test_a_training_that_helps_nothing_is_not_kept(network, tmp_path):
    made = config(
        network,
        48,
        **{
            "training.steps": 3,
            "optimizer.learning_rate": 1e3,
            "training.stop_on_collapse": False,
            "optimizer.warmup_steps": 0,
        },
    )
    result = workflows.train(made, tmp_path)
    assert result.best_step == 0 and result.gained is False
    assert "no gain" in result.describe_gain()
    with pytest.raises(ValueError, match="`require_gain`: .* no gain"):
        workflows.train(made, tmp_path, require_gain=True)


def test_a_time_chooses_the_steps(network, tmp_path, capsys):
    made = config(network, 48, **{"evaluation.every": 0})
    made.data.image_size = 32
    # A hundredth of a minute, which is a few steps.
    workflows.train(made, tmp_path, minutes=0.01)
    text = capsys.readouterr().out
    assert "0.01 minutes at" in text or "epochs bring nothing" in text
    saved = builders.load_config(tmp_path)
    assert saved.training.steps >= 1
    made.training.steps = 7
    with pytest.raises(ValueError, match="training.steps=7"):
        fit_to_time(made, 1, np.arange(9), lambda config: 1.0)


@pytest.mark.parametrize(
    "minutes,size,steps", [(1, 64, 102), (20, 96, 906), (600, 224, 3750)]
)
def test_larger_images_need_time_for_ten_epochs(minutes, size, steps):
    made = configs.base_config()

    def seconds(config):
        return 0.5 * (config.data.image_size / 64) ** 2

    products = np.repeat(np.arange(1_000), 4)
    fitted, choices = fit_to_time(made, minutes, products, seconds)
    assert fitted.data.image_size == size
    assert fitted.training.steps == steps
    assert {c.field for c in choices} >= {"training.steps"}


def split_of(images):
    return types.SimpleNamespace(validation=images, training=images)


@pytest.mark.parametrize("symmetric", [True, False])
def test_mirroring_is_decided_on_the_images(tmp_path, monkeypatch, symmetric):
    """Products differ in their left half; mirrored, they are others."""
    from PIL import Image

    made = configs.base_config()
    made.data.source, made.data.path = "folder", str(tmp_path)
    rng = np.random.default_rng(0)
    for product in range(12):
        (tmp_path / f"p{product}").mkdir()
        half = rng.integers(0, 255, [8, 4, 3])
        other = half[:, ::-1] if symmetric else 255 - half[:, ::-1]
        for number in range(3):
            noise = rng.integers(-3, 3, [8, 8, 3])
            pixels = np.concatenate([half, other], 1) + noise
            image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
            image.save(tmp_path / f"p{product}" / f"{number}.png")
    catalog = builders.build_catalog(made)
    made, _ = builders.resolve(made, catalog.products, builders.Machine())
    made.data.image_size = 8
    inputs = tf.keras.Input([8, 8, 3])
    outputs = tf.keras.layers.UnitNormalization()(
        tf.keras.layers.Flatten()(inputs - 0.5)
    )
    encoder = tf.keras.Model(inputs, outputs)
    chosen, choices = decide_mirroring(made, encoder, split_of(catalog))
    assert chosen.augment.flip == symmetric
    # All is found without the mean already, so it is not worth its time.
    assert chosen.data.mirrored_is_same is False
    assert "1.000" in choices[0].reason
    chosen, _ = decide_mirroring(made, encoder, split_of(None))
    assert (chosen.augment.flip, chosen.data.mirrored_is_same) == (False, False)
    made.augment.flip, made.data.mirrored_is_same = not symmetric, True
    assert decide_mirroring(made, encoder, split_of(catalog)) == (made, [])
