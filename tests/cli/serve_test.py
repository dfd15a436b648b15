"""The program: polls, labels by a config file, REST, drains on SIGTERM."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import programs
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model whose answer takes a second; its version adds to the input."""
    folder = tmp_path_factory.mktemp("slow")
    module = tf.Module()

    def wait(x):
        counted = tf.while_loop(
            lambda i, total: i < 250_000,
            lambda i, total: (i + 1, total),
            (0, tf.reduce_sum(x)),
            parallel_iterations=1,
        )
        return {"y": x + 0.0 * counted[1]}

    spec = tf.TensorSpec([None], tf.float32, "x")
    quick = tf.function(lambda x: {"y": x}).get_concrete_function(spec)
    waiting = tf.function(wait).get_concrete_function(spec)
    tf.saved_model.save(
        module, str(folder / "1"), {"quick": quick, "slow": waiting}
    )
    return folder


def ask(channel, signature):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "shop"
    request.model_spec.signature_name = signature
    request.model_spec.version_label = "stable"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=60)


def test_serves_swaps_and_drains(slow, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(slow / "1", models / "1")
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list { config {\n"
        f'  name: "shop" base_path: {json.dumps(str(models))}\n'
        "  model_version_policy { all {} }\n"
        '  version_labels { key: "stable" value: 1 }\n'
        "} }\n"
    )
    command = [
        *(sys.executable, "-m", "tf_triplet.cli.serve"),
        *(f"--model_config_file={config}", "--port=0", "--rest_port=0"),
        *("--poll_seconds=0.1", "--drain_seconds=30"),
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment
    ) as program:
        try:
            line = program.stdout.readline()
            assert line.startswith("Serving shop version 1 on localhost:")
            rest = program.stdout.readline().split()[-1]
            with grpc.insecure_channel(line.split()[-1]) as channel:
                walk(program, channel, rest, models, slow)
            assert program.wait(30) == 0
            assert program.stdout.read() == "Stopped.\n"
        finally:
            program.kill()


def walk(program, channel, rest, models, slow):
    shutil.copytree(slow / "1", models / "part")
    (models / "part").rename(models / "2")
    deadline = time.monotonic() + 30
    states = {}
    while states.get("2") != "AVAILABLE":
        assert time.monotonic() < deadline
        with urllib.request.urlopen(f"http://{rest}/v1/models/shop") as answer:
            rows = json.load(answer)["model_version_status"]
        states = {row["version"]: row["state"] for row in rows}
    assert states["1"] == "AVAILABLE"
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    assert health.Check(request).status == SERVING
    assert ask(channel, "quick").model_spec.version.value == 1
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(ask(channel, "slow"))
    )
    waiting.start()
    time.sleep(0.3)
    assert not answers
    program.send_signal(signal.SIGTERM)
    waiting.join(30)
    # The request under way was answered.
    assert tf.make_ndarray(answers[0].outputs["y"]).tolist() == [1.0]
    with pytest.raises(grpc.RpcError):
        ask(channel, "quick")


@pytest.mark.parametrize(
    "flags,told",
    [
        ([], "Pass one of --workdir, --model_dir and --model_config_file"),
        (
            ["--workdir=a", "--monitoring_config_file=b"],
            "--monitoring_config_file needs --rest_port",
        ),
    ],
)
def test_flags_that_are_wrong(flags, told):
    done = programs.run("serve", *flags, timeout=120)
    assert done.returncode == 2 and told in done.stderr
