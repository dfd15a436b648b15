"""TensorFlow Serving's gRPC services.

They translate between gRPC and the classes that do the work.
"""

from __future__ import annotations

import threading
import time
from concurrent import futures

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tf_triplet.serving import prediction, version_policy
from tf_triplet.serving.errors import RequestError
from tf_triplet.serving.model_manager import ModelManager


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, GetModelMetadata, Classify, Regress, MultiInference."""

    def __init__(self, predictor: prediction.Predictor):
        """Makes the service.

        Args:
            predictor: Answers the requests.
        """
        self._predictor = predictor

    def Predict(  # noqa: N802
        self,
        request: predict_pb2.PredictRequest,
        context: grpc.ServicerContext,
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of a model."""
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        # Skip requests whose client gave up while all threads were busy.
        if not context.is_active() or (left is not None and left <= 0):
            context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
            )
        return _answer(context, self._predict, request, deadline)

    def _predict(self, request, deadline):
        with self._predictor.counted(request.model_spec.name, "GRPC"):
            return self._predictor.predict(request, deadline)

    def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Describes the signatures of a model."""
        return _answer(context, self._predictor.metadata, request)

    def Classify(  # noqa: N802
        self,
        request: classification_pb2.ClassificationRequest,
        context: grpc.ServicerContext,
    ) -> classification_pb2.ClassificationResponse:
        """Answers with an error, as no exported signature classifies."""
        answer = self._predictor.classify_or_regress
        return _answer(context, answer, request, prediction.CLASSIFY)

    def Regress(  # noqa: N802
        self,
        request: regression_pb2.RegressionRequest,
        context: grpc.ServicerContext,
    ) -> regression_pb2.RegressionResponse:
        """Answers with an error, as no exported signature is a regression."""
        answer = self._predictor.classify_or_regress
        return _answer(context, answer, request, prediction.REGRESS)

    def MultiInference(  # noqa: N802
        self,
        request: inference_pb2.MultiInferenceRequest,
        context: grpc.ServicerContext,
    ) -> inference_pb2.MultiInferenceResponse:
        """Answers with an error, as `Classify` and `Regress` do."""
        return _answer(context, self._predictor.multi_inference, request)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus, HandleReloadConfigRequest."""

    def __init__(self, models: ModelManager):
        """Makes the service.

        Args:
            models: The models to report and to configure.
        """
        self._models = models
        self._reloading = threading.Lock()

    def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Reports the state of each version of a model."""
        return _answer(context, status, self._models, request)

    def HandleReloadConfigRequest(  # noqa: N802
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        """Applies a new config; answers when its versions are loaded."""
        response = model_management_pb2.ReloadConfigResponse()
        try:
            models = version_policy.read(request.config)
            # One at a time, so that the config that arrived last wins.
            with self._reloading:
                self._models.configure(models, context.is_active)
        except RequestError as error:
            context.abort(error.code, error.details)
        return response


def status(
    models: ModelManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers GetModelStatus.

    Raises:
        RequestError: There is no such model or version.
    """
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state, (code, message) in models.statuses(
        spec.name, version, spec.version_label
    ):
        row = response.model_version_status.add(version=number, state=state)
        row.status.error_code = code
        row.status.error_message = message
    return response


def _answer(context, function, *arguments):
    try:
        return function(*arguments)
    except RequestError as error:
        context.abort(error.code, error.details)


def in_pool(
    servicer: object, pool: futures.ThreadPoolExecutor, *methods: str
) -> None:
    """Makes a separate thread pool answer some methods of a servicer.

    They are then answered even while Predict occupies all threads of the
    server.

    Args:
        servicer: The gRPC service.
        pool: Answers the methods.
        *methods: Names of the methods.
    """
    for name in methods:
        method = getattr(servicer, name)

        def call(request, context, method=method):
            return method(request, context)

        # gRPC looks for this attribute.
        call.experimental_thread_pool = pool
        setattr(servicer, name, call)
