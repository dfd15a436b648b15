"""Finds images of different products that show the same photo.

Two files with one photo, saved at another size or quality, under two
products are a mistake in the labels more often than not. They are found by
small copies of the images, which hardly change when a photo is saved anew.
"""

from __future__ import annotations

import numpy as np

# Side of a small copy, in pixels.
SIDE = 16
# Gray levels by which two small copies of one photo differ: at most this
# share of their contrast, and not more than the second number.
_SHARE, _MOST = 0.12, 6.0
# So much does rounding alone make.
_LEAST = 0.75
# Principal components by which pairs are looked up.
_COMPONENTS = 8
# Pairs after which the search ends.
_MOST_PAIRS = 10_000
_BATCH = 256


def find_pairs(
    thumbnails: np.ndarray, products: np.ndarray, most: int = _MOST_PAIRS
) -> np.ndarray:
    """Finds pairs of images of different products that look the same.

    Args:
        thumbnails: `[n, SIDE * SIDE * 3]` uint8, small copies of the images.
        products: `[n]` integer product labels.
        most: The number of pairs after which the search ends.

    Returns:
        `[pairs, 2]` rows, the first less than the second.

    Example:

    >>> noise = np.random.default_rng(0).integers(0, 255, (3, 768), np.uint8)
    >>> noise[2] = noise[0] + (noise[0] < 200)
    >>> find_pairs(noise, np.array([0, 1, 2])).tolist()
    [[0, 2]]
    """
    from scipy import spatial

    if len(thumbnails) < 2 or len(np.unique(products)) < 2:
        return np.zeros((0, 2), np.int64)
    points = _project(thumbnails)
    tree = spatial.cKDTree(points)
    found: list[np.ndarray] = []
    count = 0
    for start in range(0, len(points), _BATCH):
        # A projection never makes a distance longer.
        allowed = _allowed(thumbnails[start : start + _BATCH])
        near = tree.query_ball_point(
            points[start : start + _BATCH],
            allowed * np.sqrt(thumbnails.shape[1]),
        )
        for row, others in enumerate(near, start):
            others = np.asarray(others, np.int64)
            others = others[others > row]
            others = others[products[others] != products[row]]
            same = others[_look_same(thumbnails, row, others)]
            found.append(np.stack([np.full(len(same), row), same], axis=1))
            count += len(same)
        if count >= most:
            break
    pairs = np.concatenate(found)
    return pairs[np.lexsort(pairs.T[::-1])][:most].astype(np.int64)


def _project(thumbnails: np.ndarray) -> np.ndarray:
    """Returns `[n, components]` the main directions of the small copies."""
    values = thumbnails.shape[1]
    step = max(1, len(thumbnails) // 5_000)
    sample = thumbnails[::step].astype(np.float32)
    mean = sample.mean(axis=0)
    covariance = np.cov((sample - mean).T)
    _, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    axes = vectors[:, -min(_COMPONENTS, values) :].astype(np.float32)
    parts = [
        (thumbnails[start : start + 10_000].astype(np.float32) - mean) @ axes
        for start in range(0, len(thumbnails), 10_000)
    ]
    return np.concatenate(parts)


def _allowed(thumbnails: np.ndarray) -> np.ndarray:
    """Returns `[n]` the gray levels by which a copy may differ."""
    pixels = thumbnails.reshape(len(thumbnails), -1, 3).astype(np.float32)
    contrast = pixels.std(axis=1).mean(axis=1)
    return np.clip(_SHARE * contrast, _LEAST, _MOST)


def _look_same(
    thumbnails: np.ndarray, row: int, others: np.ndarray
) -> np.ndarray:
    one = thumbnails[row].astype(np.float32)
    differences = thumbnails[others].astype(np.float32) - one
    distance = np.sqrt(np.mean(differences**2, axis=1))
    return distance <= _allowed(thumbnails[row : row + 1])[0]
