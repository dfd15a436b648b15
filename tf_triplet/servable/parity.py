"""Checks that an exported model answers what evaluation measured."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_triplet.data import crops, decoding, transcode
from tf_triplet.retrieval import exact
from tf_triplet.servable import catalog_search, recall, scann_index, warmup

# Allowed difference of an embedding's component. The rounding of some fifty
# layers depends on the batch size.
TOLERANCE = 1e-4


class ParityError(ValueError):
    """The exported model does not answer what evaluation measured."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """What was compared, and the result.

    Attributes:
        images: Number of image files that were embedded by the model.
        largest_difference: Largest difference of any component of their
            embeddings.
        searched: Number of vectors that were searched for.
        recall: Share of the exact k nearest that ScaNN finds, other than the
            query itself. For k = 1, the query itself is the neighbor to find.
            Without ScaNN the recall is 1.
        k: Number of neighbors, or of products if they are grouped.
        warmed_up: Number of warm-up requests that the model answered.
    """

    images: int
    largest_difference: float
    searched: int
    recall: float
    k: int
    warmed_up: int = 0


def check(
    directory: str | Path,
    paths: Sequence[str],
    embeddings: np.ndarray,
    rows: np.ndarray,
    *,
    index: str,
    min_recall: float,
    searched: int = 1000,
    boxes: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    more_inputs: Mapping[str, Sequence[str]] | None = None,
    products: np.ndarray | None = None,
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> Parity:
    """Loads an exported model and compares it with evaluation.

    Args:
        directory: The folder of the SavedModel.
        paths: `[n]` image paths of the catalog.
        embeddings: `[n, dim]` embeddings that evaluation computed.
        rows: Rows of the images to embed with the model.
        index: "scann" or "exact".
        min_recall: The recall that ScaNN must reach.
        searched: About how many of the catalog's vectors to search for.
        boxes: `[n, 4]` boxes that the images were cropped to, or NaN. An
            image with a box is sent as its crop.
        tolerance: Allowed difference of an embedding's component.
        more_inputs: For a model with branches, `{"domain": [n] names}` or
            `{"category": [n] names}` of the catalog's images.
        products: `[n]` labels, for a model that groups by product.
        max_megapixels: Millions of pixels that are decoded at most.

    Raises:
        ParityError: An embedding differs, or the recall is too low.
    """
    with _loaded(directory, index) as loaded:
        largest_difference = _compare_embeddings(
            loaded.signatures["encode"],
            sent_images(paths, rows, boxes, max_megapixels),
            _chosen(more_inputs, rows),
            embeddings[rows],
            [paths[row] for row in rows],
            tolerance,
        )
        step = max(1, len(embeddings) // searched)
        queries = embeddings[::step]
        share, k = _compare_search(
            loaded.signatures["search"],
            queries,
            embeddings,
            products,
            min_recall,
        )
        # A request that fails would keep a server from loading the version.
        warmed_up = warmup.replay(loaded.signatures, directory)
        return Parity(
            len(rows), largest_difference, len(queries), share, k, warmed_up
        )


def check_encoder(
    directory: str | Path,
    paths: Sequence[str],
    embeddings: np.ndarray,
    rows: np.ndarray,
    *,
    index: str,
    boxes: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    more_inputs: Mapping[str, Sequence[str]] | None = None,
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> None:
    """Checks only that an exported model embeds images as given.

    The arguments are those of `check`.

    Raises:
        ParityError: An embedding differs.
    """
    with _loaded(directory, index) as loaded:
        _compare_embeddings(
            loaded.signatures["encode"],
            sent_images(paths, rows, boxes, max_megapixels),
            _chosen(more_inputs, rows),
            embeddings[rows],
            [paths[row] for row in rows],
            tolerance,
        )


@contextlib.contextmanager
def _loaded(directory: str | Path, index: str) -> Iterator[Any]:
    if index == "scann":
        scann_index.register_op()
    loaded = tf.saved_model.load(str(directory))
    try:
        yield loaded
    finally:
        # Otherwise the index would stay in memory until the process ends.
        if hasattr(loaded, "release"):
            loaded.release()


def _chosen(
    inputs: Mapping[str, Sequence[str]] | None, rows: np.ndarray
) -> dict[str, list[str]]:
    return {
        name: [str(values[row]) for row in rows]
        for name, values in (inputs or {}).items()
    }


def sent_images(
    paths: Sequence[str],
    rows: np.ndarray,
    boxes: np.ndarray | None = None,
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> list[bytes]:
    """Returns the bytes that a client would send for images of the catalog.

    Args:
        paths: `[n]` image paths of the catalog.
        rows: Rows of the images to send.
        boxes: `[n, 4]` boxes, see `check`.
        max_megapixels: Millions of pixels that are decoded at most.
    """
    sent = []
    for row in rows:
        data = transcode.servable(Path(paths[row]).read_bytes(), max_megapixels)
        if boxes is not None and not np.isnan(boxes[row]).any():
            data = crops.crop_image_bytes(data, boxes[row], max_megapixels)
        sent.append(data)
    return sent


def _compare_embeddings(
    encode, files, more_inputs, embeddings, paths, tolerance
) -> float:
    """Returns the largest difference of any component of the embeddings."""
    answer = encode(
        image_bytes=tf.constant(files),
        **{name: tf.constant(values) for name, values in more_inputs.items()},
    )
    gaps = np.abs(answer["embedding"].numpy() - embeddings).max(1)
    worst = int(gaps.argmax())
    # Written this way because NaN must fail too.
    if not gaps[worst] <= tolerance:
        raise ParityError(
            f"The exported model's embedding of {paths[worst]} differs from "
            f"evaluation's by {gaps[worst]:.3g} (allowed: {tolerance}). "
            "Nothing was published."
        )
    return float(gaps[worst])


def _compare_search(
    search, queries, embeddings, products, min_recall
) -> tuple[float, int]:
    """Returns the recall of the signature's answers, and k."""
    answer = search(embedding=tf.constant(queries))
    scores = answer["scores"].numpy()
    k = scores.shape[1]
    exact_scores = _search_exactly(queries, embeddings, products, k)
    if k > 1:
        # The query itself is the nearest, and even a poor search finds it.
        itself = recall.is_found(scores[:, :1], exact_scores[:, :1])
        scores = np.where(itself, scores[:, 1:], scores[:, :-1])
    share = float(recall.is_found(scores, exact_scores).mean())
    if share < min_recall:
        raise ParityError(
            f"ScaNN finds {share:.4f} of the exact {k} nearest, less than "
            f"export.min_recall={min_recall}. Raise export.leaves_to_search "
            "or export.reorder, or pass --index=exact. Nothing was published."
        )
    return share, k


def _search_exactly(queries, embeddings, products, k) -> np.ndarray:
    """Returns the `[q, k]` exact scores, nearest first."""
    if products is None:
        return exact.top_k(queries, embeddings, k)[1]
    fetched = catalog_search.images_to_fetch(products, k)
    rows, scores = exact.top_k(queries, embeddings, fetched)
    grouped = []
    for labels, nearest in zip(products[rows], scores):
        # The place of each product's nearest image.
        _, places = np.unique(labels, return_index=True)
        grouped.append(nearest[np.sort(places)][:k])
    return np.stack(grouped)
