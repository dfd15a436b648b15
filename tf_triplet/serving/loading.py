"""A version from its folder to memory, warm, or the reason why not."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import tensorflow as tf

from tf_triplet.serving import batching
from tf_triplet.serving import server_metrics as metrics_lib
from tf_triplet.serving import warmup_replay as first_requests
from tf_triplet.serving.errors import Code, RequestError, shorten
from tf_triplet.serving.loaded_model import LoadedModel

OK = (0, "")


def load(
    path: Path,
    scheduler: batching.BatchScheduler | None,
    metrics: metrics_lib.Metrics,
) -> tuple[LoadedModel | None, tuple[int, str]]:
    """Loads and warms a version.

    Args:
        path: of the version.
        scheduler: makes batches of its requests.
        metrics: counts the attempt.

    Returns:
        The model, or None; and (code, message), (0, "") where it loaded.
    """
    start, model, health = time.monotonic(), None, OK
    try:
        model = LoadedModel(path, scheduler)
        _warm(model, metrics)
    # Whatever is wrong with one version, the others go on serving.
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
    """Changes when a version is mended."""
    try:
        return tuple(
            sorted(
                (str(file), file.stat().st_mtime_ns, file.stat().st_size)
                for file in path.rglob("*")
                if file.is_file()
            )
        )
    except OSError:
        return ()  # It is being copied or removed, or may not be read.


def _warm(model, metrics):
    start, status = time.monotonic(), "INVALID_ARGUMENT"
    try:
        first_requests.warm(model)
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
