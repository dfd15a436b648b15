"""Requests that a server runs before a version goes live.

TensorFlow Serving reads assets.extra/tf_serving_warmup_requests, a TFRecord
file of PredictionLog messages, and runs each request when it loads the model.
The first search builds ScaNN's index, and the first image traces the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def write(
    folder: str | Path,
    model: str,
    signatures: Mapping[str, Sequence[str]],
    inputs: Mapping[str, Sequence],
) -> None:
    """Writes two requests for each signature: of one row, and of all rows.

    Args:
        folder: The folder of the version.
        model: The name of the model.
        signatures: The names of the inputs of each signature.
        inputs: `[n]` strings or `[n, dim]` floats for each input.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, taken in signatures.items():
            for rows in sorted({1, len(inputs[taken[0]])}):
                values = {key: inputs[key][:rows] for key in taken}
                log = _make_log(model, name, values)
                writer.write(log.SerializeToString())


def _make_log(model: str, signature: str, inputs: Mapping[str, Sequence]):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log


def read(
    folder: str | Path, signatures: Collection[str] | None = None
) -> list[predict_pb2.PredictRequest]:
    """Reads the requests of a version.

    Args:
        folder: The folder of the version.
        signatures: The names of the model's signatures. `None` accepts a
            request for any signature.

    Returns:
        The requests, each with the name of its signature. The list is empty
        if the version has no such file.

    Raises:
        ValueError: A record is not a PredictionLog, is not a Predict request,
            or is for an unknown signature.
        tf.errors.DataLossError: The file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    try:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except tf.errors.DataLossError as error:
        raise tf.errors.DataLossError(
            None, None, f"{path} is damaged: {error.message}"
        ) from error
    return [_parse(record, path, signatures) for record in records]


def _parse(record: bytes, path: Path, signatures) -> predict_pb2.PredictRequest:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except message.DecodeError as error:
        raise ValueError(
            f"{path} holds a record that is not a PredictionLog: {error}"
        ) from error
    kind = log.WhichOneof("log_type")
    if kind != "predict_log":
        raise ValueError(
            f"{path} holds a request of type {kind}; this model answers only "
            "predict_log."
        )
    request = log.predict_log.request
    spec = request.model_spec
    if not spec.signature_name:
        spec.signature_name = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    if signatures is not None and spec.signature_name not in signatures:
        raise ValueError(
            f"{path} holds a request for signature {spec.signature_name!r}, "
            f"which the model lacks. Its signatures are: "
            f"{', '.join(sorted(signatures))}"
        )
    return request


def replay(signatures: Mapping[str, Callable], folder: str | Path) -> int:
    """Runs the requests of a version through its loaded signatures.

    Args:
        signatures: The signatures of the model, by name, as
            `tf.saved_model.load` returns them.
        folder: The folder of the version.

    Returns:
        The number of requests.

    Raises:
        ValueError: The file of requests is wrong, see `read`.
    """
    requests = read(folder, signatures)
    for request in requests:
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in request.inputs.items()
        }
        signatures[request.model_spec.signature_name](**inputs)
    return len(requests)
