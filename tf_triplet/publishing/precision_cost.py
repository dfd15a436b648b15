"""What an encoder of less precision loses, on pictures of the catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_triplet import experiment
from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import exact

# Embedded twice.
PICTURES = 512
_NEAREST = 10


def measure(
    config,
    exact_encoder: tf.keras.Model,
    vectors: np.ndarray,
    catalog: Catalog,
    precision: str,
) -> dict[str, Any]:
    """Holds embeddings against those of float32.

    Whole products are drawn, so that pictures have others to find.

    Args:
        config: of the run.
        exact_encoder: in float32.
        vectors: `[n, dim]` of the catalogue, in `precision`.
        catalog: the pictures.
        precision: told with the figures.

    Returns:
        `precision`, `pictures`, `largest_difference` of any component,
        `recall_at_1` and `recall_at_1_float32` (pictures of products with
        more than one, each asking the others of the sample; None without
        any), and `neighbours_kept`, the share of float32's ten nearest.
    """
    rows = _sample(catalog, config.seed)
    want = experiment.compute_embeddings(
        config, exact_encoder, catalog.select(rows)
    )
    rows = rows[want.rows]
    got, want = vectors[rows], want.vectors
    products = catalog.products[rows]
    own = np.arange(len(rows))
    k = min(_NEAREST, len(rows) - 1)
    kept = recall = recall_float32 = None
    if k:
        found, _ = exact.top_k(got, got, k, exclude=own)
        truth, _ = exact.top_k(want, want, k, exclude=own)
        kept = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth)])
        asks = np.bincount(products)[products] > 1
        if asks.any():
            recall, recall_float32 = (
                float((products[nearest[:, 0]] == products)[asks].mean())
                for nearest in (found, truth)
            )
    return {
        "precision": precision,
        "pictures": len(rows),
        "largest_difference": float(np.abs(got - want).max()),
        "recall_at_1": recall,
        "recall_at_1_float32": recall_float32,
        "neighbours_kept": None if kept is None else float(kept),
    }


def describe(figures: dict[str, Any]) -> str:
    """A line of them."""
    text = (
        f"{figures['precision']} on {figures['pictures']} pictures: embeddings "
        f"differ by {figures['largest_difference']:.1e} at most"
    )
    if figures["neighbours_kept"] is not None:
        kept = figures["neighbours_kept"]
        text += f", {kept:.4f} of float32's nearest are kept"
    if figures["recall_at_1"] is not None:
        text += (
            f", Recall@1 {figures['recall_at_1']:.4f} in place of "
            f"{figures['recall_at_1_float32']:.4f}"
        )
    return f"{text}."


def _sample(catalog: Catalog, seed: int) -> np.ndarray:
    """Rows of whole products, about `PICTURES` of them."""
    order = np.random.default_rng(seed).permutation(len(catalog.product_ids))
    sizes = np.bincount(catalog.products, minlength=len(order))[order]
    chosen = order[: max(1, np.searchsorted(np.cumsum(sizes), PICTURES))]
    return np.flatnonzero(np.isin(catalog.products, chosen))[:PICTURES]
