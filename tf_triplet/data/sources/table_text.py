"""Reads the rows of a text table as spreadsheets and programs write it.

A table may be UTF-8, or any encoding with a byte order mark, and its columns
may be separated by commas, semicolons, tabs or bars. Both are found by looking
at the file. What cannot be read is named with its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tf_triplet.data.row_errors import name_some

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# A UTF-32 mark begins with that of UTF-16, so that it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# How files begin that somebody has named .csv.
_OTHER_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old format (.xls)"),
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"<", "an HTML or XML page, perhaps that of a failed download"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_CHUNK = 1 << 20


def open_table(
    path: pathlib.Path, encoding: str = ""
) -> tuple[io.TextIOWrapper, str]:
    """Opens a text table with the encoding that it has.

    Args:
        path: The file.
        encoding: The name of an encoding, for a file that is not UTF-8 and
            has no byte order mark. Empty: UTF-8.

    Returns:
        The text, with its line ends, and a sentence about its encoding. The
        sentence is empty if the encoding is UTF-8.

    Raises:
        ValueError: If the file is empty, of another format, or not written in
            the encoding. The message names the line.

    Example:

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "shop.csv")
    >>> _ = file.write_text("path,product_id", encoding="utf-16")
    >>> text, told = open_table(file)
    >>> text.read(), told
    ('path,product_id', 'it is encoded as utf-16')
    """
    data = path.read_bytes()
    if not data.strip(b" \t\r\n\0"):
        raise ValueError(
            f"{path} is empty. It needs a header and one line per image."
        )
    found = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not found:
        _refuse_formats(path, data)
        found = _choose(path, data, encoding)
    _check_decodes(path, data, found, encoding)
    told = "" if found.startswith("utf-8") else f"it is encoded as {found}"
    if encoding and not _same_encoding(found, encoding):
        told = f"it is encoded as {found}, not as data.encoding={encoding}"
    text = io.TextIOWrapper(io.BytesIO(data), encoding=found, newline="")
    return text, told


def _choose(path: pathlib.Path, data: bytes, named: str) -> str:
    """Returns the encoding of a file without a byte order mark."""
    if not named:
        return "utf-8"
    try:
        "".encode(named)
    except LookupError as error:
        raise ValueError(
            "`data.encoding` must be the name of an encoding, such as cp1252, "
            f"latin-1 or utf-16-le. Received: {named!r}"
        ) from error
    # Text that is valid UTF-8 beyond ASCII is UTF-8. Any other encoding would
    # read two or three wrong letters for each letter.
    if not data.isascii() and b"\0" not in data and _first_bad(data) < 0:
        return "utf-8"
    return named


def _same_encoding(one: str, other: str) -> bool:
    one, other = (codecs.lookup(n).name.split("-sig")[0] for n in (one, other))
    return one.startswith(other) or other.startswith(one)


def _refuse_formats(path: pathlib.Path, data: bytes) -> None:
    start = data[:64].lstrip()
    for mark, name in _OTHER_FORMATS:
        if start.startswith(mark):
            raise ValueError(
                f"{path} is not a CSV file, but {name}. Save the table as CSV "
                "(UTF-8)."
            )


def _first_bad(data: bytes, encoding: str = "utf-8") -> int:
    """Returns the place of the first byte that is not text, or -1."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for start in range(0, max(len(data), 1), _CHUNK):
        part = data[start : start + _CHUNK]
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(part, final=start + _CHUNK >= len(data))
        except UnicodeDecodeError as error:
            return start - pending + error.start
    return -1


def _check_decodes(
    path: pathlib.Path, data: bytes, encoding: str, named: str
) -> None:
    bad = _first_bad(data, encoding)
    wide = "16" in encoding or "32" in encoding
    if bad < 0 and (wide or b"\0" not in data):
        return
    if bad < 0:
        bad = data.index(b"\0")
    line = data.count(b"\n", 0, bad) + 1
    if b"\0" in data[:2_000] and not wide:
        raise ValueError(_explain_zeros(path, data, line))
    if not wide and data[bad] == 0:
        raise ValueError(
            f"{path}, line {line}: a cell holds a NUL byte, so the file is "
            "damaged or is no text. Save the table again."
        )
    if named or wide:
        raise ValueError(
            f"{path}, line {line}: byte {data[bad]:#04x} cannot be read as "
            f"{encoding}. The file is damaged, or has another encoding than "
            f"data.encoding={named!r}. Save it as UTF-8."
        )
    shown = data[max(bad - 12, 0) : bad + 12].decode("cp1252", "replace")
    raise ValueError(
        f"{path}, line {line}: this is not UTF-8 (byte {data[bad]:#04x}). As "
        f"Windows-1252 it reads {' '.join(shown.split())!r}. If that is right, "
        "pass --config.data.encoding=cp1252 (tf-triplet-index: "
        "--encoding=cp1252). Or save the table as CSV UTF-8."
    )


