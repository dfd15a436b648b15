"""Saves the embeddings of a catalog to a file, and loads them."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
from pathlib import Path
from typing import IO

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.evaluation.embeddings import Embeddings

# Characters of a text that is long, and how many times the mean length makes a
# column of texts uneven.
_LONG, _UNEVEN = 256, 8


@dataclasses.dataclass(frozen=True, eq=False)
class SavedEmbeddings:
    """The content of an embeddings file; see `save_embeddings`.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog that was embedded.
        product_ids: `[m]` product ids as the catalog's owner writes them,
            strings or int64.
        paths: `[m]` strings, the image files.
        skipped: Paths of the images that could not be read.
        source: The encoder that made the embeddings, for instance the sha256
            of its file.

    Example:

    >>> saved = SavedEmbeddings(
    ...     vectors=np.array([[1, 0]], np.float32),
    ...     rows=np.array([0]),
    ...     product_ids=np.array(["bag-7"]),
    ...     paths=np.array(["images/bag.jpg"]),
    ...     skipped=(),
    ...     source="encoder of Monday",
    ... )
    >>> saved.source
    'encoder of Monday'
    """

    vectors: np.ndarray
    rows: np.ndarray
    product_ids: np.ndarray
    paths: np.ndarray
    skipped: tuple[str, ...]
    source: str


def save_embeddings(
    path: str | Path,
    embeddings: Embeddings,
    catalog: Catalog,
    source: str = "",
) -> None:
    """Writes embeddings with product ids and paths to an .npz file.

    Args:
        path: The file to write. Missing folders are created.
        embeddings: Embeddings of `catalog`.
        catalog: The images.
        source: The encoder that made the embeddings. A reader compares it
            before reusing them.

    Example:

    >>> import tempfile
    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a.jpg"], "product_id": ["p1"]})
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> vectors = np.array([[1, 0]], np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/test.npz"
    ...     save_embeddings(path, Embeddings(vectors, np.array([0])), catalog)
    ...     load_embeddings(path).product_ids.tolist()
    ['p1']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = catalog.row_product_ids[embeddings.rows]
    # The file gets its name once it is complete, so it is never half written.
    _remove_partial(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        _lock(file)
        np.savez(
            file,
            vectors=embeddings.vectors,
            rows=embeddings.rows,
            skipped=np.array(embeddings.skipped, dtype=str),
            **_pack("product_ids", ids),
            **_pack("paths", catalog.paths[embeddings.rows]),
            source=np.array(source),
        )
    os.replace(partial, path)


def _pack(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns arrays that hold a column of texts or numbers.

    NumPy needs pickle to read an object array, but not an array of strings. It
    stores all strings with the length of the longest, so that one long path
    among a million would take gigabytes. Such a column is stored as the bytes
    of all texts, and where each ends.
    """
    if values.dtype != object:
        return {name: values}
    longest = max(map(len, values), default=0)
    mean = sum(map(len, values)) / max(len(values), 1)
    if longest <= _LONG or longest <= _UNEVEN * mean:
        return {name: values.astype(str)}
    texts = [text.encode() for text in values]
    return {
        f"{name}_utf8": np.frombuffer(b"".join(texts), np.uint8),
        f"{name}_ends": np.cumsum([len(text) for text in texts]),
    }


def _unpack(name: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    """Reads a column that `_pack` has made. Uneven texts become objects."""
    if f"{name}_ends" not in file.files:
        return file[name]
    data, ends = file[f"{name}_utf8"].tobytes(), file[f"{name}_ends"]
    starts = np.concatenate([[0], ends[:-1]])
    return np.array(
        [
            data[start:end].decode()
            for start, end in zip(starts, ends, strict=True)
        ],
        object,
    )


def _remove_partial(path: Path) -> None:
    """Removes the incomplete files that killed programs left behind."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*"):
        # A program that still writes its file holds the lock.
        with contextlib.suppress(OSError), open(partial, "rb") as file:
            if _lock(file):
                partial.unlink()


def _lock(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed, and returns whether it could."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Some network file systems have no locks.
        return False
    return True


def load_embeddings(path: str | Path) -> SavedEmbeddings:
    """Reads a file that `save_embeddings` wrote.

    Args:
        path: The .npz file.

    Returns:
        The content of the file.

    Raises:
        ValueError: If the file is not an embeddings file.

    Example:

    >>> import tempfile
    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a.jpg"], "product_id": ["p1"]})
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> embeddings = Embeddings(np.float32([[1, 0]]), np.array([0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_embeddings(f"{folder}/test.npz", embeddings, catalog)
    ...     saved = load_embeddings(f"{folder}/test.npz")
    >>> saved.vectors.tolist(), saved.paths.tolist()
    ([[1.0, 0.0]], ['a.jpg'])
    """
    names = [field.name for field in dataclasses.fields(SavedEmbeddings)]
    with np.load(path, allow_pickle=False) as file:
        there = set(getattr(file, "files", ()))
        there |= {name.removesuffix("_ends") for name in there}
        missing = set(names) - there
        if missing:
            raise ValueError(
                f"{path} is not an embeddings file: it lacks "
                f"{', '.join(sorted(missing))}. Write it with "
                "tf-triplet-evaluate."
            )
        values = {name: _unpack(name, file) for name in names}
    values["skipped"] = tuple(values["skipped"].tolist())
    values["source"] = str(values["source"])
    return SavedEmbeddings(**values)
