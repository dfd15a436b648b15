"""Serves an export over gRPC: tf-triplet-serve --workdir=runs/emoji

For laptops and tests; it speaks TF Serving's protocol. Ctrl-C stops it.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from absl import app, flags

from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Folder of numbered versions, in place of --workdir."
)
_NAME = flags.DEFINE_string("name", "product_search", "Name of the model.")
_PORT = flags.DEFINE_integer("port", 8500, "gRPC port; 0 takes a free one.")


@errors.friendly
def main(argv) -> None:
    """Serves until SIGINT or SIGTERM."""
    errors.refuse_arguments(argv)
    if bool(_WORKDIR.value) == bool(_MODEL_DIR.value):
        raise ValueError("Pass either --workdir or --model_dir.")
    model_dir = _MODEL_DIR.value or str(
        Path(_WORKDIR.value) / "models" / _NAME.value
    )
    from tf_triplet.serving import server

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    running, port, model = server.start(model_dir, _NAME.value, _PORT.value)
    print(
        f"Serving {_NAME.value} version {model.version} on localhost:{port}",
        flush=True,
    )
    ended.wait()
    # Requests under way are finished first.
    running.stop(grace=10).wait()
    model.release()
    print("Stopped.")


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
