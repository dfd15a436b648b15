"""Exact ranks of the positives, without sorting the gallery.

A gallery image of the query's product is a positive; every other one is a
negative. A metric needs the ranks of the positives only, and the rank of a
positive is the number of images that score higher. So it is enough to count,
block by block, the negatives above each positive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tf_triplet.retrieval import unit_vectors
from tf_triplet.retrieval.reranking import Reranking
from tf_triplet.retrieval.unit_vectors import TIE, UnitVectors

# Number of entries in a `[query block, positives]` table.
_MAX_POSITIVES = 4_000_000
# If queries have at least this many positives, sorting a row of scores once is
# cheaper than counting over it twice for each positive.
_SORT_FROM = 8


@dataclasses.dataclass(frozen=True, eq=False)
class PositiveRanks:
    """Ranks of the positives of a block of queries.

    The positives of a query come nearest first. Positives of equal score form
    a group, whose members share `above` and `tied`. Columns at and after
    `counts` are padding.

    Attributes:
        rows: `[b]` int64, the rows of the queries.
        counts: `[b]` int64, the number of positives of each query.
        above: `[b, p]` int64, the number of negatives that score higher than
            the group of the positive.
        tied: `[b, p]` int64, the number of negatives that score the same.
        leaders: `[b, p]` int64, the column of the first member of the group.
        sizes: `[b, p]` int64, the number of positives in the group.
    """

    rows: np.ndarray
    counts: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    leaders: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Slices:
    """The positives of each query, in a gallery that is sorted by label.

    Attributes:
        firsts: `[b]` int64, the position of the first positive.
        lasts: `[b]` int64, the position after the last positive.
        selves: `[b]` int64, the position of the query itself, or -1.
    """

    firsts: np.ndarray
    lasts: np.ndarray
    selves: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> _Slices:
        return _Slices(self.firsts[rows], self.lasts[rows], self.selves[rows])

    @property
    def widths(self) -> np.ndarray:
        """`[b]` int64, the number of positives, the query itself included."""
        return self.lasts - self.firsts

    @property
    def has_self(self) -> np.ndarray:
        """`[b]` booleans, whether the query itself is in the slice."""
        return (self.selves >= self.firsts) & (self.selves < self.lasts)


def positive_ranks(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    exclude: np.ndarray | None = None,
    reranking: Reranking | None = None,
) -> Iterator[PositiveRanks]:
    """Ranks the positives of each query among the negatives.

    Args:
        queries: `[q, dim]` floats. Vectors need not have unit length.
        query_labels: `[q]` integers.
        gallery: `[g, dim]` floats.
        gallery_labels: `[g]` integers. A gallery row with the label of the
            query is a positive; every other row is a negative.
        exclude: `[q]` integers, the gallery row that is the query itself, or
            -1. This row is neither a positive nor a negative.
        reranking: Other scores than the cosines, see `rerank`.

    Yields:
        Blocks of queries, in no particular order. Queries without a positive
        are left out.

    Raises:
        ValueError: If a shape is wrong, or a vector is not finite.
    """
    exclude = unit_vectors.check_vectors(queries, gallery, exclude)
    queries, gallery = UnitVectors(queries), UnitVectors(gallery)
    # In a gallery sorted by label, the positives of a query are one slice.
    order = np.argsort(gallery_labels, kind="stable")
    labels = np.asarray(gallery_labels)[order]
    places = np.full(len(order) + 1, -1)
    places[order] = np.arange(len(order))
    slices = _Slices(
        np.searchsorted(labels, query_labels, side="left"),
        np.searchsorted(labels, query_labels, side="right"),
        places[exclude],  # The index -1 reads the last entry, which is -1.
    )
    counts = slices.widths - slices.has_self
    # Queries with similar counts share a block, which needs little padding.
    visits = np.lexsort((slices.firsts, counts))
    visits = visits[counts[visits] > 0]
    while len(visits):
        size = min(unit_vectors.QUERY_BLOCK, len(visits))
        widest = int(slices.widths[visits[:size]].max())
        size = max(1, min(size, _MAX_POSITIVES // widest))
        rows, visits = visits[:size], visits[size:]
        score = _Scorer(queries[rows], rows, gallery, order, reranking)
        scores = _positive_scores(score, slices[rows])
        scores = scores[:, : counts[rows].max()]
        above, level = _count_negatives(score, slices[rows], scores)
        yield _group(rows, counts[rows], scores, above, level)


class _Scorer:
    """Scores a block of queries against slices of the sorted gallery."""

    def __init__(
        self,
        unit: np.ndarray,
        rows: np.ndarray,
        gallery: UnitVectors,
        order: np.ndarray,
        reranking: Reranking | None,
    ) -> None:
        self._unit, self._gallery, self._order = unit, gallery, order
        self._weight, self._bonus = 1.0, None
        if reranking is not None:
            self._weight = reranking.weight
            if reranking.bonus is not None:
                self._bonus = reranking.bonus[rows][:, order]
        self.queries, self.images = len(unit), len(order)

    def __call__(
        self, start: int, end: int, rows: np.ndarray | slice = slice(None)
    ) -> np.ndarray:
        """Returns `[rows, end - start]` scores."""
        columns = self._order[start:end]
        scores = self._unit[rows] @ self._gallery[columns].T
        if self._weight != 1.0:
            scores *= self._weight
        if self._bonus is not None:
            scores += self._bonus[rows, start:end].toarray()
        return scores


def _positive_scores(score: _Scorer, slices: _Slices) -> np.ndarray:
    """Returns `[b, p]` scores of the positives, nearest first, then -inf."""
    scores = np.full((score.queries, slices.widths.max()), -np.inf)
    has_self = slices.has_self
    # Queries of the same product share their positives.
    changes = np.flatnonzero(np.diff(slices.firsts)) + 1
    for rows in np.split(np.arange(score.queries), changes):
        first, last = slices.firsts[rows[0]], slices.lasts[rows[0]]
        scores[rows, : last - first] = score(first, last, rows)
        inside = rows[has_self[rows]]
        scores[inside, slices.selves[inside] - first] = -np.inf
    return -np.sort(-scores, axis=1)


def _count_negatives(
    score: _Scorer, slices: _Slices, positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts `[b, p]` negatives above each positive, and not below it."""
    above = np.zeros(positives.shape, np.int64)
    level = np.zeros(positives.shape, np.int64)
    for start in range(0, score.images, unit_vectors.GALLERY_BLOCK):
        end = min(start + unit_vectors.GALLERY_BLOCK, score.images)
        scores = score(start, end)
        unit_vectors.hide(scores, slices.selves - start)
        # Images of the query's product are not negatives.
        lows = np.maximum(slices.firsts - start, 0)
        highs = np.minimum(slices.lasts - start, end - start)
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
        above += end - start
        level += end - start
    return above, level


def _group(
    rows: np.ndarray,
    counts: np.ndarray,
    scores: np.ndarray,
    above: np.ndarray,
    level: np.ndarray,
) -> PositiveRanks:
    """Gives the members of each group of equal positives the same counts."""
    width = scores.shape[1]
    columns = np.broadcast_to(np.arange(width), scores.shape)
    # Padding forms groups of its own, so it never joins the last positive.
    leads = np.ones(scores.shape, bool)
    with np.errstate(invalid="ignore"):  # Padding subtracts -inf from -inf.
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
