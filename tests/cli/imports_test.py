"""Layers and losses of one's own, through every program of a run."""

import sys

import numpy as np
import programs
import pytest
import tensorflow as tf

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.builders import extensions

MODULE = '''
import tensorflow as tf
from tf_triplet import losses


@tf.keras.utils.register_keras_serializable("own")
class Scale(tf.keras.layers.Layer):
    """Multiplies by a number that is kept in the config of the layer."""

    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, inputs):
        return inputs * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


def loss(margin):
    return losses.TripletLoss("batch_hard", margin=margin)
'''
FIELDS = {
    "data.source": "rendered",
    "data.image_size": 32,
    "data.rendered.products": 12,
    "data.rendered.images_per_product": 4,
    "model.backbone": "imported",
    "sampling.units_per_batch": 3,
    "evaluation.ks": "(1,)",
    "export.index": "exact",
    "export.k": 3,
}


def run(folder, verb, *arguments, code=0):
    done = programs.run(verb, *arguments, cwd=folder)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout[-500:]
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A module with a layer, and an encoder that uses it."""
    monkeypatch.setattr(extensions, "_trusted", set())
    (tmp_path / "own_code.py").write_text(MODULE)
    with monkeypatch.context() as path:
        path.syspath_prepend(tmp_path)
        import own_code
    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input([32, 32, 3])
    features = tf.keras.layers.Conv2D(8, 5, 4, activation="relu")(pixels)
    features = own_code.Scale(3.0)(features)
    features = tf.keras.layers.GlobalAveragePooling2D()(features)
    tf.keras.Model(pixels, features).save(tmp_path / "net.keras")
    forget()
    yield tmp_path
    forget()


def forget():
    """As in a program that has not imported the module."""
    extensions._trusted.discard("own_code")
    sys.modules.pop("own_code", None)
    tf.keras.saving.get_custom_objects().pop("own>Scale", None)


def answer_to_its_own_image(config, version):
    """Asks a version with an image that it has indexed."""
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    path = builders.build_catalog(config).paths[5]
    found = served(image_bytes=tf.io.read_file(str(path))[None])
    return found["scores"].numpy()[0], found["paths"].numpy()[0], path


def test_a_registered_layer_trains_evaluates_exports_and_answers(folder):
    fields = {
        **FIELDS,
        "model.path": "net.keras",
        "model.embedding_size": 8,
        "loss.name": "own_code:loss",
        "loss.arguments": "{'margin': 0.3}",
        "training.steps": 2,
        "training.collapse_every": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    run(folder, "train", "--import=own_code", "--workdir=run", *flags)
    text = run(folder, "evaluate", "--workdir=run", code=2)
    assert "names code in `loss.name`: 'own_code:loss'" in text
    assert "Pass --import=own_code" in text
    run(folder, "evaluate", "--workdir=run", "--trust_run")
    run(folder, "export", "--workdir=run", "--import=own_code")
    config = configs.from_json((folder / "run/config.json").read_text())
    assert config.loss.arguments.margin == 0.3
    scores, paths, path = answer_to_its_own_image(
        config, folder / "run/models/product_search/1"
    )
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert len(scores) == 3 and paths[0].decode() == str(path)


def untrained(folder):
    config = configs.paper_config()
    config.update_from_flattened_dict({**FIELDS, "evaluation.ks": (1,)})
    config.model.path = str(folder / "net.keras")
    config.model.embedding_size = 0
    config.training.steps = 0
    return config


def test_an_encoder_of_your_own_is_exported_as_it_is(folder, monkeypatch):
    config = untrained(folder)
    with pytest.raises(ValueError, match="'Scale' of .* --import=own_code"):
        builders.build_encoder(config)
    monkeypatch.syspath_prepend(folder)
    builders.trust("own_code")
    workflows.train(config, folder / "run")
    report = workflows.evaluate(folder / "run", progress=False)
    assert 0 <= report.trained.overall.recall[1] <= 1
    published = workflows.export(folder / "run", progress=False)
    encoder = builders.load_encoder(folder / "run")
    own = tf.keras.models.load_model(folder / "net.keras")
    forget()
    with pytest.raises(ValueError, match="'Scale' of .* --import=own_code"):
        builders.load_encoder(folder / "run")
    pixels = np.random.default_rng(0).random([4, 32, 32, 3], np.float32)
    np.testing.assert_allclose(
        encoder(pixels), tf.math.l2_normalize(own(pixels), -1), atol=1e-6
    )
    scores, paths, path = answer_to_its_own_image(config, published.folder)
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert path.encode() in paths


def test_a_lambda_layer_is_loaded_if_the_run_is_trusted(folder, monkeypatch):
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            tf.keras.layers.Lambda(lambda x: x[:, ::8, ::8]),
            tf.keras.layers.Flatten(),
        ]
    ).save(folder / "net.keras")
    config = untrained(folder)
    with pytest.raises(ValueError, match="net.keras holds a Lambda layer"):
        builders.build_encoder(config)
    with monkeypatch.context() as trusting:
        trusting.setattr(extensions, "_everything", True)
        workflows.train(config, folder / "run")
    with pytest.raises(ValueError, match="encoder.keras holds a Lambda layer"):
        builders.load_encoder(folder / "run")
    encoder = builders.load_encoder(folder / "run", trust=True)
    assert encoder.output_shape == (None, 48)


@pytest.mark.parametrize(
    "verb",
    ["train", "evaluate", "compare", "export", "index", "serve", "query"],
)
def test_every_program_has_the_flags(tmp_path, verb):
    text = run(tmp_path, verb, "--help", code=1)  # absl's code for --help.
    assert "--import:" in text and "--[no]trust_run:" in text


def test_a_module_that_does_not_exist(tmp_path):
    text = run(tmp_path, "query", "--import=no_such_code", code=2)
    assert "error: --import: there is no module 'no_such_code'" in text
