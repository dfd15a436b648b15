"""Product ids as text, and a hash of them that never changes.

The same product must be recognized in every table that names it, whether a
program or a spreadsheet wrote the table.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

# Sign, leading zeros, digits, and the decimals that a spreadsheet adds.
_NUMBER = re.compile(r"(-?)0*([0-9]+)(?:\.0+)?")

# Marks without a width, which copied text carries at its ends unseen.
_UNSEEN = "\u200b\u200e\u200f\u2060\ufeff"


def compose(text: str) -> str:
    """Writes a name in one way: no outer white space, composed letters.

    Args:
        text: A name, as somebody wrote it.

    Returns:
        The name in Unicode's form NFC. Its case is kept.

    Example:

    >>> compose(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    stripped = text.strip()
    if stripped.isascii():
        return stripped
    while stripped.strip(_UNSEEN).strip() != stripped:
        stripped = stripped.strip(_UNSEEN).strip()
    return unicodedata.normalize("NFC", stripped)


def normalize_ids(values: Iterable) -> np.ndarray:
    """Writes the product ids of one column as text, each in one way only.

    White space around an id is removed, and letters with accents are composed
    (Unicode NFC). Case is kept. A column that holds whole numbers only loses
    leading zeros and the `.0` that spreadsheets add. One id that is not a
    number makes the whole column text, which keeps its zeros.

    Args:
        values: `[n]` strings or numbers, the ids of a whole column. Missing
            values are not ids.

    Returns:
        `[n]` string objects.

    Example:
        >>> from tf_triplet.data import normalize_ids
        >>> normalize_ids(["007", " 12.0 "]).tolist()
        ['7', '12']
        >>> normalize_ids(["007", "A12"]).tolist()
        ['007', 'A12']
    """
    texts = [_as_text(value) for value in values]
    if all(map(_NUMBER.fullmatch, texts)):
        texts = [plain_number(text) for text in texts]
    return np.array(texts, object)


def stable_hash(ids: Sequence[str], salt: str) -> np.ndarray:
    """Hashes ids to numbers that depend on the id and the salt alone.

    A number has the same hash with and without leading zeros, because a
    column of numbers becomes text as soon as one other id joins it.

    Args:
        ids: `[n]` normalized ids.
        salt: Text that makes one use of the hash independent of another.

    Returns:
        `[n]` float64, spread evenly over [0, 1): the first 53 bits of the
        SHA-256 of `salt:id`.

    Example:
        >>> from tf_triplet.data import stable_hash
        >>> stable_hash(["bag-7", "bag-8"], "split-0").round(3).tolist()
        [0.705, 0.992]
    """
    numbers = np.empty(len(ids))
    for i, text in enumerate(ids):
        digest = hashlib.sha256(f"{salt}:{plain_number(text)}".encode())
        # 64 bits could be rounded up to 1.
        numbers[i] = int.from_bytes(digest.digest()[:8], "big") >> 11
    return numbers / 2.0**53


def comparable_ids(*columns: Iterable[str]) -> list[list[str]]:
    """Brings normalized ids of several tables into one spelling.

    A column of numbers lost its leading zeros, and one of text did not, so
    that one product may be called `7` in one table and `007` in another. Both
    become `7`, unless two ids of one column would become the same.

    Args:
        *columns: The normalized ids of each table, each id once.

    Returns:
        The columns, in the order given.

    Example:
        >>> from tf_triplet.data import comparable_ids
        >>> comparable_ids(["7", "12"], ["007", "012", "A1"])
        [['7', '12'], ['7', '12', 'A1']]
    """
    before = [list(column) for column in columns]
    plain = [[plain_number(text) for text in column] for column in before]
    if all(len(set(p)) == len(set(b)) for p, b in zip(plain, before)):
        return plain
    return before


def _as_text(value) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)  # 1e22 would be written with an exponent.
    return compose(str(value))


def plain_number(text: str) -> str:
    """Writes a whole number without the zeros around it.

    Args:
        text: A normalized id.

    Returns:
        The number without leading zeros and decimals. Other text is returned
        as it is.

    Example:

    >>> plain_number("007.0"), plain_number("A07")
    ('7', 'A07')
    """
    number = _NUMBER.fullmatch(text)
    if not number:
        return text
    sign, digits = number.groups()
    return digits if digits == "0" else sign + digits
