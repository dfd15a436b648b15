"""Which products are held out, where the owner's table does not say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from tf_triplet.data.catalog import Catalog

TRAIN = "train"
TEST = "test"


def split_products(
    products: np.ndarray,
    categories: np.ndarray,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """Draws the products that are held out, within each category.

    The draw depends on the products and the seed, not on the order of the
    rows. Each category gets its share to within one product and the whole
    its share exactly; of two or more products neither side is ever empty.

    Args:
        products: `[n]` labels, 0 to products - 1.
        categories: `[n]` labels. A product that lies in several categories
            is drawn in the first of them.
        test_fraction: Share of products held out, in (0, 1).
        seed: Seed of the draw.

    Returns:
        `[n]` booleans, true for the images of held-out products.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"`test_fraction` must lie in (0, 1). Received: {test_fraction}"
        )
    by_product = pd.Series(categories).groupby(products).min().sort_index()
    count = len(by_product)
    lottery = np.random.default_rng(seed).permutation(count)
    order = np.lexsort((lottery, by_product.to_numpy()))
    # One in every 1 / fraction along the drawn order, which runs through the
    # categories one after the other. The epsilon makes 10 x 0.1 reach 1.
    quota = np.floor(np.arange(count + 1) * test_fraction + 1e-9)
    held_out = np.zeros(count, bool)
    held_out[order] = np.diff(quota) > 0
    if count > 1 and held_out.all():
        held_out[order[0]] = False
    if count > 1 and not held_out.any():
        held_out[order[-1]] = True
    return held_out[products]


def with_split(catalog: Catalog, test_fraction: float, seed: int) -> Catalog:
    """Returns the catalog, its splits replaced by "train" and "test"."""
    held_out = split_products(
        catalog.products, catalog.categories, test_fraction, seed
    )
    splits, names = pd.factorize(
        np.where(held_out, TEST, TRAIN).astype(object), sort=True
    )
    return dataclasses.replace(
        catalog,
        splits=splits.astype(np.int32),
        split_names=np.asarray(names, object),
    )
