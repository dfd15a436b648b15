"""Reads the columns of a table of images, and checks their cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from tf_triplet.data import annotations, box_checks
from tf_triplet.data.row_errors import refuse

# Whole numbers below it are exact as floats.
_EXACT_FLOATS = 2.0**53
BOX_COLUMNS = ("x1", "y1", "x2", "y2")


def require_columns(frame: pd.DataFrame) -> None:
    """Raises an error if a table lacks columns that every catalog needs.

    Args:
        frame: The table.

    Raises:
        ValueError: If `path` or `product_id` is missing, or if there are some
            but not all columns of a box.
    """
    missing = [c for c in ("path", "product_id") if c not in frame]
    if missing:
        raise ValueError(
            "The table needs the columns `path` and `product_id`, but "
            f"{' and '.join(f'`{c}`' for c in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. "
            f"Received: {', '.join(map(str, frame.columns))}"
        )
    boxes = [c for c in BOX_COLUMNS if c in frame]
    if boxes and len(boxes) < len(BOX_COLUMNS):
        raise ValueError(
            "Boxes need all four columns x1, y1, x2, y2. Add the missing ones "
            f"or leave all of them out. Received: {', '.join(boxes)}"
        )


def read_product_ids(
    column: pd.Series, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Reads product ids.

    Args:
        column: `[n]` strings or integers.
        describe_row: Takes a row number and returns its name in errors.

    Returns:
        `[n]` int64 or string objects.

    Raises:
        ValueError: If an id is missing or empty, if strings and integers are
            mixed, or if an id is anything else.
    """
    refuse(
        column.isna().to_numpy(bool),
        describe_row,
        lambda row: "has no product_id. Every image needs one.",
    )
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_integer_dtype(column.dtype):
        # A larger id would silently become negative.
        if len(column) and int(column.max()) > np.iinfo(np.int64).max:
            return np.array([str(value) for value in column], object)
        return column.to_numpy(np.int64)
    if pd.api.types.is_float_dtype(column.dtype):
        return _read_float_ids(column.to_numpy(np.float64), describe_row)
    values = column.to_numpy(object)
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind == "decimal":
        # A database stores ids as decimals of no digits after the point.
        values = [int(v) if v == v.to_integral() else str(v) for v in values]
        return read_product_ids(pd.Series(values, dtype=object), describe_row)
    if kind == "integer":
        return read_product_ids(
            pd.Series(values.astype(np.int64)), describe_row
        )
    if kind not in ("string", "empty"):
        kinds = pd.Series(values, dtype=object).map(type)
        wanted = kinds.iloc[0] if kinds.iloc[0] in (str, int) else str
        refuse(
            (kinds != wanted).to_numpy(bool),
            describe_row,
            lambda row: (
                "has a product_id of another kind. Ids must all be strings "
                f"or all be integers. Received: {values[row]!r}"
            ),
        )
    refuse(
        (pd.Series(values, dtype=str).str.strip() == "").to_numpy(bool),
        describe_row,
        lambda row: (
            "has an empty product_id. Every image needs one. "
            f"Received: {values[row]!r}"
        ),
    )
    return values


def _read_float_ids(
    values: np.ndarray, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Reads whole numbers, which a missing cell has made floats.

    Args:
        values: `[n]` float64.
        describe_row: Takes a row number and returns its name in errors.
    """
    refuse(
        ~np.isfinite(values) | (np.abs(values) >= _EXACT_FLOATS),
        describe_row,
        lambda row: (
            "has a product_id that is a rounded number, because the column "
            "holds floats, which keep 15 digits. Several products may have "
            "become one. Store the ids as text or as integers. Received: "
            f"{values[row]!r}"
        ),
    )
    whole = values == np.floor(values)
    if whole.all():
        return values.astype(np.int64)
    return np.array([str(value) for value in values.tolist()], object)


def read_strings(column: pd.Series) -> np.ndarray:
    """Reads texts.

    Args:
        column: `[n]` values of any type.

    Returns:
        `[n]` string objects. A missing value becomes the empty string.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna().to_numpy(bool), "")
    return values.astype(str).to_numpy(object)


def read_required_strings(
    frame: pd.DataFrame, name: str, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Reads texts that must not be empty.

    Args:
        frame: A table of n rows.
        name: The name of the column.
        describe_row: Takes a row number and returns its name in errors.

    Returns:
        `[n]` string objects.

    Raises:
        ValueError: If a text is missing or empty.
    """
    values = read_strings(frame[name])
    refuse(
        values == "",
        describe_row,
        lambda row: f"has an empty `{name}`. Fill it in or drop the row.",
    )
    return values


def read_boxes(
    frame: pd.DataFrame, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Reads boxes.

    Args:
        frame: A table of n rows.
        describe_row: Takes a row number and returns its name in errors.

    Returns:
        `[n, 4]` float32 x1, y1, x2, y2. They are NaN if a row has no box.

    Raises:
        ValueError: If a box is not four numbers with x1 < x2 and y1 < y2, or
            if all boxes are shares of their images in place of pixels.
    """
    if BOX_COLUMNS[0] not in frame:
        return np.full((len(frame), 4), np.nan, np.float32)
    given, boxes = annotations.read_numbers(frame[list(BOX_COLUMNS)])
    absent = given.isna().to_numpy(bool)

    def received(row: int) -> str:
        return f"Received: {', '.join(map(str, given.iloc[row]))}"

    refuse(
        (absent.any(axis=1) & ~absent.all(axis=1))
        | (~np.isfinite(boxes) & ~absent).any(axis=1),
        describe_row,
        lambda row: f"needs four numbers x1, y1, x2, y2. {received(row)}",
    )
    refuse(
        (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]),
        describe_row,
        lambda row: (
            "has a box without area. A box needs x1 < x2 and y1 < y2. "
            f"{box_checks.explain_no_area(boxes)}{received(row)}"
        ),
    )
    shares = box_checks.explain_shares(boxes)
    if shares:
        raise ValueError(shares)
    return boxes.astype(np.float32)
