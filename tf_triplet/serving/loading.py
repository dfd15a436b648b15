"""Loads a version and warms it up, or reports why it cannot be served."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import tensorflow as tf

from tf_triplet.serving import batching, server_metrics, warmup_replay
from tf_triplet.serving.errors import Code, RequestError, shorten
from tf_triplet.serving.loaded_model import LoadedModel

OK = (0, "")


def load(
    path: Path,
    scheduler: batching.BatchScheduler | None,
    metrics: server_metrics.Metrics,
) -> tuple[LoadedModel | None, tuple[int, str]]:
    """Loads a version and warms it up.

    Args:
        path: The folder of the version.
        scheduler: Batches the requests of the version. `None` runs each by
            itself.
        metrics: Counts the attempt.

    Returns:
        The model and `OK`, or `None` and the (code, message) of the error.
    """
    start, model, health = time.monotonic(), None, OK
    try:
        model = LoadedModel(path, scheduler)
        _warm_up(model, metrics)
    # No error of one version may stop the others.
    except Exception as error:
        health = _health(error)
        if model is not None:
            model.release()
        model = None
        gc.collect()
    name = ":tensorflow:cc:saved_model:load_attempt_count"
    metrics.add(name, str(path), "success" if model else "fail")
    if model:
        metrics.add(
            ":tensorflow:cc:saved_model:load_latency",
            str(path),
            by=1e6 * (time.monotonic() - start),
        )
    return model, health


def stamp(path: Path) -> tuple:
    """Returns a value that changes when a file of the version changes."""
    try:
        return tuple(
            sorted(
                (str(file), file.stat().st_mtime_ns, file.stat().st_size)
                for file in path.rglob("*")
                if file.is_file()
            )
        )
    except OSError:
        return ()  # It is being copied or removed, or is not readable.


def _warm_up(model, metrics):
    start, status = time.monotonic(), "INVALID_ARGUMENT"
    try:
        warmup_replay.warm_up(model)
        status = "OK"
    finally:
        metrics.observe(
            ":tensorflow:serving:model_warmup_latency",
            *(str(model.path), status),
            value=1e6 * (time.monotonic() - start),
        )


def _health(error: Exception) -> tuple[int, str]:
    if isinstance(error, tf.errors.OpError):
        return error.error_code, shorten(error.message)
    if isinstance(error, RequestError):
        return error.code.value[0], error.details
    return Code.UNKNOWN.value[0], f"{type(error).__name__}: {error}"
