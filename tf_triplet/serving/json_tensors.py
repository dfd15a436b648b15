"""Tensors in the JSON format of TensorFlow Serving's REST interface.

Most error texts are copied from TensorFlow Serving, word for word.

References:
    https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tf_triplet.serving.errors import Code, RequestError


def parse(text: bytes) -> dict:
    """Reads the body of a request.

    Args:
        text: The body, which must be a JSON object.

    Raises:
        RequestError: It is something else, or its signature name is not a
            string.
    """
    if not text:
        raise _bad("JSON Parse error: The document is empty")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise _bad(f"JSON Value: {_show(body)} Is not object")
    if _utf8(body.get("signature_name", "")) is None:
        raise _bad(
            f"JSON Value: {_show(body)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return body


def fill(
    request: predict_pb2.PredictRequest, body: dict, inputs: Mapping
) -> bool:
    """Copies the inputs from a JSON body into a request.

    The body holds either "instances", a list of rows, or "inputs", one value
    for each input.

    Args:
        request: The request to fill.
        body: The body, from `parse`.
        inputs: The signature's TensorInfo messages, by name.

    Returns:
        Whether the body held rows.

    Raises:
        RequestError: The inputs do not fit the signature.
    """
    if "instances" in body and "inputs" in body:
        raise _bad(
            f"JSON Value: {_show(body)} Not formatted correctly expecting "
            "only one of 'inputs' or 'instances' keys to exist"
        )
    if "instances" in body:
        columns = _columns(body["instances"], inputs)
    elif "inputs" in body:
        columns = _named(body["inputs"], inputs)
    else:
        raise _bad("Missing 'inputs' or 'instances' key")
    for name, value in columns.items():
        dtype = tf.as_dtype(inputs[name].dtype)
        array = _array(value, dtype)
        request.inputs[name].CopyFrom(
            tf.make_tensor_proto(array, dtype, array.shape)
        )
    return "instances" in body


def render(response: predict_pb2.PredictResponse, rows: bool) -> dict:
    """Returns the JSON object that answers a request.

    Args:
        response: The outputs of the signature.
        rows: Whether to answer with "predictions", one entry for each row.
            Otherwise the answer is "outputs", one entry for each output.
    """
    values = {}
    for name, proto in response.outputs.items():
        values[name] = _plain(tf.make_ndarray(proto), name.endswith("_bytes"))
    single = next(iter(values.values())) if len(values) == 1 else None
    if not rows:
        return {"outputs": values if single is None else single}
    if single is not None:
        return {"predictions": single}
    names = list(values)
    return {
        "predictions": [dict(zip(names, row)) for row in zip(*values.values())]
    }


def _columns(instances, inputs) -> dict[str, list]:
    if not isinstance(instances, list):
        raise _bad("Excepting 'instances' value to be an list/array")
    if not instances:
        raise _bad("No values in 'instances' array")
    named = [isinstance(i, dict) and set(i) != {"b64"} for i in instances]
    if not named[0]:
        if len(inputs) > 1:
            raise _bad(
                "instances is a plain list, but expecting list of objects as "
                "multiple input tensors required as per tensorinfo_map"
            )
        if any(named):
            raise _bad(
                "Expecting value/list but got object at item "
                f"{named.index(True)} of input list"
            )
        return {next(iter(inputs)): instances}
    for position, instance in enumerate(instances):
        if not named[position]:
            raise _bad(
                f"Expecting object but got list at item {position} of input "
                "list"
            )
        if set(instance) != set(inputs):
            raise _bad(
                f"Failed to process element: {position} of 'instances' list. "
                f"JSON object: {_show(instance)} keys must be equal to: "
                f"{','.join(sorted(inputs))}"
            )
    return {name: [i[name] for i in instances] for name in inputs}


def _named(value, inputs) -> dict:
    if not isinstance(value, dict) or set(value) == {"b64"}:
        if len(inputs) > 1:
            raise _bad(
                "inputs is a plain value/list, but expecting an object as "
                "multiple input tensors required as per tensorinfo_map"
            )
        return {next(iter(inputs)): value}
    for name in inputs:
        if name not in value:
            raise _bad(f"Missing named input: {name} in 'inputs' object.")
    return {name: value[name] for name in inputs}


def _array(value, dtype) -> np.ndarray:
    """Converts nested lists to an array."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat = []
    _flatten(value, shape, 0, dtype, flat)
    kind = object if dtype == tf.string else dtype.as_numpy_dtype
    try:
        return np.array(flat, kind).reshape(shape)
    except OverflowError as error:
        raise _bad(f"JSON Value is out of range of {dtype.name}") from error
    except ValueError as error:  # NumPy allows 32 axes at most.
        raise _bad(f"Lists in {len(shape)} levels: {error}") from error


def _flatten(value, shape, level, dtype, flat):
    if level == len(shape):
        flat.append(_scalar(value, dtype))
        return
    if not isinstance(value, list):
        raise _bad(
            f"JSON Value: {_show(value)} found at incorrect level: "
            f"{level + 1} in the JSON DOM. Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise _bad(
            f"Encountered list at unexpected size: {len(value)} at level: "
            f"{level} expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, shape, level + 1, dtype, flat)


def _scalar(value, dtype):
    if dtype == tf.string:
        if (text := _utf8(value)) is not None:
            return text
        if isinstance(value, dict) and isinstance(value.get("b64"), str):
            return _decode(value["b64"])
        if isinstance(value, dict):
            raise _bad(
                f"JSON Value: {_show(value)} not formatted correctly for "
                "base64 data"
            )
    elif dtype == tf.bool:
        if isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if dtype.is_floating or isinstance(value, int):
            return value
    elif isinstance(value, list):
        raise _bad("Encountered list at unexpected level")
    raise _bad(
        f"JSON Value: {_show(value)} is not of expected type: {dtype.name}"
    )


def _utf8(value) -> bytes | None:
    """Encodes a string.

    Returns:
        The bytes, or `None` if the value is not a string or holds half of a
        UTF-16 surrogate pair.
    """
    try:
        return value.encode()
    except (AttributeError, UnicodeEncodeError):
        return None


def _decode(text: str) -> bytes:
    """Decodes base64.

    White space is ignored and the padding is optional, as in TensorFlow
    Serving.
    """
    text = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("Unable to base64 decode") from error


def _plain(array: np.ndarray, is_bytes: bool):
    """Converts an array to nested lists."""
    if array.dtype == object:
        return _texts(array.tolist(), is_bytes)
    if array.dtype == np.float32:
        # The fewest digits that identify a float32: 0.1, not
        # 0.10000000149011612.
        array = array.astype("U32").astype(np.float64)
    return array.tolist()


def _texts(value, is_bytes: bool):
    if isinstance(value, list):
        return [_texts(item, is_bytes) for item in value]
    if is_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")


def _show(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _bad(text: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text)
