"""Which neighbors an approximate search finds, compared with exact search."""

from __future__ import annotations

import numpy as np

# Scores that differ by less are equal: both are cosines of float32 vectors.
TOLERANCE = 1e-5


def is_found(scores: np.ndarray, exact_scores: np.ndarray) -> np.ndarray:
    """Marks the neighbors that are as near as the exact k-th nearest.

    Comparing scores instead of neighbors makes ties count as found,
    whichever of the tied neighbors were returned. The mean of the result is
    the recall.

    Args:
        scores: `[q, n]` exact scores of the neighbors that were found.
        exact_scores: `[q, k]` scores of the k nearest, nearest first.

    Returns:
        `[q, n]` booleans.

    Example:

    >>> scores, exact = np.array([[0.9, 0.5]]), np.array([[0.9, 0.7]])
    >>> is_found(scores, exact)
    array([[ True, False]])
    """
    return scores >= exact_scores[:, -1:] - TOLERANCE
