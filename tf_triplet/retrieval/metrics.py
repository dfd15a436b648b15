"""Recall@K, Precision@K, R-Precision and MAP@R.

A gallery image of the query's product is a positive; every other one is a
negative. With R the number of positives of a query:

* Recall@K: 1 if one of the K nearest images is a positive, otherwise 0.
* Precision@K: the number of positives among the K nearest, divided by K.
* R-Precision: the number of positives among the R nearest, divided by R.
* MAP@R: `(1/R) * sum over i <= R of P(i) * rel(i)`, where P(i) is the
  precision at i, and rel(i) is 1 if the i-th nearest image is a positive.

Each metric is the mean over the queries that have a positive. Queries without
one are left out and counted. The metrics are exact: they equal those of a full
sort of float64 cosines.

A positive and a negative can have the same score. The argument `ties` chooses
between two rules:

* `against`: The negatives come first. An encoder that maps every image to the
  same point scores 0.
* `expected`: Each metric is its expected value over a random order of equal
  scores. An encoder that maps every image to the same point scores as well as
  chance.

References:
    Musgrave et al., 2020, https://arxiv.org/abs/2003.08505 (MAP@R).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tf_triplet.retrieval.query_metrics import QueryMetrics, evaluate_queries


@dataclasses.dataclass(frozen=True)
class RetrievalMetrics:
    """Mean metrics over a set of queries; NaN if no query was scored.

    Attributes:
        recall: Recall@K by K.
        precision: Precision@K by K.
        map_at_r: MAP@R.
        r_precision: R-Precision.
        queries: Number of queries that have a positive and were scored.
        left_out: Number of queries that have no positive.
        by_group: Metrics of each group of queries, in order of group name.

    Example:

    >>> metrics = RetrievalMetrics(
    ...     recall={1: 0.5},
    ...     precision={1: 0.5},
    ...     map_at_r=0.25,
    ...     r_precision=0.5,
    ...     queries=2,
    ...     left_out=1,
    ... )
    >>> metrics.named()
    {'recall@1': 0.5, 'precision@1': 0.5, 'map@r': 0.25, 'r_precision': 0.5}
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
        """Returns `named()` and the counts for JSON, with None for NaN."""
        metrics = {
            name: None if np.isnan(value) else value
            for name, value in self.named().items()
        }
        return {
            **metrics,
            "queries": self.queries,
            "left_out": self.left_out,
        }


def evaluate(
    queries: np.ndarray,
    query_labels: np.ndarray | Sequence,
    gallery: np.ndarray,
    gallery_labels: np.ndarray | Sequence,
    ks: Sequence[int],
    exclude: np.ndarray | None = None,
    ties: str = "against",
    groups: np.ndarray | None = None,
) -> RetrievalMetrics:
    """Measures how well the nearest images show the query's product.

    A gallery image with the label of the query is a positive; every other one
    is a negative. With R the number of positives of a query, MAP@R is the mean
    over ranks i up to R of the precision at i, where ranks of negatives count
    as 0. The metrics are exact: they equal those of a full sort of float64
    cosines.

    Args:
        queries: `[q, dim]` floats. Vectors need not have unit length.
        query_labels: `[q]` product labels, integers or strings.
        gallery: `[g, dim]` floats.
        gallery_labels: `[g]` product labels of the same type.
        ks: Values of K for Recall@K and Precision@K. They may exceed g.
        exclude: `[q]` integers, the gallery row that is the query itself and
            must not be found, or -1 if there is none.
        ties: How to rank positives and negatives of equal score. "against"
            ranks the negatives first, so that an encoder that maps every
            image to the same point scores 0. "expected" computes the expected
            value of each metric over a random order of equal scores. Scores
            that differ by no more than 1e-12 count as equal.
        groups: `[q]` group names, for instance the category of each query.

    Returns:
        Means over the queries and, with `groups`, over those of each group.

    Raises:
        ValueError: If a shape is wrong, a rank is not a positive integer, a
            vector is not finite, or `ties` is unknown.

    Example:

    >>> vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [1, 0.3]])
    >>> labels = ["bag", "bag", "hat", "hat"]
    >>> metrics = evaluate(
    ...     vectors, labels, vectors, labels, ks=[1, 2], exclude=np.arange(4)
    ... )
    >>> metrics.recall
    {1: 0.75, 2: 0.75}

    References:
        Musgrave et al., 2020, https://arxiv.org/abs/2003.08505 (MAP@R).
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
    """Averages metrics over the queries that have a positive.

    Args:
        metrics: Metrics of `q` queries, from `evaluate_queries`.
        ks: The ranks that were given to `evaluate_queries`.
        groups: `[q]` group names, for instance the category of each query.

    Returns:
        The means over all queries and, with `groups`, over each group.

    Raises:
        ValueError: If `groups` does not have one entry per query.

    Example:

    >>> metrics = QueryMetrics(
    ...     recall=np.array([[1.0, 0.0]]),
    ...     precision=np.array([[1.0, 0.0]]),
    ...     map_at_r=np.array([0.5, 0.0]),
    ...     r_precision=np.array([0.5, 0.0]),
    ... )
    >>> summary = summarize(metrics, ks=[1], groups=np.array(["bags", "hats"]))
    >>> summary.recall[1], summary.by_group["bags"].recall[1]
    (0.5, 1.0)
    """
    everything = _mean(metrics, ks, slice(None))
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
        name: _mean(metrics, ks, members == i)
        for i, name in enumerate(names.tolist())
    }
    return dataclasses.replace(everything, by_group=by_group)


def _mean(
    metrics: QueryMetrics, ks: Sequence[int], members: np.ndarray | slice
) -> RetrievalMetrics:
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
    )
