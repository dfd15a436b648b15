"""Brings the cells of a manifest into one spelling, and tells what it changed.

Two spellings of one id would be two products, and two ids that a spreadsheet
has rounded to one number would be one product. Neither may pass unseen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from tf_triplet.data.ids import compose, plain_number
from tf_triplet.data.row_errors import refuse

# Columns whose cells are names. The cells of a path are looked up on the disk.
NAMES = ("product_id", "category", "domain", "split")
# The splits that this package gives a meaning.
_SPLITS = ("train", "test", "val", "validation", "all")
# As a spreadsheet shows a number of more than eleven digits.
_ROUNDED = re.compile(r"-?[0-9](?:[.,][0-9]*)?[Ee]\+[0-9]{2,3}")
# As a spreadsheet shows a formula without a result.
_FAILED = re.compile(r"#(?:N/A|REF!|VALUE!|NAME\?|NULL!|NUM!|DIV/0!|#+)")
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = re.compile(
    rf"[0-9]{{1,2}}-(?:{_MONTHS})(?:-[0-9]{{2,4}})?|(?:{_MONTHS})-[0-9]{{2,4}}"
    "|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T]00:00:00)?",
    re.IGNORECASE,
)
_NOTHING = ("nan", "none", "null", "na", "n/a", "<na>", "nil", "-", "?")
# A spreadsheet keeps 15 digits of a number, and writes zeros for the others.
_KEPT_DIGITS = 15
_LONG_IDS = 3
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
# Integers such as 7, but not 007, +7 or 7.0.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


class Told:
    """What reading a table has changed or noticed.

    Attributes:
        changes: Clauses about what was changed, for one line of the log.
        warnings: Sentences about what may be a mistake.
    """

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.warnings: list[str] = []


def clean_names(
    frame: pd.DataFrame, describe_row: Callable[[int], str], told: Told
) -> pd.DataFrame:
    """Removes outer white space and composes accents in names.

    Args:
        frame: The table. Cells that are not text are left as they are.
        describe_row: Takes a row number and returns its name.
        told: Collects what was changed, and names that differ little.

    Returns:
        The table, with other cells in `product_id`, `category`, `domain` and
        `split`.
    """
    cleaned = {}
    for name in NAMES:
        if name not in frame or pd.api.types.is_numeric_dtype(frame[name]):
            continue
        values = frame[name].to_numpy(object)
        written = {v for v in values if isinstance(v, str)}
        known = {value: _clean(name, value) for value in written}
        clean = [known[v] if isinstance(v, str) else v for v in values]
        _tell_changes(name, values, clean, describe_row, told)
        _tell_alike(name, clean, told)
        cleaned[name] = pd.Series(clean, index=frame.index, dtype=object)
    return frame.assign(**cleaned)


def _clean(column: str, text: str) -> str:
    text = compose(text)
    if column == "split" and text.lower() in _SPLITS:
        return text.lower()
    return text


def _tell_changes(
    column: str,
    before: Sequence,
    after: Sequence,
    describe_row: Callable[[int], str],
    told: Told,
) -> None:
    rows = [i for i, old in enumerate(before) if old is not after[i]]
    rows = [i for i in rows if before[i] != after[i]]
    if not rows:
        return
    spaces = sum(before[i] != before[i].strip() for i in rows)
    what = "white space" if spaces == len(rows) else "white space, accents"
    if column == "split":
        what += " or case"
    told.changes.append(
        f"{what} of {len(rows):,} cells of `{column}` (first: "
        f"{describe_row(rows[0])}, {before[rows[0]]!r})"
    )
    changed = {after[i] for i in rows}
    kept = {old for old, new in zip(before, after) if old == new}  # noqa: B905
    joined = sorted(changed & kept)
    if column == "product_id" and joined:
        told.warnings.append(
            f"{len(joined):,} product ids were written in several ways that "
            "differ by outer white space or by the form of their accents, and "
            f"are one product each: {_list(joined)}."
        )


def _tell_alike(column: str, values: Sequence, told: Told) -> None:
    """Tells names that are different but hardly look so."""
    groups: dict[str, set[str]] = {}
    for value in set(v for v in values if isinstance(v, str)):
        groups.setdefault(_look(column, value), set()).add(value)
    alike = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    if not alike:
        return
    what = "case, white space or the form of letters"
    if column == "product_id":
        what = "case, white space, the form of letters or zeros around a number"
    pairs = [" and ".join(map(repr, group)) for group in alike[:5]]
    more = ", ..." if len(alike) > 5 else ""
    told.warnings.append(
        f"Names in `{column}` differ only by {what}, and count as different: "
        f"{', '.join(pairs)}{more}. Write them alike if they are the same."
    )


def _look(column: str, text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = " ".join(text.casefold().split())
    return plain_number(text) if column == "product_id" else text


def check_ids(
    values: pd.Series, describe_row: Callable[[int], str], told: Told
) -> None:
    """Refuses ids that a spreadsheet has destroyed, and tells doubtful ones.

    Args:
        values: `[n]` ids. Those that are not text are not looked at.
        describe_row: Takes a row number and returns its name.
        told: Collects sentences about doubtful ids.

    Raises:
        ValueError: If an id is a number that was rounded, or the error of a
            formula. The message names the rows.

    Example:

    >>> check_ids(pd.Series(["4.00638E+12"]), "line {}".format, Told())
    Traceback (most recent call last):
        ...
    ValueError: line 0 has the product_id '4.00638E+12', a number that a \
