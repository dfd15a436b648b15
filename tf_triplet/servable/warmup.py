"""Requests that a server runs before a version goes live.

TensorFlow Serving reads assets.extra/tf_serving_warmup_requests, a TFRecord of
PredictionLog, and sends each request through the model as it loads it: the
first search builds ScaNN's index, the first image traces the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def write(
    folder: str | Path,
    model: str,
    signatures: Mapping[str, Sequence[str]],
    inputs: Mapping[str, Sequence],
) -> None:
    """Writes a request of one row and one of all rows for each signature.

    Args:
        folder: of the version.
        model: its name.
        signatures: by name, the names of its inputs.
        inputs: by name, `[n]` strings or `[n, dim]` floats, n the same.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, taken in signatures.items():
            for rows in sorted({1, len(inputs[taken[0]])}):
                values = {key: inputs[key][:rows] for key in taken}
                log = _log(model, name, values)
                writer.write(log.SerializeToString())


def _log(model: str, signature: str, inputs: Mapping[str, Sequence]):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log


def read(folder: str | Path) -> list[predict_pb2.PredictRequest]:
    """The requests of a version; none where it has no such file."""
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    return [
        prediction_log_pb2.PredictionLog.FromString(
            record.numpy()
        ).predict_log.request
        for record in tf.data.TFRecordDataset(str(path))
    ]


def replay(signatures: Mapping, folder: str | Path) -> int:
    """Runs a version's requests through its loaded signatures.

    Returns:
        How many there were.
    """
    requests = read(folder)
    for request in requests:
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in request.inputs.items()
        }
        signatures[request.model_spec.signature_name](**inputs)
    return len(requests)
