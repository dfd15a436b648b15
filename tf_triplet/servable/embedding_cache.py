"""A cache of embeddings on disk, so that only new images are embedded.

The key of an embedding is the content of its image: the bytes, the box and
the branch. An image that is moved or renamed stays known, and one whose bytes
change does not.

Each encoder has a folder of shards. A shard is written under a temporary name
and renamed when it is complete. A run that is killed therefore loses only the
images since its last shard.
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

# A shard ends when it has as many images or is as old.
SHARD_IMAGES = 2048
SHARD_SECONDS = 20.0
_PARTIAL = ".partial-"
# Digits of the encoder's hash that name its folder.
_HASH_DIGITS = 16


def image_key(data: bytes, box: np.ndarray, branch: str = "") -> bytes:
    """Returns the 32 bytes that identify the embedding of an image.

    Args:
        data: The bytes of the image file.
        box: `[4]` float32 box that the image is cropped to, or NaN.
        branch: The name of the encoder's branch that embeds the image.
    """
    # The parts are hashed one by one, so that no two images share a key
    # because their concatenated parts are equal.
    parts = (
        data,
        b"" if np.isnan(box).any() else np.float32(box).tobytes(),
        branch.encode(),
    )
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(digests).digest()


class EmbeddingCache:
    """The cached embeddings of one encoder.

    It is a context manager, which writes the added embeddings at its end,
    also after an exception. Only one process may write to a folder at a time.
    """

    def __init__(self, folder: str | Path, encoder: str, dim: int):
        """Reads the cache.

        Args:
            folder: The folder of the caches of all encoders.
            encoder: The hash of the encoder and its preprocessing.
            dim: Dimensions of an embedding.

        Raises:
            ValueError: A shard holds embeddings of another encoder.
        """
        self._encoder, self._dim = encoder, dim
        self.folder = Path(folder) / encoder[:_HASH_DIGITS]
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(f"{_PARTIAL}*"):
            partial.unlink()  # A killed run left it.
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

    def lookup(
        self, keys: Sequence[bytes | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds embeddings that were stored before the cache was opened.

        Args:
            keys: `[n]` keys from `image_key`. `None` is never known.

        Returns:
            `[n]` booleans, whether each key is known, and `[n, dim]` float32
            embeddings, which are 0 for unknown keys.
        """
        rows = np.array([self._row_of.get(key, -1) for key in keys], np.int64)
        known = rows >= 0
        vectors = np.zeros([len(rows), self._dim], np.float32)
        vectors[known] = self._stored[rows[known]]
        return known, vectors

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Adds embeddings.

        Args:
            keys: `[m]` keys from `image_key`.
            vectors: `[m, dim]` float32 embeddings.
        """
        self._keys.extend(keys)
        self._vectors.extend(np.float32(vectors))
        waited = time.monotonic() - self._last
        if len(self._keys) >= SHARD_IMAGES or waited > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes a shard of the embeddings that were added since the last."""
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
            # Written to disk before it is renamed, so that a power cut cannot
            # leave an incomplete shard under its final name.
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
                f"encoder {encoder[:_HASH_DIGITS]} with {vectors.shape[1]} "
                f"dimensions; this run's encoder is "
                f"{self._encoder[:_HASH_DIGITS]} with {self._dim} dimensions. "
                f"Remove {self.folder} to embed its images again."
            )
        return [key.tobytes() for key in keys], vectors
