"""Notices boxes that were measured in another way than this package does.

A box is x1, y1, x2, y2 in pixels of the upright image. Tables also hold boxes
as shares of the image, as x, y, width and height, or in pixels of a larger
image. One such box looks like a slip; all of them together tell the cause.
"""

from __future__ import annotations

import numpy as np

# Fewer boxes than this may lie in one corner by chance.
_LEAST = 10
# Half a pixel may be rounding.
_SLACK = 0.5


def explain_shares(boxes: np.ndarray) -> str:
    """Tells whether boxes are shares of the image in place of pixels.

    Args:
        boxes: `[n, 4]` x1, y1, x2, y2, or NaN.

    Returns:
        What is wrong and how to mend it, or an empty string.

    Example:

    >>> explain_shares(np.array([[0.1, 0.1, 0.9, 0.5]]))[:36]
    'All 1 boxes lie between 0 and 1, as '
    """
    given = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(given) or given.min() < 0 or given.max() > 1:
        return ""
    if (given == np.round(given)).all():
        return ""  # A box of one pixel.
    return (
        f"All {len(given):,} boxes lie between 0 and 1, as shares of the "
        "image. Boxes are x1, y1, x2, y2 in pixels: multiply x1 and x2 by the "
        "width of each image, and y1 and y2 by its height. Received: "
        f"{', '.join(f'{side:g}' for side in given[0])}"
    )


def explain_no_area(boxes: np.ndarray) -> str:
    """Tells why boxes may have no area.

    Args:
        boxes: `[n, 4]` x1, y1, x2, y2, or NaN.

    Returns:
        A sentence with a space after it, or an empty string.

    Example:

    >>> explain_no_area(np.array([[9.0, 1, 3, 4], [8, 2, 5, 6]]))
    'x1 and x2 have changed places in all 2 boxes. '
    """
    given = boxes[np.isfinite(boxes).all(axis=1)]
    for low, high in (("x1", "x2"), ("y1", "y2")):
        at = 0 if low == "x1" else 1
        if len(given) > 1 and (given[:, at] > given[:, at + 2]).all():
            return (
                f"{low} and {high} have changed places in all "
                f"{len(given):,} boxes. "
            )
    flat = (given[:, 2:] <= given[:, :2]).any(axis=1)
    if flat.sum() > 1 and (given[:, 2:] > 0).all():
        return (
            f"{flat.sum():,} of {len(given):,} boxes have none. If the columns "
            "hold x, y, width and height, replace x2 by x1 + width and y2 by "
            "y1 + height. "
        )
    return ""


def outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tells which boxes leave their image.

    Args:
        boxes: `[n, 4]` x1, y1, x2, y2, or NaN.
        sizes: `[n, 2]` width and height of each image. 0 if not known.

    Returns:
        `[n]` booleans.
    """
    low = (boxes[:, :2] < -_SLACK).any(axis=1)
    high = (boxes[:, 2:] > sizes + _SLACK).any(axis=1)
    return (low | high) & (sizes[:, 0] > 0)


def explain_outside(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """Tells why many boxes may leave their image.

    Args:
        boxes: `[n, 4]` x1, y1, x2, y2, or NaN.
        sizes: `[n, 2]` width and height of each image. 0 if not known.

    Returns:
        What is wrong and how to mend it, or an empty string if every box lies
        within its image.

    Example:

    >>> boxes, sizes = np.array([[0.0, 0, 60, 90]]), np.array([[30, 45]])
    >>> explain_outside(boxes, sizes)[:51]
    'Boxes that leave their image: 1 of 1 (100 %). Boxes'
    """
    known = np.isfinite(boxes).all(axis=1) & (sizes[:, 0] > 0)
    boxes, sizes = boxes[known], sizes[known]
    bad = outside(boxes, sizes)
    if not bad.any():
        return ""
    text = (
        f"Boxes that leave their image: {bad.sum():,} of {len(boxes):,} "
        f"({bad.mean():.0%}). Boxes are x1, y1, x2, y2 in pixels of the "
        "upright image."
    ).replace("%)", " %)")
    if not outside(boxes, sizes[:, ::-1]).any():
        return (
            f"{text} All of them fit if x and y change places: the columns "
            "may be in the order y1, x1, y2, x2, or the boxes were measured "
            "before the image was turned upright (its EXIF orientation). "
            "Exchange the columns, or turn the boxes with their images."
        )
    factors = (boxes[:, 2:] / sizes).max(axis=1)
    if bad.mean() >= 0.2 and (boxes >= -_SLACK).all():
        return (
            f"{text} So many do that they seem to be measured on images of "
            f"another size, about {np.median(factors[bad]):.1f} times as "
            f"large (up to {factors.max():.1f}). Multiply x1 and x2 by the "
            "width of the file over the width they were measured on, and y1 "
            "and y2 likewise by the heights; or name the original files in "
            "the column path."
        )
    return text


def explain_corner(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """Tells whether all boxes lie toward the upper left of their images.

    Args:
        boxes: `[n, 4]` x1, y1, x2, y2, or NaN.
        sizes: `[n, 2]` width and height of each image. 0 if not known.

    Returns:
        What may be wrong, or an empty string.
    """
    known = np.isfinite(boxes).all(axis=1) & (sizes[:, 0] > 0)
    boxes, sizes = boxes[known], sizes[known]
    if len(boxes) < _LEAST:
        return ""
    # From the center of the image; negative is to the left, or above.
    centers = boxes[:, :2] + boxes[:, 2:] - sizes
    if (centers > 1).any() or (centers < -1).all(axis=1).mean() < 0.95:
        return ""
    reach = (boxes[:, 2:] / sizes).max()
    cause = "the columns may hold x, y, width and height (then x2 = x1 + width)"
    if reach < 0.75:
        cause += (
            ", or the boxes were measured on smaller images (none reaches "
            f"past {reach:.0%} of its image)".replace("%", " %")
        )
    return (
        f"All {len(boxes):,} boxes have their center in the upper left "
        f"quarter of their image: {cause}."
    )
