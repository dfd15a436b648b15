"""Silhouettes and patterns of the rendered products, as functions of (u, v).

A product lies in the square [-1, 1] x [-1, 1]. The axis v points down.
"""

from __future__ import annotations

import dataclasses

import numpy as np

CATEGORIES = ("bag", "ball", "gear", "lamp", "mug", "vase")
PATTERNS = ("stripes", "checks", "dots", "rings", "waves")


@dataclasses.dataclass(frozen=True)
class Design:
    """The properties that distinguish one product from another.

    Attributes:
        category: The place of its category in `CATEGORIES`.
        form: `[6]` floats in [0, 1], the shape within the category.
        colors: `[2, 3]` floats in [0, 1], the colors of ground and pattern.
        pattern: The place of its pattern in `PATTERNS`.
        frequency: The number of repetitions across the product.
        angle: The direction of the pattern, in radians.
        duty: The share of the surface in the second color.
    """

    category: int
    form: np.ndarray
    colors: np.ndarray
    pattern: int
    frequency: float
    angle: float
    duty: float


def draw_design(
    rng: np.random.Generator, category: int, palette: np.ndarray
) -> Design:
    """Draws a product at random.

    Args:
        rng: The source of randomness.
        category: The place of its category in `CATEGORIES`.
        palette: `[colors, 3]` floats in [0, 1], of which it gets two.
    """
    return Design(
        category=category,
        form=rng.uniform(0, 1, 6),
        colors=palette[rng.choice(len(palette), 2, replace=False)],
        pattern=int(rng.integers(len(PATTERNS))),
        frequency=rng.uniform(1.5, 5.0),
        angle=rng.uniform(0, np.pi),
        duty=rng.uniform(0.25, 0.75),
    )


def silhouette(design: Design, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns which places a product covers.

    Args:
        design: The product.
        u: `[...]` floats, horizontal places.
        v: `[...]` floats, vertical places.

    Returns:
        `[...]` booleans.
    """
    shape = (_bag, _ball, _gear, _lamp, _mug, _vase)[design.category]
    return shape(design.form, u, v)


def texture(design: Design, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns the colors of a product's surface.

    Args:
        design: The product.
        u: `[...]` floats, horizontal places.
        v: `[...]` floats, vertical places.

    Returns:
        `[..., 3]` floats in [0, 1].
    """
    s = (np.cos(design.angle) * u + np.sin(design.angle) * v) * (
        design.frequency
    )
    t = (np.cos(design.angle) * v - np.sin(design.angle) * u) * (
        design.frequency
    )
    kind = PATTERNS[design.pattern]
    if kind == "stripes":
        second = s % 1 < design.duty
    elif kind == "checks":
        second = (s % 1 < design.duty) ^ (t % 1 < 0.5)
    elif kind == "dots":
        second = np.hypot(s % 1 - 0.5, t % 1 - 0.5) < 0.2 + design.duty / 3
    elif kind == "rings":
        second = np.hypot(s, t) % 1 < design.duty
    else:
        second = (s + 0.3 * np.sin(4 * t)) % 1 < design.duty
    return design.colors[second.astype(np.int64)]


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _bag(form, u, v):
    """A trapezoid below a handle in the shape of an elliptic arc."""
    top = _between(-0.4, 0.0, form[0])
    width = _between(0.5, 0.9, form[1]) + _between(-0.25, 0.25, form[2]) * v
    body = (v > top) & (v < 0.9) & (np.abs(u) < width)
    radius = np.hypot(
        u / _between(0.3, 0.55, form[3]),
        (v - top) / _between(0.4, 0.6, form[4]),
    )
    thin = _between(0.6, 0.85, form[5])
    return body | ((v <= top) & (radius < 1) & (radius > thin))


def _ball(form, u, v):
    """A superellipse, from a diamond through an egg to a box."""
    power = _between(1.2, 5.0, form[0])
    width = _between(0.5, 0.95, form[1]) * (1 + _between(0, 0.3, form[2]) * v)
    height = _between(0.5, 0.95, form[3])
    return (np.abs(u / width) ** power + np.abs(v / height) ** power) < 1


def _gear(form, u, v):
    """A star, flower or cog, with or without a hole."""
    teeth = 3 + int(form[0] * 7)
    depth = _between(0.1, 0.45, form[1])
    sharp = _between(0.5, 4.0, form[2])
    angle = np.arctan2(v, u)
    wave = np.tanh(sharp * np.sin(teeth * angle)) / np.tanh(sharp)
    radius = np.hypot(u, v)
    hole = _between(0.1, 0.3, form[3]) if form[4] > 0.4 else 0.0
    return (radius < 0.75 + depth * 0.5 * (wave - 0.5)) & (radius > hole)


def _lamp(form, u, v):
    """A shade on a stem on a foot."""
    bottom = _between(-0.3, 0.15, form[0])
    flare = _between(0.0, 0.6, form[1])
    narrow = _between(0.2, 0.4, form[2])
    shade_width = narrow + flare * (v + 0.9) / (bottom + 0.9)
    shade = (v > -0.9) & (v < bottom) & (np.abs(u) < shade_width)
    stem = (
        (v >= bottom) & (v < 0.85) & (np.abs(u) < _between(0.05, 0.16, form[3]))
    )
    foot = (np.abs(v - 0.82) < _between(0.06, 0.16, form[4])) & (
        np.abs(u) < _between(0.25, 0.7, form[5])
    )
    return shade | stem | foot


def _mug(form, u, v):
    """A body with a handle on its right side."""
    width = _between(0.35, 0.6, form[0]) * (
        1 + _between(-0.3, 0.3, form[1]) * v
    )
    height = _between(0.5, 0.9, form[2])
    body = (np.abs(u + 0.2) < width) & (np.abs(v) < height)
    radius = np.hypot(
        (u - _between(0.2, 0.35, form[0])) / _between(0.4, 0.6, form[3]),
        v / (height * _between(0.5, 0.85, form[4])),
    )
    thin = _between(0.5, 0.8, form[5])
    return body | ((u > 0.1) & (radius < 1) & (radius > thin))


def _vase(form, u, v):
    """A solid of revolution with one or two waists."""
    phase = 2 * np.pi * form[0]
    profile = (
        _between(0.35, 0.55, form[1])
        + _between(0.05, 0.25, form[2])
        * np.sin(_between(1.5, 4.0, form[3]) * v + phase)
        + _between(-0.2, 0.2, form[4]) * v
    )
    return (np.abs(u) < profile) & (np.abs(v) < _between(0.7, 0.95, form[5]))
