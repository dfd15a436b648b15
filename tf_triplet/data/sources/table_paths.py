"""Finds the files that the paths of a manifest name.

The paths of a table are written on many systems: with backslashes, as
`file://` addresses, with accents in another Unicode form than that of the
disk. They are read where one file fits. An address on the web is refused.
"""

from __future__ import annotations

import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Sequence

import numpy as np

from tf_triplet.data.row_errors import refuse
from tf_triplet.data.sources.table_values import Told

# A scheme has two letters or more; one letter is a drive of Windows.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(data):", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(localhost)?(?=/)|(?=/[^/]))", re.IGNORECASE)
_SPECIAL = re.compile(r"[^ -9;-\[\]-~]|^ | $")
_DRIVE = re.compile(r"/?[A-Za-z]:[\\/]|\\\\|[A-Za-z]:(?=[^/\\]*\.)")
_HOW_TO_FETCH = {
    "http": "wget",
    "https": "wget",
    "gs": "gcloud storage cp",
    "s3": "aws s3 cp",
}


class PathResolver:
    """Turns the paths of a table into paths of files.

    Args:
        folder: The folder that relative paths start from.

    Attributes:
        counts: The number of paths that were read in each special way.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.counts: dict[str, int] = {}
        self._names: dict[str, dict[str, str]] = {}

    def resolve(self, text: str) -> str:
        """Returns the path of the file that a cell names.

        Args:
            text: The cell, without outer white space.

        Returns:
            An absolute path, or one that begins with the folder. If there is
            no such file, it is what the cell says.
        """
        if text.lower().startswith("file:"):
            return self._resolve_address(text)
        path = self.join(text)
        if "\\" in text and not os.path.lexists(path):
            path = self.count("backslashes", self.join(text, "\\"))
        if not path.isascii() and not os.path.lexists(path):
            found = self._find(path)
            if found != path:
                path = self.count("accents", found)
        return path

    def _resolve_address(self, text: str) -> str:
        rest = _FILE.sub("", text, count=1)
        path = urllib.parse.unquote(rest)
        if not os.path.lexists(path) and os.path.lexists(rest):
            path = rest  # A name with a percent sign that nobody has encoded.
        if not path.isascii() and not os.path.lexists(path):
            path = self._find(path)
        return self.count("file://", path)

    def join(self, text: str, separator: str = "/") -> str:
        """Returns a path below the folder, unless it is absolute.

        Args:
            text: The cell.
            separator: The separator of folders in the cell.
        """
        text = text.replace(separator, "/")
        return text if text.startswith("/") else f"{self.folder}/{text}"

    def count(self, what: str, path: str) -> str:
        """Counts a path that was read in a special way, and returns it.

        Args:
            what: The way.
            path: The path.
        """
        self.counts[what] = self.counts.get(what, 0) + 1
        return path

    def _find(self, path: str) -> str:
        """Returns an existing path that differs by Unicode forms alone."""
        found = "/" if path.startswith("/") else "."
        for part in filter(None, path.split("/")):
            step = os.path.join(found, part)
            if not part.isascii() and not os.path.lexists(step):
                name = self._list(found).get(_form(part))
                if name is None:
                    return path
                step = os.path.join(found, name)
            found = step
        if not path.startswith("/"):
            found = found.removeprefix("./")
        return found if os.path.lexists(found) else path

    def _list(self, folder: str) -> dict[str, str]:
        """Returns the names in a folder, by their composed form."""
        if folder not in self._names:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._names[folder] = {
                _form(name): name for name in names if not name.isascii()
            }
        return self._names[folder]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def resolve_paths(
    given: Sequence[str],
    folder: pathlib.Path,
    describe_row: Callable[[int], str],
    told: Told,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Finds the files of a whole column.

    Args:
        given: `[n]` cells of the column `path`.
        folder: The folder of the table.
        describe_row: Takes a row number and returns its name.
        told: Collects what was read in a special way.

    Returns:
        `[n]` paths of files; `[n]` the cells without outer white space; and
        the folder that relative paths start from, or an empty string if all
        paths are absolute.

    Raises:
        ValueError: If a path is an address on the web, or lies on a drive of
            Windows. The message names the rows.

    Example:

    >>> found = resolve_paths(
    ...     ["a.jpg", "file:///b%20c.jpg"], pathlib.Path("shop"), str, Told()
    ... )
    >>> found[0].tolist()
    ['shop/a.jpg', '/b c.jpg']
    """
    resolver = PathResolver(str(folder))
    cells, start = np.asarray(given, object).copy(), f"{folder}/"
    paths = np.empty(len(cells), object)
    paths[:] = [t if t.startswith("/") else start + t for t in cells]
    # Most paths are plain; the others cost a look at the disk each.
    rows = [i for i, text in enumerate(cells) if _SPECIAL.search(text)]
    cells[rows] = list(map(_strip(resolver), cells[rows]))

    def describe(place: int) -> str:
        return describe_row(rows[place])

    _refuse_addresses(cells[rows], describe)
    paths[rows] = list(map(resolver.resolve, cells[rows]))
    _refuse_drives(cells[rows], paths[rows], describe)
    for what, text in (
        ("backslashes", "backslashes of {} Windows paths, read as slashes (/)"),
        ("accents", "the Unicode form of the accents in {} paths"),
        ("file://", "{} addresses file://, read as local paths"),
        ("white space", "white space around {} paths"),
    ):
        if what in resolver.counts:
            told.changes.append(text.format(f"{resolver.counts[what]:,}"))
    relative = any(not _is_absolute(cell) for cell in cells)
    return paths, cells, str(folder) if relative else ""


