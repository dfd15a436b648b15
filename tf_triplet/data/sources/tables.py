"""Reads the text tables of the benchmarks, whose columns are words."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pandas as pd
from absl import logging


def find_file(root: str | pathlib.Path, *names: str) -> pathlib.Path:
    """Returns the first of several files that exists.

    Args:
        root: The folder of the data set.
        *names: Paths of files, relative to that folder.

    Raises:
        FileNotFoundError: If none of the files exists.
    """
    root = pathlib.Path(root)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(
        f"{str(root)!r} is not the folder of the data set, because it "
        f"contains none of {', '.join(names)}."
    )


def read_table(
    path: pathlib.Path, columns: Sequence[str], counted: bool = False
) -> pd.DataFrame:
    """Reads a header, and rows with the same number of words.

    Args:
        path: The file.
        columns: The expected header.
        counted: Whether the first line holds the number of rows. A wrong
            number is only a warning, because the file may be a subset.

    Returns:
        A table of strings, indexed by the number of the line in the file.

    Raises:
        ValueError: If the header differs, or if a row has another number of
            words. The message names the line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    first = 1 + counted
    header = lines[first - 1].split() if len(lines) >= first else []
    if header != list(columns):
        raise ValueError(
            f"{path}, line {first}: expected the header "
            f"{' '.join(columns)!r}. Received: {' '.join(header)!r}"
        )
    frame = read_rows(path, columns, first)
    if counted and lines[0].strip() != str(len(frame)):
        logging.warning(
            "The first line of %s says %s rows, but it has %d. Is it a subset?",
            path,
            lines[0].strip(),
            len(frame),
        )
    return frame


def read_rows(
    path: pathlib.Path, columns: Sequence[str], skipped: int = 0
) -> pd.DataFrame:
    """Reads rows without a header.

    Args:
        path: The file.
        columns: The names of the columns.
        skipped: The number of lines to skip at the start.

    Returns:
        A table of strings, indexed by the number of the line in the file.

    Raises:
        ValueError: If a row has another number of words, or if there is no
            row.
    """
    rows, numbers = [], []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if number <= skipped or not words:
                continue
            if len(words) != len(columns):
                raise ValueError(
                    f"{path}, line {number}: expected {len(columns)} columns "
                    f"({' '.join(columns)}). Received: {line.rstrip()!r}"
                )
            rows.append(words)
            numbers.append(number)
    if not rows:
        raise ValueError(f"{path} has no rows.")
    return pd.DataFrame(rows, index=numbers, columns=list(columns))


def numbers(frame: pd.DataFrame, column: str, path: pathlib.Path) -> pd.Series:
    """Returns a column as int64.

    Args:
        frame: A table of strings, indexed by the number of the line.
        column: The name of the column.
        path: The file, for errors.

    Raises:
        ValueError: If a value is not a whole number. The message names the
            line.
    """
    good = frame[column].str.fullmatch(r"-?\d+")
    if not good.all():
        line = good.idxmin()
        raise ValueError(
            f"{path}, line {line}: {column} must be a whole number. "
            f"Received: {frame[column][line]!r}"
        )
    return frame[column].astype("int64")


def add_boxes(
    frame: pd.DataFrame, boxes: pd.DataFrame, path: pathlib.Path
) -> None:
    """Adds the columns x1, y1, x2 and y2 to a table.

    Args:
        frame: The table, with `image_name`.
        boxes: A table with `image_name`, `x_1`, `y_1`, `x_2` and `y_2`.
        path: The file of the boxes, for errors.
    """
    names = ["x_1", "y_1", "x_2", "y_2"]
    corners = pd.concat([numbers(boxes, n, path) for n in names], axis=1)
    corners.index = boxes["image_name"].to_numpy()
    corners = corners[~corners.index.duplicated()]
    joined = corners.reindex(frame["image_name"])
    for name in names:
        frame[name.replace("_", "")] = joined[name].to_numpy(float)
