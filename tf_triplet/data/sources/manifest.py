"""Reads a catalog from a CSV or Parquet table of images."""

from __future__ import annotations

import dataclasses
import operator
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from absl import logging

from tf_triplet.data import annotations, ids
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.columns import BOX_COLUMNS
from tf_triplet.data.sources import (
    splits,
    table_headers,
    table_paths,
    table_text,
    table_values,
)
from tf_triplet.data.sources.table_values import Told

_ATTRIBUTES = table_headers.ATTRIBUTES
_TEXT = (".csv", ".tsv", ".tab", ".txt")
# The number of images that must exist, at least one of them, before anything
# else starts. The preflight check looks at all images.
_PROBED = 5


def read_manifest(
    path: str | pathlib.Path,
    test_fraction: float = 0.5,
    seed: int = 0,
    columns: Sequence[str] = (),
    draw: str = "hash",
    encoding: str = "",
) -> Catalog:
    """Reads a table of images.

    The table needs the columns `path` and `product_id`. These columns are
    optional:

    - `category`, `domain` and `split`.
    - `x1`, `y1`, `x2`, `y2`, a box in pixels of the upright image.
    - `attributes`, names separated by `|`. An empty cell means unknown, and a
      single `|` means none. Alternatively, `attribute:<name>` columns hold 1,
      0 or -1.
    - `landmark1_x`, `landmark1_y`, `landmark1_visible` and so on, in pixels
      of the upright image. `tf_triplet.data.annotations` has the details.

    The header may be in upper or lower case. Columns are separated by commas,
    semicolons, tabs or bars. White space around names is removed, and their
    accents are composed. What was changed is logged.

    Paths are relative to the folder of the table. Backslashes and `file://`
    are understood. The ids of a CSV file are integers if every one of them is
    written like 42. Otherwise they are strings, so that "00042" keeps its
    zeros. A Parquet file stores their type.

    Args:
        path: A `.csv`, `.tsv`, `.txt` or `.parquet` file.
        test_fraction: The share of products that is held out where the table
            has no `split` column.
        seed: The seed of that draw.
        columns: The names of extra columns to keep in `Catalog.extras`. Their
            values become strings, and a missing value becomes "".
        draw: How products are held out: "hash", or "permutation" as in earlier
            versions. See `tf_triplet.data.sources.splits`.
        encoding: The encoding of a CSV file that is not UTF-8 and has no byte
            order mark, such as "cp1252".

    Returns:
        The catalog, with one image per row.

    Raises:
        FileNotFoundError: If the table or its images do not exist.
        ValueError: If the table cannot be used. The message names the line.

    Example:

    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "hat.jpg").touch()
    >>> table = pd.DataFrame(
    ...     {"path": ["hat.jpg"], "product_id": ["007"], "split": ["train"]}
    ... )
    >>> table.to_csv(folder / "shop.csv", index=False)
    >>> catalog = read_manifest(folder / "shop.csv")
    >>> catalog
    Catalog('shop', 1 images, 1 products, splits=['train'], domains=[''])
    >>> catalog.row_product_ids.tolist()
    ['007']
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(
            "A manifest must be a .csv or .parquet file. Received: the folder "
            f"{str(path)!r}. If it holds one folder per product, use "
            "`data.source=folder`."
        )
    if not path.is_file():
        raise FileNotFoundError(f"The manifest {str(path)!r} does not exist.")
    told = Told()
    frame, row_word, numbers = _read(path, columns, encoding, told)
    frame = frame.rename(columns={ids.compose(c): c for c in columns})

    def describe_row(row: int) -> str:
        return f"{row_word} {numbers[row]}"

    try:
        frame = _as_strings(_clean(frame, describe_row, told), columns)
        if row_word == "line":
            numbered = table_values.as_integers(frame["product_id"])
            frame = frame.assign(product_id=numbered)
        catalog = Catalog.from_frame(
            _spread_attributes(frame), path.stem, describe_row, columns
        )
        catalog = _resolve(catalog, path, describe_row, told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _tell(path, told)
    if "split" in frame:
        return catalog
    return splits.with_split(catalog, test_fraction, seed, draw)


def _read(
    path: pathlib.Path, columns: Sequence[str], encoding: str, told: Told
) -> tuple[pd.DataFrame, str, np.ndarray]:
    """Returns the table, the word for a row, and the number of each row."""
    suffix = path.suffix.lower()
    if suffix in _TEXT:
        return _read_csv(path, columns, encoding, told)
    if suffix in (".parquet", ".pq"):
        return _read_parquet(path, columns)
    raise ValueError(
        "A manifest's name must end in .csv or .parquet (or .tsv, .txt). "
        f"Received: {str(path)!r}. Save a spreadsheet as CSV UTF-8."
    )


def _spread_attributes(frame: pd.DataFrame) -> pd.DataFrame:
    """Replaces the column `attributes` by one column per name."""
    if _ATTRIBUTES not in frame:
        return frame
    both = [c for c in frame if c.startswith(annotations.ATTRIBUTE)]
    if both:
        raise ValueError(
            "Attributes must be either in the column `attributes` or in "
            "columns `attribute:<name>`, not both. "
            f"Received: attributes and {both}"
        )
    # An empty column names no attribute, and so adds no column.
    columns = annotations.split_names(frame[_ATTRIBUTES])
    return pd.concat([frame.drop(columns=_ATTRIBUTES), columns], axis=1)


def _read_csv(
    path: pathlib.Path, columns: Sequence[str], encoding: str, told: Told
) -> tuple[pd.DataFrame, str, np.ndarray]:
    """Reads the table as strings, see `_read`."""
    text, note = table_text.open_table(path, encoding)
    given, separator, line = table_text.read_header(
        path, text, table_headers.count_known
    )
    places = table_headers.choose_columns(path, given, columns)
    cells, numbers, blank = table_text.read_rows(
        path, text, len(given), list(places.values()), separator, line
    )
    if note:
        told.changes.append(note)
    if separator != ",":
        words = table_text.SEPARATORS.get(separator, repr(separator))
        told.changes.append(f"columns are separated by {words}")
    if blank:
        told.changes.append(f"{blank:,} blank lines are left out")
    _check_rows(path, len(numbers))
    frame = pd.DataFrame(
        {
            name: pd.Series(values, dtype=object)
            for name, values in zip(places, cells, strict=True)
        }
    )
    places_of_numbers = [c for c in frame if c in BOX_COLUMNS or _is_place(c)]
    if separator != ",":
        frame = table_values.read_decimal_commas(frame, places_of_numbers, told)
    return frame, "line", numbers


def _is_place(column: str) -> bool:
    is_attribute = column.startswith(annotations.ATTRIBUTE)
    return annotations.is_annotation(column) and not is_attribute


def _read_parquet(
    path: pathlib.Path, columns: Sequence[str]
) -> tuple[pd.DataFrame, str, np.ndarray]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"{path} is a Parquet file, which needs a version of pyarrow that "
            f"works with NumPy {np.__version__}: {error}. Install it, or save "
            "the table as .csv."
        ) from error

    try:
        names = parquet.read_schema(path).names
        places = table_headers.choose_columns(path, names, columns)
        table = parquet.read_table(
            path, columns=[names[place] for place in places.values()]
        )
        for place, field in enumerate(table.schema):
            # Some programs store text as bytes.
            if pyarrow.types.is_binary(field.type):
                text = table.column(place).cast(pyarrow.string())
                table = table.set_column(place, field.name, text)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet: {error}. The file is damaged, "
            "or of another format."
        ) from error
    _check_rows(path, table.num_rows)
    # The file may declare one of these columns to be the index of pandas.
    frame = table.to_pandas(ignore_metadata=True)
    frame = frame[[names[place] for place in places.values()]]
    frame.columns = list(places)
    frame = frame.reset_index(drop=True)
    return frame, "row", np.arange(table.num_rows)


def _as_strings(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Turns the extra columns into strings. A missing value becomes ""."""
    texts = {}
    for name in columns:
        values = frame[name].astype(object)
        texts[name] = values.where(values.notna(), "").astype(str)
    return frame.assign(**texts)


