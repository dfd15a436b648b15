"""Recall@K, Precision@K, R-Precision and MAP@R, exact and tie-safe.

With R the number of gallery images that show the query's product:

* Recall@K: 1 where one of the K nearest is right, else 0.
* Precision@K: right ones among the K nearest, over K.
* R-Precision: right ones among the R nearest, over R.
* MAP@R: `(1/R) * sum over i <= R of P(i) * rel(i)`, where P(i) is the
  precision at i and rel(i) is 1 where the i-th nearest is right.

Each is the mean over the queries with R > 0; the others are left out and
counted. Ties between a right and a wrong image count against the system
(`against`: an encoder that maps everything to one point scores 0), or every
metric is its expected value under a random order (`expected`: it scores what
chance would).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tf_triplet.retrieval import exact

TIES = ("against", "expected")


@dataclasses.dataclass(frozen=True)
class RetrievalMetrics:
    """What a set of queries scores, NaN where there is nothing to score.

    Attributes:
        recall: Recall@K by K.
        precision: Precision@K by K.
        map_at_r: MAP@R.
        r_precision: R-Precision.
        queries: Queries that have a positive, over which the means go.
        left_out: Queries that have none.
        by_group: The same for each group of queries, in order of name.
    """

    recall: dict[int, float]
    precision: dict[int, float]
    map_at_r: float
    r_precision: float
    queries: int
    left_out: int
    by_group: dict[Hashable, RetrievalMetrics] = dataclasses.field(
        default_factory=dict
    )

    def named(self) -> dict[str, float]:
        """Returns `{"recall@1": ..., "map@r": ...}` in reading order."""
        return {
            **{f"recall@{k}": value for k, value in self.recall.items()},
            **{f"precision@{k}": value for k, value in self.precision.items()},
            "map@r": self.map_at_r,
            "r_precision": self.r_precision,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns `named()` and the counts; null for NaN, as JSON has none."""
        metrics = {
            name: None if np.isnan(value) else value
            for name, value in self.named().items()
        }
        return {
            **metrics,
            "queries": self.queries,
            "left_out": self.left_out,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class QueryMetrics:
    """The metrics of each query, NaN where it has no positive.

    Attributes:
        recall: `[ks, q]` float64.
        precision: `[ks, q]` float64.
        map_at_r: `[q]` float64.
        r_precision: `[q]` float64.
    """

    recall: np.ndarray
    precision: np.ndarray
    map_at_r: np.ndarray
    r_precision: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[QueryMetrics]) -> QueryMetrics:
        """The queries of several galleries, one after another."""
        return cls(
            *(
                np.concatenate([getattr(p, field.name) for p in parts], -1)
                for field in dataclasses.fields(cls)
            )
        )

    def repeat(self, times: np.ndarray) -> QueryMetrics:
        """Each query as often as `[q]` integers say."""
        return QueryMetrics(
            *(
                np.repeat(getattr(self, field.name), times, -1)
                for field in dataclasses.fields(self)
            )
        )


def evaluate(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ks: Sequence[int],
    exclude: np.ndarray | None = None,
    ties: str = "against",
    groups: np.ndarray | None = None,
) -> RetrievalMetrics:
    """Scores retrieval: are the nearest images of the query's product?

    Args:
        queries: `[q, dim]` floats.
        query_labels: `[q]` labels, integers or strings.
        gallery: `[g, dim]` floats.
        gallery_labels: `[g]` labels of the same kind.
        ks: Ranks for Recall@K and Precision@K; they may exceed g.
        exclude: `[q]` integers, the gallery row that is the query itself,
            or -1.
        ties: `against` or `expected`.
        groups: `[q]` names, for instance the queries' categories.

    Raises:
        ValueError: a shape, a rank or a vector that cannot be.
    """
    metrics = evaluate_queries(
        queries, query_labels, gallery, gallery_labels, ks, exclude, ties
    )
    return summarize(metrics, ks, groups)


def summarize(
    metrics: QueryMetrics,
    ks: Sequence[int],
    groups: np.ndarray | None = None,
) -> RetrievalMetrics:
    """The means over queries.

    Args:
        metrics: Of `evaluate_queries`.
        ks: The ranks that it was given.
        groups: `[q]` names, for instance the queries' categories.
    """
    everything = _mean(metrics, ks, slice(None), {})
    if groups is None:
        return everything
    groups = np.asarray(groups)
    if groups.shape != metrics.map_at_r.shape:
        raise ValueError(
            "`groups` must name a group for each of "
            f"{len(metrics.map_at_r)} queries. "
            f"Received shape: {groups.shape}"
        )
    names, members = np.unique(groups, return_inverse=True)
    by_group = {
        name: _mean(metrics, ks, members == i, {})
        for i, name in enumerate(names.tolist())
    }
    return dataclasses.replace(everything, by_group=by_group)


def evaluate_queries(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ks: Sequence[int],
    exclude: np.ndarray | None = None,
    ties: str = "against",
) -> QueryMetrics:
    """As `evaluate`, query by query."""
    ks = _check_ks(ks)
    if ties not in TIES:
        raise ValueError(
            f"`ties` must be one of {', '.join(TIES)}. Received: {ties!r}"
        )
    count, size = len(queries), len(gallery)
    query_labels, gallery_labels = _dense(
        query_labels, count, gallery_labels, size
    )
    metrics = QueryMetrics(
        np.full((len(ks), count), np.nan),
        np.full((len(ks), count), np.nan),
        np.full(count, np.nan),
        np.full(count, np.nan),
    )
    # Log-factorials and harmonic numbers, up to any rank there can be.
    log_factorials = _running_sum(np.log(np.arange(1, size + 1)))
    harmonics = _running_sum(1 / np.arange(1, size + 1))
    for ranks in exact.positive_ranks(
        queries, query_labels, gallery, gallery_labels, exclude
    ):
        groups = _tie_groups(ranks, ties)
        rows, relevant = ranks.rows, ranks.counts
        for i, k in enumerate(ks):
            metrics.recall[i, rows] = _recall(groups, k, log_factorials)
            metrics.precision[i, rows] = _hits(groups, k) / k
        metrics.r_precision[rows] = _hits(groups, relevant[:, None]) / relevant
        metrics.map_at_r[rows] = _map_at_r(groups, relevant, harmonics)
    return metrics


