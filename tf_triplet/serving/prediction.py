"""Answers TensorFlow Serving's prediction requests, for gRPC and REST.

The error texts are TensorFlow Serving's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from tf_triplet.serving import server_metrics
from tf_triplet.serving.errors import Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel
from tf_triplet.serving.model_manager import ModelManager

DEFAULT = "serving_default"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
# The field of a TensorProto that holds the values of each type.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


class Predictor:
    """Answers requests with the models of a manager."""

    def __init__(self, models: ModelManager, metrics: server_metrics.Metrics):
        """Makes a predictor.

        Args:
            models: The models that answer.
            metrics: Counts requests, their times and their rows.
        """
        self.models, self._metrics = models, metrics

    def predict(
        self,
        request: predict_pb2.PredictRequest,
        deadline: float | None = None,
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of the model that the request names.

        Args:
            request: The request.
            deadline: When the client stops waiting, on the clock of
                `time.monotonic`.

        Raises:
            RequestError: The request cannot be answered.
        """
        with self.lease(request.model_spec) as model:
            return self.run(model, request, deadline)

    @contextlib.contextmanager
    def counted(self, name: str, entrypoint: str) -> Iterator[None]:
        """Counts the Predict request that the `with` block answers.

        Args:
            name: The name of the model, as the client gave it.
            entrypoint: "GRPC" or "REST".

        Raises:
            RequestError: The block raised it, or raised another exception,
                which is logged and becomes INTERNAL.
        """
        start, status = time.monotonic(), "OK"
        name = name if self.models.knows(name) else ""
        try:
            yield
        except RequestError as error:
            status = error.code.name
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

    def lease(
        self, spec: model_pb2.ModelSpec
    ) -> contextlib.AbstractContextManager[LoadedModel]:
        """Lends the model that a ModelSpec names (`ModelManager.lease`)."""
        version = spec.version.value if spec.HasField("version") else None
        return self.models.lease(spec.name, version, spec.version_label)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Answers GetModelMetadata, whose only field is `signature_def`.

        Raises:
            RequestError: The request cannot be answered.
        """
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

    def classify_or_regress(
        self,
        request: classification_pb2.ClassificationRequest
        | regression_pb2.RegressionRequest
        | predict_pb2.PredictRequest,
        method: str,
    ) -> NoReturn:
        """Answers Classify and Regress, which no exported signature supports.

        Args:
            request: The request, of which only the `model_spec` is read.
            method: `CLASSIFY` or `REGRESS`.

        Raises:
            RequestError: Always. As in TensorFlow Serving, an unknown model
                or signature is reported first.
        """
        with self.lease(request.model_spec) as model:
            name = request.model_spec.signature_name or DEFAULT
            if name not in model.signature_defs:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"No signature was found with the name: {name}",
                )
            raise _mismatch(model.signature_defs[name], method)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest
    ) -> NoReturn:
        """Answers MultiInference, a list of Classify and Regress tasks.

        Raises:
            RequestError: Always, for the first task at the latest.
        """
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

    def run(
        self,
        model: LoadedModel,
        request: predict_pb2.PredictRequest,
        deadline: float | None = None,
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of a model that is already leased.

        Args:
            model: The model, from `lease`.
            request: The request.
            deadline: When the client stops waiting, on the clock of
                `time.monotonic`.

        Raises:
            RequestError: The request cannot be answered.
        """
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
    """Writes an array into the typed fields of a message.

    TensorFlow Serving fills the typed fields too, and some clients read
    nothing else. `tf.make_tensor_proto` writes raw bytes, and takes ten times
    as long.
    """
    kind = types_pb2.DT_STRING
    if array.dtype != object:
        kind = tf.as_dtype(array.dtype).as_datatype_enum
    if kind not in _FIELDS:
        message.CopyFrom(tf.make_tensor_proto(array))
        return
    message.dtype = kind
    message.tensor_shape.SetInParent()  # A scalar has no dimension to add.
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
    """Returns why a Predict signature cannot answer Classify or Regress."""
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