def _explain_zeros(path: pathlib.Path, data: bytes, line: int) -> str:
    """Returns the message for text with NUL bytes near its start."""
    start = data[:2_000]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) > len(start) / 8:
        name = "utf-16-le" if odd > even else "utf-16-be"
        return (
            f"{path} is not UTF-8, but looks like {name} without a byte order "
            f"mark. Pass --config.data.encoding={name} (tf-triplet-index: "
            f"--encoding={name}), or save the table as CSV UTF-8."
        )
    return (
        f"{path}, line {line}: a cell holds a NUL byte, so the file is damaged "
        "or is no text. Save the table again."
    )


def read_header(
    path: pathlib.Path,
    text: io.TextIOBase,
    count_known: Callable[[Sequence[str]], int],
) -> tuple[list[str], str, int]:
    """Reads the header, and finds the separator of the columns.

    Args:
        path: The file, for errors.
        text: The table, at its start.
        count_known: Takes the names of the columns and returns how many of
            them are known.

    Returns:
        The names of the columns, the separator, and the number of lines read.

    Raises:
        ValueError: If there is no header.

    Example:

    >>> import io, pathlib
    >>> read_header(pathlib.Path("a.csv"), io.StringIO("path;id"), len)
    (['path', 'id'], ';', 1)
    """
    number, given = 0, ""
    for number, line in enumerate(text, 1):
        # Excel writes its separator as the first line: sep=;
        named = re.fullmatch(r"sep=(.)\s*", line, re.IGNORECASE)
        if named and number == 1:
            given = named[1]
        elif line.strip():
            break
    else:
        raise ValueError(
            f"{path} is empty. It needs a header and one line per image."
        )
    best = None
    for separator in [given] if given else SEPARATORS:
        names = next(_reader([line], separator, strict=False))
        rank = (count_known(names), len(names) > 1)
        if best is None or rank > best[0]:
            best = rank, names, separator
    return best[1], best[2], number


def _reader(lines, separator: str, strict: bool = True):
    return csv.reader(
        lines, delimiter=separator, skipinitialspace=True, strict=strict
    )


def read_rows(
    path: pathlib.Path,
    text: io.TextIOBase,
    width: int,
    wanted: Sequence[int],
    separator: str,
    line: int,
) -> tuple[list[list[str]], np.ndarray, int]:
    """Reads the rows below the header.

    Args:
        path: The file, for errors.
        text: The table, behind its header.
        width: The number of columns.
        wanted: The places of the columns to keep.
        separator: The separator of the columns.
        line: The number of lines above.

    Returns:
        The cells of each wanted column, `[n]` the line on which each row
        begins, and the number of blank rows that were left out.

    Raises:
        ValueError: If a row has another number of cells, or if its quotes do
            not match. The message names the lines.

    Example:

    >>> import io, pathlib
    >>> text = io.StringIO('a.jpg;7;"red; blue"')
    >>> read_rows(pathlib.Path("a.csv"), text, 3, [0, 2], ";", 1)[0]
    [['a.jpg'], ['red; blue']]
    """
    columns: list[list[str]] = [[] for _ in wanted]
    numbers, ragged, blank = [], [], 0
    pairs = list(zip(columns, wanted, strict=True))
    for number, cells in _records(path, text, separator, line):
        if not cells or (not cells[0] and not "".join(cells).strip()):
            blank += 1
            continue
        # Spreadsheets end each row with separators of empty columns.
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) != width:
            ragged.append((number, cells))
            continue
        numbers.append(number)
        for column, place in pairs:
            column.append(cells[place])
    if ragged:
        number, cells = ragged[0]
        names = [f"line {other}" for other, _ in ragged[1:6]]
        some = name_some(names, len(ragged) - 1)
        raise ValueError(
            f"{path} cannot be read: line {number} has {len(cells)} cells "
            f"where the header has {width}{some}. A cell that contains "
            f"{separator!r} must be in double quotes, and a row that ends "
            f"early may be cut off. Received: "
            f"{separator.join(cells)[:200]!r}"
        )
    return columns, np.asarray(numbers, np.int64), blank


def _records(
    path: pathlib.Path, text: io.TextIOBase, separator: str, above: int
) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the first line of each row, and its cells."""
    held: list[str] = []

    def lines() -> Iterator[str]:
        for line in text:
            held.append(line)
            yield line

    reader = _reader(lines(), separator)
    number = above + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = _mend(path, number, held, separator, error)
        yield number, cells
        number = above + 1 + reader.line_num
        held.clear()


def _mend(
    path: pathlib.Path,
    number: int,
    lines: list[str],
    separator: str,
    error: csv.Error,
) -> list[str]:
    """Reads a row with white space behind a closing quote, or raises."""
    text = "".join(lines)
    space = r'"[ \t\xa0]+(?=[\r\n]|$|' + re.escape(separator) + ")"
    try:
        (cells,) = _reader([re.sub(space, '"', text)], separator)
        return cells
    except (csv.Error, ValueError):
        cause = "a double quote is not closed, or text follows it"
        if "limit" in str(error):
            cause = (
                f"a cell is longer than {csv.field_size_limit():,} characters; "
                "perhaps a double quote is not closed"
            )
        raise ValueError(
            f"{path} cannot be read: line {number}: {cause}. Write a cell that "
            "contains a quote in double quotes, and each quote in it twice. "
            f"Received: {text[:120]!r}"
        ) from error
