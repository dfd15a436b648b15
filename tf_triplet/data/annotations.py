"""Attributes and landmarks: what a table can say about an image.

An attribute is a column `attribute:<name>` that holds 1 (the product has it),
0 (it has not) or -1 (unknown). An empty cell means unknown, too. Landmark i,
counted from 1, is the columns `landmark<i>_x`, `landmark<i>_y` and,
optionally, `landmark<i>_visible`.

Visibility is coded as in DeepFashion: 0 is visible, 1 is hidden, and 2 is cut
off by the edge of the image. A landmark that is cut off needs no x and y.
Landmarks 1 and 2, 3 and 4, and so on are the left and right of a pair. They
are swapped if the image is mirrored. The last landmark of an odd number is
never swapped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tf_triplet.data.row_errors import refuse

ATTRIBUTE = "attribute:"
VISIBLE, HIDDEN, CUT_OFF = 0, 1, 2
_LANDMARK = re.compile(r"landmark([1-9][0-9]*)_(x|y|visible)")


def is_annotation(column: str) -> bool:
    """Returns whether a column holds an attribute or a landmark."""
    return column.startswith(ATTRIBUTE) or bool(_LANDMARK.fullmatch(column))


def read_attributes(
    frame: pd.DataFrame, describe_row: Callable[[int], str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Reads the `attribute:<name>` columns.

    Args:
        frame: A table of n rows.
        describe_row: Takes a row number and returns its name in errors.

    Returns:
        `[n, A]` int8 in {1, 0, -1} and `[A]` names, or (None, None) if the
        table has no such column.

    Raises:
        ValueError: If a value is not 1, 0 or -1. The message names the row.
    """
    columns = [c for c in map(str, frame) if c.startswith(ATTRIBUTE)]
    if not columns:
        return None, None
    given = frame[columns]
    if all(pd.api.types.is_integer_dtype(t) for t in given.dtypes):
        numbers = given.to_numpy()
    else:
        given, numbers = read_numbers(given)
        absent = given.isna().to_numpy(bool)
        numbers = np.where(absent, -1, numbers)
    bad = ~np.isin(numbers, (-1, 0, 1))

    def message(row: int) -> str:
        column = int(np.argmax(bad[row]))
        return (
            f"must have 1 (yes), 0 (no) or -1 (unknown) in "
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
        frame: A table of n rows.
        describe_row: Takes a row number and returns its name in errors.

    Returns:
        `[n, L, 3]` float32 x, y and visibility, or None if the table has no
        such column. All three are NaN where a landmark is not annotated. A
        landmark without a visibility is visible.

    Raises:
        ValueError: If columns are missing, or if the values of a row are not
            a landmark.
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
                    "Landmarks must be numbered from 1 without a gap, and "
                    "each needs x and y. The column "
                    f"'landmark{i}_{part}' is missing. "
                    f"Received: {sorted(present)}"
                )
    marks = [_one_landmark(frame, i + 1, describe_row) for i in range(count)]
    return np.stack(marks, axis=1)


def _one_landmark(
    frame: pd.DataFrame, number: int, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Reads one landmark of all rows, as `[n, 3]` float32."""
    names = [f"landmark{number}_{part}" for part in ("x", "y", "visible")]
    given, values = read_numbers(frame.reindex(columns=names))
    absent = given.isna().to_numpy(bool)

    def message(row: int) -> str:
        received = ", ".join(map(str, given.iloc[row]))
        return (
            f"has an invalid landmark {number}. It needs x and y in pixels "
            "and a visibility of 0 (visible), 1 (hidden) or 2 (cut off). The "
            "visibility is optional, and a landmark that is cut off needs no "
            "x and y. Leave all three empty if the landmark is not annotated. "
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


def read_numbers(given: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Reads the cells of a table as numbers.

    Args:
        given: `[n, columns]` numbers, texts or missing values.

    Returns:
        The cells as they were given, with NaN where they are empty, and
        `[n, columns]` float64, with NaN where a cell is not a number.
    """
    # An empty cell of a CSV is the empty string.
    given = given.astype(object).where(given.notna() & (given != ""), np.nan)
    numbers = given.apply(pd.to_numeric, errors="coerce")
    return given, numbers.to_numpy(np.float64, copy=True)


def attribute_columns(
    attributes: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    """Returns the columns that `read_attributes` reads.

    Args:
        attributes: `[n, A]` int8 in {1, 0, -1}.
        names: `[A]` names of the attributes.
    """
    return pd.DataFrame(attributes, columns=[ATTRIBUTE + n for n in names])


def landmark_columns(landmarks: np.ndarray) -> pd.DataFrame:
    """Returns the columns that `read_landmarks` reads.

    Args:
        landmarks: `[n, L, 3]` float32 x, y and visibility.
    """
    names = [
        f"landmark{i + 1}_{part}"
        for i in range(landmarks.shape[1])
        for part in ("x", "y", "visible")
    ]
    return pd.DataFrame(landmarks.reshape(len(landmarks), -1), columns=names)


def split_names(texts: pd.Series) -> pd.DataFrame:
    """Turns texts such as `red|long sleeve` into attribute columns.

    Args:
        texts: `[n]` names separated by `|`. A row does not have the
            attributes that it does not name. All attributes of an empty row
            are unknown, and a single `|` means that it has none.

    Returns:
        The columns that `read_attributes` reads, sorted by name.
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
