"""A model file runs no code in the program that loads it, unless allowed."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf

from tf_triplet.models import backbones, import_backbone, safe_loading


def save(layer, path):
    tf.keras.Sequential([tf.keras.Input([8, 8, 3]), layer]).save(path)
    return path


def rewrite(source, target, change):
    """Copies a .keras file with another config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config["config"]["layers"][-1])
                data = json.dumps(config)
            new.writestr(name, data)
    return target


@pytest.mark.parametrize("kind", [".keras", ".h5"])
def test_a_lambda_layer_is_refused(tmp_path, kind):
    path = tmp_path / f"net{kind}"
    save(tf.keras.layers.Lambda(lambda x: x + 1), path)
    with pytest.raises(
        ValueError, match="Lambda layer.*--trust_run .*builders"
    ):
        safe_loading.load_model(path)
    with pytest.raises(ValueError, match="Lambda layer"):
        import_backbone(path, 8)
    backbone = import_backbone(path, 8, safe_mode=False)
    assert float(tf.reduce_max(backbone(tf.zeros([1, 8, 8, 3])))) == 1


def test_the_lambda_of_a_savedmodel_becomes_its_graph(tmp_path):
    path = save(tf.keras.layers.Lambda(lambda x: x + 1), tmp_path / "net")
    backbone = import_backbone(path, 8)
    assert float(tf.reduce_max(backbone(tf.zeros([1, 8, 8, 3])))) == 1
    kinds = map(type, backbone.submodules)
    assert tf.keras.layers.Lambda not in kinds


def write_module(folder, monkeypatch, name, text):
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


LAYER = """
import tensorflow as tf

class Twice(tf.keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""


def test_a_module_is_imported_only_if_it_is_named(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "twice_layers", LAYER)
    import twice_layers

    path = save(twice_layers.Twice(), tmp_path / "net.keras")
    del sys.modules["twice_layers"]
    with pytest.raises(ValueError, match="'Twice' of .* --import=twice_layers"):
        import_backbone(path, 8)
    assert "twice_layers" not in sys.modules
    # The class is not registered, so Keras alone would not find it.
    backbone = import_backbone(path, 8, modules=["twice_layers"])
    assert float(tf.reduce_max(backbone(tf.ones([1, 8, 8, 3])))) == 2


def test_a_registered_layer_needs_no_module(tmp_path):
    @tf.keras.utils.register_keras_serializable("safe_loading_test")
    class Thrice(tf.keras.layers.Layer):
        def call(self, inputs):
            return 3 * inputs

    path = save(Thrice(), tmp_path / "net.keras")
    backbone = import_backbone(path, 8)
    assert float(tf.reduce_max(backbone(tf.ones([1, 8, 8, 3])))) == 3


def test_activations_of_tensorflow_need_no_module(tmp_path):
    layer = tf.keras.layers.Conv2D(2, 3, activation=tf.nn.gelu)
    path = save(layer, tmp_path / "net.keras")
    assert import_backbone(path, 8).output_shape == (None, 6, 6, 2)


@pytest.mark.parametrize(
    "module,name",
    [("os", "system"), ("builtins", "eval"), ("subprocess", "run")],
)
def test_functions_of_other_modules_are_refused(tmp_path, module, name):
    source = save(tf.keras.layers.Activation("relu"), tmp_path / "net.keras")
    function = {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }
    path = rewrite(
        source,
        tmp_path / "other.keras",
        lambda layer: layer["config"].update(activation=function),
    )
    with pytest.raises(ValueError, match=f"'{name}' of .* module '{module}'"):
        safe_loading.load_model(path)


def test_losses_of_your_own_do_not_matter(tmp_path):
    def error(truth, guess):
        return tf.abs(truth - guess)

    model = tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), tf.keras.layers.Conv2D(2, 3)]
    )
    model.compile("sgd", error)
    model.save(tmp_path / "net.keras")
    safe_loading.load_model(tmp_path / "net.keras")


def test_pickled_weights_are_refused(tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.npz", b"")
    with pytest.raises(ValueError, match="may contain pickled objects"):
        safe_loading.load_model(path)
    with pytest.raises(ValueError, match="may contain pickled objects"):
        backbones.build_backbone("resnet50", 32, path)


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "net.h5").write_bytes(b"no model")
    with pytest.raises(ValueError, match="net.h5 is neither a .keras nor"):
        safe_loading.load_model(tmp_path / "net.h5")


def test_all_modules_with_layers_are_registered():
    """A new module with layers must be listed, or models do not load."""
    folder = Path(safe_loading.__file__).parent
    found = {
        path.stem
        for path in folder.glob("*.py")
        for registers in ("register_keras_serializable(", "custom_objects()")
        if registers in path.read_text()
    }
    assert found == set(safe_loading.LAYER_MODULES)
