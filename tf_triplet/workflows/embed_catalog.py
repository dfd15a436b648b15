"""A catalog's embeddings: from the cache where it knows an image."""

from __future__ import annotations

import dataclasses
from concurrent import futures
from pathlib import Path

import numpy as np
from absl import logging

from tf_triplet import builders, evaluation
from tf_triplet.data import pipeline
from tf_triplet.data.catalog import Catalog
from tf_triplet.models import branches
from tf_triplet.progress import show_progress
from tf_triplet.servable import embedding_cache


@dataclasses.dataclass(frozen=True)
class Work:
    """What there was to embed, in images; they add up to `images`.

    Attributes:
        images: of the catalog.
        cached: embedded by an earlier run.
        embedded: by this one.
        repeated: of the same content as another of this catalog.
        unreadable: left out.
    """

    images: int
    cached: int
    embedded: int
    repeated: int
    unreadable: int


def embed(
    config,
    encoder,
    sha256: str,
    catalog: Catalog,
    cache_folder: str | Path,
    progress: bool = True,
) -> tuple[evaluation.Embeddings, Work]:
    """Embeds the images that the cache does not know.

    Args:
        config: of the run.
        encoder: the model.
        sha256: of it, from `experiment.encoder_sha256`.
        catalog: the images.
        cache_folder: of the caches of all encoders.
        progress: show how far it is.

    Raises:
        ValueError: as `evaluation.compute_embeddings`, or a cache of another
            encoder.
    """
    images = _Images(config, encoder, catalog)
    keys = images.keys(progress)
    dim = int(encoder.output_shape[-1])
    with embedding_cache.EmbeddingCache(cache_folder, sha256, dim) as cache:
        known, vectors = cache.lookup(keys)
        first = {}
        for row in np.flatnonzero(~known):
            # What could not be read shares no content with anything.
            first.setdefault(keys[row] or int(row), row)
        new = np.array(sorted(first.values()), np.int64)
        done = _embed_new(
            config, encoder, images, keys, new, vectors, cache, progress
        )
    ready = known.copy()
    ready[done] = True
    # Set in one go, after all: a repeated image may precede its twin.
    row_of = {keys[row]: row for row in done}
    repeated = np.array(
        [r for r in np.flatnonzero(~ready) if keys[r] in row_of], np.int64
    )
    for row in repeated:
        vectors[row] = vectors[row_of[keys[row]]]
    ready[repeated] = True
    work = Work(
        images=len(catalog),
        cached=int(known.sum()),
        embedded=len(done),
        repeated=len(repeated),
        unreadable=int((~ready).sum()),
    )
    if not ready.any():
        raise ValueError(
            f"No image of catalog {catalog.name!r} could be embedded. "
            f"Received: {len(catalog)} images, all unreadable"
        )
    rows = np.flatnonzero(ready)
    skipped = tuple(map(str, catalog.paths[~ready]))
    return evaluation.Embeddings(vectors[rows], rows, skipped), work


class _Images:
    """What makes the embedding of each: its content, its box, its branch."""

    def __init__(self, config, encoder, catalog: Catalog):
        self.catalog = catalog
        self._boxes = catalog.boxes
        if not config.data.use_boxes:
            self._boxes = np.full([len(catalog), 4], np.nan, np.float32)
        self._names = [""] * len(catalog)
        own_branches = branches.find(encoder)
        if own_branches is not None:
            # Before an hour of hashing: each image has a branch.
            evaluation.branch_of_rows(own_branches, catalog)
            self._names = evaluation.branch_names(own_branches.by, catalog)

    def key(self, row: int) -> bytes | None:
        """Of the cache; None where there is no file."""
        try:
            data = Path(self.catalog.paths[row]).read_bytes()
        except OSError:
            return None  # Told, or refused, when it should be embedded.
        return embedding_cache.image_key(
            data, self._boxes[row], str(self._names[row])
        )

    def keys(self, progress: bool) -> list[bytes | None]:
        """`[n]`, of all images."""
        found = []
        total = len(self.catalog)
        with show_progress("Reading", total, progress) as advance:
            # Hashing leaves Python to other threads.
            with futures.ThreadPoolExecutor(8) as pool:
                for key in pool.map(self.key, range(total)):
                    found.append(key)
                    advance(len(found))
        return found


def _embed_new(
    config, encoder, images, keys, new, vectors, cache, progress
) -> np.ndarray:
    """Fills `vectors` of the rows `new`; returns those that were read."""
    if not len(new):
        return new
    bad = pipeline.BadImages(config.data.on_bad_image)
    done = []
    chosen = images.catalog.select(new)
    with show_progress("Embedding", len(new), progress) as advance:
        for rows, batch in builders.embed_batches(config, encoder, chosen, bad):
            evaluation.check_finite(batch, chosen.paths[rows])
            same = []
            for row in new[rows]:
                now = images.key(row)
                # Else its old content would have its new embedding for ever.
                same.append(now is not None and now == keys[row])
                if not same[-1]:
                    logging.warning(
                        "Skipping an image that changed while it was "
                        "embedded: %s",
                        images.catalog.paths[row],
                    )
            kept = new[rows[same]]
            vectors[kept] = batch[same]
            cache.add([keys[row] for row in kept], batch[same])
            done.append(kept)
            advance(int(rows[-1]) + 1)
    return np.concatenate([np.zeros(0, np.int64), *done])
