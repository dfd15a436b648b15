"""Checks the arguments of a sampler."""

from __future__ import annotations

import numpy as np

from tf_triplet.data.sampling import schedule

_CHOICES = {
    "units": ("products", "pairs"),
    "small_category": ("fill", "exclude"),
    "category_draw": schedule.CATEGORY_DRAWS,
    "singletons": ("drop", "keep"),
}


def check_choices(**values: str) -> None:
    """Checks the arguments that have a list of choices.

    Args:
        **values: The arguments, by name.

    Raises:
        ValueError: If a value is unknown.
    """
    for name, value in values.items():
        choices = _CHOICES[name]
        if value not in choices:
            raise ValueError(
                f"`{name}` must be one of {', '.join(choices)}. Received: "
                f"{value!r}"
            )


def check_probability(value: float) -> None:
    """Checks the share of batches of a single category.

    Args:
        value: The share.

    Raises:
        ValueError: If it is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(
            "`single_category_probability` must be in [0, 1]. Received: "
            f"{value}"
        )


def check_sides(sides: np.ndarray | None, rows: int) -> None:
    """Checks the sides of a cross-domain sampler.

    Args:
        sides: The sides, or None.
        rows: The number of rows of the catalog.

    Raises:
        ValueError: If the sides do not hold 0 or 1 for each row.
    """
    if sides is not None and (
        np.shape(sides) != (rows,) or not np.isin(sides, (0, 1)).all()
    ):
        raise ValueError(
            f"`sides` must hold 0 or 1 for each of {rows} rows. "
            f"Received: shape {np.shape(sides)}, "
            f"values {np.unique(sides)[:5]}"
        )
