"""Embeds a catalog with a run's encoder: `embed_catalog(workdir)`.

Embeddings are cached by the content of the image, so a second call embeds
only the images that are new or have changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections
import numpy as np
from absl import logging

from tf_triplet import builders, evaluation
from tf_triplet.progress import show_progress

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.data.catalog import Catalog
    from tf_triplet.servable.embedding_cache import EmbeddingCache

# Folder of a run that holds the caches of all its encoders.
CACHE = "index_cache"
_READERS = 8


@dataclasses.dataclass(frozen=True)
class EmbeddingCounts:
    """Where the embeddings of a catalog came from, in images.

    The other fields add up to `images`.

    Attributes:
        images: Images of the catalog.
        cached: Images whose embedding was in the cache.
        embedded: Images that went through the encoder.
        repeated: Images with the same content as another one of the catalog.
        unreadable: Images that could not be read. They have no embedding.

    Example:

    >>> from tf_triplet.workflows import EmbeddingCounts
    >>> counts = EmbeddingCounts(
    ...     images=9, cached=6, embedded=2, repeated=0, unreadable=1
    ... )
    >>> counts.describe()
    '9 images: 6 cached, 2 embedded, 0 repeated, 1 unreadable.'
    """

    images: int
    cached: int
    embedded: int
    repeated: int
    unreadable: int

    def describe(self) -> str:
        """Returns the counts as one sentence."""
        return (
            f"{self.images} images: {self.cached} cached, "
            f"{self.embedded} embedded, {self.repeated} repeated, "
            f"{self.unreadable} unreadable."
        )


def embed_catalog(
    workdir: str | Path,
    catalog: Catalog | None = None,
    *,
    checkpoint: str = "best",
    layer: str = "",
    precision: str = "float32",
    progress: bool = True,
) -> tuple[evaluation.Embeddings, EmbeddingCounts]:
    """Embeds a catalog with a run's encoder.

    Images that the cache knows by their content are not embedded again.

    Only one process at a time may embed with the encoders of a run.

    Args:
        workdir: The folder of a run.
        catalog: The images. By default, all images of the run's own catalog.
        checkpoint: The encoder, "best" (of the best evaluation) or "last" (of
            the last step).
        layer: Layer of the encoder to read in place of its embedding. Empty
            for the embedding itself.
        precision: Arithmetic of the encoder: "float32", "bfloat16" or "int8".
        progress: Whether to show the progress.

    Returns:
        The embeddings, with the rows of the catalog that they belong to, and
        where they came from.

    Raises:
        FileNotFoundError: If the folder holds no run, or no encoder yet.
        ValueError: If no image can be read, or an embedding is not finite. If
            one image cannot be read, and `data.on_bad_image` is "stop".

    Example:

    >>> from tf_triplet import workflows
    >>> embeddings, counts = workflows.embed_catalog(
    ...     "runs/shop"
    ... )  # doctest: +SKIP
    >>> embeddings.vectors.shape  # doctest: +SKIP
    (1200, 128)
    """
    workdir = Path(workdir)
    config = builders.load_config(workdir)
    which = (checkpoint, layer, precision)
    embeddings, counts, _ = embed_with(
        config,
        builders.load_encoder(workdir, *which),
        builders.encoder_sha256(config, workdir, *which),
        builders.build_catalog(config) if catalog is None else catalog,
        workdir / CACHE,
        progress,
    )
    return embeddings, counts


def embed_with(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    sha256: str,
    catalog: Catalog,
    cache_folder: Path,
    progress: bool = True,
    check: Callable[[Catalog, np.ndarray], None] | None = None,
) -> tuple[evaluation.Embeddings, EmbeddingCounts, list[bytes]]:
    """Does what `embed_catalog` does, with objects that are there already.

    Args:
        config: The config of the run.
        encoder: The encoder.
        sha256: Its hash, from `builders.encoder_sha256`.
        catalog: The images.
        cache_folder: Folder of the caches of all encoders.
        progress: Whether to show the progress.
        check: Called with the catalog and `[n]` booleans, true for images that
            cannot be read. It is called before and after images are embedded,
            and raises an error if they are too many.

    Returns:
        As `embed_catalog`, and the key of each embedding in the cache.

    Raises:
        ValueError: As `embed_catalog`, or if the cache holds the embeddings
            of another encoder.
    """
    from tf_triplet.servable import embedding_cache

    images = _Images(config, encoder, catalog, progress)
    if check is not None:
        check(catalog, np.array([key is None for key in images.keys]))
    dim = int(encoder.output_shape[-1])
    with embedding_cache.EmbeddingCache(cache_folder, sha256, dim) as cache:
        known, vectors = cache.lookup(images.keys)
        first = {}
        for row in np.flatnonzero(~known):
            # An unreadable image has no key, and so it is like no other one.
            first.setdefault(images.keys[row] or int(row), row)
        new = np.array(sorted(first.values()), np.int64)
        done = _embed_new(
            config, encoder, images, new, vectors, cache, progress
        )
    ready = known.copy()
    ready[done] = True
    repeated = _copy_repeated(images.keys, done, ready, vectors)
    ready[repeated] = True
    counts = EmbeddingCounts(
        images=len(catalog),
        cached=int(known.sum()),
        embedded=len(done),
        repeated=len(repeated),
        unreadable=int((~ready).sum()),
    )
    if check is not None:
        check(catalog, ~ready)
    if not ready.any():
        raise ValueError(
            f"No image of catalog {catalog.name!r} could be embedded. "
            f"Received: {len(catalog)} images, all unreadable"
        )
    rows = np.flatnonzero(ready)
    skipped = tuple(map(str, catalog.paths[~ready]))
    embeddings = evaluation.Embeddings(vectors[rows], rows, skipped)
    return embeddings, counts, [images.keys[row] for row in rows]


class _Images:
    """The images of a catalog, with their keys in the cache.

    Attributes:
        catalog: The images.
        keys: The key of each image, or `None` if it has no file.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        encoder: tf.keras.Model,
        catalog: Catalog,
        progress: bool,
    ):
        from tf_triplet.models import branches

        self.catalog = catalog
        self._boxes = catalog.boxes
        if not config.data.use_boxes:
            self._boxes = np.full([len(catalog), 4], np.nan, np.float32)
        self._names = [""] * len(catalog)
        own_branches = branches.find(encoder)
        if own_branches is not None:
            # An image without a branch raises now, before an hour of hashing.
            evaluation.branch_of_rows(own_branches, catalog)
            self._names = evaluation.branch_names(own_branches.by, catalog)
        self.keys = self._read_keys(progress)

    def read_key(self, row: int) -> bytes | None:
        """Reads an image file, and returns its key as it is now."""
        from tf_triplet.servable import embedding_cache

        path = Path(self.catalog.paths[row])
        try:
            if not path.is_file():  # Reading a pipe would wait for ever.
                return None
            data = path.read_bytes()
        except OSError:
            # Embedding it will skip it or raise, as the config says.
            return None
        return embedding_cache.image_key(
            data, self._boxes[row], str(self._names[row])
        )

    def _read_keys(self, progress: bool) -> list[bytes | None]:
        keys = []
        total = len(self.catalog)
        with show_progress("Reading", total, progress) as advance:
            # Hashing releases Python's lock, so threads do speed it up.
            with futures.ThreadPoolExecutor(_READERS) as pool:
                for key in pool.map(self.read_key, range(total)):
                    keys.append(key)
                    advance(len(keys))
        return keys


