"""First requests of a version, made before anybody waits for them.

The first search builds ScaNN's index; the first image plans the encoder.
"""

from __future__ import annotations

import logging

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tf_triplet.models import branches
from tf_triplet.servable.warmup import FILE
from tf_triplet.serving.errors import Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel


def warm(model: LoadedModel) -> set[str]:
    """Replays the recorded requests, then warms the other signatures.

    Returns:
        The signatures that ran.

    Raises:
        ValueError: a recorded request fails. TensorFlow Serving does not
            load such a version either.
    """
    warmed = _replay(model)
    for name in model.signature_defs:
        if name in warmed:
            continue
        try:
            model.compute(name, _guess(model, name))
            warmed.add(name)
        except RequestError as refusal:
            # Only that our own guess was none of its requests.
            if refusal.code != Code.INVALID_ARGUMENT:
                raise ValueError(
                    f"Signature {name} fails: {refusal.details}"
                ) from refusal
            logging.warning(
                "%s: no warm-up request for signature %s: %s",
                model.path,
                name,
                refusal.details,
            )
    return warmed


def _replay(model):
    path = model.path / FILE
    warmed = set()
    if not path.is_file():
        return warmed
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ValueError(
                f"{path} holds a request of type {kind}; this model answers "
                "predict_log alone."
            )
        request = log.predict_log.request
        name = request.model_spec.signature_name or "serving_default"
        if name not in model.signature_defs:
            raise ValueError(f"{path} asks for signature {name!r}, of none.")
        try:
            # Not through a queue: batching would refuse many rows.
            model.run(name, request.inputs, alone=True)
        except RequestError as error:
            raise ValueError(
                f"{path}: a request to {name} fails: {error}"
            ) from error
        warmed.add(name)
    return warmed


def _guess(model, name):
    """One row for each input: an image, the first branch, or zeros."""
    arrays = {}
    for key, info in model.signature_defs[name].inputs.items():
        if key in branches.CHOSEN_BY:
            arrays[key] = np.array([_first_branch(model)], object)
        elif info.dtype == tf.string.as_datatype_enum:
            blank = tf.io.encode_png(np.zeros([8, 8, 3], np.uint8))
            arrays[key] = np.array([blank.numpy()], object)
        else:
            shape = [max(d.size, 1) for d in info.tensor_shape.dim][1:]
            dtype = tf.as_dtype(info.dtype).as_numpy_dtype
            arrays[key] = np.zeros([1, *shape], dtype)
    return arrays


def _first_branch(model) -> bytes:
    # A variable of the module, which no signature reads.
    variables = tf.train.load_checkpoint(
        str(model.path / "variables" / "variables")
    )
    key = "branch_names/.ATTRIBUTES/VARIABLE_VALUE"
    if not variables.has_tensor(key):
        return b""
    return variables.get_tensor(key)[0]
