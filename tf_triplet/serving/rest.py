"""TensorFlow Serving's REST interface, as a WSGI application.

On Werkzeug, which TensorFlow brings (by TensorBoard): a thread a connection,
as the calls block, and an application that tests call without a socket.
Tornado would have been a dependency more, and its loop would have to hand
each call to such a thread.

References:
    https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading

from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from werkzeug import exceptions, serving
from werkzeug.wrappers import Request, Response

from tf_triplet.serving import (
    grpc_services,
    json_tensors,
    prediction,
)
from tf_triplet.serving import server_metrics as metrics_lib
from tf_triplet.serving.errors import Code, RequestError

# At once; a further one is closed.
CONNECTIONS = 256
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
        metrics: metrics_lib.Metrics,
        metrics_path: str | None = metrics_lib.PATH,
        max_bytes: int = 64 << 20,
    ):
        """Asks `predictor`.

        Args:
            predictor: answers.
            metrics: shown at `metrics_path`.
            metrics_path: None shows none.
            max_bytes: of a request's body; more is refused with 413.
        """
        self._predictor, self._metrics = predictor, metrics
        self._metrics_path, self._max_bytes = metrics_path, max_bytes
        self._under_way, self._changed = 0, threading.Condition()

    def __call__(self, environ, start_response):
        """Answers one request; errors are {"error": text}."""
        with self._changed:
            self._under_way += 1
        response = self._respond(Request(environ))
        # It is under way until its last byte is written.
        response.call_on_close(self._end)
        return response(environ, start_response)

    def wait_until_idle(self, seconds: float) -> bool:
        """Waits for the requests under way; False: some were given up."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def _end(self):
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _respond(self, request) -> Response:
        request.max_content_length = self._max_bytes
        if request.path == self._metrics_path and request.method == "GET":
            return Response(
                self._metrics.render(), mimetype="text/plain; version=0.0.4"
            )
        status = 200
        try:
            body = self._answer(request)
        except RequestError as refusal:
            status = _HTTP.get(refusal.code, 500)
            body = {"error": refusal.details}
        except exceptions.RequestEntityTooLarge:
            status = 413
            body = {"error": f"The body is over {self._max_bytes} bytes"}
        except Exception as error:
            logging.exception("REST: %s %s", request.method, request.path)
            status, body = 500, {"error": f"{type(error).__name__}: {error}"}
        text = json.dumps(body, indent=2, ensure_ascii=False)
        return Response(text, status, mimetype="application/json")

    def _answer(self, request) -> dict:
        if request.method == "POST":
            found = _POST.fullmatch(request.path)
            if found:
                data, is_counted = _body(request), contextlib.nullcontext()
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
        ours = request.path.lower().startswith("/v1/")
        raise RequestError(
            Code.INVALID_ARGUMENT if ours else Code.NOT_FOUND,
            f"Malformed request: {request.method} {request.path}",
        )

    def _post(self, name, version, label, method, data) -> dict:
        body = json_tensors.parse(data)
        request = predict_pb2.PredictRequest()
        _name(request.model_spec, name, version, label)
        request.model_spec.signature_name = body.get("signature_name", "")
        if method.lower() != "predict":
            if "examples" not in body:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    "When method is classify, key 'examples' is expected and "
                    "was not found",
                )
            return self._predictor.classify_or_regress(
                request, f"tensorflow/serving/{method.lower()}"
            )
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
        response = self._predictor.predict(request)
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


class _Quiet(serving.WSGIRequestHandler):
    """Writes no line for each request.

    HTTP/1.1 for bodies in chunks. Werkzeug ends a connection with its answer,
    where TensorFlow Serving keeps it.
    """

    protocol_version = "HTTP/1.1"
    # A client that says nothing would hold its thread for ever.
    timeout = 60

    def log_request(self, code="-", size="-"):
        pass


class _Server(serving.ThreadedWSGIServer):
    """A thread a connection, and an end to them.

    Without, clients that open connections and say nothing would take all file
    descriptors, and gRPC's with them.
    """

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            logging.warning("REST: over %d connections", CONNECTIONS)
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class RestServer:
    """Serves the application until it is stopped."""

    def __init__(self, application: RestApi, host: str, port: int):
        """Binds; port 0 takes a free one."""
        try:
            self._server = _Server(host, port, application, _Quiet)
        # Werkzeug tells of a port in use by leaving the program.
        except (OSError, SystemExit) as error:
            raise OSError(
                f"REST port {port} is in use; pass another, or 0 for a free "
                "one."
            ) from error
        self._application = application
        # Its end must not wait for idle connections.
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            daemon=True,
        )
        self._thread.start()

    def stop(self, grace_s: float = 0.0) -> None:
        """Takes no further connection; ends the requests under way."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._application.wait_until_idle(grace_s)


def _body(request) -> bytes:
    try:
        return request.get_data()
    except (OSError, ValueError) as error:  # Chunks that are none.
        raise RequestError(
            Code.INVALID_ARGUMENT, f"The body cannot be read: {error}"
        ) from error


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
