"""TensorFlow Serving's prediction calls, from message to message.

gRPC and REST both come here; a refusal is an exception.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
)

from tf_triplet.serving import server_metrics as metrics_lib
from tf_triplet.serving.errors import Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel
from tf_triplet.serving.model_manager import ModelManager

DEFAULT = "serving_default"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


# Where a message keeps values of a type.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


class Predictor:
    """Answers the requests for the models of one manager."""

    def __init__(self, models: ModelManager, metrics: metrics_lib.Metrics):
        """Lends models for each request, and counts it."""
        self.models, self._metrics = models, metrics

    def predict(
        self, request, deadline: float | None = None
    ) -> predict_pb2.PredictResponse:
        """Runs a signature; see `counted`.

        Args:
            request: a PredictRequest.
            deadline: on `time.monotonic`'s clock.
        """
        with self.lease(request.model_spec) as model:
            return self._predict(model, request, deadline)

    @contextlib.contextmanager
    def counted(self, name: str, entrypoint: str) -> Iterator[None]:
        """Counts a Predict and its time by how it ends.

        Args:
            name: of the model, as the client wrote it.
            entrypoint: GRPC or REST.

        Raises:
            RequestError: The error that the block raised. A defect of ours
                becomes INTERNAL and is logged.
        """
        start, status = time.monotonic(), "OK"
        name = name if self.models.knows(name) else ""
        try:
            yield
        except RequestError as refusal:
            status = refusal.code.name
            raise
        except Exception as error:
            status = Code.INTERNAL.name
            logging.exception("A request failed.")
            raise RequestError(
                Code.INTERNAL, f"{type(error).__name__}: {error}"
            ) from error
        finally:
            prefix = ":tensorflow:serving:"
            self._metrics.add(f"{prefix}request_count", name, status)
            self._metrics.observe(
                f"{prefix}request_latency",
                *(name, "Predict", entrypoint),
                value=1e6 * (time.monotonic() - start),
            )

    def lease(self, spec):
        """Lends the model that a ModelSpec names."""
        version = spec.version.value if spec.HasField("version") else None
        return self.models.lease(spec.name, version, spec.version_label)

    def metadata(self, request):
        """Answers GetModelMetadata; field `signature_def` alone."""
        if not request.model_spec.name:
            raise RequestError(
                Code.INVALID_ARGUMENT, "ModelSpec has no name specified."
            )
        if not request.metadata_field:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "GetModelMetadataRequest must specify at least one "
                "metadata_field",
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"Metadata field {field} is not supported",
                )
        with self.lease(request.model_spec) as model:
            table = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in model.signature_defs.items():
                copy = meta_graph_pb2.SignatureDef()
                copy.CopyFrom(signature)
                table.signature_def[name].CopyFrom(copy)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _describe(response.model_spec, request.model_spec.name, model)
        packed = any_pb2.Any()
        packed.Pack(table)
        response.metadata["signature_def"].CopyFrom(packed)
        return response

    def classify_or_regress(self, request, method: str):
        """Answers Classify and Regress: no signature of ours is of theirs.

        An unknown model or signature is told first, as there.
        """
        with self.lease(request.model_spec) as model:
            name = request.model_spec.signature_name or DEFAULT
            if name not in model.signature_defs:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"No signature was found with the name: {name}",
                )
            raise _mismatch(model.signature_defs[name], method)

    def multi_inference(self, request):
        """Answers MultiInference, several of the above at once."""
        if not request.tasks:
            raise RequestError(
                Code.INVALID_ARGUMENT, "Inference request has no tasks"
            )
        first = request.tasks[0].model_spec
        with self.lease(first) as model:
            for task in request.tasks:
                if task.model_spec.name != first.name:
                    raise RequestError(
                        Code.INVALID_ARGUMENT,
                        "All ModelSpecs in a MultiInferenceRequest must "
                        "access the same model name.",
                    )
                name = task.model_spec.signature_name or DEFAULT
                if name not in model.signature_defs:
                    raise RequestError(
                        Code.INVALID_ARGUMENT,
                        f"Requested signature not found in model graph: {name}",
                    )
                if task.method_name not in (CLASSIFY, REGRESS):
                    raise RequestError(
                        Code.UNIMPLEMENTED,
                        "Unsupported signature method_name: "
                        f"{task.method_name}",
                    )
                raise _mismatch(model.signature_defs[name], task.method_name)

    def _predict(self, model: LoadedModel, request, deadline):
        signature = request.model_spec.signature_name or DEFAULT
        if signature not in model.signature_defs:
            raise RequestError(
                Code.FAILED_PRECONDITION,
                f'Serving signature key "{signature}" not found.',
            )
        known = set(model.signature_defs[signature].outputs)
        _check_filter(request.output_filter, known)
        start, name = time.monotonic(), request.model_spec.name
        outputs = model.run(signature, request.inputs, deadline)
        self._metrics.observe(
            ":tensorflow:serving:runtime_latency",
            *(name, "Predict", "TF1"),
            value=1e6 * (time.monotonic() - start),
        )
        rows = max((len(v) for v in outputs.values() if v.ndim), default=0)
        self._metrics.observe(
            ":tensorflow:serving:request_example_counts", name, value=rows
        )
        self._metrics.add(
            ":tensorflow:serving:request_example_count_total", name, by=rows
        )
        response = predict_pb2.PredictResponse()
        _describe(response.model_spec, name, model)
        response.model_spec.signature_name = signature
        for key in request.output_filter or outputs:
            _write(response.outputs[key], outputs[key])
        return response


def _write(message: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    """Fills in values as TensorFlow Serving does: typed, not as raw bytes.

    A client may well read `float_val` alone. `tf.make_tensor_proto` writes
    raw bytes, and takes ten times as long.
    """
    kind = types_pb2.DT_STRING
    if array.dtype != object:
        kind = tf.as_dtype(array.dtype).as_datatype_enum
    if kind not in _FIELDS:
        message.CopyFrom(tf.make_tensor_proto(array))
        return
    message.dtype = kind
    message.tensor_shape.SetInParent()  # A scalar's has no dimension.
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    getattr(message, _FIELDS[kind]).extend(array.ravel().tolist())


def _check_filter(names, known):
    for position, name in enumerate(names):
        if name in names[:position]:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"duplicate output tensor alias: {name}",
            )
        if name not in known:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} Outputs "
                f"expected to be in the set {{{','.join(sorted(known))}}}.",
            )


def _describe(spec, name, model):
    spec.name = name
    spec.version.value = model.version


def _mismatch(signature, method) -> RequestError:
    """Why a signature for Predict answers no Classify or Regress."""
    outputs = len(signature.outputs)
    if len(signature.inputs) != 1:
        text = "Expected one input Tensor."
    elif method == REGRESS and outputs != 1:
        text = "Expected one output Tensor."
    elif method == CLASSIFY and outputs not in (1, 2):
        text = f"Expected one or two output Tensors, found {outputs}"
    else:
        kind = "regression" if method == REGRESS else "classification"
        text = f"No {kind} inputs found in SignatureDef: {signature}"
        return RequestError(Code.FAILED_PRECONDITION, text)
    return RequestError(Code.INVALID_ARGUMENT, text)
