"""TensorFlow Serving's REST interface, as a WSGI application.

It runs on Werkzeug, which TensorFlow installs with TensorBoard. The calls
block, so Werkzeug runs each connection in a thread. Tests call the application
without a socket.

References:
    https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable

from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from werkzeug import exceptions
from werkzeug.wrappers import Request, Response

from tf_triplet.serving import (
    grpc_services,
    json_tensors,
    prediction,
    request_body,
    server_metrics,
)
from tf_triplet.serving.errors import Code, RequestError

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(rf"(?i){_MODEL}:(predict|classify|regress)")
_GET = re.compile(rf"(?i){_MODEL}(/metadata)?")
_HTTP = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNAVAILABLE: 503,
    Code.UNIMPLEMENTED: 501,
    Code.DEADLINE_EXCEEDED: 504,
}


class RestApi:
    """The WSGI application."""

    def __init__(
        self,
        predictor: prediction.Predictor,
        metrics: server_metrics.Metrics,
        metrics_path: str | None = server_metrics.PATH,
        max_bytes: int = 64 << 20,
    ):
        """Makes the application.

        Args:
            predictor: Answers the requests.
            metrics: The metrics to show.
            metrics_path: The path at which they are shown. `None` shows none.
            max_bytes: Maximum size of a request's body, before and after it
                is inflated. A larger one is answered with HTTP status 413.
        """
        self._predictor, self._metrics = predictor, metrics
        self._metrics_path, self._max_bytes = metrics_path, max_bytes
        self._running, self._changed = 0, threading.Condition()

    def __call__(
        self, environ: dict, start_response: Callable
    ) -> Iterable[bytes]:
        """Answers one request. The body of an error is {"error": text}."""
        with self._changed:
            self._running += 1
        response = self._respond(Request(environ))
        # The request runs until the last byte of its answer is written.
        response.call_on_close(self._end)
        return response(environ, start_response)

    def wait_until_idle(self, seconds: float) -> bool:
        """Waits for the running requests.

        Args:
            seconds: Maximum time to wait.

        Returns:
            Whether all of them ended in time.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, seconds)

    def _end(self):
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _respond(self, request) -> Response:
        request.max_content_length = self._max_bytes
        if request.path == self._metrics_path and request.method == "GET":
            return Response(
                self._metrics.render(), mimetype="text/plain; version=0.0.4"
            )
        status, headers = 200, {}
        try:
            body = self._answer(request)
        except RequestError as error:
            status = _HTTP.get(error.code, 500)
            body = {"error": error.details}
        except exceptions.RequestEntityTooLarge:
            status = 413
            body = {"error": f"The body is over {self._max_bytes} bytes"}
        except exceptions.UnsupportedMediaType as error:
            status, headers = 415, {"Accept-Encoding": "gzip"}
            body = {"error": error.description}
        except Exception as error:
            logging.exception("REST: %s %s", request.method, request.path)
            status, body = 500, {"error": f"{type(error).__name__}: {error}"}
        text = json.dumps(body, indent=2, ensure_ascii=False)
        return Response(text, status, headers, mimetype="application/json")

    def _answer(self, request) -> dict:
        if request.method == "POST":
            found = _POST.fullmatch(request.path)
            if found:
                data = request_body.read(request, self._max_bytes)
                is_counted = contextlib.nullcontext()
                if found[4].lower() == "predict":
                    is_counted = self._predictor.counted(found[1], "REST")
                with is_counted:
                    return self._post(*found.groups(), data)
        elif request.method == "GET":
            found = _GET.fullmatch(request.path)
            if found:
                return self._get(*found.groups())
            if request.path.lower() == "/v1/models":
                raise RequestError(
                    Code.INVALID_ARGUMENT, "Missing model name in request."
                )
        is_ours = request.path.lower().startswith("/v1/")
        raise RequestError(
            Code.INVALID_ARGUMENT if is_ours else Code.NOT_FOUND,
            f"Malformed request: {request.method} {request.path}",
        )

    def _post(self, name, version, label, method, data) -> dict:
        body = json_tensors.parse(data)
        request = predict_pb2.PredictRequest()
        _name(request.model_spec, name, version, label)
        request.model_spec.signature_name = body.get("signature_name", "")
        if method.lower() == "predict":
            return self._predict(request, body)
        if "examples" not in body:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "When method is classify, key 'examples' is expected and "
                "was not found",
            )
        return self._predictor.classify_or_regress(
            request, f"tensorflow/serving/{method.lower()}"
        )

    def _predict(self, request, body) -> dict:
        # One lease for both: the version whose signature is read must also
        # be the one that runs.
        with self._predictor.lease(request.model_spec) as model:
            signature = request.model_spec.signature_name or prediction.DEFAULT
            if signature not in model.signature_defs:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f'Serving signature name: "{signature}" not found in '
                    "signature def",
                )
            inputs = dict(model.signature_defs[signature].inputs)
            rows = json_tensors.fill(request, body, inputs)
            response = self._predictor.run(model, request)
        return json_tensors.render(response, rows)

    def _get(self, name, version, label, metadata) -> dict:
        if metadata:
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            request.metadata_field.append("signature_def")
            answer = self._predictor.metadata
        else:
            request = get_model_status_pb2.GetModelStatusRequest()

            def answer(request):
                return grpc_services.status(self._predictor.models, request)

        _name(request.model_spec, name, version, label)
        return json_format.MessageToDict(
            answer(request),
            including_default_value_fields=True,
            preserving_proto_field_name=True,
        )


def _name(spec, name, version, label):
    spec.name = name
    if version is not None:
        if len(version) > 19 or int(version) >= 1 << 63:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Failed to convert version: {version} to numeric.",
            )
        spec.version.value = int(version)
    elif label is not None:
        spec.version_label = label