@dataclasses.dataclass(frozen=True, eq=False)
class _TieGroups:
    """Stretches of the ranking whose order is open, `[b, groups]` each.

    Attributes:
        before: Images ranked before the group.
        right_before: Right images among them.
        right: Right images in the group; 0 for an entry that is none.
        size: Images in the group.
    """

    before: np.ndarray
    right_before: np.ndarray
    right: np.ndarray
    size: np.ndarray


def _tie_groups(ranks: exact.PositiveRanks, ties: str) -> _TieGroups:
    columns = np.broadcast_to(
        np.arange(ranks.above.shape[1]), ranks.above.shape
    )
    real = columns < ranks.counts[:, None]
    if ties == "against":
        # Every wrong one first: each positive has a definite place.
        return _TieGroups(
            before=ranks.above + ranks.tied + columns,
            right_before=columns,
            right=real.astype(np.int64),
            size=np.ones_like(columns),
        )
    return _TieGroups(
        before=ranks.above + columns,
        right_before=columns,
        right=np.where(real & (ranks.leaders == columns), ranks.sizes, 0),
        size=ranks.sizes + ranks.tied,
    )


def _recall(
    groups: _TieGroups, k: int, log_factorials: np.ndarray
) -> np.ndarray:
    """Returns `[b]` probabilities that a right one is among the first k."""
    # The nearest positive's group decides.
    size, right = groups.size[:, 0], groups.right[:, 0]
    wrong = size - right
    drawn = np.clip(k - groups.before[:, 0], 0, size)
    # None right among `drawn` of the group: C(wrong, drawn) / C(size, drawn).
    some = np.minimum(drawn, wrong)
    miss = np.exp(
        log_factorials[wrong]
        - log_factorials[wrong - some]
        + log_factorials[size - some]
        - log_factorials[size]
    )
    return np.where(drawn > wrong, 1.0, 1.0 - miss)


def _hits(groups: _TieGroups, k: int | np.ndarray) -> np.ndarray:
    """Returns `[b]` expected numbers of right ones among the first k."""
    drawn = np.clip(k - groups.before, 0, groups.size)
    return (groups.right * drawn / groups.size).sum(axis=1)


def _map_at_r(
    groups: _TieGroups, relevant: np.ndarray, harmonics: np.ndarray
) -> np.ndarray:
    """Returns `[b]` MAP@R, its expected value over the orders of each group.

    At place s of a group of m with p right ones, after an images of which c
    are right, `P(a + s) * rel` has the expected value
    `p/m * (c + 1 + (s - 1)(p - 1)/(m - 1)) / (a + s)`.
    Over s = 1 ... t the terms sum up by `h = H(a + t) - H(a)`:
    `1 / (a + s)` to h, and `(s - 1) / (a + s)` to `t - (a + 1) h`.
    """
    a, m, p = groups.before, groups.size, groups.right
    limit = relevant[:, None]
    t = np.clip(limit - a, 0, m)
    start = np.minimum(a, limit)
    # Exact where a group has one place, as it is without ties.
    h = np.where(m == 1, t / (a + 1), harmonics[start + t] - harmonics[start])
    pace = (p - 1) / np.maximum(m - 1, 1)
    total = p / m * ((groups.right_before + 1) * h + pace * (t - (a + 1) * h))
    return total.sum(axis=1) / relevant


def _mean(metrics: QueryMetrics, ks, members, by_group) -> RetrievalMetrics:
    """Averages over the members that have a positive."""
    scored = ~np.isnan(metrics.map_at_r[members])
    queries = int(scored.sum())

    def mean(values):
        return float(values[members][scored].mean()) if queries else np.nan

    return RetrievalMetrics(
        recall={k: mean(row) for k, row in zip(ks, metrics.recall)},
        precision={k: mean(row) for k, row in zip(ks, metrics.precision)},
        map_at_r=mean(metrics.map_at_r),
        r_precision=mean(metrics.r_precision),
        queries=queries,
        left_out=len(scored) - queries,
        by_group=by_group,
    )


def _running_sum(terms: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(terms)])


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    ks = tuple(ks)
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"`ks` must hold positive ranks. Received: {ks}")
    return tuple(int(k) for k in ks)


def _dense(
    query_labels, queries: int, gallery_labels, gallery: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels as integers, equal where the labels are."""
    query_labels = np.asarray(query_labels)
    gallery_labels = np.asarray(gallery_labels)
    for name, labels, rows in (
        ("query_labels", query_labels, queries),
        ("gallery_labels", gallery_labels, gallery),
    ):
        if labels.shape != (rows,):
            raise ValueError(
                f"`{name}` must hold a label for each of {rows} rows. "
                f"Received shape: {labels.shape}"
            )
    if not gallery:
        return np.zeros(queries, np.int64), np.zeros(0, np.int64)
    both = np.concatenate([query_labels, gallery_labels])
    dense = np.unique(both, return_inverse=True)[1]
    return dense[:queries], dense[queries:]
