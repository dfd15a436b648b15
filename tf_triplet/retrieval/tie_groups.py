"""Metrics of rankings in which images of equal score have no fixed order.

A ranking is described by its groups of equal score that contain a positive.
Every function here returns an expected value over all orders of each group.
If every group holds one image, the order is fixed and the value is exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_triplet.retrieval.ranks import PositiveRanks

TIES = ("against", "expected")


@dataclasses.dataclass(frozen=True, eq=False)
class TieGroups:
    """Groups of images of equal score, in the rankings of `b` queries.

    Attributes:
        before: `[b, groups]` integers, images ranked before the group.
        positives_before: `[b, groups]` integers, positives among those.
        positives: `[b, groups]` integers, positives in the group; 0 marks an
            entry that is padding.
        size: `[b, groups]` integers, images in the group.
    """

    before: np.ndarray
    positives_before: np.ndarray
    positives: np.ndarray
    size: np.ndarray


def tie_groups(ranks: PositiveRanks, ties: str) -> TieGroups:
    """Applies a tie rule to the ranks of the positives.

    Args:
        ranks: Ranks of a block of queries.
        ties: "against" ranks the negatives of a group before its positives,
            so every positive has a fixed place and is a group of one.
            "expected" leaves the order open.

    Returns:
        The groups of each query.
    """
    columns = np.broadcast_to(
        np.arange(ranks.above.shape[1]), ranks.above.shape
    )
    real = columns < ranks.counts[:, None]
    if ties == "against":
        return TieGroups(
            before=ranks.above + ranks.tied + columns,
            positives_before=columns,
            positives=real.astype(np.int64),
            size=np.ones_like(columns),
        )
    return TieGroups(
        before=ranks.above + columns,
        positives_before=columns,
        positives=np.where(real & (ranks.leaders == columns), ranks.sizes, 0),
        size=ranks.sizes + ranks.tied,
    )


def log_factorials(count: int) -> np.ndarray:
    """Returns `[count + 1]` logarithms of 0! to count!, for `recall`."""
    return _running_sum(np.log(np.arange(1, count + 1)))


def harmonic_numbers(count: int) -> np.ndarray:
    """Returns `[count + 1]` harmonic numbers H(0) to H(count)."""
    return _running_sum(1 / np.arange(1, count + 1))


def recall(groups: TieGroups, k: int, log_factorials: np.ndarray) -> np.ndarray:
    """Computes the probability that one of the first k is a positive.

    Args:
        groups: Groups of `b` queries.
        k: Rank.
        log_factorials: Table up to the size of the gallery.

    Returns:
        `[b]` probabilities.
    """
    # Only the group of the nearest positive matters.
    size, positives = groups.size[:, 0], groups.positives[:, 0]
    negatives = size - positives
    drawn = np.clip(k - groups.before[:, 0], 0, size)
    # All of the `drawn` images are negatives with the probability
    # C(negatives, drawn) / C(size, drawn).
    some = np.minimum(drawn, negatives)
    miss = np.exp(
        log_factorials[negatives]
        - log_factorials[negatives - some]
        + log_factorials[size - some]
        - log_factorials[size]
    )
    return np.where(drawn > negatives, 1.0, 1.0 - miss)


def hits(groups: TieGroups, k: int | np.ndarray) -> np.ndarray:
    """Computes the expected number of positives among the first k.

    Args:
        groups: Groups of `b` queries.
        k: Rank, or `[b, 1]` ranks.

    Returns:
        `[b]` expected numbers.
    """
    drawn = np.clip(k - groups.before, 0, groups.size)
    return (groups.positives * drawn / groups.size).sum(axis=1)


def map_at_r(
    groups: TieGroups, relevant: np.ndarray, harmonics: np.ndarray
) -> np.ndarray:
    """Computes the expected MAP@R over the orders of each group.

    Take a group of m images, p of them positives, after a images with c
    positives. At place s of the group, `P(a + s) * rel(a + s)` has the
    expected value `p/m * (c + 1 + (s - 1)(p - 1)/(m - 1)) / (a + s)`. To sum
    it over s = 1 ... t, let `h = H(a + t) - H(a)` with harmonic numbers H:
    `1 / (a + s)` sums to h, and `(s - 1) / (a + s)` to `t - (a + 1) h`.

    Args:
        groups: Groups of `b` queries.
        relevant: `[b]` integers, R of each query.
        harmonics: Table up to the size of the gallery.

    Returns:
        `[b]` expected values.
    """
    a, m, p = groups.before, groups.size, groups.positives
    limit = relevant[:, None]
    t = np.clip(limit - a, 0, m)
    start = np.minimum(a, limit)
    # For a group of one image, 1 / (a + 1) has no rounding error.
    h = np.where(m == 1, t / (a + 1), harmonics[start + t] - harmonics[start])
    pace = (p - 1) / np.maximum(m - 1, 1)
    total = (
        p / m * ((groups.positives_before + 1) * h + pace * (t - (a + 1) * h))
    )
    return total.sum(axis=1) / relevant


def _running_sum(terms: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(terms)])
