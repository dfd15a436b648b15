"""Measures what an encoder of lower precision loses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import exact

# Number of images to embed in both precisions.
IMAGES = 512
_OF_A_PRODUCT = 4
_NEAREST = 10


def draw(catalog: Catalog, seed: int) -> np.ndarray:
    """Draws up to `IMAGES` images, several of each product.

    Args:
        catalog: The images.
        seed: Seed of the draw.

    Returns:
        The rows of the images, in rising order.
    """
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(catalog))
    place = random.permutation(len(catalog.product_ids))
    order = shuffled[
        np.argsort(place[catalog.products[shuffled]], kind="stable")
    ]
    ranks = pd.Series(order).groupby(catalog.products[order]).cumcount()
    return np.sort(order[ranks.to_numpy() < _OF_A_PRODUCT][:IMAGES])


def measure(
    got: np.ndarray, want: np.ndarray, products: np.ndarray, precision: str
) -> dict[str, Any]:
    """Compares embeddings with those of float32.

    Args:
        got: `[n, dim]` embeddings in `precision`.
        want: `[n, dim]` embeddings of the same images in float32.
        products: `[n]` labels.
        precision: The precision of `got`, kept in the result.

    Returns:
        `precision`, `images`, `largest_difference` (of any component),
        `recall_at_1`, `recall_at_1_float32`, and `neighbors_kept` (the share
        of the ten nearest neighbors in float32). Each image of a product
        with several images is a query against all others. A recall is `None`
        if there is no such query, or only one product.
    """
    own = np.arange(len(got))
    k = min(_NEAREST, len(got) - 1)
    kept = recall = recall_float32 = None
    if k:
        found, _ = exact.top_k(got, got, k, exclude=own)
        truth, _ = exact.top_k(want, want, k, exclude=own)
        kept = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth)])
        asks = np.bincount(products)[products] > 1
        # With only one product, any answer would be right.
        if asks.any() and len(np.unique(products)) > 1:
            recall, recall_float32 = (
                float((products[nearest[:, 0]] == products)[asks].mean())
                for nearest in (found, truth)
            )
    return {
        "precision": precision,
        "images": len(got),
        "largest_difference": float(np.abs(got - want).max()),
        "recall_at_1": recall,
        "recall_at_1_float32": recall_float32,
        "neighbors_kept": None if kept is None else float(kept),
    }


def describe(metrics: dict[str, Any]) -> str:
    """Returns a line of text for the result of `measure`."""
    text = (
        f"The encoder in {metrics['precision']}, on {metrics['images']} "
        f"images: embeddings differ by at most "
        f"{metrics['largest_difference']:.1e}"
    )
    if metrics["neighbors_kept"] is not None:
        kept = metrics["neighbors_kept"]
        text += f", {kept:.4f} of float32's nearest neighbors are kept"
    if metrics["recall_at_1"] is not None:
        text += (
            f", Recall@1 is {metrics['recall_at_1']:.4f} instead of "
            f"{metrics['recall_at_1_float32']:.4f}"
        )
    return f"{text}."
