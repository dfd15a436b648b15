"""Finds the cheapest setting of ScaNN that reaches a recall.

The tree has sqrt(n) leaves. A setting is the number of leaves to search and
the number of candidates to score again. Settings are measured in rising order
of cost until one reaches the target. The queries are sampled vectors of the
catalog. Each looks for its neighbors other than itself, because any search
finds a vector itself.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.retrieval import exact
from tf_triplet.servable import recall, scann_index

# Number of sampled vectors with which each setting is measured.
QUERIES = 400
# Settings to try: shares of the leaves, and candidates for each neighbor.
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_REORDERS = (2, 5, 10, 20, 50, 200)
# Cost of a quantized dot product, in float ones. One million float products
# of 128 dimensions took 16.6 ms, and 90,000 quantized ones 0.17 ms.
_HASHED = 1 / 9


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A setting and what it achieves.

    Attributes:
        leaves_to_search: Number of leaves that each query searches.
        reorder: Number of candidates that are scored again.
        cost: Dot products for each query, from `cost`.
        recall: Share of the exact k nearest neighbors that are found.
        low: `recall` minus two standard errors of the sample.
        milliseconds: Time for each query, in a batch on this machine.
    """

    leaves_to_search: int
    reorder: int
    cost: float
    recall: float
    low: float
    milliseconds: float


class TuningError(ValueError):
    """No setting reaches the target recall."""


def cost(size: int, leaves: int, leaves_to_search: int, reorder: int) -> float:
    """Counts the dot products for a query, a quantized one as a ninth.

    The cost is counted instead of timed, so that the choice does not depend
    on how busy the machine is.

    Args:
        size: Number of vectors.
        leaves: Number of leaves. 0 means that all vectors are scored.
        leaves_to_search: Number of leaves that each query searches.
        reorder: Number of candidates that are scored again.
    """
    if not leaves:
        return size
    return leaves + _HASHED * size * leaves_to_search / leaves + reorder


def settings(
    size: int,
    k: int,
    leaves: int,
    leaves_to_search: int = 0,
    reorder: int = 0,
) -> list[tuple[int, int]]:
    """Lists the settings to try, cheapest first.

    Args:
        size: Number of vectors.
        k: Number of neighbors to find.
        leaves: Number of leaves.
        leaves_to_search: The only value to try. 0 tries several.
        reorder: The only value to try. 0 tries several.

    Returns:
        Pairs of (leaves to search, reorder).
    """
    searched = {math.ceil(leaves * share) for share in _SHARES}
    if leaves_to_search:
        searched = {min(leaves_to_search, leaves)}
    reorders = {min(size, k * factor) for factor in _REORDERS}
    if reorder:
        reorders = {min(size, max(reorder, k))}
    pairs = [(s, r) for s in searched for r in reorders]
    return sorted(pairs, key=lambda pair: (cost(size, leaves, *pair), pair))


def choose(measurements: Iterable[Measurement], target: float) -> Measurement:
    """Chooses the cheapest setting whose `low` reaches the target.

    Of settings with equal cost, it chooses the one with the highest recall.

    Args:
        measurements: The settings and what they achieve.
        target: The recall to reach.

    Raises:
        TuningError: No setting reaches the target.
    """
    measurements = list(measurements)
    good = [m for m in measurements if m.low >= target]
    if good:
        return min(
            good,
            key=lambda m: (m.cost, -m.recall, m.leaves_to_search, m.reorder),
        )
    best = max(measurements, key=lambda m: m.low)
    raise TuningError(
        "No setting of ScaNN reliably finds the share "
        f"export.min_recall={target} of the exact nearest neighbors. The best "
        f"one finds {best.recall:.4f} (at least {best.low:.4f}), with "
        f"{best.leaves_to_search} leaves searched and {best.reorder} "
        "candidates reordered. Leave export.leaves_to_search and "
        "export.reorder at 0, set export.storage=float32, lower "
        "export.min_recall, or pass --index=exact. Nothing was published."
    )


def measure(
    index: scann_index.ScannIndex,
    embeddings: np.ndarray,
    rows: np.ndarray,
    k: int,
    pairs: Sequence[tuple[int, int]],
    target: float,
) -> list[Measurement]:
    """Measures the settings in turn, until one reaches the target.

    Args:
        index: The index of the embeddings.
        embeddings: `[n, dim]` float32 vectors of unit length.
        rows: `[q]` rows of the vectors that are the queries. A query does not
            count as its own neighbor.
        k: Number of neighbors to find. It is reduced to n - 1 if need be.
        pairs: The settings, from `settings`.
        target: The recall at which to stop.
    """
    queries, k = embeddings[rows], min(k, len(embeddings) - 1)
    _, truth = exact.top_k(queries, embeddings, k, exclude=rows)
    found = []
    for searched, reorder in pairs:
        tuning = dataclasses.replace(
            index.tuning, leaves_to_search=searched, reorder=reorder
        )
        start = time.perf_counter()
        answer, _ = index.search(tf.constant(queries), k + 1, tuning)
        seconds = time.perf_counter() - start
        others = _without(answer.numpy(), rows)
        scores = _exact_scores(others, queries, embeddings)
        recalls = recall.is_found(scores, truth).mean(1)
        error = recalls.std() / len(recalls) ** 0.5
        size, leaves = len(embeddings), index.tuning.leaves
        found.append(
            Measurement(
                searched,
                reorder,
                round(cost(size, leaves, searched, reorder), 1),
                float(recalls.mean()),
                float(recalls.mean() - 2 * error),
                1e3 * seconds / len(queries),
            )
        )
        if found[-1].low >= target:
            break
    return found


