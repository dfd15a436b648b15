"""Errors that name the first invalid row of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_NAMED = 5


def name_some(names: Sequence[str], count: int) -> str:
    """Names the rows that an error is about, beside the first one.

    Args:
        names: The names of the other rows, or of the first of them.
        count: The number of the other rows.

    Returns:
        Nothing for no name; otherwise the number of rows and the first names,
        in parentheses.

    Example:

    >>> name_some(["line 7", "line 9"], 2)
    ' (2 more such rows: line 7, line 9)'
    """
    if not count:
        return ""
    more = ", ..." if count > _NAMED else ""
    plural = "s" * (count > 1)
    return (
        f" ({count:,} more such row{plural}: {', '.join(names[:_NAMED])}{more})"
    )


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
        row, *others = np.flatnonzero(bad).tolist()
        names = [describe_row(other) for other in others[:_NAMED]]
        more = name_some(names, len(others))
        raise ValueError(f"{describe_row(row)} {message(row)}{more}")
