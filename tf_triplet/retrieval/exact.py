"""Exact search and exact ranks, a block of scores at a time.

Every score is a float64 cosine of vectors made unit length again in float64.
In float32 the scores of nearly collapsed embeddings (mean distance 4e-4) are
rounding noise, and copies of one image tie or not by the luck of the
kernel. Scores within `TIE` of one another count as equal: far above float64's
own rounding, far below what float32 embeddings can tell apart.

The whole `[queries, gallery]` matrix is never held, only a block of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

TIE = 1e-12
_QUERY_BLOCK = 1024
_GALLERY_BLOCK = 8192
# Entries of a `[query block, positives]` table.
_MAX_POSITIVES = 4_000_000
# From so many positives a query on, sorting a row of scores once is cheaper
# than counting over it twice for each positive.
_SORT_FROM = 8


@dataclasses.dataclass(frozen=True, eq=False)
class PositiveRanks:
    """Where the positives of a block of queries stand among the negatives.

    A query's positives come nearest first. Those that tie with one another
    form a group, whose members share `above` and `tied`. Columns from
    `counts` on are padding.

    Attributes:
        rows: `[b]` int64, the queries.
        counts: `[b]` int64, the positives that each has in the gallery.
        above: `[b, p]` int64, negatives nearer than the positive's group.
        tied: `[b, p]` int64, negatives that tie with it.
        leaders: `[b, p]` int64, the column of the group's first member.
        sizes: `[b, p]` int64, the positives in the group.
    """

    rows: np.ndarray
    counts: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    leaders: np.ndarray
    sizes: np.ndarray


def top_k(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    exclude: np.ndarray | None = None,
    block: int = _QUERY_BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest gallery rows of each query, nearest first.

    Args:
        queries: `[q, dim]` floats, of any length.
        gallery: `[g, dim]` floats.
        k: neighbors a query.
        exclude: `[q]` integers, the gallery row that is the query itself
            and may not be found, or -1.
        block: queries at a time.

    Returns:
        `[q, k]` int64 gallery rows and `[q, k]` float32 cosines. Ties go to
        the lower row. Where the gallery has fewer than k rows to offer, the
        rest is -1 and NaN.

    Raises:
        ValueError: the shapes do not fit, or a vector is not finite.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1. Received: {k}")
    exclude = check_vectors(queries, gallery, exclude)
    query_scale, gallery_scale = (
        _inverse_norms(queries),
        _inverse_norms(gallery),
    )
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), np.nan, np.float32)
    for start in range(0, len(queries), block):
        rows = np.arange(start, min(start + block, len(queries)))
        unit = _unit(queries, query_scale, rows)
        best = np.empty((len(rows), 0))
        found = np.empty((len(rows), 0), np.int64)
        for first in range(0, len(gallery), _GALLERY_BLOCK):
            columns = np.arange(
                first, min(first + _GALLERY_BLOCK, len(gallery))
            )
            new = unit @ _unit(gallery, gallery_scale, columns).T
            _mask(new, exclude[rows] - first)
            best, found = _keep_best(
                np.concatenate([best, new], axis=1),
                np.concatenate(
                    [found, np.broadcast_to(columns, new.shape)], axis=1
                ),
                k,
            )
        offered = best > -np.inf
        width = best.shape[1]
        indices[rows, :width] = np.where(offered, found, -1)
        scores[rows, :width] = np.where(offered, best, np.nan)
    return indices, scores


def _keep_best(
    scores: np.ndarray, indices: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best columns of each row, the leftmost of equal ones."""
    # On this grid equal scores are equal numbers, whatever their last bits.
    keys = np.rint(scores / TIE)
    width = keys.shape[1]
    if width > k:
        least = np.partition(keys, width - k, axis=1)[:, width - k, None]
        chosen = keys >= least
        crowded = np.flatnonzero(chosen.sum(axis=1) > k)
        equal = keys[crowded] == least[crowded]
        room = k - (chosen[crowded].sum(axis=1) - equal.sum(axis=1))
        chosen[crowded] &= ~(equal & (equal.cumsum(axis=1) > room[:, None]))
        columns = np.nonzero(chosen)[1].reshape(len(keys), k)
        keys = np.take_along_axis(keys, columns, axis=1)
        scores = np.take_along_axis(scores, columns, axis=1)
        indices = np.take_along_axis(indices, columns, axis=1)
    order = np.argsort(-keys, axis=1, kind="stable")
    return (
        np.take_along_axis(scores, order, axis=1),
        np.take_along_axis(indices, order, axis=1),
    )


