"""Unit vectors in float64: what exact search and exact ranks share.

All scores of this package are cosines computed in float64. The embeddings of
an encoder that has nearly collapsed lie very close together, at a mean
distance of 4e-4 for example. Their float32 cosines differ by nothing but
rounding errors, so two copies of one image would tie or not depending on the
matrix multiplication. float64 keeps every difference that float32 embeddings
can express.

Scores that differ by no more than `TIE` count as equal. This is far above the
rounding error of float64, and far below the smallest difference between
distinct float32 embeddings.
"""

from __future__ import annotations

import numpy as np

TIE = 1e-12
# Rows of queries and of the gallery whose scores are in memory at once. The
# full `[queries, gallery]` matrix never is.
QUERY_BLOCK = 1024
GALLERY_BLOCK = 8192


class UnitVectors:
    """Gives rows of a matrix as float64 unit vectors, a block at a time.

    A zero vector stays zero, so its cosine with every vector is 0.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        """Computes the lengths of all rows.

        Args:
            vectors: `[n, dim]` finite floats of any length.
        """
        self._vectors = vectors
        norms = np.empty(len(vectors))
        for start in range(0, len(vectors), GALLERY_BLOCK):
            block = vectors[start : start + GALLERY_BLOCK].astype(np.float64)
            norms[start : start + len(block)] = np.linalg.norm(block, axis=1)
        self._scale = np.divide(
            1.0, norms, out=np.zeros_like(norms), where=norms > 0
        )

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns `[rows, dim]` float64 vectors of unit length."""
        unit = self._vectors[rows].astype(np.float64)
        unit *= self._scale[rows, None]
        return unit


def hide(scores: np.ndarray, columns: np.ndarray) -> None:
    """Sets one score per row to -inf, in place.

    Args:
        scores: `[rows, columns]` floats.
        columns: `[rows]` integers. A row whose column lies outside of
            `scores` keeps all its scores.
    """
    rows = np.flatnonzero((columns >= 0) & (columns < scores.shape[1]))
    scores[rows, columns[rows]] = -np.inf


def check_vectors(
    queries: np.ndarray, gallery: np.ndarray, exclude: np.ndarray | None
) -> np.ndarray:
    """Checks the arguments of a search.

    Args:
        queries: `[q, dim]` floats.
        gallery: `[g, dim]` floats.
        exclude: `[q]` integers, or None.

    Returns:
        `[q]` int64, `exclude` or -1 everywhere.

    Raises:
        ValueError: If a shape is wrong, a vector is not finite, or `exclude`
            is not a gallery row.
    """
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if np.ndim(vectors) != 2:
            raise ValueError(
                f"`{name}` must be [rows, dim]. "
                f"Received shape: {np.shape(vectors)}"
            )
        # A sum is finite only if every term is, and it needs no table.
        bad = ~np.isfinite(np.sum(vectors, axis=1, dtype=np.float64))
        if bad.any():
            raise ValueError(
                f"{bad.sum():,} of {len(bad):,} rows of `{name}` hold NaN or "
                f"infinity, the first is row {np.argmax(bad)}. The encoder "
                "diverged: lower the learning rate, or use an earlier "
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
