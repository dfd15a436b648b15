"""What is no model of Keras 2 is told by what it is."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.models import (
    backbones,
    import_backbone,
    model_files,
    safe_loading,
)


def _network(shape=(8, 8, 3)):
    pixels = tf.keras.Input(shape)
    return tf.keras.Model(pixels, tf.keras.layers.Conv2D(2, 3)(pixels))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a .keras file and of an .h5 file."""
    folder = tmp_path_factory.mktemp("saved")
    found = {}
    for kind in ("keras", "h5"):
        _network().save(folder / f"net.{kind}")
        found[kind] = (folder / f"net.{kind}").read_bytes()
    return found


def _archive(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return data.getvalue()


def _hdf5(**attributes):
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        file.attrs.update(attributes)
        file.create_group("conv2d")
    return data.getvalue()


KERAS_3 = {
    "three.keras": _archive(
        metadata__json=json.dumps({"keras_version": "3.5.0"}),
        config__json="{}",
    ),
    "three.h5": _hdf5(keras_version="3.5.0", model_config="{}"),
    "three.weights.h5": _hdf5(keras_version="3.0.1"),
}


@pytest.mark.parametrize("name", KERAS_3)
def test_a_file_of_keras_3(tmp_path, name):
    (tmp_path / name).write_bytes(KERAS_3[name])
    with pytest.raises(ValueError, match=r"Keras 3\.\d.*model.export") as error:
        import_backbone(tmp_path / name, 8)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "name,data,message",
    [
        ("a.keras", b"", "is empty"),
        ("a.h5", b"", "is empty"),
        ("a.keras", b"hello", "neither a .keras nor an .h5.*b'hello'"),
        ("a.h5", b"version https://git-lfs.github.com", "Git LFS"),
        ("a.keras", b"<!DOCTYPE html>", "HTML"),
        ("a.pth", b"\x80\x02", "file of PyTorch"),
        ("a.onnx", b"\x08\x07", "file of ONNX"),
        ("a.keras", _archive(other__txt="x"), "not a .keras file"),
        ("a.pt", _archive(**{"archive/data__pkl": "x"}), "a file of PyTorch"),
        ("a.npz", _archive(**{"w__npy": "x"}), "weights without the model"),
        ("a.h5", _hdf5(keras_version="2.15.0"), "weights without .*conv2d"),
        ("a.weights.h5", _hdf5(), "weights without the model.*model.weights"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "cut short or damaged"),
    ],
)
def test_files_that_are_no_model(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        import_backbone(tmp_path / name, 8)
    assert "object at 0x" not in str(error.value)
    assert "function_node" not in str(error.value)


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_is_cut_short(tmp_path, saved, kind, share):
    data = saved[kind]
    path = tmp_path / f"net.{kind}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="cut short or damaged"):
        safe_loading.load_model(path)


def test_a_file_with_another_name(tmp_path, saved):
    (tmp_path / "net.keras").write_bytes(saved["h5"])
    with pytest.raises(ValueError, match=r"Rename it to net\.h5"):
        safe_loading.load_model(tmp_path / "net.keras")
    (tmp_path / "net.h5").write_bytes(saved["keras"])
    with pytest.raises(ValueError, match=r"Rename it to net\.keras"):
        safe_loading.load_model(tmp_path / "net.h5")


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(ValueError, match="no saved_model.pb.*nothing"):
        import_backbone(tmp_path, 8)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="Did you mean .*/1'"):
        import_backbone(tmp_path, 8)


class _Own(tf.keras.layers.Layer):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_a_layer_that_is_missing(tmp_path, kind):
    path = tmp_path / f"net.{kind}"
    tf.keras.Sequential([tf.keras.Input([8, 8, 3]), _Own()]).save(path)
    with pytest.raises(ValueError, match="'_Own'.*--import=") as error:
        safe_loading.load_model(path, safe_mode=kind == "keras")
    assert "object at 0x" not in str(error.value)


@pytest.mark.parametrize(
    "shape,message",
    [
        ((299, 299, 3), "299 x 299 pixels: pass --config.data.image_size=299"),
        ((8, 8, 1), "RGB with channels last"),
        ((3, 8, 8), "channels first"),
        ((8, 12, 3), "8 x 12 pixels.*square"),
        ((8,), "an input of shape"),
    ],
)
def test_a_model_of_other_images(shape, message):
    pixels = tf.keras.Input(shape)
    network = tf.keras.Model(pixels, tf.keras.layers.Dense(2)(pixels))
    with pytest.raises(ValueError, match=message):
        import_backbone(network, 8)


def test_a_model_of_two_inputs():
    inputs = [tf.keras.Input((8, 8, 3)), tf.keras.Input((1,))]
    outputs = tf.keras.layers.GlobalAveragePooling2D()(inputs[0]) + inputs[1]
    with pytest.raises(ValueError, match="takes 2 inputs"):
        import_backbone(tf.keras.Model(inputs, outputs), 8)


def test_the_scaling_of_pytorch():
    pixels = tf.keras.Input((2, 2, 3))
    model = tf.keras.Model(pixels, backbones.scale_pixels(pixels, "torch"))
    images = np.random.default_rng(0).random((2, 2, 2, 3)).astype(np.float32)
    wanted = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    again = tf.keras.Model.from_config(model.get_config())
    np.testing.assert_allclose(again(images), wanted, rtol=1e-5, atol=1e-6)


def test_addresses_of_objects_are_left_out():
    error = OSError("cannot read <_io.BytesIO object at 0x7f00>\n\nat once.")
    assert model_files.plain_error(error) == "cannot read the file at once."