def _strip(resolver: PathResolver) -> Callable[[str], str]:
    """Returns a function that removes outer white space, unless it is real."""

    def strip(text: str) -> str:
        short = text.strip()
        if short == text:
            return text
        full = resolver.join(text)
        if os.path.lexists(full) and not os.path.lexists(resolver.join(short)):
            return text
        resolver.count("white space", short)
        return short

    return strip


def _is_absolute(cell: str) -> bool:
    return cell.startswith("/") or cell.lower().startswith("file:")


def _refuse_addresses(
    cells: np.ndarray, describe_row: Callable[[int], str]
) -> None:
    addresses = [_ADDRESS.match(cell) for cell in cells]
    schemes = [a and (a[1] or a[2]).lower() for a in addresses]

    def explain(row: int) -> str:
        scheme = schemes[row]
        if scheme == "data":
            return (
                "has an image within the table (data:) as its path. Save the "
                f"image as a file. Received: {cells[row][:60]!r}"
            )
        tool = _HOW_TO_FETCH.get(scheme, "a tool of that service")
        return (
            f"has a URL as its path, {scheme}://. Images are read from files "
            f"of this machine: download them first (for instance with {tool}) "
            "and write the path of each file, relative to the table. "
            f"Received: {cells[row][:300]!r}"
        )

    refuse(
        np.array([s not in (None, "file") for s in schemes], bool),
        describe_row,
        explain,
    )
    refuse(
        np.array(
            [
                cell[:5].lower() == "file:" and not _FILE.match(cell)
                for cell in cells
            ],
            bool,
        ),
        describe_row,
        lambda row: (
            "has an address that names another machine or no absolute path. "
            "Write file:///folder/image.jpg, or a path relative to the table. "
            f"Received: {cells[row][:300]!r}"
        ),
    )


def _refuse_drives(
    cells: np.ndarray, paths: np.ndarray, describe_row: Callable[[int], str]
) -> None:
    bad = [
        bool(_DRIVE.match(_FILE.sub("", cell, count=1)))
        and not os.path.lexists(path)
        for cell, path in zip(cells, paths)  # noqa: B905
    ]
    refuse(
        np.array(bad, bool),
        describe_row,
        lambda row: (
            "has a path on a drive or server of Windows, which does not exist "
            "on this machine. Copy the images, and write paths relative to "
            f"the table, such as images/a.jpg. Received: {cells[row][:300]!r}"
        ),
    )


def explain_missing(path: str) -> str:
    """Tells which file may be meant by a path that does not exist.

    Args:
        path: The path.

    Returns:
        A sentence with a space before it, or an empty string.

    Example:

    >>> explain_missing("/no/such/folder/a.jpg")
    " The folder '/no/such/folder' does not exist."
    """
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return f" The folder {folder!r} does not exist."
    except OSError as error:
        return f" The folder {folder!r} cannot be read: {error.strerror}."
    same = [n for n in names if n.casefold() == name.casefold()]
    stem = os.path.splitext(name)[0].casefold()
    other = [n for n in names if os.path.splitext(n)[0].casefold() == stem]
    if same:
        return f" The folder holds {same[0]!r}, which differs by case."
    if other:
        return f" The folder holds {other[0]!r}."
    return ""
