"""A table of requests, with TensorFlow Serving's answer to each.

The answers were recorded from a TensorFlow Serving 2.15 that was built from
source on another machine. Those marked as not recorded come from the graph of
an export, which has changed since. These tests compare the local server with
them. To
test another server, set `TF_TRIPLET_SERVER=host:port`. It must serve an export
without branches, under the name `TF_TRIPLET_MODEL` (product_search by
default).
"""

import dataclasses
import os

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tf_triplet.serving import server, server_config

Code = grpc.StatusCode
UNKNOWN_VERSION = 987_654


@dataclasses.dataclass
class Target:
    """A server under test."""

    channel: grpc.Channel
    name: str
    dim: int = 0
    version: int = 0

    @property
    def predictions(self):
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @property
    def management(self):
        return model_service_pb2_grpc.ModelServiceStub(self.channel)

    def spec(self, message, name=None, version=None, label="", signature=""):
        spec = message.model_spec
        spec.name = self.name if name is None else name
        spec.signature_name = signature
        if version is not None:
            spec.version.value = version
        if label:
            spec.version_label = label
        return message


@pytest.fixture(scope="module")
def target(exported):
    address = os.environ.get("TF_TRIPLET_SERVER")
    name, local = os.environ.get("TF_TRIPLET_MODEL", "product_search"), None
    if not address:
        folder = exported["exact"].parent
        local = server.Server(
            server_config.one_model(name, folder),
            server.Options(port=0, poll_seconds=0),
        )
        address = f"localhost:{local.port}"
    with grpc.insecure_channel(address) as channel:
        target = Target(channel, name)
        answer = metadata(target)
        table = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(table)
        shape = table.signature_def["encode"].outputs["embedding"].tensor_shape
        target.dim = shape.dim[1].size
        target.version = answer.model_spec.version.value
        yield target
    if local is not None:
        local.stop()


def image():
    pixels = np.full([9, 8, 3], 90, np.uint8)
    return tf.io.encode_png(pixels).numpy()


def predict(target, inputs="image", outputs=(), dim=None, **spec):
    request = target.spec(predict_pb2.PredictRequest(), **spec)
    request.output_filter.extend(outputs)
    named = {
        "image": {"image_bytes": [image()]},
        "no image": {"image_bytes": [b"no image"]},
        "one of two": {"image_bytes": [image(), b"no image"]},
        "nothing": {},
        "misnamed": {"image": [image()]},
        "extra": {"image_bytes": [image()], "more": [1.0]},
        "empty": {"image_bytes": np.array([], object)},
        "vector": {"embedding": np.ones([1, target.dim], np.float32)},
        "double": {"embedding": np.ones([1, target.dim])},
        "wide": {"embedding": np.ones([1, target.dim + 1], np.float32)},
    }
    for name, value in named[inputs].items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return target.predictions.Predict(request, timeout=60)


def metadata(target, fields=("signature_def",), **spec):
    request = target.spec(
        get_model_metadata_pb2.GetModelMetadataRequest(), **spec
    )
    request.metadata_field.extend(fields)
    return target.predictions.GetModelMetadata(request, timeout=60)


def status(target, **spec):
    request = target.spec(get_model_status_pb2.GetModelStatusRequest(), **spec)
    return target.management.GetModelStatus(request, timeout=60)


def classify(target, **spec):
    request = target.spec(classification_pb2.ClassificationRequest(), **spec)
    request.input.example_list.examples.add()
    return target.predictions.Classify(request, timeout=60)


def regress(target, **spec):
    request = target.spec(regression_pb2.RegressionRequest(), **spec)
    request.input.example_list.examples.add()
    return target.predictions.Regress(request, timeout=60)


def infer(target, method="tensorflow/serving/classify", **spec):
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.add()
    target.spec(request.tasks.add(method_name=method), **spec)
    return target.predictions.MultiInference(request, timeout=60)


def reload_empty(target):
    request = model_management_pb2.ReloadConfigRequest()
    return target.management.HandleReloadConfigRequest(request, timeout=60)


