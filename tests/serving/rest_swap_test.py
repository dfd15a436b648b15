"""A REST request is parsed and answered by one and the same version."""

import json
import threading

import pytest
import tensorflow as tf
from werkzeug.test import Client

from tf_triplet.serving import (
    json_tensors,
    prediction,
    rest,
    server_metrics,
    version_policy,
)
from tf_triplet.serving.model_manager import ModelManager


def save_double(path, input_name):
    """Saves a model that doubles `[n]` floats, its input named as asked."""
    spec = tf.TensorSpec([None], tf.float32, input_name)
    double = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    signatures = {"serving_default": double.get_concrete_function()}
    tf.saved_model.save(tf.Module(), str(path), signatures)


@pytest.fixture
def models(tmp_path):
    save_double(tmp_path / "1", "old_name")
    manager = ModelManager()
    manager.configure({"double": version_policy.Model(tmp_path)})
    yield manager
    manager.release()


def test_a_swap_while_a_request_is_parsed(models, tmp_path, monkeypatch):
    """Version 2, whose input has another name, arrives during the parsing."""
    fill, polls = json_tensors.fill, []

    def fill_after_swap(*arguments):
        save_double(tmp_path / "2", "new_name")
        polls.append(threading.Thread(target=models.poll))
        polls[0].start()
        # Version 1 ends only after its last request, which may be this one.
        polls[0].join(timeout=0.1)
        while models.available("double") != [2]:
            polls[0].join(timeout=0.1)
        return fill(*arguments)

    monkeypatch.setattr(json_tensors, "fill", fill_after_swap)
    metrics = server_metrics.Metrics()
    predictor = prediction.Predictor(models, metrics)
    answer = Client(rest.RestApi(predictor, metrics)).post(
        "/v1/models/double:predict",
        data=json.dumps({"inputs": {"old_name": [1.5]}}),
    )
    assert answer.get_json() == {"outputs": [3.0]}
    polls[0].join()
    assert models.available("double") == [2]