def positive_ranks(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    exclude: np.ndarray | None = None,
) -> Iterator[PositiveRanks]:
    """Ranks each query's positives without sorting the gallery.

    A metric needs the ranks of the positives alone: the number of negatives
    that score above each, counted block by block.

    Args:
        queries: `[q, dim]` floats, of any length.
        query_labels: `[q]` integers.
        gallery: `[g, dim]` floats.
        gallery_labels: `[g]` integers. A gallery row of the query's label
            is a positive, every other row a negative.
        exclude: `[q]` integers, the gallery row that is the query itself,
            which is neither, or -1.

    Yields:
        Blocks of queries, in no particular order. Queries without a
        positive are in none.

    Raises:
        ValueError: the shapes do not fit, or a vector is not finite.
    """
    exclude = check_vectors(queries, gallery, exclude)
    scales = _inverse_norms(queries), _inverse_norms(gallery)
    # Sorted by label, the positives of a query are one slice.
    order = np.argsort(gallery_labels, kind="stable")
    labels = np.asarray(gallery_labels)[order]
    firsts = np.searchsorted(labels, query_labels, side="left")
    lasts = np.searchsorted(labels, query_labels, side="right")
    places = np.full(len(order) + 1, -1)
    places[order] = np.arange(len(order))
    selves = places[exclude]  # -1 finds the last place, which holds -1.
    counts = lasts - firsts - ((selves >= firsts) & (selves < lasts))
    # Blocks of like counts need little padding.
    visits = np.lexsort((firsts, counts))
    visits = visits[counts[visits] > 0]
    while len(visits):
        # The last of a block has the most positives.
        size = min(_QUERY_BLOCK, len(visits))
        widest = int((lasts - firsts)[visits[:size]].max())
        size = max(1, min(size, _MAX_POSITIVES // widest))
        rows, visits = visits[:size], visits[size:]
        unit = _unit(queries, scales[0], rows)
        slices = firsts[rows], lasts[rows], selves[rows]
        scores = _positive_scores(unit, gallery, scales[1], order, slices)
        scores = scores[:, : counts[rows].max()]
        above, level = _count_negatives(
            unit, gallery, scales[1], order, slices, scores
        )
        yield _group(rows, counts[rows], scores, above, level)


def _positive_scores(unit, gallery, scale, order, slices) -> np.ndarray:
    """Returns `[b, p]` scores of the positives, nearest first, then -inf."""
    firsts, lasts, selves = slices
    scores = np.full((len(unit), (lasts - firsts).max()), -np.inf)
    changes = np.flatnonzero(np.diff(firsts)) + 1
    for rows in np.split(np.arange(len(unit)), changes):
        first, last = firsts[rows[0]], lasts[rows[0]]
        columns = _unit(gallery, scale, order[first:last])
        scores[rows, : last - first] = unit[rows] @ columns.T
        inside = rows[(selves[rows] >= first) & (selves[rows] < last)]
        scores[inside, selves[inside] - first] = -np.inf
    return -np.sort(-scores, axis=1)


def _count_negatives(
    unit, gallery, scale, order, slices, positives
) -> tuple[np.ndarray, np.ndarray]:
    """Counts `[b, p]` negatives above each positive, and not below it."""
    firsts, lasts, selves = slices
    above = np.zeros(positives.shape, np.int64)
    level = np.zeros(positives.shape, np.int64)
    for start in range(0, len(order), _GALLERY_BLOCK):
        columns = order[start : start + _GALLERY_BLOCK]
        scores = unit @ _unit(gallery, scale, columns).T
        _mask(scores, selves - start)
        # The queries' own products are no negatives.
        lows = np.maximum(firsts - start, 0)
        highs = np.minimum(lasts - start, len(columns))
        for row in np.flatnonzero(lows < highs):
            scores[row, lows[row] : highs[row]] = -np.inf
        if positives.shape[1] < _SORT_FROM:
            for i, positive in enumerate(positives.T[:, :, None]):
                above[:, i] += np.count_nonzero(scores > positive + TIE, axis=1)
                level[:, i] += np.count_nonzero(
                    scores >= positive - TIE, axis=1
                )
            continue
        scores.sort(axis=1)
        for row, (ranked, positive) in enumerate(zip(scores, positives)):
            above[row] -= np.searchsorted(ranked, positive + TIE, side="right")
            level[row] -= np.searchsorted(ranked, positive - TIE, side="left")
        above += len(columns)
        level += len(columns)
    return above, level


def _group(rows, counts, scores, above, level) -> PositiveRanks:
    """Gives the members of each tie group of positives the same counts."""
    width = scores.shape[1]
    columns = np.broadcast_to(np.arange(width), scores.shape)
    # Padding forms groups of its own, never the last positive's.
    leads = np.ones(scores.shape, bool)
    with np.errstate(invalid="ignore"):  # -inf less -inf, in the padding.
        leads[:, 1:] = scores[:, :-1] - scores[:, 1:] > TIE
    ends = np.ones(scores.shape, bool)
    ends[:, :-1] = leads[:, 1:]
    leaders = np.maximum.accumulate(np.where(leads, columns, 0), axis=1)
    last = np.where(ends, columns, width)[:, ::-1]
    last = np.minimum.accumulate(last, axis=1)[:, ::-1]
    above = np.take_along_axis(above, leaders, axis=1)
    level = np.take_along_axis(level, last, axis=1)
    return PositiveRanks(
        rows, counts, above, level - above, leaders, last - leaders + 1
    )


def check_vectors(
    queries: np.ndarray, gallery: np.ndarray, exclude: np.ndarray | None
) -> np.ndarray:
    """Returns `exclude` as `[q]` int64; raises ValueError on bad input."""
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if np.ndim(vectors) != 2:
            raise ValueError(
                f"`{name}` must be [rows, dim]. "
                f"Received shape: {np.shape(vectors)}"
            )
        # A sum is finite only where every term is, and needs no table.
        bad = ~np.isfinite(np.sum(vectors, axis=1, dtype=np.float64))
        if bad.any():
            raise ValueError(
                f"{bad.sum():,} of {len(bad):,} rows of `{name}` hold NaN or "
                f"infinity, the first is row {np.argmax(bad)}. The encoder "
                "diverged: lower the learning rate, or take an earlier "
                "checkpoint."
            )
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            "Queries and gallery must come from the same encoder. Received: "
            f"{queries.shape[1]} and {gallery.shape[1]} dimensions"
        )
    if exclude is None:
        return np.full(len(queries), -1, np.int64)
    exclude = np.asarray(exclude, np.int64)
    if exclude.shape != (len(queries),) or (
        len(exclude) and not -1 <= exclude.min() <= exclude.max() < len(gallery)
    ):
        raise ValueError(
            f"`exclude` must hold a gallery row (0 to {len(gallery) - 1}) or "
            f"-1 for each of {len(queries)} queries. Received: {exclude}"
        )
    return exclude


def _inverse_norms(vectors: np.ndarray) -> np.ndarray:
    """Returns `[n]` float64 1 / length; 0 for a zero vector, whose cosine
    with anything is taken to be 0.
    """
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), _GALLERY_BLOCK):
        part = vectors[start : start + _GALLERY_BLOCK].astype(np.float64)
        norms[start : start + len(part)] = np.linalg.norm(part, axis=1)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _unit(
    vectors: np.ndarray, scale: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Returns `[rows, dim]` float64 vectors of unit length."""
    unit = vectors[rows].astype(np.float64)
    unit *= scale[rows, None]
    return unit


def _mask(scores: np.ndarray, columns: np.ndarray) -> None:
    """Takes one column a row out of the running, where it is in the block."""
    rows = np.flatnonzero((columns >= 0) & (columns < scores.shape[1]))
    scores[rows, columns[rows]] = -np.inf
