"""Reads a catalog from a folder per product."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import pandas as pd
from absl import logging

from tf_triplet.data import image_formats, transcode
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import splits

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".avif", ".jp2", ".ppm"),
)
# Read with the extra `heif` only.
_HEIF_EXTENSIONS = (".heic", ".heif", ".hif")
# Number of files that a message names.
_NAMED = 3
_SPLITS = frozenset(("train", "test", "val"))
_LAYOUTS = "product/*.jpg or category/product/*.jpg"


def read_folder(
    path: str | pathlib.Path,
    test_fraction: float = 0.5,
    seed: int = 0,
    draw: str = "hash",
) -> Catalog:
    """Reads `product/*.jpg` or `category/product/*.jpg`.

    The depth of the folders decides which of the two it is. The id of a
    product is the name of its folder. With categories it is
    `category/product`, so that `001` in two categories is two products.
    Folders `train` and `test` (or `val`) at the top are splits. Hidden files
    and folders are ignored. A warning counts and names other files that are
    left out, by extension.

    Args:
        path: The folder that contains all others.
        test_fraction: The share of products that is held out where the
            folders are not splits.
        seed: The seed of that draw.
        draw: How products are held out: "hash", or "permutation" as in earlier
            versions. See `tf_triplet.data.sources.splits`.

    Returns:
        The catalog of all images in these folders.

    Raises:
        FileNotFoundError: If the folder does not exist, or has no image.
        ValueError: If the depth of the folders is not as described.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("hat/1.jpg", "hat/2.jpg", "bag/1.jpg"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> read_folder(folder).row_product_ids.tolist()
    ['bag', 'hat', 'hat']
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"The folder of products {str(root)!r} does not exist."
        )
    files = _images(root)
    parts = pd.Series(files).str.split("/")
    tops = set(parts.str[0])
    has_splits = tops <= _SPLITS and "train" in tops and len(tops) > 1
    folders = parts.str.len() - 1 - has_splits
    _check_depth(root, files, folders)
    frame = pd.DataFrame({"path": str(root) + "/" + pd.Series(files)})
    frame["product_id"] = parts.str[-2]
    if folders.iloc[0] == 2:
        frame["category"] = parts.str[-3]
        frame["product_id"] = frame["category"] + "/" + frame["product_id"]
    if has_splits:
        frame["split"] = parts.str[0]
    catalog = dataclasses.replace(
        Catalog.from_frame(frame, root.resolve().name), root=str(root)
    )
    if has_splits:
        return catalog
    return splits.with_split(catalog, test_fraction, seed, draw)


def _images(root: pathlib.Path) -> list[str]:
    """Lists the images below `root`: sorted relative paths with slashes."""
    read = EXTENSIONS
    if transcode.reads_heif():
        read += _HEIF_EXTENSIONS
    files: list[str] = []
    others: dict[str, list[str]] = {}
    for path, entry in _walk(root):
        suffix = os.path.splitext(entry.name)[1].lower()
        if not entry.is_file():
            others.setdefault("no file", []).append(path)
        elif suffix in read:
            files.append(path)
        else:
            others.setdefault(suffix or "no extension", []).append(path)
    left_out = _describe(others)
    if not files:
        raise FileNotFoundError(
            f"There is no image ({', '.join(read)}) in {str(root)!r}, which "
            f"should contain {_LAYOUTS}. Received: {left_out or 'no file'}"
        )
    if left_out:
        logging.warning(
            "%d files of the folder %s are left out: %s",
            sum(map(len, others.values())),
            root,
            left_out,
        )
    return sorted(files)


def _walk(root: pathlib.Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Yields the relative path and the entry of each file that is not hidden.

    Symbolic links are followed, except to a folder that contains the link.
    """
    folders = [("", root, frozenset((os.path.realpath(root),)))]
    while folders:
        prefix, folder, above = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = prefix + entry.name
                if not entry.is_dir():
                    yield path, entry
                    continue
                real = os.path.realpath(entry.path)
                if real in above:
                    logging.warning(
                        "The link %s leads back to %s, and is left out.",
                        entry.path,
                        real,
                    )
                    continue
                folders.append((path + "/", entry.path, above | {real}))


def _describe(others: dict[str, list[str]]) -> str:
    """Counts and names files by extension, and says how to have them read."""
    parts = []
    for suffix, paths in sorted(others.items()):
        paths = sorted(paths)
        more = ", ..." if len(paths) > _NAMED else ""
        names = ", ".join(paths[:_NAMED]) + more
        parts.append(f"{len(paths)} {suffix} ({names})")
    text = "; ".join(parts)
    for suffixes, name in ((_HEIF_EXTENSIONS, "HEIC"), ((".jxl",), "JPEG XL")):
        if set(suffixes) & set(others):
            text += f". {name} is not read: {image_formats.advise(name)}"
    return text


def _check_depth(
    root: pathlib.Path, files: list[str], folders: pd.Series
) -> None:
    depths = folders.unique()
    if len(depths) == 1 and depths[0] in (1, 2):
        return
    examples = [files[int((folders == d).to_numpy().argmax())] for d in depths]
    raise ValueError(
        f"All images in {str(root)!r} must be arranged as {_LAYOUTS}, "
        "optionally within folders train and test. Received: "
        f"{', '.join(map(repr, examples[:3]))}"
    )
