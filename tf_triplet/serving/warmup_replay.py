"""Warms up a version before it answers requests.

The first search builds ScaNN's index, and the first image plans the encoder's
graph. No client should have to wait for that.
"""

from __future__ import annotations

import logging

import numpy as np
import tensorflow as tf

from tf_triplet.models import branches
from tf_triplet.servable import warmup
from tf_triplet.serving.errors import Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel


def warm_up(model: LoadedModel) -> set[str]:
    """Replays the recorded requests, then runs the remaining signatures.

    Args:
        model: The version.

    Returns:
        The signatures that ran.

    Raises:
        ValueError: A recorded request fails. TensorFlow Serving does not
            load such a version either.
    """
    warmed = _replay(model)
    for name in model.signature_defs:
        if name in warmed:
            continue
        try:
            model.compute(name, _make_inputs(model, name))
            warmed.add(name)
        except RequestError as error:
            # INVALID_ARGUMENT may mean only that the inputs made here do not
            # suit the signature.
            if error.code != Code.INVALID_ARGUMENT:
                raise ValueError(
                    f"Signature {name} fails: {error.details}"
                ) from error
            logging.warning(
                "%s: signature %s is not warmed up: %s",
                model.path,
                name,
                error.details,
            )
    return warmed


def _replay(model):
    warmed = set()
    for request in warmup.read(model.path, model.signature_defs):
        name = request.model_spec.signature_name
        try:
            # Not batched, because batching would reject many rows.
            model.run(name, request.inputs, alone=True)
        except RequestError as error:
            raise ValueError(
                f"{model.path / warmup.FILE}: a request to {name} fails: "
                f"{error}"
            ) from error
        warmed.add(name)
    return warmed


def _make_inputs(model, name):
    """Returns one row for each input: an image, a branch's name, or zeros."""
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
    # No signature reads this variable, so it must come from the files.
    variables = tf.train.load_checkpoint(
        str(model.path / "variables" / "variables")
    )
    key = "branch_names/.ATTRIBUTES/VARIABLE_VALUE"
    if not variables.has_tensor(key):
        return b""
    return variables.get_tensor(key)[0]
