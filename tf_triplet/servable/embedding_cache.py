"""Embeddings on disk, by image: a nightly run embeds only what is new.

A key is the content of an image (its bytes, its box, its branch), so a
image that moves or is renamed is still known, and one whose bytes change
is not. One folder an encoder; it holds shards, each written under a partial
name and renamed when whole, so a kill at any moment loses the images since
the last shard and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

# A shard ends at either; what a kill costs at most.
SHARD_IMAGES = 2048
SHARD_SECONDS = 20.0
_PARTIAL = ".partial-"
_NAMED = 16


def image_key(data: bytes, box: np.ndarray, branch: str = "") -> bytes:
    """The 32 bytes that an image's embedding is kept under.

    Args:
        data: the image file's bytes.
        box: `[4]` float32 that it is cropped to, or NaN.
        branch: the name of the encoder's branch that embeds it.
    """
    # Each part by its own hash: no two images share a concatenation.
    parts = (
        data,
        b"" if np.isnan(box).any() else np.float32(box).tobytes(),
        branch.encode(),
    )
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(digests).digest()


class EmbeddingCache:
    """The embeddings of one encoder; append-only.

    Use it as a context: what was added is written when it ends, also by an
    exception. Only one writer at a time may hold a folder (see
    `tf_triplet.workflows.export`).
    """

    def __init__(self, folder: str | Path, encoder: str, dim: int):
        """Reads what is there.

        Args:
            folder: of the caches of all encoders.
            encoder: hash of the encoder and its preprocessing.
            dim: of an embedding.

        Raises:
            ValueError: a shard holds embeddings of another encoder.
        """
        self._encoder, self._dim = encoder, dim
        self.folder = Path(folder) / encoder[:_NAMED]
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(f"{_PARTIAL}*"):
            partial.unlink()  # Of a run that was killed.
        self._keys: list[bytes] = []
        self._vectors: list[np.ndarray] = []
        self._last = time.monotonic()
        self._row_of: dict[bytes, int] = {}
        read = [
            shard
            for path in sorted(self.folder.glob("*.npz"))
            if (shard := self._read(path)) is not None
        ]
        self._stored = np.concatenate(
            [np.zeros([0, dim], np.float32), *(vectors for _, vectors in read)]
        )
        keys = [key for some, _ in read for key in some]
        self._row_of = {key: row for row, key in enumerate(keys)}

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(self, *error) -> None:
        self.flush()

    def __len__(self) -> int:
        return len(self._row_of)

    def lookup(self, keys: Sequence[bytes | None]):
        """Returns what was stored when the cache was opened.

        Args:
            keys: `[n]` from `image_key`; None is never known.

        Returns:
            `[n]` booleans, known or not; `[n, dim]` float32, zeros where not.
        """
        rows = np.array([self._row_of.get(key, -1) for key in keys], np.int64)
        known = rows >= 0
        vectors = np.zeros([len(rows), self._dim], np.float32)
        vectors[known] = self._stored[rows[known]]
        return known, vectors

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Takes `[m]` keys and their `[m, dim]` float32 embeddings."""
        self._keys.extend(keys)
        self._vectors.extend(np.float32(vectors))
        waited = time.monotonic() - self._last
        if len(self._keys) >= SHARD_IMAGES or waited > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added since the last shard as one more."""
        self._last = time.monotonic()
        if not self._keys:
            return
        keys = np.frombuffer(b"".join(self._keys), np.uint8).reshape(-1, 32)
        vectors = np.stack(self._vectors)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        partial = self.folder / f"{_PARTIAL}{os.getpid()}"
        with open(partial, "wb") as file:
            np.savez(
                file,
                encoder=np.array(self._encoder),
                keys=keys,
                vectors=vectors,
            )
            # Renamed before its contents reach the disk, a power cut would
            # leave a whole name on half a file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / f"{name}.npz")
        self._keys, self._vectors = [], []

    def _read(self, path: Path):
        try:
            with np.load(path, allow_pickle=False) as file:
                encoder = str(file["encoder"])
                keys, vectors = file["keys"], file["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            logging.warning(
                "%s is damaged; its images are embedded again.", path
            )
            return None
        if encoder != self._encoder or vectors.shape[1:] != (self._dim,):
            raise ValueError(
                f"{path} holds embeddings of another encoder. Received: "
                f"{encoder[:_NAMED]}, {vectors.shape[1]} wide; this run's is "
                f"{self._encoder[:_NAMED]}, {self._dim} wide. Remove "
                f"{self.folder}: its images are then embedded again."
            )
        return [key.tobytes() for key in keys], vectors
