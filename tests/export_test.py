"""The kit in export/: its files are what TensorFlow Serving reads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.serving import saved_model, server, versions

KIT = Path(__file__).parents[1] / "export"


def read(name, message):
    return text_format.Parse((KIT / name).read_text(), message)


def test_models_config_names_the_exported_model():
    config = read("models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.name == "product_search"
    assert model.base_path == "/models/product_search"
    assert model.model_version_policy.latest.num_versions == 1


def test_monitoring_path_is_the_one_the_readme_scrapes():
    # The stubs on PyPI do not hold this message.
    path = re.search('path: "(.*)"', (KIT / "monitoring.config").read_text())
    assert path[1] in (KIT / "README.md").read_text()


def test_batching_config_ends_at_its_largest_batch():
    text = (KIT / "batching.config").read_text()
    allowed = [int(n) for n in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    largest = int(re.search(r"max_batch_size \{ value: (\d+)", text)[1])
    # TensorFlow Serving refuses anything else.
    assert allowed == sorted(allowed) and allowed[-1] == largest


def test_compose_mounts_what_its_flags_name():
    text = (KIT / "compose.yaml").read_text()
    service = yaml.safe_load(text)["services"]["product_search"]
    mounted = [volume.split(":")[-2] for volume in service["volumes"]]
    assert mounted == ["/models", "/config"]
    for flag in service["command"]:
        name, value = flag.split("=")
        if value.startswith("/config/"):
            assert (KIT / Path(value).name).is_file(), name
            assert Path(value).name in (KIT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "product_search"
    inputs = tf.keras.Input([8, 8, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    encoder = tf.keras.Model(
        inputs, tf.keras.layers.UnitNormalization()(pooled)
    )
    with versions.publish(folder) as version:
        saved_model.ServedModel(
            encoder,
            np.eye(3, dtype=np.float32),
            ["red", "green", "blue"],
            ["r.png", "g.png", "b.png"],
            image_size=8,
            k=3,
            index="exact",
        ).save(version)
    running, port, models = server.start(folder, port=0)
    with models.lease("product_search") as model:
        signatures = set(model.signature_defs)
    yield f"localhost:{port}", signatures
    running.stop(0).wait()
    models.release()


def test_client_needs_nothing_of_ours(served, tmp_path):
    address, _ = served
    source = (KIT / "client.py").read_text()
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in getattr(node, "names", [])]
            + [getattr(node, "module", None) or ""]
        )
    }
    assert not any(name.startswith("tf_triplet") for name in imported)
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "green.png")
    done = subprocess.run(
        [sys.executable, KIT / "client.py", tmp_path / "green.png", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["green", "blue", "red"]
    assert lines[0][2] == "g.png" and float(lines[0][0]) > 0.9


def test_readme_tells_every_signature(served):
    text = (KIT / "README.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert told == served[1]
