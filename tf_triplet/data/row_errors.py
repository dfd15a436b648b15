"""Errors that name the first bad row of a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def refuse(
    bad: np.ndarray,
    describe_row: Callable[[int], str],
    message: Callable[[int], str],
) -> None:
    """Raises ValueError about the first row of `[n]` booleans, if any.

    Args:
        bad: `[n]`, true where a row cannot be used.
        describe_row: Names a row (counted from 0).
        message: What is wrong with a row, and the way out.
    """
    if bad.any():
        row = int(np.argmax(bad))
        more = int(bad.sum()) - 1
        tail = f" ({more:,} more such rows.)" if more else ""
        raise ValueError(f"{describe_row(row)} {message(row)}{tail}")
