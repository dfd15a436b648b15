"""Recall@K, Precision@K, R-Precision and MAP@R of each query.

`metrics` defines them and averages them over queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf_triplet.retrieval import tie_groups
from tf_triplet.retrieval.ranks import positive_ranks
from tf_triplet.retrieval.reranking import Reranking


@dataclasses.dataclass(frozen=True, eq=False)
class QueryMetrics:
    """Metrics of each query; NaN for a query that has no positive.

    Attributes:
        recall: `[ks, q]` float64.
        precision: `[ks, q]` float64.
        map_at_r: `[q]` float64.
        r_precision: `[q]` float64.

    Example:

    >>> # The first query has a positive, the second has none.
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> metrics = evaluate_queries(
    ...     vectors, ["bag", "hat"], vectors, ["bag", "bag"], ks=[1]
    ... )
    >>> metrics.recall.tolist()
    [[1.0, nan]]
    """

    recall: np.ndarray
    precision: np.ndarray
    map_at_r: np.ndarray
    r_precision: np.ndarray

    @classmethod
    def concatenate(cls, several: Sequence[QueryMetrics]) -> QueryMetrics:
        """Joins the queries of several searches.

        Args:
            several: Metrics of each search, for the same ranks.

        Returns:
            The metrics of all queries, in the given order.
        """
        return cls(
            *(
                np.concatenate(
                    [getattr(one, field.name) for one in several], -1
                )
                for field in dataclasses.fields(cls)
            )
        )

    def repeat(self, times: np.ndarray) -> QueryMetrics:
        """Repeats each query, which weights it in a mean.

        Args:
            times: `[q]` integers.

        Returns:
            The metrics of `sum(times)` queries.
        """
        return QueryMetrics(
            *(
                np.repeat(getattr(self, field.name), times, -1)
                for field in dataclasses.fields(self)
            )
        )


def evaluate_queries(
    queries: np.ndarray,
    query_labels: np.ndarray | Sequence,
    gallery: np.ndarray,
    gallery_labels: np.ndarray | Sequence,
    ks: Sequence[int],
    exclude: np.ndarray | None = None,
    ties: str = "against",
    reranking: Reranking | None = None,
) -> QueryMetrics:
    """Computes the metrics of each query; see `evaluate`.

    Args:
        queries: `[q, dim]` floats. Vectors need not have unit length.
        query_labels: `[q]` product labels, integers or strings.
        gallery: `[g, dim]` floats.
        gallery_labels: `[g]` product labels of the same type.
        ks: Values of K for Recall@K and Precision@K. They may exceed g.
        exclude: `[q]` integers, the gallery row that is the query itself and
            must not be found, or -1 if there is none.
        ties: "against" or "expected".
        reranking: Other scores than the cosines. `queries` must then be
            `reranking.queries`.

    Returns:
        The metrics of `q` queries.

    Raises:
        ValueError: If a shape is wrong, a rank is not a positive integer, a
            vector is not finite, or `ties` is unknown.

    Example:

    >>> # The negative scores the same as the positive, and is ranked first.
    >>> query, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0], [1.0, 0]])
    >>> metrics = evaluate_queries(query, [7], gallery, [8, 7], ks=[1, 2])
    >>> metrics.recall.tolist()
    [[0.0], [1.0]]
    >>> metrics = evaluate_queries(
    ...     query, [7], gallery, [8, 7], ks=[1], ties="expected"
    ... )
    >>> metrics.recall.round(6).tolist()
    [[0.5]]
    """
    ks = _check_ks(ks)
    if ties not in tie_groups.TIES:
        raise ValueError(
            f"`ties` must be one of {', '.join(tie_groups.TIES)}. "
            f"Received: {ties!r}"
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
    # Tables up to the highest possible rank.
    log_factorials = tie_groups.log_factorials(size)
    harmonics = tie_groups.harmonic_numbers(size)
    for ranks in positive_ranks(
        queries, query_labels, gallery, gallery_labels, exclude, reranking
    ):
        groups = tie_groups.tie_groups(ranks, ties)
        rows, relevant = ranks.rows, ranks.counts
        for i, k in enumerate(ks):
            metrics.recall[i, rows] = tie_groups.recall(
                groups, k, log_factorials
            )
            metrics.precision[i, rows] = tie_groups.hits(groups, k) / k
        metrics.r_precision[rows] = (
            tie_groups.hits(groups, relevant[:, None]) / relevant
        )
        metrics.map_at_r[rows] = tie_groups.map_at_r(
            groups, relevant, harmonics
        )
    return metrics


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    ks = tuple(ks)
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"`ks` must hold positive ranks. Received: {ks}")
    return tuple(int(k) for k in ks)


def _dense(
    query_labels: np.ndarray | Sequence,
    queries: int,
    gallery_labels: np.ndarray | Sequence,
    gallery: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces labels by integers that are equal where the labels are."""
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
