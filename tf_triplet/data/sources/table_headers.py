"""Finds the columns of a manifest, whatever the case of their names."""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Sequence

from absl import logging

from tf_triplet.data import annotations
from tf_triplet.data.columns import BOX_COLUMNS
from tf_triplet.data.ids import compose

ATTRIBUTES = "attributes"
COLUMNS = (
    "path",
    "product_id",
    "category",
    "domain",
    "split",
    *BOX_COLUMNS,
    ATTRIBUTES,
)
_REQUIRED = COLUMNS[:2]
# What other programs call the columns that every manifest needs.
_ALIASES = {
    "path": "image img file filename filepath imagepath imagefile imagename "
    "photo src url imageurl",
    "product_id": "id product productnumber productcode sku item itemid "
    "article articleid ean gtin label class",
}
_NEAR = {word: name for name in _ALIASES for word in _ALIASES[name].split()}


def canonical(name: str) -> str:
    """Returns the name of a column as this package writes it.

    White space around the name is removed. Case does not matter in the names
    that this package knows, and is kept in all others.

    Args:
        name: The name in the table.

    Returns:
        The name.

    Example:

    >>> [canonical(name) for name in (" Path", "Attribute:Red", "Price")]
    ['path', 'attribute:Red', 'Price']
    """
    name = compose(str(name))
    lower = name.lower()
    if lower in COLUMNS:
        return lower
    if lower.startswith(annotations.ATTRIBUTE):
        start = len(annotations.ATTRIBUTE)
        return annotations.ATTRIBUTE + name[start:].strip()
    return lower if annotations.is_annotation(lower) else name


def is_known(name: str) -> bool:
    """Returns whether this package gives a column a meaning.

    Args:
        name: A canonical name.
    """
    return name in COLUMNS or annotations.is_annotation(name)


def count_known(names: Sequence[str]) -> int:
    """Counts the columns that this package gives a meaning.

    Args:
        names: The names in the table.
    """
    return sum(is_known(canonical(name)) for name in names)


def choose_columns(
    path: pathlib.Path, given: Sequence[str], wanted: Sequence[str]
) -> dict[str, int]:
    """Finds the columns to read.

    Args:
        path: The file, for errors and for the log, which names the columns
            that are ignored.
        given: The names of the columns in the table.
        wanted: The names of extra columns to read.

    Returns:
        The place of each column, by its canonical name.

    Raises:
        ValueError: If a column is missing, or occurs twice.

    Example:

    >>> choose_columns(pathlib.Path("a.csv"), ["Product_ID", "PATH"], [])
    {'product_id': 0, 'path': 1}
    """
    names = [canonical(name) for name in given]
    wanted = [compose(name) for name in wanted]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise ValueError(_explain_missing(path, given, names, missing))
    _check_wanted(path, names, wanted)
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if not is_known(name) and name not in wanted:
            continue
        if name in places:
            raise ValueError(
                f"{path} has the column {name!r} twice: column "
                f"{places[name] + 1} ({given[places[name]]!r}) and column "
                f"{place + 1} ({given[place]!r}). Rename or remove one."
            )
        places[name] = place
    _tell_ignored(path, [n for n in names if n and n not in places], places)
    return places


def _explain_missing(
    path: pathlib.Path,
    given: Sequence[str],
    names: Sequence[str],
    missing: Sequence[str],
) -> str:
    hints = []
    for name in missing:
        near = [raw for raw, n in zip(given, names) if suggest(n) == name]  # noqa: B905
        if near:
            hints.append(f"Did you mean {name!r} by {near[0].strip()!r}? ")
    return (
        f"{path} lacks the column{'s' * (len(missing) > 1)} "
        f"{' and '.join(map(repr, missing))}. {''.join(hints)}A manifest has "
        "a header with the columns path, product_id[, category, domain, "
        "split, x1, y1, x2, y2, attributes, landmark1_x, landmark1_y, ...], "
        "separated by commas, semicolons, tabs or bars. Received: "
        f"{', '.join(given)[:500]}"
    )


def suggest(name: str) -> str:
    """Returns the known column whose name is nearest to another name.

    Args:
        name: A name that is not known.

    Returns:
        The known name, or an empty string.

    Example:

    >>> suggest("Product ID"), suggest("SKU"), suggest("price")
    ('product_id', 'product_id', '')
    """
    if is_known(name):
        return ""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    by_plain = {column.replace("_", ""): column for column in COLUMNS}
    found = by_plain.get(plain) or _NEAR.get(plain)
    if found:
        return found
    near = difflib.get_close_matches(name.lower(), COLUMNS, 1, 0.75)
    return near[0] if near else ""


def _check_wanted(
    path: pathlib.Path, names: Sequence[str], wanted: Sequence[str]
) -> None:
    own = [c for c in wanted if is_known(c) or c not in names]
    if not own:
        return
    extra = [c for c in names if c and not is_known(c)]
    near = difflib.get_close_matches(own[0], extra, 1, 0.6)
    near = near or [c for c in extra if c.lower() == own[0].lower()]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{path} has no extra column {', '.join(map(repr, own))}. Its extra "
        f"columns are: {', '.join(extra) or 'none'}.{hint} Leave the name out "
        "of --columns (--columns= names none), or add the column to the file."
    )


def _tell_ignored(
    path: pathlib.Path, ignored: Sequence[str], used: dict[str, int]
) -> None:
    for name in ignored:
        near = suggest(name)
        # Words such as "label" are common, and say nothing if both are there.
        if near and near not in used:
            logging.warning(
                "%s: ignoring the column %r; did you mean %r?",
                *(path, name, near),
            )
    if ignored:
        logging.info("%s: ignoring the columns %s", path, ", ".join(ignored))
