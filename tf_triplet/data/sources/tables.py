"""The text tables of the benchmarks: columns parted by spaces."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pandas as pd
from absl import logging


def find_file(root: str | pathlib.Path, *names: str) -> pathlib.Path:
    """Returns the first of `root/name` that is there.

    Raises:
        FileNotFoundError: none is.
    """
    root = pathlib.Path(root)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(
        f"{str(root)!r} is not the data set's folder: it holds none of "
        f"{', '.join(names)}."
    )


def read_table(
    path: pathlib.Path, columns: Sequence[str], counted: bool = False
) -> pd.DataFrame:
    """Reads a header and rows of as many words.

    Args:
        path: The file.
        columns: The header.
        counted: The first line holds the number of rows. Another number is
            told in a warning: it may be a subset.

    Returns:
        Strings, a row a line, indexed by the line's number in the file.

    Raises:
        ValueError: another header, or a row of another length; names the
            line.
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
            "%s announces %s rows and holds %d: a subset?",
            path,
            lines[0].strip(),
            len(frame),
        )
    return frame


def read_rows(
    path: pathlib.Path, columns: Sequence[str], skipped: int = 0
) -> pd.DataFrame:
    """Reads rows without a header; see `read_table`."""
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
        raise ValueError(f"{path} holds no rows.")
    return pd.DataFrame(rows, index=numbers, columns=list(columns))


def numbers(frame: pd.DataFrame, column: str, path) -> pd.Series:
    """Returns a column as int64.

    Raises:
        ValueError: a value is no whole number; names the line.
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
    """Joins `x_1 y_1 x_2 y_2` by `image_name` as the columns x1 to y2."""
    names = ["x_1", "y_1", "x_2", "y_2"]
    corners = pd.concat([numbers(boxes, n, path) for n in names], axis=1)
    corners.index = boxes["image_name"].to_numpy()
    corners = corners[~corners.index.duplicated()]
    joined = corners.reindex(frame["image_name"])
    for name in names:
        frame[name.replace("_", "")] = joined[name].to_numpy(float)
