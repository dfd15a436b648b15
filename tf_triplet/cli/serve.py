"""Serves an export over gRPC and REST: tf-triplet-serve --workdir=runs/emoji

For laptops and tests; it speaks TF Serving's protocol, and loads a new version
when one is exported. Ctrl-C or SIGTERM stops it, after the requests under way.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from pathlib import Path

from absl import flags

from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of numbered versions, in place of --workdir."
)
_MODELS = flags.DEFINE_string(
    "model_config_file",
    None,
    "Models, version policies and labels, as in export/models.config; in "
    "place of --workdir.",
)
_NAME = flags.DEFINE_string("name", "product_search", "Name of the model.")
_HOST = flags.DEFINE_string(
    "host", "localhost", "Interface; 0.0.0.0 is reached from elsewhere."
)
_PORT = flags.DEFINE_integer(
    "port", 8500, "gRPC port; 0 takes a free one.", 0, 65535
)
_REST_PORT = flags.DEFINE_integer(
    "rest_port",
    None,
    "Port of REST and of the metrics, 8501 by custom; 0 takes a free one. Left "
    "out: gRPC alone.",
    0,
    65535,
)
_POLL = flags.DEFINE_float(
    "poll_seconds", 1.0, "Between looks for a new version; 0: never.", 0
)
_BATCHING = flags.DEFINE_string(
    "batching_parameters_file",
    None,
    "Batches requests, as export/batching.config says.",
)
_MONITORING = flags.DEFINE_string(
    "monitoring_config_file",
    None,
    "Path of the metrics, as in export/monitoring.config.",
)
_TLS = flags.DEFINE_string(
    "ssl_config_file",
    None,
    "TLS for gRPC: server_key, server_cert, custom_ca, client_verify.",
)
_MAX_MB = flags.DEFINE_integer(
    "max_message_mb", 64, "Of a request or an answer.", 1, 2047
)
_LABELS = flags.DEFINE_bool(
    "allow_version_labels_for_unavailable_models",
    False,
    "Lets a label name a version that is not loaded yet.",
)
_DRAIN = flags.DEFINE_float(
    "drain_seconds", 10.0, "For requests under way when it is stopped.", 0
)


@errors.friendly
def main(argv) -> None:
    """Serves until SIGINT or SIGTERM."""
    errors.refuse_arguments(argv)
    given = [_WORKDIR.value, _MODEL_DIR.value, _MODELS.value]
    if sum(map(bool, given)) != 1:
        raise ValueError(
            "Pass one of --workdir, --model_dir and --model_config_file."
        )
    ended = threading.Event()
    if _MONITORING.value and _REST_PORT.value is None:
        raise ValueError(
            "--monitoring_config_file needs --rest_port, which shows the "
            "metrics."
        )
    from tf_triplet.serving import server, server_config

    logging.getLogger().setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if _MODELS.value:
        config = server_config.read_models(_MODELS.value)
    else:
        config = server_config.one_model(
            _NAME.value,
            _MODEL_DIR.value or Path(_WORKDIR.value) / "models" / _NAME.value,
        )
    # What is imported by now stays: a version's end, which collects garbage
    # to free its graph, need not look at it while requests wait.
    gc.collect()
    gc.freeze()
    running = server.Server(config, _options(server, server_config))
    for model in config.model_config_list.config:
        numbers = running.models.available(model.name)
        print(
            f"Serving {model.name} version {', '.join(map(str, numbers))} on "
            f"{_HOST.value}:{running.port}",
            flush=True,
        )
    if running.rest_port is not None:
        print(f"REST on {_HOST.value}:{running.rest_port}", flush=True)
    ended.wait()
    running.stop(_DRAIN.value)
    print("Stopped.")


def _options(server, server_config):
    monitoring = {}
    if _MONITORING.value:
        monitoring["metrics_path"] = server_config.read_monitoring(
            _MONITORING.value
        )
    return server.Options(
        host=_HOST.value,
        port=_PORT.value,
        rest_port=_REST_PORT.value,
        poll_seconds=_POLL.value,
        batching=_BATCHING.value
        and server_config.read_batching(_BATCHING.value),
        tls=_TLS.value and server_config.read_tls(_TLS.value),
        max_message_bytes=_MAX_MB.value << 20,
        labels_of_unavailable=_LABELS.value,
        **monitoring,
    )


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
