"""Re-ranking: answers that take the neighbors of the neighbors into account.

Only the gallery and the query itself are used, never other queries, so a
search engine can do the same for each query that it gets.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from tf_triplet.retrieval import unit_vectors
from tf_triplet.retrieval.exact import top_k
from tf_triplet.retrieval.unit_vectors import TIE, UnitVectors

METHODS = ("none", "query_expansion", "k_reciprocal")


@dataclasses.dataclass(frozen=True, eq=False)
class Reranking:
    """New scores of all pairs of a query and a gallery image.

    The score is `weight` times the cosine of `queries` and the gallery, plus
    `bonus`.

    Attributes:
        queries: `[q, dim]` floats.
        weight: The weight of the cosine.
        bonus: `[q, g]` sparse, or None for 0 everywhere.

    Example:

    >>> import numpy as np
    >>> from tf_triplet.retrieval import rerank
    >>> gallery = np.eye(3)
    >>> rerank("none", gallery[:1], gallery).weight
    1.0
    """

    queries: np.ndarray
    weight: float = 1.0
    bonus: sparse.csr_matrix | None = None


def rerank(
    method: str,
    queries: np.ndarray,
    gallery: np.ndarray,
    exclude: np.ndarray | None = None,
) -> Reranking:
    """Computes new scores, for `evaluate_queries`.

    Args:
        method: "query_expansion", "k_reciprocal", or "none".
        queries: `[q, dim]` floats. Vectors need not have unit length.
        gallery: `[g, dim]` floats.
        exclude: `[q]` integers, the gallery row that is the query itself, or
            -1 if there is none. It is no neighbor of the query.

    Returns:
        The new scores.

    Raises:
        ValueError: If the method is unknown, a shape is wrong, or a vector is
            not finite.

    Example:

    >>> import numpy as np
    >>> from tf_triplet.retrieval import evaluate_queries, rerank
    >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> new = rerank("query_expansion", gallery[:1], gallery)
    >>> evaluate_queries(
    ...     new.queries, [7], gallery, [7, 7, 8], ks=[2], reranking=new
    ... ).recall.tolist()
    [[1.0]]
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. "
            f"Received: {method!r}"
        )
    exclude = unit_vectors.check_vectors(queries, gallery, exclude)
    if method == "query_expansion":
        return Reranking(expand_queries(queries, gallery, exclude))
    if method == "k_reciprocal":
        return k_reciprocal(queries, gallery, exclude)
    return Reranking(queries)


def expand_queries(
    queries: np.ndarray,
    gallery: np.ndarray,
    exclude: np.ndarray | None = None,
    neighbors: int = 3,
    alpha: float = 3.0,
) -> np.ndarray:
    """Moves each query toward its nearest gallery images.

    A query becomes the sum of itself and of its neighbors, each times its
    cosine to the power of `alpha` (alpha-weighted query expansion, Radenovic
    et al., 2018, arXiv 1711.02512, section 3.3).

    Args:
        queries: `[q, dim]` floats.
        gallery: `[g, dim]` floats.
        exclude: See `rerank`.
        neighbors: Number of neighbors.
        alpha: The power. 0 takes the plain mean.

    Returns:
        `[q, dim]` float64 vectors of unit length.

    Example:

    >>> import numpy as np
    >>> found = expand_queries(
    ...     np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]), alpha=0.0
    ... )
    >>> found.round(4).tolist()
    [[0.8944, 0.4472]]
    """
    rows, cosines = top_k(queries, gallery, neighbors, exclude)
    unit, around = UnitVectors(queries), UnitVectors(gallery)
    # A gallery of fewer images leaves places empty.
    known = rows >= 0
    weights = np.maximum(np.nan_to_num(cosines.astype(np.float64)), 0.0)
    weights = known * weights**alpha
    expanded = np.empty(queries.shape)
    size = unit_vectors.QUERY_BLOCK
    for start in range(0, len(queries), size):
        block = np.arange(start, min(start + size, len(queries)))
        found = around[np.maximum(rows[block], 0).ravel()]
        found = found.reshape(len(block), neighbors, -1)
        expanded[block] = unit[block] + np.einsum(
            "qn,qnd->qd", weights[block], found
        )
    lengths = np.linalg.norm(expanded, axis=1, keepdims=True)
    return expanded / np.maximum(lengths, TIE)


