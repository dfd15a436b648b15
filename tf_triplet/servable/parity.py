"""Does the exported model answer what evaluation measured?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_triplet.data import crops, transcode
from tf_triplet.retrieval import exact
from tf_triplet.servable import catalog_search, scann_index, warmup

# Of a component, through fifty layers, in other batch sizes.
TOLERANCE = 1e-4


class ParityError(ValueError):
    """The exported model answers something else than evaluation."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """What was compared.

    Attributes:
        images: real images compared.
        largest_difference: of any component of their embeddings.
        searched: vectors searched by both indexes.
        recall: share of the exact k nearest that ScaNN finds, the asking
            image itself left out, but for k = 1, where it is the answer;
            1 without ScaNN.
        k: neighbors, or products where they are grouped.
        warmed_up: warm-up requests that the model answered.
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
) -> Parity:
    """Loads the written model anew, and holds it against evaluation.

    Args:
        directory: of the SavedModel.
        paths: `[n]` images of the catalog.
        embeddings: `[n, dim]`, evaluation's.
        rows: of the images whose bytes are sent through the model.
        index: "scann" or "exact".
        min_recall: of ScaNN's answers against exact search.
        searched: how many of the catalog's vectors are searched.
        boxes: `[n, 4]` that the images were cropped to, NaN for none; such
            an image is sent as its cut-out.
        tolerance: of a component of an embedding.
        more_inputs: of a model with branches, `{"domain": [n] names}` or
            `{"category": [n] names}` of the catalog's images.
        products: `[n]` labels, of a model that groups by product.

    Raises:
        ParityError: they disagree.
    """
    if index == "scann":
        scann_index.register_op()
    loaded = tf.saved_model.load(str(directory))
    try:
        metrics = _compare(
            loaded.signatures,
            paths,
            embeddings,
            rows,
            min_recall,
            searched,
            boxes,
            tolerance,
            more_inputs or {},
            products,
        )
        # One that fails would keep a server from loading the version.
        warmed_up = warmup.replay(loaded.signatures, directory)
        return dataclasses.replace(metrics, warmed_up=warmed_up)
    finally:
        # The index would stay for as long as the process.
        if hasattr(loaded, "release"):
            loaded.release()


def sent_images(
    paths: Sequence[str], rows: np.ndarray, boxes: np.ndarray | None = None
) -> list[bytes]:
    """The bytes that a client sends of a catalog's images.

    Args:
        paths: `[n]`.
        rows: of the images.
        boxes: `[n, 4]`, see `check`.
    """
    sent = []
    for row in rows:
        data = transcode.servable(Path(paths[row]).read_bytes())
        if boxes is not None and not np.isnan(boxes[row]).any():
            data = crops.crop_image_bytes(data, boxes[row])
        sent.append(data)
    return sent


def _compare(
    signatures,
    paths,
    embeddings,
    rows,
    min_recall,
    searched,
    boxes,
    tolerance,
    more_inputs,
    products,
):
    files = sent_images(paths, rows, boxes)
    own = {
        name: tf.constant([str(values[row]) for row in rows])
        for name, values in more_inputs.items()
    }
    answer = signatures["encode"](image_bytes=tf.constant(files), **own)
    served = answer["embedding"].numpy()
    gaps = np.abs(served - embeddings[rows]).max(1)
    worst = int(gaps.argmax())
    if not gaps[worst] <= tolerance:
        raise ParityError(
            f"The exported model's embedding of {paths[rows[worst]]} differs "
            f"from evaluation's by {gaps[worst]:.3g} (allowed: {tolerance}). "
            "Nothing was published."
        )
    step = max(1, len(embeddings) // searched)
    queries = tf.constant(embeddings[::step])
    answer = signatures["search"](embedding=queries)
    k = answer["scores"].shape[1]
    recall = _recall(
        answer["scores"].numpy(), queries.numpy(), embeddings, products
    )
    if recall < min_recall:
        raise ParityError(
            f"ScaNN finds {recall:.4f} of the exact {k} nearest, less than "
            f"export.min_recall={min_recall}. Raise export.leaves_to_search "
            "or export.reorder, or use --index=exact. Nothing was published."
        )
    return Parity(len(rows), float(gaps[worst]), len(queries), recall, int(k))


def _recall(scores, queries, embeddings, products) -> float:
    """Share of answers as near as the exact k-th; ties are all right."""
    k = scores.shape[1]
    fetched = k
    if products is not None:
        fetched = catalog_search.images_to_fetch(products, k)
    rows, truth = exact.top_k(queries, embeddings, fetched)
    if products is not None:
        truth = np.stack(
            [
                # The first of each product, nearest first.
                best[np.sort(np.unique(products[own], return_index=True)[1])][
                    :k
                ]
                for own, best in zip(rows, truth)
            ]
        )
    if k > 1:
        # Itself, nearest of all, is found where nothing else is.
        itself = scores[:, :1] >= truth[:, :1] - 1e-5
        scores = np.where(itself, scores[:, 1:], scores[:, :-1])
    return float((scores >= truth[:, -1:] - 1e-5).mean())
