"""What a table may say of an image beside its product: attributes, landmarks.

In a table an attribute is a column `attribute:<name>` of 1 (has it), 0 (has
not) and -1 or nothing (unknown); landmark i, counted from 1, is the columns
`landmark<i>_x`, `landmark<i>_y` and, optionally, `landmark<i>_visible`.

Visibility is DeepFashion's: 0 visible, 1 there but hidden, 2 cut off by the
image's edge (such a landmark needs no place). Landmarks stand in left and
right pairs, 1 and 2, 3 and 4, ...: a mirrored image makes a pair trade
places, and an odd last one keeps its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from tf_triplet.data.row_errors import refuse

ATTRIBUTE = "attribute:"
VISIBLE, HIDDEN, CUT_OFF = 0, 1, 2
_LANDMARK = re.compile(r"landmark([1-9][0-9]*)_(x|y|visible)")


def is_annotation(column: str) -> bool:
    """Whether a column of that name is read here."""
    return column.startswith(ATTRIBUTE) or bool(_LANDMARK.fullmatch(column))


def read_attributes(
    frame: pd.DataFrame, describe_row: Callable[[int], str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Reads the `attribute:<name>` columns.

    Args:
        frame: `[n]` rows.
        describe_row: Names a row in an error.

    Returns:
        `[n, A]` int8 in {1, 0, -1} and `[A]` names; None twice if the table
        has no such column.

    Raises:
        ValueError: a value is none of the three; names the row.
    """
    columns = [c for c in map(str, frame) if c.startswith(ATTRIBUTE)]
    if not columns:
        return None, None
    given = frame[columns]
    if all(pd.api.types.is_integer_dtype(t) for t in given.dtypes):
        numbers = given.to_numpy()
    else:
        given, numbers = _numbers(given)
        absent = given.isna().to_numpy(bool)
        numbers = np.where(absent, -1, numbers)
    bad = ~np.isin(numbers, (-1, 0, 1))

    def message(row: int) -> str:
        column = int(np.argmax(bad[row]))
        return (
            f"needs 1 (has it), 0 (has not) or -1 (unknown) in "
            f"{columns[column]!r}. Received: {given.iloc[row, column]!r}"
        )

    refuse(bad.any(axis=1), describe_row, message)
    names = [column.removeprefix(ATTRIBUTE) for column in columns]
    return numbers.astype(np.int8), np.asarray(names, object)


def read_landmarks(
    frame: pd.DataFrame, describe_row: Callable[[int], str]
) -> np.ndarray | None:
    """Reads the `landmark<i>_x`, `_y` and `_visible` columns.

    Args:
        frame: `[n]` rows.
        describe_row: Names a row in an error.

    Returns:
        `[n, L, 3]` float32 x, y, visibility; all NaN where not annotated.
        A place without a visibility is visible. None if the table has no
        such column.

    Raises:
        ValueError: columns are missing, or a row's values are no landmark.
    """
    matches = [m for m in map(_LANDMARK.fullmatch, map(str, frame)) if m]
    if not matches:
        return None
    count = max(int(match[1]) for match in matches)
    present = {match[0] for match in matches}
    for i in range(1, count + 1):
        for part in "xy":
            if f"landmark{i}_{part}" not in present:
                raise ValueError(
                    "Landmarks are numbered from 1 without a gap, each with "
                    f"x and y. Received no column 'landmark{i}_{part}', but "
                    f"{sorted(present)}"
                )
    marks = [_one_landmark(frame, i + 1, describe_row) for i in range(count)]
    return np.stack(marks, axis=1)


def _one_landmark(frame, number: int, describe_row) -> np.ndarray:
    """`[n, 3]` float32 of landmark `number`."""
    names = [f"landmark{number}_{part}" for part in ("x", "y", "visible")]
    given, values = _numbers(frame.reindex(columns=names))
    absent = given.isna().to_numpy(bool)

    def message(row: int) -> str:
        received = ", ".join(map(str, given.iloc[row]))
        return (
            f"has a landmark {number} that is none: it needs x and y in "
            "pixels, or neither; visibility 0 (visible), 1 (hidden) or 2 "
            "(cut off), or nothing; only a cut-off one needs no place. "
            f"Received: {received}"
        )

    visible = values[:, 2]
    placed = ~absent[:, 0]
    refuse(
        (absent[:, 0] != absent[:, 1])
        | (~np.isfinite(values) & ~absent).any(axis=1)
        | ~(absent[:, 2] | np.isin(visible, (VISIBLE, HIDDEN, CUT_OFF)))
        | (~absent[:, 2] & ~placed & (visible != CUT_OFF)),
        describe_row,
        message,
    )
    values[:, 2] = np.where(placed & absent[:, 2], VISIBLE, visible)
    return values.astype(np.float32)


def _numbers(given: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The cells, NaN where empty, and `[n, columns]` float64 of them."""
    # "" is how a CSV says that there is nothing.
    given = given.astype(object).where(given.notna() & (given != ""), np.nan)
    numbers = given.apply(pd.to_numeric, errors="coerce")
    return given, numbers.to_numpy(np.float64, copy=True)


def attribute_columns(attributes: np.ndarray, names) -> pd.DataFrame:
    """`[n, A]` int8 as the columns that `read_attributes` reads."""
    return pd.DataFrame(attributes, columns=[ATTRIBUTE + n for n in names])


def landmark_columns(landmarks: np.ndarray) -> pd.DataFrame:
    """`[n, L, 3]` float32 as the columns that `read_landmarks` reads."""
    names = [
        f"landmark{i + 1}_{part}"
        for i in range(landmarks.shape[1])
        for part in ("x", "y", "visible")
    ]
    return pd.DataFrame(landmarks.reshape(len(landmarks), -1), columns=names)


def split_names(texts: pd.Series) -> pd.DataFrame:
    """Attributes as columns, from texts such as `red|long sleeve`.

    Args:
        texts: `[n]` names with `|` between them. A row that names some has
            none of the others; an empty one is unknown throughout, and a
            lone `|` says that it has none.

    Returns:
        The columns that `read_attributes` reads, in the order of the names.
    """
    texts = texts.where(texts.notna(), "").astype(str).str.strip()
    lists = [
        {name.strip() for name in text.split("|")} - {""} for text in texts
    ]
    names = sorted(set().union(*lists))
    place = {name: i for i, name in enumerate(names)}
    values = np.zeros((len(lists), len(names)), np.int8)
    for row, (text, found) in enumerate(zip(texts, lists, strict=True)):
        values[row, [place[name] for name in found]] = 1
        if not text:
            values[row] = -1
    return attribute_columns(values, names).set_index(texts.index)
