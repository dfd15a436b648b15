"""A local server of TensorFlow Serving's gRPC and REST, for laptops and tests.

It answers call for call as TensorFlow Serving does for such a model
(tests/serving/conformance_test.py). Production runs TensorFlow Serving itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet import client
from tf_triplet.servable import versions
from tf_triplet.serving import (
    batching,
    grpc_services,
    prediction,
    rest,
    server_config,
    version_policy,
)
from tf_triplet.serving import (
    server_metrics as metrics,
)
from tf_triplet.serving.errors import RequestError
from tf_triplet.serving.model_manager import ModelManager

# Requests that wait for a batch hold a thread each.
THREADS = 64
# Of their own, so that who asks after the server's health does not wait for
# images, and a reload that waits for a folder holds up nobody else.
_STATUS_THREADS, _RELOAD_THREADS = 4, 4


@dataclasses.dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        host: that the ports are bound to; 0.0.0.0 for all interfaces.
        port: of gRPC; 0 takes a free one.
        rest_port: None serves no REST; 0 takes a free one.
        poll_seconds: between looks at the folders; 0 looks once.
        batching: None runs each request by itself.
        metrics_path: on the REST port; None shows none.
        tls: of gRPC. REST has none, as in TensorFlow Serving.
        max_message_bytes: of a request or an answer.
        labels_of_unavailable: lets a label name a version before it loads.
    """

    host: str = "localhost"
    port: int = 8500
    rest_port: int | None = None
    poll_seconds: float = 1.0
    batching: batching.Parameters | None = None
    metrics_path: str | None = metrics.PATH
    tls: server_config.Tls | None = None
    max_message_bytes: int = client.MAX_MESSAGE_BYTES
    labels_of_unavailable: bool = False


class Server:
    """Models, gRPC, and REST if asked for."""

    def __init__(
        self,
        config: model_server_config_pb2.ModelServerConfig,
        options: Options,
    ):
        """Loads and warms the models, then serves.

        Raises:
            FileNotFoundError: a model has no version.
            ValueError: no version of it loads, or a label is wrong.
            OSError: a port is in use.
        """
        # Before the minutes that a large model takes to load.
        check_port(options.host, options.port)
        if options.rest_port is not None:
            check_port(options.host, options.rest_port)
        self._metrics, self._scheduler = metrics.Metrics(), None
        if options.batching is not None:
            self._scheduler = batching.BatchScheduler(
                options.batching, self._observe
            )
        self.models = ModelManager(
            self._scheduler, self._metrics, options.labels_of_unavailable
        )
        predictor = prediction.Predictor(self.models, self._metrics)
        self._health = health.HealthServicer()
        self.grpc = self._rest = None
        try:
            self._load(config)
            self.grpc, self.port = self._bind(predictor, options)
            if options.rest_port is not None:
                application = rest.RestApi(
                    predictor,
                    self._metrics,
                    options.metrics_path,
                    options.max_message_bytes,
                )
                self._rest = rest.RestServer(
                    application, options.host, options.rest_port
                )
        except BaseException:
            self.stop()
            raise
        self.grpc.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        if options.poll_seconds:
            self.models.watch(options.poll_seconds)

    @property
    def rest_port(self) -> int | None:
        """The port bound for REST."""
        return self._rest and self._rest.port

    def stop(self, grace_s: float = 0.0) -> None:
        """Drains: health says so, no new request, those under way are ended.

        Args:
            grace_s: after which what still runs is given up.
        """
        self._health.enter_graceful_shutdown()
        ended = self.grpc and self.grpc.stop(grace_s)
        if self._rest is not None:
            self._rest.stop(grace_s)
        if ended:
            ended.wait()
        self.models.release()
        if self._scheduler is not None:
            self._scheduler.close()

    def _load(self, config):
        try:
            models = version_policy.read(config)
        except RequestError as refusal:
            raise ValueError(refusal.details) from refusal
        for model in models.values():
            if not versions.list_versions(model.path):
                raise FileNotFoundError(
                    f"{model.path} holds no version of a model (1/, 2/, …). "
                    "Make one with tf-triplet-export --workdir=..."
                )
        try:
            self.models.configure(models)
        except RequestError as refusal:
            # A broken version beside a good one is no reason not to start.
            if not all(self.models.available(name) for name in models):
                raise ValueError(refusal.details) from refusal
        try:
            self.models.take_labels(models)
        except RequestError as refusal:
            raise ValueError(
                f"{refusal.details}. Load that version (specific or all in "
                "model_version_policy), or pass "
                "--allow_version_labels_for_unavailable_models."
            ) from refusal

    def _bind(self, predictor, options):
        size = options.max_message_bytes
        running = grpc.server(
            futures.ThreadPoolExecutor(THREADS),
            options=[
                ("grpc.max_send_message_length", size),
                ("grpc.max_receive_message_length", size),
                # Two servers on one port would share its requests silently.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            grpc_services.PredictionService(predictor), running
        )
        management = grpc_services.ModelService(self.models)
        status, reload = (
            futures.ThreadPoolExecutor(threads)
            for threads in (_STATUS_THREADS, _RELOAD_THREADS)
        )
        grpc_services.in_pool(management, status, "GetModelStatus")
        grpc_services.in_pool(management, reload, "HandleReloadConfigRequest")
        grpc_services.in_pool(self._health, status, "Check")
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            management, running
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, running)
        address = f"{options.host}:{options.port}"
        try:
            if options.tls is None:
                return running, running.add_insecure_port(address)
            credentials = grpc.ssl_server_credentials(
                [(options.tls.key, options.tls.certificate)],
                options.tls.client_ca,
                options.tls.verify_client,
            )
            return running, running.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(
                f"Port {options.port} is in use; pass another, or --port=0 "
                "for a free one."
            ) from error

    def _observe(self, rows, filled, waited):
        prefix = ":tensorflow:serving:batching_session:"
        for seconds in waited:
            self._metrics.observe(
                f"{prefix}queuing_latency", value=1e6 * seconds
            )
        self._metrics.observe(f"{prefix}processed_batch_size", value=filled)
        self._metrics.observe(f"{prefix}padding_size", value=filled - rows)