def _embed_new(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    images: _Images,
    new: np.ndarray,
    vectors: np.ndarray,
    cache: EmbeddingCache,
    progress: bool,
) -> np.ndarray:
    """Fills in the vectors of the rows `new`; returns the rows it could."""
    from tf_triplet.data import pipeline

    if not len(new):
        return new
    bad = pipeline.BadImages(config.data.on_bad_image)
    done = []
    chosen = images.catalog.select(new)
    with show_progress("Embedding", len(new), progress) as advance:
        for rows, batch in builders.embed_batches(config, encoder, chosen, bad):
            evaluation.check_finite(batch, chosen.paths[rows])
            same = [_is_unchanged(images, row) for row in new[rows]]
            kept = new[rows[same]]
            vectors[kept] = batch[same]
            cache.add([images.keys[row] for row in kept], batch[same])
            done.append(kept)
            advance(int(rows[-1]) + 1)
    return np.concatenate([np.zeros(0, np.int64), *done])


def _is_unchanged(images: _Images, row: int) -> bool:
    """Returns whether a file still has the content of its key.

    Otherwise the cache would hold the new embedding for the old content.
    """
    key = images.read_key(row)
    if key is not None and key == images.keys[row]:
        return True
    logging.warning(
        "Skipping an image that changed while it was embedded: %s",
        images.catalog.paths[row],
    )
    return False


def _copy_repeated(
    keys: Sequence[bytes | None],
    done: np.ndarray,
    ready: np.ndarray,
    vectors: np.ndarray,
) -> np.ndarray:
    """Copies new vectors to the images of the same content; returns these.

    It runs after all are embedded, because an image may precede its copy.
    """
    row_of = {keys[row]: row for row in done}
    repeated = np.array(
        [row for row in np.flatnonzero(~ready) if keys[row] in row_of],
        np.int64,
    )
    for row in repeated:
        vectors[row] = vectors[row_of[keys[row]]]
    return repeated
