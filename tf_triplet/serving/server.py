"""A local server with TensorFlow Serving's gRPC and REST interfaces.

It is for laptops and tests; production runs TensorFlow Serving itself. The
table in tests/serving/conformance_test.py holds the requests to which both
give the same answers.
"""

from __future__ import annotations

import dataclasses
from concurrent import futures
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.servable import versions
from tf_triplet.serving import (
    batching,
    grpc_services,
    ports,
    prediction,
    rest,
    rest_server,
    server_config,
    server_metrics,
    version_policy,
)
from tf_triplet.serving.errors import RequestError
from tf_triplet.serving.model_manager import ModelManager

# Each request that waits for a batch occupies a thread.
THREADS = 64
# Separate threads answer status and health requests while all others are busy
# with images. Reloads have separate threads too, as they may wait for a folder.
_STATUS_THREADS, _RELOAD_THREADS = 4, 4


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the server.

    Attributes:
        host: The address to bind; 0.0.0.0 binds all interfaces.
        port: The port for gRPC; 0 takes a free one.
        rest_port: The port for REST; 0 takes a free one. `None` serves no
            REST.
        poll_seconds: Time between two polls of the model folders; 0 reads
            them only once.
        batching: How requests are batched. `None` runs each by itself.
        metrics_path: The path of the metrics on the REST port. `None` shows
            none.
        tls: The keys for gRPC. REST has no TLS, as in TensorFlow Serving.
        max_message_bytes: Maximum size of a request or a response.
        labels_of_unavailable: Whether a label may name a version that is not
            loaded.
    """

    host: str = "localhost"
    port: int = 8500
    rest_port: int | None = None
    poll_seconds: float = 1.0
    batching: batching.Parameters | None = None
    metrics_path: str | None = server_metrics.PATH
    tls: server_config.Tls | None = None
    max_message_bytes: int = 64 << 20
    labels_of_unavailable: bool = False


class Server:
    """Serves models over gRPC and, if a port is given, over REST."""

    def __init__(
        self,
        config: model_server_config_pb2.ModelServerConfig,
        options: Options,
    ):
        """Loads and warms up the models, then starts to serve.

        Args:
            config: The models to serve, from `server_config`.
            options: How to serve them.

        Raises:
            FileNotFoundError: A model has no version.
            ValueError: No version of a model loads, a label names a version
                that is not loaded, or both ports are the same.
            OSError: A port is in use. This is found before a model is loaded.
        """
        # Checked first, because a large model takes minutes to load.
        ports.check_ports(options.host, options.port, options.rest_port)
        self._metrics, self._scheduler = server_metrics.Metrics(), None
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
                self._rest = rest_server.RestServer(
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
        """The port that is bound for REST, or `None`."""
        return self._rest and self._rest.port

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuses new requests, waits for the running ones, then unloads.

        Meanwhile the health check answers NOT_SERVING.

        Args:
            grace_s: Seconds after which running requests are canceled.
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
        except RequestError as error:
            raise ValueError(error.details) from error
        for model in models.values():
            if not versions.list_versions(model.path):
                raise FileNotFoundError(
                    f"{model.path} holds no version of a model (1/, 2/, …). "
                    "Export one with tf-triplet-export --workdir=..."
                )
        try:
            self.models.configure(models)
        except RequestError as error:
            # The server starts if each model has a version that loads.
            if not all(self.models.available(name) for name in models):
                raise ValueError(error.details) from error
        try:
            self.models.take_labels(models)
        except RequestError as error:
            raise ValueError(
                f"{error.details}. Load that version (with a specific or all "
                "policy in model_version_policy), or pass "
                "--allow_version_labels_for_unavailable_models."
            ) from error

    def _bind(self, predictor, options):
        size = options.max_message_bytes
        running = grpc.server(
            futures.ThreadPoolExecutor(THREADS),
            options=[
                ("grpc.max_send_message_length", size),
                ("grpc.max_receive_message_length", size),
                # Otherwise two servers could silently share one port.
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
        address = ports.join(options.host, options.port)
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
                f"Port {options.port} is in use. Pass another port, or "
                "--port=0 for a free one."
            ) from error

    def _observe(self, rows, filled, waited):
        prefix = ":tensorflow:serving:batching_session:"
        for seconds in waited:
            self._metrics.observe(
                f"{prefix}queuing_latency", value=1e6 * seconds
            )
        self._metrics.observe(f"{prefix}processed_batch_size", value=filled)
        self._metrics.observe(f"{prefix}padding_size", value=filled - rows)


def start(
    model_dir: str | Path, name: str = "product_search", port: int = 8500
) -> tuple[grpc.Server, int, ModelManager]:
    """Serves the newest version of one model over gRPC, without polling.

    Args:
        model_dir: The folder that holds the numbered versions.
        name: The name of the model in requests.
        port: The port to bind; 0 takes a free one.

    Returns:
        The gRPC server to `stop`, its port, and the models to `release` after
        that.
    """
    server = Server(
        server_config.one_model(name, model_dir),
        Options(port=port, poll_seconds=0),
    )
    return server.grpc, server.port, server.models
