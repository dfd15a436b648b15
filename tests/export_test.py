"""The files in export/ are right, and its client works."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.servable import saved_model, versions
from tf_triplet.serving import (
    server,
    server_config,
    server_metrics,
    version_policy,
)

KIT = Path(__file__).parents[1] / "export"


def read(name, message):
    return text_format.Parse((KIT / name).read_text(), message)


def test_models_config_names_the_exported_model():
    config = read("models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.name == "product_search"
    assert model.base_path == "/models/product_search"
    assert model.model_version_policy.latest.num_versions == 1


def test_the_path_of_the_metrics_is_the_same_everywhere():
    path = server_config.read_monitoring(KIT / "monitoring.config")
    assert path == server_metrics.PATH
    for name in ("README.md", "kubernetes.yaml"):
        assert path in (KIT / name).read_text()


def test_an_empty_batch_does_not_stop_the_server():
    # TensorFlow Serving fails a check where it pads an empty batch.
    parameters = server_config.read_batching(KIT / "batching.config")
    assert parameters.allowed_batch_sizes == ()
    assert parameters.max_batch_size == 32


def _server_flags(name):
    if name == "Dockerfile":
        words = (KIT / name).read_text().split("ENTRYPOINT")[1]
        return re.findall(r'"(--[^"]+)"', words)
    services = yaml.safe_load((KIT / "compose.yaml").read_text())["services"]
    return services[name]["command"]


@pytest.mark.parametrize(
    "name", ["Dockerfile", "product_search", "product_search_scann"]
)
def test_the_server_takes_more_requests_than_it_has_processors(name):
    flags = dict(flag[2:].split("=", 1) for flag in _server_flags(name))
    assert int(flags["grpc_max_threads"]) >= 32
    assert flags["enable_grpc_healthcheck_service"] == "true"
    # It does not start with labels in models.config otherwise.
    assert flags["allow_version_labels_for_unavailable_models"] == "true"


@pytest.mark.parametrize(
    "name,image",
    [
        ("product_search", "tensorflow/serving:2.15.1"),
        ("product_search_scann", "${IMAGE:-tf-serving-scann:2.15.1}"),
    ],
)
def test_compose_mounts_the_files_that_its_flags_name(name, image):
    services = yaml.safe_load((KIT / "compose.yaml").read_text())["services"]
    service = services[name]
    assert service["image"] == image
    mounted = [volume.split(":")[-2] for volume in service["volumes"]]
    assert mounted == ["/models", "/config"]
    for flag in service["command"]:
        name, value = flag.split("=")
        if value.startswith("/config/"):
            assert (KIT / Path(value).name).is_file(), name
            assert Path(value).name in (KIT / "Dockerfile").read_text()


def test_kubernetes_probes_the_paths_of_the_server():
    text = (KIT / "kubernetes.yaml").read_text()
    deployment, service = yaml.safe_load_all(text)
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for port in ports.values():
        assert str(port) in (KIT / "Dockerfile").read_text()
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    config = server_config.read_models(KIT / "models.config")
    (name,) = version_policy.read(config)
    for probe, path in (("startupProbe", ""), ("readinessProbe", "/metadata")):
        asked = container[probe]["httpGet"]
        assert asked == {"path": f"/v1/models/{name}{path}", "port": "rest"}


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
            inputs=InputSpec(image_size=8),
            k=3,
            index="exact",
            filters={"category": ["", "", "hat"], "domain": ["", "", ""]},
            columns={"price": ["1.50", "2.50", "3.50"]},
        ).save(version)
    running = server.Server(
        server_config.one_model("product_search", folder),
        server.Options(port=0, rest_port=0, poll_seconds=0),
    )
    with running.models.lease("product_search") as model:
        signatures = set(model.signature_defs)
    yield running, signatures
    running.stop()


def test_the_client_does_not_import_tf_triplet(served, tmp_path):
    address = f"localhost:{served[0].port}"
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
    assert lines[0][2:] == ["g.png", "2.50"] and float(lines[0][0]) > 0.9
    done = subprocess.run(
        [*done.args, "--only_category=hat"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["blue"]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_of_an_earlier_release_keeps_working(served, tmp_path):
    # It was export/client.py before there was a `status`.
    earlier = load(Path(__file__).with_name("earlier_client.py"))
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "green.png")
    good = (tmp_path / "green.png").read_bytes()
    with grpc.insecure_channel(f"localhost:{served[0].port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        (found,) = earlier.search(stub, [good])
        first, bad, last = earlier.search(stub, [good, b"no image", good])
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            earlier.search(stub, [b"no image"])
        (now,) = load(KIT / "client.py").search(stub, [good])
    assert [row["product"] for row in found] == ["green", "blue", "red"]
    assert found[0]["price"] == "2.50" and found[0]["status"] == ""
    assert first == found == last and bad == []
    for row in found:
        del row["status"]
    assert now == found


def test_the_client_names_the_images_that_are_bad(served, tmp_path):
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "green.png")
    good = (tmp_path / "green.png").read_bytes()
    webp = b"RIFF\0\0\0\0WEBPVP8 "
    with grpc.insecure_channel(f"localhost:{served[0].port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(ValueError, match="^image 2: .*WebP.*; image 3: "):
            load(KIT / "client.py").search(stub, [good, webp, good[:40]])


@pytest.mark.parametrize(
    "image,text",
    [
        ("no.jpg", "error: [Errno 2] No such file"),
        ("text.jpg", "error: localhost:{port}: INVALID_ARGUMENT: "),
    ],
)
def test_the_clients_errors_are_one_line(served, tmp_path, image, text):
    (tmp_path / "text.jpg").write_text("no image")
    port = served[0].port
    done = subprocess.run(
        [
            *(sys.executable, KIT / "client.py", tmp_path / image),
            f"localhost:{port}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == ""
    # TensorFlow's libraries may log other lines before it.
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(text.format(port=port))


def test_the_curl_line_of_the_readme(served, tmp_path):
    text = (KIT / "README.md").read_text()
    (line,) = re.findall(r"^printf .*\n  curl .*$", text, re.MULTILINE)
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "photo.jpg")
    done = subprocess.run(
        ["bash", "-c", line.replace(":8501", f":{served[0].rest_port}")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["product_ids"] == ["green", "blue", "red"]


def test_the_readme_lists_every_signature(served):
    text = (KIT / "README.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert listed == served[1]
