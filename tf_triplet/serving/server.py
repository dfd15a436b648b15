"""A local server of TF Serving's PredictionService, for laptops and tests.

Answers `Predict` and `GetModelMetadata` for the newest version of one model,
with the codes and texts of TF Serving. Production runs TF Serving itself.
"""

from __future__ import annotations

import re
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tf_triplet.models import branches
from tf_triplet.serving import client, scann_index, versions

Code = grpc.StatusCode
METHOD = "tensorflow/serving/predict"


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code, self.details = code, details


class LoadedModel:
    """One version in memory, every signature warm."""

    def __init__(self, model_dir: str | Path):
        """Loads the newest version of `model_dir`."""
        known = versions.list_versions(model_dir)
        if not known:
            raise FileNotFoundError(
                f"{model_dir} holds no version of a model (1/, 2/, …). Make "
                "one with tf-triplet-export --workdir=..."
            )
        self.version = known[-1]
        path = str(Path(model_dir) / str(self.version))
        graph = loader_impl.parse_saved_model(path).meta_graphs[0]
        self.signature_defs = {
            name: signature
            for name, signature in graph.signature_def.items()
            if signature.method_name == METHOD
        }
        if any(
            "Scann" in op.name for op in graph.meta_info_def.stripped_op_list.op
        ):
            scann_index.register_op()
        self._model = tf.saved_model.load(path)
        for name in self.signature_defs:
            self._warm(name)

    def _warm(self, name: str) -> None:
        # The first search builds the C++ index; an empty batch does not.
        arguments = {}
        for key, info in self.signature_defs[name].inputs.items():
            if key in branches.CHOSEN_BY:
                arguments[key] = self._model.branch_names[:1]
            elif info.dtype == tf.string.as_datatype_enum:
                blank = np.zeros([8, 8, 3], np.uint8)
                arguments[key] = tf.io.encode_png(blank)[None]
            else:
                shape = [d.size for d in info.tensor_shape.dim][1:]
                arguments[key] = tf.zeros([1, *shape])
        self._model.signatures[name](**arguments)

    def run(self, signature: str, inputs) -> dict[str, np.ndarray]:
        """Runs one request's tensors."""
        expected = self.signature_defs[signature].inputs
        if set(inputs) != set(expected):
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"input size does not match signature: {len(inputs)}!="
                f"{len(expected)} len({{{','.join(inputs)}}}) != "
                f"len({{{','.join(expected)}}}).",
            )
        tensors = {}
        for position, (key, info) in enumerate(expected.items()):
            received = inputs[key].dtype
            if received != info.dtype:
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    f"Expects arg[{position}] to be {_name(info.dtype)} "
                    f"but {_name(received)} is provided",
                )
            try:
                tensors[key] = tf.constant(tf.make_ndarray(inputs[key]))
            except (ValueError, TypeError) as error:
                # Contents and shape of the message contradict each other.
                raise Refusal(
                    Code.INVALID_ARGUMENT, f"tensor parsing error: {key}"
                ) from error
            # TensorFlow Serving lets an op find this out: the same code, but
            # one of several messages, whichever op is first.
            shape = tf.TensorShape(info.tensor_shape)
            if not shape.is_compatible_with(tensors[key].shape):
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    f"Input {key} must be of shape {shape}. Received: "
                    f"{tensors[key].shape}",
                )
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise Refusal(Code.INVALID_ARGUMENT, _short(error)) from error
        except (ValueError, TypeError) as error:
            raise Refusal(Code.INVALID_ARGUMENT, str(error)) from error
        return {name: value.numpy() for name, value in outputs.items()}

    def release(self) -> None:
        """Frees the ScaNN index."""
        if hasattr(self._model, "release"):
            self._model.release()


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers for one model of one name."""

    def __init__(self, name: str, model: LoadedModel):
        """Serves `model` under `name`."""
        self._name, self._model = name, model

    def Predict(self, request, context):  # noqa: N802
        """The official method."""
        try:
            return self._predict(request)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)

    def GetModelMetadata(self, request, context):  # noqa: N802
        """The official method; field `signature_def`."""
        try:
            return self._metadata(request)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)

    def _predict(self, request):
        self._check(request.model_spec)
        signature = request.model_spec.signature_name or "serving_default"
        defs = self._model.signature_defs
        if signature not in defs:
            raise Refusal(
                Code.FAILED_PRECONDITION,
                f'Serving signature key "{signature}" not found.',
            )
        known = set(defs[signature].outputs)
        for position, name in enumerate(request.output_filter):
            if name in request.output_filter[:position]:
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    f"duplicate output tensor alias: {name}",
                )
            if name not in known:
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    "output tensor alias not found in signature: "
                    f"{name} Outputs expected to be in the set "
                    f"{{{','.join(sorted(known))}}}.",
                )
        outputs = self._model.run(signature, request.inputs)
        response = predict_pb2.PredictResponse()
        self._describe(response.model_spec)
        response.model_spec.signature_name = signature
        for name in request.output_filter or outputs:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    def _metadata(self, request):
        self._check(request.model_spec)
        if not request.metadata_field:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                "GetModelMetadataRequest must specify at least one "
                "metadata_field",
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    f"Metadata field {field} is not supported",
                )
        table = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._model.signature_defs.items():
            copy = meta_graph_pb2.SignatureDef()
            copy.CopyFrom(signature)
            table.signature_def[name].CopyFrom(copy)
        packed = any_pb2.Any()
        packed.Pack(table)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        self._describe(response.model_spec)
        response.metadata["signature_def"].CopyFrom(packed)
        return response

    def _check(self, spec) -> None:
        if not spec.name:
            raise Refusal(
                Code.INVALID_ARGUMENT, "ModelSpec has no name specified."
            )
        if spec.version_label:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {spec.version_label}",
            )
        wanted = spec.version.value if spec.HasField("version") else None
        if spec.name != self._name or wanted not in (
            None,
            self._model.version,
        ):
            which = (
                f"Latest({spec.name})"
                if wanted is None
                else f"Specific({spec.name}, {wanted})"
            )
            raise Refusal(
                Code.NOT_FOUND, f"Servable not found for request: {which}"
            )

    def _describe(self, spec) -> None:
        spec.name = self._name
        spec.version.value = self._model.version


def start(
    model_dir: str | Path, name: str = "product_search", port: int = 8500
) -> tuple[grpc.Server, int, LoadedModel]:
    """Loads, warms and serves the newest version.

    Args:
        model_dir: holds numbered versions.
        name: that requests use.
        port: 0 for a free one.

    Returns:
        The server, its port, and the model to `release` after `stop`.
    """
    model = LoadedModel(model_dir)
    size = client.MAX_MESSAGE_BYTES
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[
            ("grpc.max_send_message_length", size),
            ("grpc.max_receive_message_length", size),
            # Two servers on one port would share its requests silently.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(name, model), server
    )
    try:
        bound = server.add_insecure_port(f"localhost:{port}")
    except RuntimeError as error:
        raise OSError(
            f"Port {port} is in use; pass another, or --port=0 for a free one."
        ) from error
    server.start()
    return server, bound, model


def _name(dtype: int) -> str:
    """The type's name in C++ (double, not float64)."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def _short(error: tf.errors.OpError) -> str:
    """TensorFlow's message without the Python places it was traced at."""
    lines = [line.strip() for line in error.message.splitlines()]
    telling = [
        line
        for line in lines
        if line and not re.match(r"(File |Graph exec|Detected at|\[\[)", line)
    ]
    return (telling or lines)[-1]
