"""ScaNN's setting: the cheapest that finds enough, measured.

The tree has sqrt(n) leaves. How many of them are searched, and how many
candidates are scored again exactly, is tried in rising order of cost on
sampled vectors of the catalog until the recall reaches the target. Each
looks for its neighbors, itself left out: any search finds a vector itself.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.retrieval import exact
from tf_triplet.servable import scann_index

# Sampled vectors, searched by every setting.
QUERIES = 400
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_REORDERS = (2, 5, 10, 20, 50, 200)
# A quantised product costs so much of a float one: 1,000,000 x 128 took
# 16.6 ms by matrix product, and 90,000 more of them by ScaNN 0.17 ms.
_HASHED = 1 / 9


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One setting.

    Attributes:
        leaves_to_search: of the tree's.
        reorder: candidates that are scored exactly.
        cost: in dot products a query, by `cost`.
        recall: share of the exact k nearest that are found.
        low: `recall` less two standard errors of the sample.
        milliseconds: of a query, in a batch on this machine.
    """

    leaves_to_search: int
    reorder: int
    cost: float
    recall: float
    low: float
    milliseconds: float


class TuningError(ValueError):
    """No setting finds enough."""


def cost(size: int, leaves: int, leaves_to_search: int, reorder: int) -> float:
    """Dot products a query, a quantised one being a ninth.

    It is counted, not timed, so that the choice is the same on a busy
    machine. Without leaves all vectors are scored.
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
    """(leaves to search, reorder) to try, cheapest first.

    Args:
        size: vectors.
        k: neighbors wanted.
        leaves: of the tree.
        leaves_to_search: the only value to try; 0 tries several.
        reorder: likewise.
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
    """The cheapest whose `low` reaches the target; ties: the most recall.

    Raises:
        TuningError: none does.
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
        f"No setting of ScaNN surely finds export.min_recall={target} of the "
        f"exact nearest. Received at best: {best.recall:.4f} (at least "
        f"{best.low:.4f}), with {best.leaves_to_search} leaves searched and "
        f"{best.reorder} candidates reordered. Leave export.leaves_to_search "
        "and export.reorder at 0, take export.storage=float32, lower "
        "export.min_recall, or use --index=exact. Nothing was published."
    )


def measure(
    index: scann_index.ScannIndex,
    embeddings: np.ndarray,
    rows: np.ndarray,
    k: int,
    pairs: Sequence[tuple[int, int]],
    target: float,
) -> list[Measurement]:
    """Searches with each setting in turn, up to one that is good.

    Args:
        index: of the embeddings.
        embeddings: `[n, dim]` float32.
        rows: `[q]` of the vectors that query; their own are left out.
        k: neighbors; no more than there are others.
        pairs: from `settings`.
        target: recall at which to stop.
    """
    queries, k = embeddings[rows], min(k, len(embeddings) - 1)
    _, truth = exact.top_k(queries, embeddings, k, exclude=rows)
    worst = truth[:, -1:]
    found = []
    for searched, reorder in pairs:
        tuning = dataclasses.replace(
            index.tuning, leaves_to_search=searched, reorder=reorder
        )
        start = time.perf_counter()
        answer, _ = index.search(tf.constant(queries), k + 1, tuning)
        seconds = time.perf_counter() - start
        others = _without(answer.numpy(), rows)
        recalls = _recalls(others, queries, embeddings, worst)
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
        embeddings: `[n, dim]` float32 of unit length.
        k: neighbors to find.
        target: recall to reach, of the exact k nearest.
        leaves: of the tree; 0: sqrt(n), and none (brute force) below
            `scann_index.SMALLEST_TREE` vectors.
        leaves_to_search: 0 is tuned.
        reorder: 0 is tuned.
        storage: "float32", or "int8": a quarter of the memory.
        seed: of the sampled queries.

    Returns:
        The index, and a record of what was chosen from what.

    Raises:
        TuningError: no setting reaches the target.
    """
    size = len(embeddings)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(size)[:QUERIES])
    start = scann_index.tune(size, k, leaves)
    pairs = [(0, 0)]
    if start.leaves:
        pairs = settings(size, k, start.leaves, leaves_to_search, reorder)
        # A vector looks for k others, itself being found too.
        most = max(k + 1, *(reordered for _, reordered in pairs))
        start = dataclasses.replace(start, reorder=min(size, most))
    start = dataclasses.replace(start, storage=storage)
    index = scann_index.ScannIndex(embeddings, k, start)
    curve = []
    # Brute force over floats is exact.
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
    """`[q, k]` of `[q, k + 1]`: without `rows`, or without the last."""
    own = answer == rows[:, None]
    own[:, -1] |= ~own.any(1)
    return answer[~own].reshape(len(rows), -1)


def _cost_of_int8(index, embeddings, rows, k) -> float:
    """Recall that float32 would have more, of the same tree.

    Another tree would be trained from another start, and differ by more.
    """
    costs, k = [], min(k, len(embeddings) - 1)
    for row in rows:
        query, own = embeddings[row][None], np.array([row])
        # In int8's order: all that float32 would have scored again.
        reordered = max(index.tuning.reorder, k + 1)
        answer = index.search(tf.constant(query), reordered)[0].numpy()
        scores = _scores(_without(answer, own), query, embeddings)
        kept, best = scores[:, :k], -np.sort(-scores)[:, :k]
        truth = exact.top_k(query, embeddings, k, exclude=own)[1]
        worst = truth[:, -1:] - 1e-5
        costs.append((best >= worst).mean() - (kept >= worst).mean())
    return float(np.mean(costs))


def _recalls(answer, queries, embeddings, worst) -> np.ndarray:
    """`[q]` shares of rows as near as the exact k-th; ties are all right."""
    return (_scores(answer, queries, embeddings) >= worst - 1e-5).mean(1)


def _scores(answer, queries, embeddings) -> np.ndarray:
    """`[q, k]` exact scores of rows, -2 where there is none."""
    scores = np.einsum("qd,qkd->qk", queries, embeddings[answer])
    return np.where(answer < 0, -2.0, scores)
