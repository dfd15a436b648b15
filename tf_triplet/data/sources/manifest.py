"""Reads a catalog from a CSV or Parquet table of images."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from absl import logging

from tf_triplet.data import annotations
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.columns import BOX_COLUMNS
from tf_triplet.data.sources import splits

_ATTRIBUTES = "attributes"
COLUMNS = (
    "path",
    "product_id",
    "category",
    "domain",
    "split",
    *BOX_COLUMNS,
    _ATTRIBUTES,
)
# The number of images that must exist, at least one of them, before anything
# else starts. The preflight check looks at all images.
_PROBED = 5
# Integers such as 7, but not 007, +7 or 7.0, that fit into 64 bits.
_CANONICAL_INTEGER = r"0|-?[1-9][0-9]{0,17}"
_ABSOLUTE = r"/|\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://"


def read_manifest(
    path: str | pathlib.Path,
    test_fraction: float = 0.5,
    seed: int = 0,
    columns: Sequence[str] = (),
    draw: str = "hash",
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

    Paths are relative to the folder of the table. The ids of a CSV file are
    integers if every one of them is written like 42. Otherwise they are
    strings, so that "00042" keeps its zeros. A Parquet file stores their type.

    Args:
        path: A `.csv` or `.parquet` file.
        test_fraction: The share of products that is held out where the table
            has no `split` column.
        seed: The seed of that draw.
        columns: The names of extra columns to keep in `Catalog.extras`. Their
            values become strings, and a missing value becomes "".
        draw: How products are held out: "hash", or "permutation" as in earlier
            versions. See `tf_triplet.data.sources.splits`.

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
    suffix = path.suffix.lower()
    if suffix == ".csv":
        frame, row_word, first_row = _read_csv(path, columns), "line", 2
    elif suffix in (".parquet", ".pq"):
        frame, row_word, first_row = _read_parquet(path, columns), "row", 0
    else:
        raise ValueError(
            "A manifest's name must end in .csv or .parquet. "
            f"Received: {str(path)!r}"
        )
    numbers = frame.index.to_numpy() + first_row
    try:
        frame = _spread_attributes(frame)
        catalog = Catalog.from_frame(
            frame.reset_index(drop=True),
            path.stem,
            describe_row=lambda row: f"{row_word} {numbers[row]}",
            extras=columns,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    catalog = _resolve_paths(catalog, path)
    if "split" in frame:
        return catalog
    return splits.with_split(catalog, test_fraction, seed, draw)


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


def _is_known(column: str) -> bool:
    return column in COLUMNS or annotations.is_annotation(column)


def _read_csv(path: pathlib.Path, columns: Sequence[str]) -> pd.DataFrame:
    """Returns the table as strings, indexed by the number of the row."""
    try:
        with warnings.catch_warnings():
            # pandas only warns about lines that are longer than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                dtype=str,
                # A product may well be called "NA" or "null".
                keep_default_na=False,
                index_col=False,
                # Skipped lines would shift the line numbers of errors.
                skip_blank_lines=False,
                encoding="utf-8",
            )
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"{path} is empty. It needs a header and one line per image."
        ) from error
    except (ValueError, pd.errors.ParserWarning) as error:
        raise ValueError(
            f"{path} cannot be read as comma-separated UTF-8: {error}. Save "
            "it as a CSV file with commas, encoded as UTF-8."
        ) from error
    frame.columns = [str(column).strip() for column in frame.columns]
    _check_columns(path, list(frame.columns), columns)
    frame = frame[[c for c in frame if _is_known(c) or c in columns]]
    blank = (frame.isna() | (frame == "")).all(axis=1)
    frame = frame[~blank]
    _check_rows(path, len(frame))
    frame = _as_strings(frame, columns)
    ids = frame["product_id"]
    if ids.notna().all() and ids.str.fullmatch(_CANONICAL_INTEGER).all():
        frame = frame.assign(product_id=ids.astype(np.int64))
    return frame


def _read_parquet(path: pathlib.Path, columns: Sequence[str]) -> pd.DataFrame:
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
        _check_columns(path, names, columns)
        table = parquet.read_table(
            path, columns=[c for c in names if _is_known(c) or c in columns]
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet: {error}"
        ) from error
    _check_rows(path, table.num_rows)
    # The file may declare one of these columns to be the index of pandas.
    return _as_strings(table.to_pandas(ignore_metadata=True), columns)


def _as_strings(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Turns the extra columns into strings. A missing value becomes ""."""
    texts = {}
    for name in columns:
        values = frame[name].astype(object)
        texts[name] = values.where(values.notna(), "").astype(str)
    return frame.assign(**texts)


def _check_columns(
    path: pathlib.Path, columns: list[str], wanted: Sequence[str]
) -> None:
    missing = [c for c in ("path", "product_id") if c not in columns]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} "
            f"{' and '.join(map(repr, missing))}. A manifest has the columns "
            "path, product_id[, category, domain, split, x1, y1, x2, y2, "
            "attributes, landmark1_x, landmark1_y, ...]. "
            f"Received: {', '.join(columns)}"
        )
    own = [c for c in wanted if _is_known(c) or c not in columns]
    extra = [c for c in columns if not _is_known(c)]
    if own:
        raise ValueError(
            f"{path} has no extra column {', '.join(map(repr, own))}. Its "
            f"extra columns are: {', '.join(extra) or 'none'}. Leave the name "
            "out of --columns (--columns= names none), or add the column to "
            "the file."
        )
    extra = [c for c in extra if c not in wanted]
    for column in extra:
        near = difflib.get_close_matches(column.lower(), COLUMNS, 1, 0.75)
        if near and near[0] not in columns:
            logging.warning(
                "%s: ignoring the column %r; did you mean %r?",
                *(path, column, near[0]),
            )
    if extra:
        logging.info("%s: ignoring the columns %s", path, ", ".join(extra))


def _check_rows(path: pathlib.Path, rows: int) -> None:
    if not rows:
        raise ValueError(f"{path} has a header but no images.")


def _resolve_paths(catalog: Catalog, manifest: pathlib.Path) -> Catalog:
    """Joins relative paths to the folder of the manifest."""
    given = pd.Series(catalog.paths, dtype=object)
    absolute = given.str.match(_ABSOLUTE).to_numpy(bool)
    folder = str(manifest.parent)
    paths = np.where(absolute, given, folder + "/" + given).astype(object)
    local = [p for p in paths[:_PROBED] if "://" not in p]
    if local and not any(map(os.path.isfile, local)):
        raise FileNotFoundError(
            f"None of the first {len(local)} images of {manifest} exists. "
            "Paths are relative to the manifest's folder. Looked for: "
            f"{local[0]!r}"
        )
    # An absolute path is an answer as it is, even below the folder.
    root = "" if absolute.all() else folder
    return dataclasses.replace(catalog, paths=paths, root=root)