def tune(
    embeddings: np.ndarray,
    k: int,
    target: float,
    *,
    leaves: int = 0,
    leaves_to_search: int = 0,
    reorder: int = 0,
    storage: str = "float32",
    seed: int = 0,
) -> tuple[scann_index.ScannIndex, dict]:
    """Builds the index of a catalog and finds its setting.

    Args:
        embeddings: `[n, dim]` float32 vectors of unit length.
        k: Number of neighbors to find.
        target: The recall to reach, as a share of the exact k nearest.
        leaves: Number of leaves. 0 means sqrt(n), or brute force without a
            tree if there are fewer than `scann_index.SMALLEST_TREE` vectors.
        leaves_to_search: Number of leaves that each query searches. 0 finds
            one.
        reorder: Number of candidates that are scored again. 0 finds one.
        storage: "float32", or "int8" for a quarter of the memory.
        seed: Seed of the sampled queries.

    Returns:
        The index, and a record of the setting and all measurements.

    Raises:
        TuningError: No setting reaches the target.
    """
    size = len(embeddings)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(size)[:QUERIES])
    start = scann_index.tune(size, k, leaves)
    pairs = [(0, 0)]
    if start.leaves:
        pairs = settings(size, k, start.leaves, leaves_to_search, reorder)
        # A query finds itself too, beside its k neighbors.
        most = max(k + 1, *(reordered for _, reordered in pairs))
        start = dataclasses.replace(start, reorder=min(size, most))
    start = dataclasses.replace(start, storage=storage)
    index = scann_index.ScannIndex(embeddings, k, start)
    curve = []
    # Brute force in float32 is exact, so there is nothing to measure.
    if size > 1 and (start.leaves or storage != "float32"):
        curve = measure(index, embeddings, rows, k, pairs, target)
        chosen = choose(curve, target)
        index.tuning = dataclasses.replace(
            start,
            leaves_to_search=chosen.leaves_to_search,
            reorder=chosen.reorder,
        )
    record = {
        **dataclasses.asdict(index.tuning),
        "target": target,
        "recall": chosen.recall if curve else 1.0,
        "queries": len(rows),
        "curve": [dataclasses.asdict(m) for m in curve],
    }
    if storage == "int8":
        record["recall_cost"] = 1 - record["recall"]
        if index.tuning.leaves:
            record["recall_cost"] = _cost_of_int8(index, embeddings, rows, k)
    return index, record


def _without(answer: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Removes each query from its own answer.

    Args:
        answer: `[q, k + 1]` rows, nearest first.
        rows: `[q]` rows of the queries.

    Returns:
        `[q, k]` rows. Where the query is not in its answer, the last row is
        removed.
    """
    own = answer == rows[:, None]
    own[:, -1] |= ~own.any(1)
    return answer[~own].reshape(len(rows), -1)


def _cost_of_int8(index, embeddings, rows, k) -> float:
    """Returns how much more recall float32 would have, with the same tree.

    A tree trained for float32 would start from other random numbers, and the
    difference would be larger than that of the storage.
    """
    costs, k = [], min(k, len(embeddings) - 1)
    for row in rows:
        query, own = embeddings[row][None], np.array([row])
        # All the candidates that float32 would score again, in int8's order.
        reordered = max(index.tuning.reorder, k + 1)
        answer = index.search(tf.constant(query), reordered)[0].numpy()
        others = _without(answer, own)
        scores = _exact_scores(others, query, embeddings)
        truth = exact.top_k(query, embeddings, k, exclude=own)[1]
        in_int8, in_float32 = (
            recall.is_found(ordered[:, :k], truth).mean()
            for ordered in (scores, -np.sort(-scores))
        )
        costs.append(in_float32 - in_int8)
    return float(np.mean(costs))


def _exact_scores(answer, queries, embeddings) -> np.ndarray:
    """Returns the `[q, k]` exact scores of an answer's `[q, k]` rows."""
    scores = np.einsum("qd,qkd->qk", queries, embeddings[answer])
    return np.where(answer < 0, scann_index.PADDING_SCORE, scores)