spreadsheet has rounded. 1 row has such an id and 1 of these ids are \
different, so that several products may have become one. Format the column \
as text in the spreadsheet (or as a number without decimals), and save the \
table again from the original ids.
    """
    if pd.api.types.is_numeric_dtype(values):
        return
    texts = [value if isinstance(value, str) else "" for value in values]
    unique = set(texts)
    bad = {text for text in unique if _ROUNDED.fullmatch(text)}
    rounded = np.array([text in bad for text in texts], bool)
    count = int(rounded.sum())
    rows = f"{count:,} rows have" if count > 1 else "1 row has"
    refuse(
        rounded,
        describe_row,
        lambda row: (
            f"has the product_id {texts[row]!r}, a number that a spreadsheet "
            f"has rounded. {rows} such an id and {len(bad):,} of these ids "
            "are different, so that several products may have become one. "
            "Format the column as text in the spreadsheet (or as a number "
            "without decimals), and save the table again from the original "
            "ids."
        ),
    )
    failed = {text for text in unique if _FAILED.fullmatch(text)}
    refuse(
        np.array([text in failed for text in texts], bool),
        describe_row,
        lambda row: (
            f"has the product_id {texts[row]!r}, the error of a formula in a "
            "spreadsheet. Mend the formula, and save the table again."
        ),
    )
    _tell_doubtful(sorted(unique - {""}), told)


def _tell_doubtful(unique: Sequence[str], told: Told) -> None:
    dates = [text for text in unique if _DATE.fullmatch(text)]
    if dates:
        told.warnings.append(
            f"{len(dates):,} of {len(unique):,} product ids look like dates, "
            f"which spreadsheets make of ids such as MAR5: {_list(dates)}."
        )
    nothing = [text for text in unique if text.lower() in _NOTHING]
    if nothing:
        told.warnings.append(
            "Product ids that often mean a missing value are read as ids, so "
            f"that all their images show one product: {_list(nothing)}."
        )
    digits = [t for t in unique if t.isdecimal() and len(t) > _KEPT_DIGITS]
    zeros = [t for t in digits if not t[_KEPT_DIGITS:].strip("0")]
    if len(digits) >= _LONG_IDS and len(zeros) == len(digits):
        told.warnings.append(
            f"All {len(digits):,} product ids of more than {_KEPT_DIGITS} "
            "digits end in zeros, as if a spreadsheet had rounded them, so "
            f"that products may have become one: {_list(zeros)}."
        )


def _list(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def as_integers(values: pd.Series) -> pd.Series:
    """Turns ids into integers if every one of them is written like 42.

    Args:
        values: `[n]` ids as text.

    Returns:
        `[n]` int64, or the ids as they are.

    Example:

    >>> as_integers(pd.Series(["42", "7"])).tolist()
    [42, 7]
    >>> as_integers(pd.Series(["042", "7"])).tolist()
    ['042', '7']
    """
    if not len(values) or not all(
        isinstance(value, str) and _INTEGER.fullmatch(value) for value in values
    ):
        return values
    numbers = [int(value) for value in values]
    bounds = np.iinfo(np.int64)
    if min(numbers) < bounds.min or max(numbers) > bounds.max:
        return values
    return pd.Series(numbers, index=values.index, dtype=np.int64)


def read_decimal_commas(
    frame: pd.DataFrame, columns: Sequence[str], told: Told
) -> pd.DataFrame:
    """Reads numbers such as 30,5 of a table without separating commas.

    Args:
        frame: The table, of text.
        columns: The columns that hold numbers.
        told: Collects what was changed.

    Returns:
        The table, with 30.5 in place of 30,5.
    """
    changed, count = {}, 0
    for name in columns:
        values = [
            cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell
            for cell in frame[name].str.strip()
        ]
        count += sum("," in cell for cell in frame[name])
        changed[name] = pd.Series(values, index=frame.index, dtype=object)
    if count:
        told.changes.append(f"decimal commas of {count:,} numbers")
    return frame.assign(**changed)