def k_reciprocal(
    queries: np.ndarray,
    gallery: np.ndarray,
    exclude: np.ndarray | None = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> Reranking:
    """Prefers gallery images that share their neighbors with the query.

    Two images are reciprocal neighbors if each is among the `k1` nearest of
    the other. An image is described by its reciprocal neighbors, and by those
    of their reciprocal neighbors where the two share more than two thirds. The
    descriptions are averaged over the `k2` nearest images. The score is a
    weighted mean of the cosine and of the Jaccard similarity of the
    descriptions (Zhong et al., 2017, arXiv 1701.08398).

    Args:
        queries: `[q, dim]` floats.
        gallery: `[g, dim]` floats.
        exclude: See `rerank`.
        k1: Number of neighbors in which reciprocal ones are looked for.
        k2: Number of images whose descriptions are averaged, the image itself
            included.
        weight: The weight of the cosine; the rest is that of the Jaccard
            similarity.

    Returns:
        The new scores.

    Example:

    >>> import numpy as np
    >>> gallery = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> found = k_reciprocal(gallery[:1], gallery, k1=1, k2=1)
    >>> found.bonus.toarray().round(3).tolist()
    [[0.235, 0.231, 0.0]]
    """
    exclude = unit_vectors.check_vectors(queries, gallery, exclude)
    itself = np.arange(len(gallery))
    near = _Neighbors(*top_k(gallery, gallery, k1, itself))
    of_gallery = _describe(near, near, itself)
    of_queries = _describe(
        _Neighbors(*top_k(queries, gallery, k1, exclude)), near, None
    )
    if k2 > 1:
        rows = top_k(queries, gallery, k2 - 1, exclude)[0]
        of_queries = _average(of_queries, of_gallery, rows)
        rows = near.rows[:, : k2 - 1]
        of_gallery = _average(of_gallery, of_gallery, rows)
    jaccard = _jaccard(of_queries, of_gallery)
    return Reranking(queries, weight, (jaccard * (1 - weight)).tocsr())


@dataclasses.dataclass(frozen=True, eq=False)
class _Neighbors:
    """The `[n, k]` nearest gallery rows, -1 where there are fewer."""

    rows: np.ndarray
    cosines: np.ndarray

    @property
    def least(self) -> np.ndarray:
        """`[n]` cosine of the last neighbor; -inf where there are fewer."""
        last = self.cosines[:, -1].astype(np.float64)
        return np.where(self.rows[:, -1] >= 0, last, -np.inf)

    def reciprocal(self, row: int, least: np.ndarray, k: int) -> np.ndarray:
        """Returns the neighbors of a row that have it among their nearest."""
        rows = self.rows[row, :k]
        rows, cosines = rows[rows >= 0], self.cosines[row, :k][rows >= 0]
        # Cosines are float32 here.
        return rows[cosines >= least[rows] - 1e-6]


def _describe(
    images: _Neighbors, gallery: _Neighbors, itself: np.ndarray | None
) -> sparse.csr_matrix:
    """Returns `[n, g]` weights of the reciprocal neighbors, of sum 1."""
    size, k1 = len(gallery.rows), images.rows.shape[1]
    half = max(1, round(k1 / 2))
    halves = _Neighbors(gallery.rows[:, :half], gallery.cosines[:, :half])
    least, least_half = gallery.least, halves.least
    columns, values, starts = [], [], [0]
    for row in range(len(images.rows)):
        own = images.reciprocal(row, least, k1)
        own_set = set(own.tolist())
        members = set(own_set)
        for other in own:
            theirs = halves.reciprocal(other, least_half, half).tolist()
            theirs.append(int(other))
            # Of the neighbor's own, more than two thirds must be shared.
            if len(own_set.intersection(theirs)) * 3 > 2 * len(theirs):
                members.update(theirs)
        known = dict(zip(images.rows[row].tolist(), images.cosines[row]))
        if itself is not None:
            members.add(int(itself[row]))
            known[int(itself[row])] = 1.0
        found = sorted(members & known.keys())
        # The squared distance of unit vectors is 2 - 2 times their cosine.
        distances = 2.0 - 2.0 * np.array([known[one] for one in found])
        weights = np.exp(-distances)
        columns.extend(found)
        values.extend(weights / max(weights.sum(), TIE))
        starts.append(len(columns))
    return sparse.csr_matrix(
        (np.array(values, float), np.array(columns, int), starts),
        shape=(len(images.rows), size),
    )


def _average(
    own: sparse.csr_matrix, of_gallery: sparse.csr_matrix, rows: np.ndarray
) -> sparse.csr_matrix:
    """Averages the description of an image with those of its nearest."""
    known = rows >= 0
    places = np.nonzero(known)[0]
    chosen = sparse.csr_matrix(
        (np.ones(len(places)), (places, rows[known])),
        shape=(len(rows), of_gallery.shape[0]),
    )
    count = 1 + known.sum(axis=1)
    return sparse.diags(1.0 / count) @ (own + chosen @ of_gallery)


def _jaccard(
    of_queries: sparse.csr_matrix, of_gallery: sparse.csr_matrix
) -> sparse.csr_matrix:
    """Returns the sum of minima over the sum of maxima of all pairs."""
    by_column = of_gallery.tocsc()
    sums = np.asarray(of_gallery.sum(axis=1)).ravel()
    columns, values, starts = [], [], [0]
    for row in range(of_queries.shape[0]):
        begin, end = of_queries.indptr[row : row + 2]
        images, minima = [np.empty(0, int)], [np.empty(0)]
        for column, value in zip(
            of_queries.indices[begin:end], of_queries.data[begin:end]
        ):
            first, last = by_column.indptr[column : column + 2]
            images.append(by_column.indices[first:last])
            minima.append(np.minimum(by_column.data[first:last], value))
        found, index = np.unique(np.concatenate(images), return_inverse=True)
        shared = np.bincount(
            index, np.concatenate(minima), minlength=len(found)
        )
        whole = of_queries.data[begin:end].sum() + sums[found] - shared
        columns.append(found)
        values.append(shared / np.maximum(whole, TIE))
        starts.append(starts[-1] + len(found))
    return sparse.csr_matrix(
        (np.concatenate([[], *values]), np.concatenate([[], *columns]), starts),
        shape=(of_queries.shape[0], of_gallery.shape[0]),
    )