def check_port(host: str, port: int) -> None:
    """Refuses a port that cannot be bound on each address of a host.

    gRPC is content with one of them: with `localhost` that another program
    has on 127.0.0.1 alone, it would serve on ::1 and leave that one the rest.

    Raises:
        OSError: another program has it, or the host is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(
            f"--host must be a name or address of this machine, or 0.0.0.0 "
            f"for all. Received: {host!r} ({error.strerror})"
        ) from error
    errors = [_bind_error(*one) for one in found]
    for (*_, address), error in zip(found, errors):
        if error is not None and error.errno == errno.EADDRINUSE:
            raise OSError(
                f"Port {port} of {address[0]} is in use; pass another, or 0 "
                "for a free one."
            ) from error
    # One of two is enough: not every machine has IPv6.
    if all(errors):
        raise OSError(
            f"--host={host}, port {port}, cannot be bound: "
            f"{errors[0].strerror}. Pass an address of this machine, or "
            "0.0.0.0 for all of them."
        ) from errors[0]


def _bind_error(family, kind, protocol, _, address) -> OSError | None:
    with contextlib.closing(socket.socket(family, kind, protocol)) as tried:
        # What ended a moment ago is no reason not to start.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as error:
            return error
    return None


def start(
    model_dir: str | Path, name: str = "product_search", port: int = 8500
) -> tuple[grpc.Server, int, ModelManager]:
    """Serves the newest version of one model over gRPC, without polling.

    Args:
        model_dir: holds numbered versions.
        name: that requests use.
        port: 0 for a free one.

    Returns:
        The server, its port, and the models to `release` after `stop`.
    """
    server = Server(
        server_config.one_model(name, model_dir),
        Options(port=port, poll_seconds=0),
    )
    return server.grpc, server.port, server.models
