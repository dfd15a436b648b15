"""What an encoder of less precision loses, on images of the catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import exact

# Embedded twice.
IMAGES = 512
_OF_A_PRODUCT = 4
_NEAREST = 10


def draw(catalog: Catalog, seed: int) -> np.ndarray:
    """Rows of up to `IMAGES`, several of a product: they find one another.

    Args:
        catalog: the images.
        seed: which products.
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
    """Holds embeddings against those of float32.

    Args:
        got: `[n, dim]` in `precision`.
        want: `[n, dim]` of the same images in float32.
        products: `[n]` labels.
        precision: told with the metrics.

    Returns:
        `precision`, `images`, `largest_difference` of any component,
        `recall_at_1` and `recall_at_1_float32` (images of products with
        more than one, each asking the others of the sample; None without
        any), and `neighbors_kept`, the share of float32's ten nearest.
    """
    own = np.arange(len(got))
    k = min(_NEAREST, len(got) - 1)
    kept = recall = recall_float32 = None
    if k:
        found, _ = exact.top_k(got, got, k, exclude=own)
        truth, _ = exact.top_k(want, want, k, exclude=own)
        kept = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth)])
        asks = np.bincount(products)[products] > 1
        # With one product alone any answer is right.
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
    """A line of them."""
    text = (
        f"The encoder in {metrics['precision']}, on {metrics['images']} "
        f"images: embeddings differ by {metrics['largest_difference']:.1e} "
        "at most"
    )
    if metrics["neighbors_kept"] is not None:
        kept = metrics["neighbors_kept"]
        text += f", {kept:.4f} of float32's nearest are kept"
    if metrics["recall_at_1"] is not None:
        text += (
            f", Recall@1 {metrics['recall_at_1']:.4f} in place of "
            f"{metrics['recall_at_1_float32']:.4f}"
        )
    return f"{text}."
