"""The fingerprint of a version: what it was made of.

It is the file assets.extra/fingerprint.json in the folder of the version.
Beside it, assets.extra/products.json.gz holds a hash of each indexed product,
so that the next version can tell what has changed. It has one short entry per
product, which is little beside the vectors of the product's images.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tf_triplet.version import __version__

FILE = "assets.extra/fingerprint.json"
PRODUCTS = "assets.extra/products.json.gz"
_PRODUCTS_FORMAT = 1
_PIXEL_PACKAGES = ("tensorflow", "pillow")
_PACKAGES = (*_PIXEL_PACKAGES, "keras", "numpy", "scann")


def index_sha256(
    embeddings: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> str:
    """Returns a hash of what the index searches and answers.

    Args:
        embeddings: `[n, dim]` float32 vectors.
        columns: `[n]` strings for each column of the answer.
    """
    digest = hashlib.sha256(np.ascontiguousarray(embeddings, "<f4"))
    for name, values in columns.items():
        # Unlike joined strings, JSON distinguishes ["a,", "b"] and ["a", ",b"].
        digest.update(json.dumps([name, *map(str, values)]).encode())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that make an export."""
    found = {"tf_triplet": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_pixels() -> dict[str, Any]:
    """Returns what decodes and resizes the images of an export.

    Only the version of the pixels is part of the encoder's hash. The packages
    are recorded beside it, so that a difference between two versions of a
    model can be explained.

    Returns:
        `version`, which is `tf_triplet.data.preprocessing.PIXEL_VERSION`, and
        the versions of the packages `tensorflow` and `pillow`.
    """
    from tf_triplet.data import preprocessing

    packages = {
        name: importlib.metadata.version(name) for name in _PIXEL_PACKAGES
    }
    return {"version": preprocessing.PIXEL_VERSION, **packages}


def write(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Writes the fingerprint of a version.

    Args:
        folder: The folder of the version.
        record: The fingerprint, of values that JSON can hold.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def read(folder: str | Path) -> dict[str, Any] | None:
    """Reads the fingerprint of a version, or `None` if it has none.

    Args:
        folder: The folder of the version.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}. Restore it from a backup, or remove "
            f"the version {folder}."
        ) from error


def write_products(folder: str | Path, digests: Mapping[str, str]) -> None:
    """Writes a hash of each product of a version.

    Args:
        folder: The folder of the version.
        digests: Hashes by normalized product id.
    """
    path = Path(folder) / PRODUCTS
    path.parent.mkdir(exist_ok=True)
    record = {"format": _PRODUCTS_FORMAT, "products": dict(digests)}
    data = json.dumps(record, ensure_ascii=False).encode()
    # Without a time, the same products give the same file.
    path.write_bytes(gzip.compress(data, mtime=0))


def read_products(folder: str | Path) -> dict[str, str] | None:
    """Reads the hashes of the products of a version.

    Args:
        folder: The folder of the version.

    Returns:
        Hashes by normalized product id. `None` if the version has none that
        can be read, as those of earlier versions of this package.
    """
    path = Path(folder) / PRODUCTS
    if not path.is_file():
        return None
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
        if record["format"] == _PRODUCTS_FORMAT:
            return dict(record["products"])
        why = f"its format is {record['format']}"
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        why = str(error)
    # What has changed is good to know, and no reason to publish nothing.
    logging.warning("%s cannot be read: %s", path, why)
    return None


def names_source_text(record: Mapping[str, Any]) -> bool:
    """Tells whether a version knows its encoder by the text of the code.

    Versions before `PIXEL_VERSION` do. Their hash of an encoder cannot be
    compared with that of today.

    Args:
        record: The fingerprint of the version.
    """
    return "encoder" in record and "pixels" not in record


def check_same_encoder(folder: str | Path, encoder: str) -> None:
    """Checks that a version was made by an encoder.

    Args:
        folder: The folder of the version.
        encoder: The hash of the encoder.

    Raises:
        ValueError: Another encoder made the version, or its fingerprint does
            not name one.
    """
    record = read(folder)
    theirs = (record or {}).get("encoder")
    if theirs == encoder:
        return
    made = "has no fingerprint that names its encoder"
    if theirs:
        made = f"was made by encoder {theirs[:16]}"
    raise ValueError(
        f"{folder} {made}, and this run's is {encoder[:16]}. "
        "tf-triplet-index makes a new index for the same encoder, so that "
        "embeddings stored by clients stay comparable. Publish the new "
        "encoder with tf-triplet-export, or pass the former --checkpoint. "
        "Nothing was published."
    )
