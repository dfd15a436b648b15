"""The file of warm-up requests: what is read from it, and its errors."""

import re

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tf_triplet.servable import warmup


@pytest.fixture
def write_records(tmp_path):
    def write(*records):
        path = tmp_path / warmup.FILE
        path.parent.mkdir()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        return path

    return write


def predict_log(signature):
    log = prediction_log_pb2.PredictionLog()
    spec = log.predict_log.request.model_spec
    spec.name, spec.signature_name = "shop", signature
    return log.SerializeToString()


def classify_log():
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.name = "shop"
    return log.SerializeToString()


def test_written_requests_are_read(tmp_path):
    inputs = {"embedding": [[1.0, 2.0], [3.0, 4.0]]}
    warmup.write(tmp_path, "shop", {"search": ["embedding"]}, inputs)
    one, both = warmup.read(tmp_path, ["search", "encode"])
    for request, rows in ((one, 1), (both, 2)):
        assert request.model_spec.name == "shop"
        assert request.model_spec.signature_name == "search"
        got = tf.make_ndarray(request.inputs["embedding"])
        assert got.tolist() == inputs["embedding"][:rows]


def test_a_version_without_the_file_has_no_requests(tmp_path):
    assert warmup.read(tmp_path) == []


def test_a_request_without_a_signature_is_for_the_default(
    write_records, tmp_path
):
    write_records(predict_log(""))
    (request,) = warmup.read(tmp_path, ["serving_default"])
    assert request.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize(
    "record,text",
    [
        (b"\xff", "holds a record that is not a PredictionLog"),
        (classify_log(), "holds a request of type classify_log"),
        (
            predict_log("zzz"),
            "holds a request for signature 'zzz', which the model lacks. Its "
            "signatures are: encode, search",
        ),
    ],
)
def test_errors_name_the_file(write_records, tmp_path, record, text):
    path = write_records(predict_log("search"), record)
    with pytest.raises(ValueError, match=re.escape(f"{path} {text}")):
        warmup.read(tmp_path, ["search", "encode"])


def test_a_damaged_file_is_named(write_records, tmp_path):
    path = write_records(predict_log("search"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(
        tf.errors.DataLossError, match=re.escape(f"{path} is damaged: ")
    ):
        warmup.read(tmp_path)
