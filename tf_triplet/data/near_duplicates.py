"""Finds images of different products that show the same photo.

Two files with one photo, saved at another size or quality, under two
products are a mistake in the labels more often than not. They are found by
small copies of the images, which hardly change when a photo is saved anew.
"""

from __future__ import annotations

import numpy as np

# Side of a small copy, in pixels.
SIDE = 16
# The lightness of all pixels, and two colors of each of 4 x 4 parts: saving a
# photo as JPEG changes colors far more than lightness.
SIZE = SIDE * SIDE + 2 * 4 * 4
_COLOR = np.array(
    [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]],
    np.float32,
)
# By so many gray levels, two small copies of one photo differ: at most this
# share of their contrast, and not more than the second number.
_SHARE, _MOST = 0.1, 3.0
# So much does rounding alone make.
_LEAST = 0.75
# Principal components by which pairs are looked up.
_COMPONENTS = 8
# Pairs after which the search ends.
_MOST_PAIRS = 10_000
_BATCH = 256


def shrink(pixels: np.ndarray) -> bytes:
    """Keeps of an image what hardly changes when it is saved anew.

    Args:
        pixels: `[SIDE, SIDE, 3]` uint8, the image at that size.

    Returns:
        `SIZE` bytes.

    Example:

    >>> len(shrink(np.zeros([SIDE, SIDE, 3], np.uint8)))
    288
    """
    channels = pixels.astype(np.float32) @ _COLOR.T
    part = SIDE // 4
    colors = channels[..., 1:].reshape(4, part, 4, part, 2).mean(axis=(1, 3))
    values = np.concatenate([channels[..., 0].ravel(), colors.ravel() + 128])
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes()


def find_pairs(
    thumbnails: np.ndarray, products: np.ndarray, most: int = _MOST_PAIRS
) -> np.ndarray:
    """Finds pairs of images of different products that look the same.

    Args:
        thumbnails: `[n, SIZE]` uint8, small copies of the images.
        products: `[n]` integer product labels.
        most: The number of pairs after which the search ends.

    Returns:
        `[pairs, 2]` rows, the first less than the second.

    Example:

    >>> noise = np.random.default_rng(0).integers(0, 255, (3, 288), np.uint8)
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
    step = max(1, len(thumbnails) // 5_000)
    sample = _weigh(thumbnails[::step])
    mean = sample.mean(axis=0)
    covariance = np.cov((sample - mean).T)
    _, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    axes = vectors[:, -_COMPONENTS:].astype(np.float32)
    parts = [
        (_weigh(thumbnails[start : start + 10_000]) - mean) @ axes
        for start in range(0, len(thumbnails), 10_000)
    ]
    return np.concatenate(parts)


def _weigh(thumbnails: np.ndarray) -> np.ndarray:
    """Returns `[n, SIZE]` float32, in which a color counts twice."""
    values = thumbnails.astype(np.float32)
    values[:, SIDE * SIDE :] *= 2
    return values


def _allowed(thumbnails: np.ndarray) -> np.ndarray:
    """Returns `[n]` the gray levels by which a copy may differ."""
    light = thumbnails[:, : SIDE * SIDE].astype(np.float32)
    contrast = light.std(axis=1)
    return np.clip(_SHARE * contrast, _LEAST, _MOST)


def _look_same(
    thumbnails: np.ndarray, row: int, others: np.ndarray
) -> np.ndarray:
    one = _weigh(thumbnails[row : row + 1])
    differences = _weigh(thumbnails[others]) - one
    distance = np.sqrt(np.mean(differences**2, axis=1))
    return distance <= _allowed(thumbnails[row : row + 1])[0]
