"""What a version is: assets.extra/fingerprint.json in its folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_triplet.version import __version__

FILE = "assets.extra/fingerprint.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "scann")


def index_sha256(
    embeddings: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> str:
    """Hash of what is searched and what is answered.

    Args:
        embeddings: `[n, dim]` float32.
        columns: by name, `[n]` strings each.
    """
    digest = hashlib.sha256(np.ascontiguousarray(embeddings, "<f4"))
    for name, values in columns.items():
        # JSON keeps ["a,", "b"] apart from ["a", ",b"].
        digest.update(json.dumps([name, *map(str, values)]).encode())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Of what made the version."""
    found = {"tf_triplet": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Writes the record into a version's folder."""
    path = Path(folder) / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def read(folder: str | Path) -> dict[str, Any] | None:
    """The record of a version; None where it has none."""
    path = Path(folder) / FILE
    return json.loads(path.read_text()) if path.is_file() else None


def check_same_encoder(folder: str | Path, encoder: str) -> None:
    """Refuses to follow a version that another encoder made.

    Args:
        folder: of the version that is served now.
        encoder: hash of the encoder that the next one would have.

    Raises:
        ValueError: it has another, or does not tell.
    """
    record = read(folder)
    theirs = (record or {}).get("encoder")
    if theirs == encoder:
        return
    tells = f"was made by encoder {theirs[:16]}" if theirs else "tells none"
    raise ValueError(
        f"{folder} {tells}, and this run's is {encoder[:16]}. "
        "tf-triplet-index keeps the encoder and makes a new index, so that "
        "embeddings which clients keep stay comparable. Publish the new "
        "encoder with tf-triplet-export, or pass the --checkpoint of before. "
        "Nothing was published."
    )