def _check_rows(path: pathlib.Path, rows: int) -> None:
    if not rows:
        raise ValueError(f"{path} has a header but no images.")


def _clean(
    frame: pd.DataFrame, describe_row: Callable[[int], str], told: Told
) -> pd.DataFrame:
    """Brings names into one spelling, and refuses ids that are destroyed."""
    frame = table_values.clean_names(frame, describe_row, told)
    table_values.check_ids(frame["product_id"], describe_row, told)
    return frame


def _resolve(
    catalog: Catalog,
    manifest: pathlib.Path,
    describe_row: Callable[[int], str],
    told: Told,
) -> Catalog:
    """Replaces the cells of the column `path` by the paths of files."""
    paths, cells, root = table_paths.resolve_paths(
        catalog.paths, manifest.parent, describe_row, told
    )
    probed = paths[:_PROBED]
    if not any(map(os.path.isfile, probed)):
        raise FileNotFoundError(
            f"None of the first {len(probed)} images of {manifest} exists. "
            "Paths are relative to the manifest's folder. Looked for: "
            f"{probed[0]!r}.{table_paths.explain_missing(probed[0])}"
        )
    catalog = dataclasses.replace(catalog, paths=paths, root=root)
    if all(map(operator.eq, catalog.path_values, cells)):
        return catalog
    return dataclasses.replace(catalog, table_paths=cells)


def _tell(path: pathlib.Path, told: Told) -> None:
    if told.changes:
        logging.warning(
            "%s was read with changes: %s.", path, "; ".join(told.changes)
        )
    for warning in told.warnings:
        logging.warning("%s: %s", path, warning)
