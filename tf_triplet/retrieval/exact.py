"""Exact nearest-neighbor search in NumPy.

The result equals that of computing all cosines in float64 and sorting them;
`unit_vectors` explains why float64, and which scores count as equal. Of equal
scores the gallery row with the lower number comes first.
"""

from __future__ import annotations

import numpy as np

from tf_triplet.retrieval import unit_vectors
from tf_triplet.retrieval.unit_vectors import TIE, UnitVectors


def top_k(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    exclude: np.ndarray | None = None,
    block: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k gallery vectors with the largest cosine to each query.

    Args:
        queries: `[q, dim]` floats. Vectors need not have unit length.
        gallery: `[g, dim]` floats.
        k: Number of neighbors per query.
        exclude: `[q]` integers, the gallery row that is the query itself and
            must not be found, or -1 if there is none.
        block: Number of queries to score at once, which bounds the memory.
            None for the default.

    Returns:
        `[q, k]` int64 gallery rows and `[q, k]` float32 cosines, nearest
        first. Of equal scores the lower row comes first. If the gallery has
        fewer than k rows to offer, the remaining entries are -1 and NaN.

    Raises:
        ValueError: If `k` is less than 1, a shape is wrong, or a vector is
            not finite.

    Example:

    >>> gallery = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> rows, cosines = top_k(np.array([[0.0, 2.0]]), gallery, k=2)
    >>> rows.tolist()
    [[1, 2]]
    >>> cosines.round(4)
    array([[1.    , 0.7071]], dtype=float32)
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1. Received: {k}")
    exclude = unit_vectors.check_vectors(queries, gallery, exclude)
    queries, gallery = UnitVectors(queries), UnitVectors(gallery)
    block = block or unit_vectors.QUERY_BLOCK
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), np.nan, np.float32)
    for start in range(0, len(queries), block):
        rows = np.arange(start, min(start + block, len(queries)))
        best, found = _search(queries[rows], gallery, k, exclude[rows])
        offered = best > -np.inf
        width = best.shape[1]
        indices[rows, :width] = np.where(offered, found, -1)
        scores[rows, :width] = np.where(offered, best, np.nan)
    return indices, scores


def _search(
    queries: np.ndarray, gallery: UnitVectors, k: int, exclude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores and rows of the k best; fewer in a small gallery."""
    best = np.empty((len(queries), 0))
    found = np.empty((len(queries), 0), np.int64)
    size = unit_vectors.GALLERY_BLOCK
    for first in range(0, len(gallery), size):
        columns = np.arange(first, min(first + size, len(gallery)))
        new = queries @ gallery[columns].T
        unit_vectors.hide(new, exclude - first)
        best, found = _keep_best(
            np.concatenate([best, new], axis=1),
            np.concatenate(
                [found, np.broadcast_to(columns, new.shape)], axis=1
            ),
            k,
        )
    return best, found


def _keep_best(
    scores: np.ndarray, indices: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best columns of each row, the leftmost of equal ones."""
    # Rounded to multiples of TIE, equal scores are equal numbers.
    keys = np.rint(scores / TIE)
    width = keys.shape[1]
    if width > k:
        least = np.partition(keys, width - k, axis=1)[:, width - k, None]
        chosen = keys >= least
        # Rows in which too many columns tie at the k-th place.
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
