"""Errors that name the first invalid row of a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def refuse(
    bad: np.ndarray,
    describe_row: Callable[[int], str],
    message: Callable[[int], str],
) -> None:
    """Raises an error about the first invalid row, if there is one.

    Args:
        bad: `[n]` booleans, true for rows that cannot be used.
        describe_row: Takes a row number, counted from 0, and returns its name
            in the message.
        message: Takes a row number and says what is wrong with that row, and
            how to fix it.

    Raises:
        ValueError: If any row is invalid.
    """
    if bad.any():
        row = int(np.argmax(bad))
        more = int(bad.sum()) - 1
        tail = f" ({more:,} more such rows.)" if more else ""
        raise ValueError(f"{describe_row(row)} {message(row)}{tail}")