def health(target, service=""):
    stub = health_pb2_grpc.HealthStub(target.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    return stub.Check(request, timeout=60)


# Rows of (call, its arguments, code, a part of the text). In the text, {name}
# stands for the name of the model.
ERRORS = [
    (predict, {"name": ""}, "INVALID_ARGUMENT", "has no name specified."),
    (
        *(predict, {"name": "zzz"}, "NOT_FOUND"),
        "Servable not found for request: Latest(zzz)",
    ),
    (
        *(predict, {"version": UNKNOWN_VERSION}, "NOT_FOUND"),
        "Servable not found for request: Specific({name}, 987654)",
    ),
    (
        *(predict, {"label": "canary"}, "INVALID_ARGUMENT"),
        "Unrecognized servable version label: canary",
    ),
    (
        *(predict, {"signature": "zzz"}, "FAILED_PRECONDITION"),
        'Serving signature key "zzz" not found.',
    ),
    (
        *(predict, {"outputs": ["nope"]}, "INVALID_ARGUMENT"),
        "output tensor alias not found in signature: nope Outputs expected "
        "to be in the set {{",
    ),
    (
        *(predict, {"inputs": "nothing"}, "INVALID_ARGUMENT"),
        "input size does not match signature: 0!=1",
    ),
    (
        *(predict, {"inputs": "extra"}, "INVALID_ARGUMENT"),
        "input size does not match signature: 2!=1",
    ),
    (predict, {"inputs": "misnamed"}, "INVALID_ARGUMENT", "image_bytes"),
    # Not recorded: the text of our graph, if no image can be decoded.
    (
        *(predict, {"inputs": "no image"}, "INVALID_ARGUMENT"),
        "Unknown image file format. One of JPEG, PNG, GIF, BMP required.",
    ),
    (
        predict,
        {"inputs": "double", "signature": "search"},
        "INVALID_ARGUMENT",
        "to be float but double is provided",
    ),
    (
        predict,
        {"inputs": "wide", "signature": "search_exact"},
        "INVALID_ARGUMENT",
        "",
    ),
    (
        *(metadata, {"fields": ()}, "INVALID_ARGUMENT"),
        "must specify at least one metadata_field",
    ),
    (
        *(metadata, {"fields": ["x"]}, "INVALID_ARGUMENT"),
        "Metadata field x is not supported",
    ),
    (metadata, {"name": "zzz"}, "NOT_FOUND", "zzz"),
    (
        *(status, {"name": "zzz"}, "NOT_FOUND"),
        "Could not find any versions of model zzz",
    ),
    (
        *(status, {"version": UNKNOWN_VERSION}, "NOT_FOUND"),
        "Could not find version 987654 of model {name}",
    ),
    # Recorded for 3 outputs. Since `status` there are 4.
    (
        *(classify, {}, "INVALID_ARGUMENT"),
        "Expected one or two output Tensors, found ",
    ),
    (classify, {"name": "zzz"}, "NOT_FOUND", "Latest(zzz)"),
    (regress, {}, "INVALID_ARGUMENT", "Expected one output Tensor."),
    (infer, {}, "INVALID_ARGUMENT", "Expected one or two output Tensors"),
    (infer, {"method": "x"}, "UNIMPLEMENTED", "Unsupported signature method"),
    (
        *(reload_empty, {}, "INVALID_ARGUMENT"),
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    ),
    (health, {"service": "zzz"}, "NOT_FOUND", ""),
]


def describe(row):
    call, arguments, code, _ = row
    text = ",".join(f"{k}={v}" for k, v in arguments.items())
    return f"{call.__name__}({text})-{code}"


@pytest.mark.parametrize("row", ERRORS, ids=map(describe, ERRORS))
def test_errors(target, row):
    call, arguments, code, text = row
    with pytest.raises(grpc.RpcError) as caught:
        call(target, **arguments)
    details = caught.value.details()
    assert caught.value.code().name == code, details
    assert text.format(name=target.name) in details
    # The server continues to answer.
    assert predict(target).model_spec.version.value == target.version


ANSWERED = [
    ("image", "", {"product_ids", "scores", "paths"}),
    ("image", "encode", {"embedding"}),
    ("image", "encode_and_search_exact", {"product_ids", "scores", "paths"}),
    # Not recorded: before `status`, the whole request was an error.
    ("one of two", "", {"product_ids", "scores", "paths", "status"}),
    ("one of two", "encode", {"embedding"}),
    ("vector", "search", {"product_ids", "scores", "paths"}),
    ("vector", "search_exact", {"product_ids", "scores", "paths"}),
]


@pytest.mark.parametrize("inputs,signature,outputs", ANSWERED)
def test_answers(target, inputs, signature, outputs):
    answer = predict(target, inputs, signature=signature)
    # The export of another server may have extra columns.
    assert outputs <= set(answer.outputs)
    assert answer.model_spec.name == target.name
    assert answer.model_spec.version.value == target.version
    want = signature or "serving_default"
    assert answer.model_spec.signature_name == want


def test_output_filter(target):
    assert set(predict(target, outputs=["scores"]).outputs) == {"scores"}


def test_an_empty_batch(target):
    if os.environ.get("TF_TRIPLET_SERVER") and not os.environ.get(
        "TF_TRIPLET_EMPTY_BATCH"
    ):
        pytest.skip(
            "An empty batch ends a TensorFlow Serving whose batching file has "
            "allowed_batch_sizes. Set TF_TRIPLET_EMPTY_BATCH=1 if yours has "
            "none."
        )
    answer = predict(target, "empty")
    assert tf.make_ndarray(answer.outputs["scores"]).shape[0] == 0


def test_a_version_by_number(target):
    answer = predict(target, version=target.version)
    assert answer.model_spec.version.value == target.version


def test_status_has_a_row_for_each_version(target):
    rows = status(target).model_version_status
    states = {row.version: row.state for row in rows}
    assert states[target.version] == rows[0].AVAILABLE
    (row,) = status(target, version=target.version).model_version_status
    assert (row.version, row.status.error_code) == (target.version, 0)


def test_health(target):
    assert health(target).status == health_pb2.HealthCheckResponse.SERVING
