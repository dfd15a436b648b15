"""Serves the REST application over HTTP."""

from __future__ import annotations

import logging
import threading

from werkzeug import serving

from tf_triplet.serving.rest import RestApi

# Maximum number of simultaneous connections; further ones are closed.
CONNECTIONS = 256


class RestServer:
    """Serves the application in a thread until it is stopped."""

    def __init__(self, application: RestApi, host: str, port: int):
        """Binds the port and starts to serve.

        Args:
            application: Answers the requests.
            host: The address to bind.
            port: The port to bind; 0 takes a free one.

        Raises:
            OSError: The port is in use.
        """
        try:
            self._server = _Server(host, port, application, _Handler)
        # Werkzeug exits the program when the port is in use.
        except (OSError, SystemExit) as error:
            raise OSError(
                f"REST port {port} is in use. Pass another port, or 0 for a "
                "free one."
            ) from error
        self._application = application
        # Idle connections must not delay the end.
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            daemon=True,
        )
        self._thread.start()

    def stop(self, grace_s: float = 0.0) -> None:
        """Refuses new connections and waits for the running requests.

        Args:
            grace_s: Maximum time to wait, in seconds.
        """
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._application.wait_until_idle(grace_s)


class _Handler(serving.WSGIRequestHandler):
    """Handles one connection, without logging each request."""

    # Bodies may come in chunks. Unlike TensorFlow Serving, Werkzeug closes
    # the connection after the answer.
    protocol_version = "HTTP/1.1"
    # A silent client would otherwise occupy its thread forever.
    timeout = 60

    def log_request(self, code="-", size="-"):
        pass


class _Server(serving.ThreadedWSGIServer):
    """Serves each connection in a thread, up to a number of connections.

    Without this limit, clients that open connections and stay silent would
    take all file descriptors, including those that gRPC needs.
    """

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            logging.warning(
                "REST: a connection is closed, as %d are open.", CONNECTIONS
            )
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()
