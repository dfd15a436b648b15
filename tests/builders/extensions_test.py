"""Code of one's own in a config, and who decides that it may be imported."""

import json
import sys

import numpy as np
import pytest
import reference
import tensorflow as tf

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.builders import extensions

MODULE = '''
import tensorflow as tf
from tf_triplet import losses
from tf_triplet.data import Catalog
import pandas as pd

NUMBER = 3


class Pull(losses.BatchLoss):
    """Positives at the query's place; it needs pairs."""

    in_pairs = True

    def __init__(self, weight=1.0, name="pull"):
        super().__init__(name=name)
        self.weight = weight

    def compute(self, labels, embeddings, keys=None):
        apart = tf.reduce_sum((embeddings[0::2] - embeddings[1::2]) ** 2, -1)
        return losses.BatchValue(self.weight * tf.repeat(apart, 2), {})

    def get_config(self):
        return {"weight": self.weight, "name": self.name}


class NoConfig(Pull):
    def __init__(self):
        super().__init__()


def keras_loss():
    return tf.keras.losses.MeanSquaredError()


def backbone(image_size, weights):
    pixels = tf.keras.Input([image_size, image_size, 3])
    layer = tf.keras.layers.Conv2D(4, 3, name=f"conv_{weights}")
    return tf.keras.Model(pixels, layer(pixels))


def small(image_size, weights):
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [tf.keras.Input([4, 4, 3]), layers.Flatten(), layers.Dense(2)]
    )


class Corner(tf.keras.layers.Layer):
    def call(self, inputs):
        return inputs[:, 0, 0]


def no_pooling():
    return tf.keras.layers.Activation("relu")


def read(path, seed, test_fraction):
    frame = pd.DataFrame({"path": ["a.png", "b.png"], "product_id": "p1"})
    frame["split"] = "train"
    frame["price"] = [seed, test_fraction]
    return Catalog.from_frame(frame, path, extras=["price"])
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that nothing has imported yet, and its name."""
    monkeypatch.setattr(extensions, "_trusted", set())
    monkeypatch.setattr(extensions, "_everything", False)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{tmp_path.name}".replace("-", "_").lower()
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def config(**changes):
    made = configs.paper_config()
    made.data.source = "rendered"
    made.data.image_size = 8
    made.sampling.units_per_batch = 2
    made.update_from_flattened_dict(changes)
    return made


def catalog():
    rows = range(8)
    return reference.catalog(
        [f"{i}.png" for i in rows],
        [f"p{i // 2}" for i in rows],
        split=["train"] * 8,
    )


def test_a_loss_of_your_own(own):
    made = config(**{"loss.name": f"{own}:Pull", "loss.arguments.weight": 2.0})
    builders.validate(made)
    loss = builders.build_loss(made)
    embeddings = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    assert float(loss([0, 0], embeddings)) == 4.0
    made.sampling.units = "products"
    with pytest.raises(ValueError, match=":Pull` .* `sampling.units=pairs`"):
        builders.validate(made)


def test_arguments_survive_json_and_reach_a_third_party_loss():
    made = config(**{"loss.name": "tfa_hard"})
    made.loss.arguments = {"margin": 0.3}
    again = configs.from_json(configs.to_json(made))
    assert configs.difference(made, again) == []
    assert builders.build_loss(again).get_config()["margin"] == 0.3
    again.loss.arguments.sharpness = 1.0
    with pytest.raises(ValueError, match="no argument sharpness"):
        builders.validate(again)


def test_copies_of_a_loss_need_its_get_config(own):
    made = config(**{"loss.name": f"{own}:NoConfig", "model.learners": 2})
    with pytest.raises(ValueError, match="Give it a method get_config()"):
        builders.build_loss(made)


def test_a_backbone_and_a_pooling_of_your_own(own):
    made = config(
        **{
            "model.backbone": f"{own}:backbone",
            "model.weights": "none",
            "model.pooling": f"{own}:Corner",
            "model.embedding_size": 3,
        }
    )
    builders.validate(made)
    encoder = builders.build_encoder(made)
    assert encoder.input_shape == (None, 8, 8, 3)
    assert encoder.output_shape == (None, 3)
    pixels = np.zeros([1, 8, 8, 3], np.float32)
    pixels[:, 4:] = 1.0  # Not seen by a filter in the corner.
    np.testing.assert_allclose(encoder(pixels), encoder(0 * pixels))
    again = builders.build_encoder(made)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(encoder.get_weights(), again.get_weights())
    )
    made.model.layer = "conv_none"
    with pytest.raises(ValueError, match="no layer 'conv_none'.*The layers"):
        builders.build_encoder(made)


def test_a_backbone_of_another_size(own):
    made = config(**{"model.backbone": f"{own}:small"})
    with pytest.raises(ValueError, match=r"does not take \[batch, 8, 8, 3\]"):
        builders.build_encoder(made)


def test_a_pooling_that_does_not_pool(own):
    made = config(
        **{
            "model.backbone": f"{own}:backbone",
            "model.pooling": f"{own}:no_pooling",
        }
    )
    with pytest.raises(ValueError, match=r"must map .* to \[batch, channels\]"):
        builders.build_encoder(made)


def test_a_source_of_your_own(own):
    made = config(**{"data.source": f"{own}:read", "data.path": "shop"})
    made.data.split_seed = 7
    builders.validate(made)
    found = builders.build_catalog(made, ["price"])
    assert (found.name, len(found)) == ("shop", 2)
    assert found.extras["price"].tolist() == [7, 0.5]
    with pytest.raises(ValueError, match="no extra columns color.*has: price"):
        builders.build_catalog(made, ["color"])


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("loss.name", "{own}:", "or module:Name for code of your own"),
        ("loss.name", "no_such_module:Loss", "searched the current folder"),
        ("loss.name", "{own}:Pul", "`loss.name=.*has no 'Pul'. It has: .*Pull"),
        ("model.pooling", "{own}:NUMBER", "must be a function or a class. Rec"),
        ("model.backbone", "{own}.x:B", "there is no module '{own}.x'"),
    ],
)
def test_what_cannot_be_resolved_is_named(own, field, value, message):
    made = config(**{field: value.format(own=own)})
    with pytest.raises(ValueError, match=message.format(own=own)):
        builders.validate(made)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("loss.name", "keras_loss", "must return a tf_triplet.losses.BatchLo"),
        ("model.backbone", "read", r"unexpected|missing.*takes \(path, seed, "),
        ("model.backbone", "Corner", "'image_size': 8.* failed with TypeErr"),
        ("data.source", "backbone", "is called with .*'path': ''"),
    ],
)
def test_what_does_not_fit_is_named(own, field, value, message):
    made = config(**{field: f"{own}:{value}"})
    build = {
        "loss.name": builders.build_loss,
        "model.backbone": builders.build_backbone,
        "data.source": builders.build_catalog,
    }[field]
    with pytest.raises(ValueError, match=f"(?s)`{field}={own}.*{message}"):
        build(made)


def test_a_module_that_fails_is_told(own, tmp_path):
    (tmp_path / "broken.py").write_text("import tf_triplet\n1 / 0\n")
    with pytest.raises(ValueError, match="broken' failed with ZeroDivisionErr"):
        builders.validate(config(**{"loss.name": "broken:Loss"}))
    (tmp_path / "lacking.py").write_text("import no_such_library\n")
    with pytest.raises(ValueError, match="lacking' failed with ModuleNotFound"):
        builders.validate(config(**{"loss.name": "lacking:Loss"}))


def test_a_runs_folder_names_code_that_is_not_trusted(own, tmp_path):
    made = config(**{"loss.name": f"{own}:Pull"})
    (tmp_path / "config.json").write_text(configs.to_json(made))
    with pytest.raises(ValueError, match=f"Pass --import={own} .*--trust_run"):
        builders.load_config(tmp_path)
    assert own not in sys.modules
    builders.trust(own)
    assert builders.load_config(tmp_path).loss.name == f"{own}:Pull"


def test_a_folder_can_be_trusted_once_or_always(own, tmp_path, monkeypatch):
    made = config(**{"model.pooling": f"{own}:Corner"})
    (tmp_path / "config.json").write_text(configs.to_json(made))
    builders.load_config(tmp_path, trust=True)
    monkeypatch.setattr(extensions, "_trusted", set())
    with pytest.raises(ValueError, match="names code in `model.pooling`"):
        builders.load_config(tmp_path)
    builders.trust(everything=True)
    builders.load_config(tmp_path)
    assert extensions.model_options()["safe_mode"] is False


def test_what_this_process_trained_with_is_trusted(own, tmp_path):
    made = config(**{"loss.name": f"{own}:Pull"})
    builders.validate(made)
    (tmp_path / "config.json").write_text(configs.to_json(made))
    builders.load_config(tmp_path)
    assert extensions.model_options()["modules"] == (own,)


def test_programs_that_are_started_get_the_same_trust(own):
    fields = configs.flatten(
        config(**{"data.source": "shop.tables:read"}).to_dict()
    )
    assert builders.program_flags(fields) == ["--import=shop.tables"]
    builders.trust("layers")
    assert builders.program_flags(fields) == ["--import=layers,shop.tables"]
    builders.trust(everything=True)
    assert builders.program_flags(fields)[1:] == ["--trust_run"]
    assert json.loads(json.dumps(fields["data.source"])) == "shop.tables:read"
