"""Serves an export over gRPC and REST: tf-triplet-serve --workdir=runs/emoji

It is for laptops and tests. It has the interfaces of TensorFlow Serving, and
loads a new version as soon as one is published. Ctrl-C or SIGTERM stops it
after the running requests.

In Python: tf_triplet.serving.server.Server(config, options).
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tf_triplet.cli import program

if TYPE_CHECKING:
    from tf_triplet.serving import server

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run, whose exported model is served."
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Folder with the numbered versions of a model, in place of --workdir.",
)
_MODELS = flags.DEFINE_string(
    "model_config_file",
    None,
    "File with several models, version policies and labels, in place of "
    "--workdir. export/models.config is an example.",
)
_NAME = flags.DEFINE_string(
    "name", "product_search", "Name of the model of --workdir or --model_dir."
)
_HOST = flags.DEFINE_string(
    "host",
    "localhost",
    "Address to listen on. 0.0.0.0 accepts requests from other machines.",
)
_PORT = flags.DEFINE_integer(
    "port", 8500, "Port of gRPC. 0 takes a free one.", 0, 65535
)
_REST_PORT = flags.DEFINE_integer(
    "rest_port",
    None,
    "Port of REST and of the metrics, by convention 8501. 0 takes a free one. "
    "Default: no REST.",
    0,
    65535,
)
_POLL = flags.DEFINE_float(
    "poll_seconds",
    1.0,
    "Seconds between two looks for a new version. 0 never looks again.",
    0,
)
_BATCHING = flags.DEFINE_string(
    "batching_parameters_file",
    None,
    "File that says how to batch requests, such as export/batching.config. "
    "Default: no batching.",
)
_MONITORING = flags.DEFINE_string(
    "monitoring_config_file",
    None,
    "File with the path of the metrics, such as export/monitoring.config. It "
    "needs --rest_port.",
)
_TLS = flags.DEFINE_string(
    "ssl_config_file",
    None,
    "File that turns on TLS for gRPC, with the fields server_key, server_cert, "
    "custom_ca and client_verify.",
)
_MAX_MB = flags.DEFINE_integer(
    "max_message_mb",
    64,
    "Maximum size of a request or a response, in MiB.",
    1,
    2047,
)
_LABELS = flags.DEFINE_bool(
    "allow_version_labels_for_unavailable_models",
    False,
    "Accept a label for a version that is not loaded yet.",
)
_DRAIN = flags.DEFINE_float(
    "drain_seconds",
    10.0,
    "Seconds that running requests get when the server is stopped.",
    0,
)


@program.friendly
def main(argv: list[str]) -> None:
    """Serves until SIGINT or SIGTERM."""
    program.refuse_arguments(argv)
    given = [_WORKDIR.value, _MODEL_DIR.value, _MODELS.value]
    if sum(map(bool, given)) != 1:
        raise ValueError(
            "Pass one of --workdir, --model_dir and --model_config_file."
        )
    if _MONITORING.value and _REST_PORT.value is None:
        raise ValueError(
            "--monitoring_config_file needs --rest_port, which shows the "
            "metrics."
        )
    from tf_triplet.serving import server, server_config

    logging.getLogger().setLevel(logging.INFO)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    if _MODELS.value:
        config = server_config.read_models(_MODELS.value)
    else:
        config = server_config.one_model(
            _NAME.value,
            _MODEL_DIR.value or Path(_WORKDIR.value) / "models" / _NAME.value,
        )
    # Unloading a version collects garbage to free its graph. Frozen objects
    # are skipped, so that requests wait less.
    gc.collect()
    gc.freeze()
    running = server.Server(config, _read_options())
    _print_addresses(running, [m.name for m in config.model_config_list.config])
    stopped.wait()
    running.stop(_DRAIN.value)
    print("Stopped.")


def _read_options() -> server.Options:
    from tf_triplet.serving import server, server_config

    files = {}
    if _MONITORING.value:
        files["metrics_path"] = server_config.read_monitoring(_MONITORING.value)
    if _BATCHING.value:
        files["batching"] = server_config.read_batching(_BATCHING.value)
    if _TLS.value:
        files["tls"] = server_config.read_tls(_TLS.value)
    return server.Options(
        host=_HOST.value,
        port=_PORT.value,
        rest_port=_REST_PORT.value,
        poll_seconds=_POLL.value,
        max_message_bytes=_MAX_MB.value << 20,
        labels_of_unavailable=_LABELS.value,
        **files,
    )


def _print_addresses(running: server.Server, names: list[str]) -> None:
    from tf_triplet.serving import ports

    for name in names:
        numbers = ", ".join(map(str, running.models.available(name)))
        address = ports.join(_HOST.value, running.port)
        print(f"Serving {name} version {numbers} on {address}", flush=True)
    if running.rest_port is not None:
        address = ports.join(_HOST.value, running.rest_port)
        print(f"REST on {address}", flush=True)


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
