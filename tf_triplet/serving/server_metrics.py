"""Counters and histograms in Prometheus' text format.

Their names are TensorFlow Serving's.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence

PATH = "/monitoring/prometheus/metrics"
# Bounds of histograms. Latencies are in microseconds, up to some 20 minutes.
_LATENCY = [10 * 1.8**i for i in range(33)]
_SIZES = [float(2**i) for i in range(15)]
_FAMILIES = {
    # name: (help, labels, bounds of the histogram or None for a counter)
    ":tensorflow:serving:request_count": (
        "The total number of requests.",
        ("model_name", "status"),
        None,
    ),
    ":tensorflow:serving:request_latency": (
        "Wall time (in microseconds) of a request.",
        ("model_name", "API", "entrypoint"),
        _LATENCY,
    ),
    ":tensorflow:serving:runtime_latency": (
        "Wall time (in microseconds) of TensorFlow, including batching.",
        ("model_name", "API", "runtime"),
        _LATENCY,
    ),
    ":tensorflow:serving:request_example_counts": (
        "Number of rows in a request.",
        ("model",),
        _SIZES,
    ),
    ":tensorflow:serving:request_example_count_total": (
        "The total number of rows.",
        ("model",),
        None,
    ),
    ":tensorflow:serving:batching_session:queuing_latency": (
        "Time (in microseconds) that a request waited for its batch.",
        (),
        _LATENCY,
    ),
    ":tensorflow:serving:batching_session:processed_batch_size": (
        "Number of rows in a batch, including its padding.",
        (),
        _SIZES,
    ),
    ":tensorflow:serving:batching_session:padding_size": (
        "Number of rows that were added to a batch as padding.",
        (),
        _SIZES,
    ),
    ":tensorflow:cc:saved_model:load_attempt_count": (
        "The number of times a SavedModel was requested to be loaded.",
        ("model_path", "status"),
        None,
    ),
    ":tensorflow:cc:saved_model:load_latency": (
        "Microseconds spent on loading successfully.",
        ("model_path",),
        None,
    ),
    ":tensorflow:serving:model_warmup_latency": (
        "Wall time (in microseconds) of a version's warm-up.",
        ("model_path", "status"),
        _LATENCY,
    ),
}


class Metrics:
    """The values of all metrics."""

    def __init__(self):
        """Makes metrics without values."""
        self._lock = threading.Lock()
        self._values: dict[str, dict[tuple[str, ...], list]] = {
            name: {} for name in _FAMILIES
        }

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Increments a counter.

        Args:
            name: The name of the counter.
            *labels: The values of its labels.
            by: The amount to add.
        """
        with self._lock:
            cell = self._values[name].setdefault(labels, [0])
            cell[0] += by

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Adds a value to a histogram.

        Args:
            name: The name of the histogram.
            *labels: The values of its labels.
            value: The value to add.
        """
        bounds = _FAMILIES[name][2]
        with self._lock:
            counts, total = self._values[name].setdefault(
                labels, [[0] * (len(bounds) + 1), [0.0]]
            )
            counts[bisect.bisect_left(bounds, value)] += 1
            total[0] += value

    def render(self) -> str:
        """Returns the text that Prometheus reads."""
        lines = []
        with self._lock:
            for name, (description, labels, bounds) in _FAMILIES.items():
                kind = "counter" if bounds is None else "histogram"
                lines.append(f"# HELP {name} {description}")
                lines.append(f"# TYPE {name} {kind}")
                for values, cell in self._values[name].items():
                    pairs = list(zip(labels, values))
                    if bounds is None:
                        lines.append(f"{name}{_braces(pairs)} {cell[0]:.15g}")
                    else:
                        lines += _histogram(name, pairs, bounds, *cell)
        return "\n".join(lines) + "\n"


def _histogram(name, pairs, bounds, counts, total) -> list[str]:
    lines, reached = [], 0
    for bound, count in zip([*bounds, float("inf")], counts):
        reached += count
        le = "+Inf" if bound == float("inf") else f"{bound:.15g}"
        le = _braces([*pairs, ("le", le)])
        lines.append(f"{name}_bucket{le} {reached}")
    lines.append(f"{name}_sum{_braces(pairs)} {total[0]:.15g}")
    lines.append(f"{name}_count{_braces(pairs)} {reached}")
    return lines


def _braces(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{k}="{_escape(v)}"' for k, v in pairs) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
