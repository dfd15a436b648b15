"""Which products are held out if the owner's table does not say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from tf_triplet.data import ids
from tf_triplet.data.catalog import Catalog

TRAIN = "train"
TEST = "test"
DRAWS = ("hash", "permutation")


def draw_by_hash(
    product_ids: np.ndarray, test_fraction: float, seed: int
) -> np.ndarray:
    """Holds out each product whose hash is less than `test_fraction`.

    A product never changes sides, whatever else is in the table. The price
    is that a share holds only in expectation. Of two or more products, a side
    that would be empty gets the product with the nearest hash.

    Args:
        product_ids: `[products]` ids of the whole column.
        test_fraction: The share of products to hold out, in (0, 1).
        seed: The seed of the draw.

    Returns:
        `[products]` booleans, true for held-out products.

    Raises:
        ValueError: If `test_fraction` is not in (0, 1).

    Example:
        >>> from tf_triplet.data.sources.splits import draw_by_hash
        >>> draw_by_hash(["hat", "bag", "shoe"], 0.5, seed=0).tolist()
        [False, True, True]
        >>> draw_by_hash(["hat", "bag", "shoe", "belt"], 0.5, seed=0).tolist()
        [False, True, True, True]
    """
    _check_fraction(test_fraction)
    hashes = ids.stable_hash(ids.normalize_ids(product_ids), f"split-{seed}")
    held_out = hashes < test_fraction
    if len(hashes) > 1 and held_out.all():
        held_out[np.argmax(hashes)] = False
    if len(hashes) > 1 and not held_out.any():
        held_out[np.argmin(hashes)] = True
    return held_out


def draw_by_permutation(
    products: np.ndarray,
    categories: np.ndarray,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """Holds out a share of the products of each category.

    This is the draw of runs that were begun by earlier versions. It depends
    on the number of products, so that one product more moves many others to
    the other side. Each category gets its share to within one product, and
    the whole gets it exactly. Of two or more products, neither side is empty.

    Args:
        products: `[n]` integer product labels, 0 to products - 1.
        categories: `[n]` integer category labels. A product of several
            categories is drawn in the first of them.
        test_fraction: The share of products to hold out, in (0, 1).
        seed: The seed of the draw.

    Returns:
        `[products]` booleans, true for held-out products.

    Raises:
        ValueError: If `test_fraction` is not in (0, 1).
    """
    _check_fraction(test_fraction)
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
    return held_out


def with_split(
    catalog: Catalog, test_fraction: float, seed: int, draw: str = "hash"
) -> Catalog:
    """Replaces the splits of a catalog by "train" and "test".

    Args:
        catalog: The images.
        test_fraction: The share of products to hold out, in (0, 1).
        seed: The seed of the draw.
        draw: "hash", or "permutation" for runs of earlier versions.

    Returns:
        The same images with other splits.

    Raises:
        ValueError: If `test_fraction` is not in (0, 1), or if the draw is
            unknown.
    """
    if draw == "hash":
        held_out = draw_by_hash(catalog.product_ids, test_fraction, seed)
    elif draw == "permutation":
        held_out = draw_by_permutation(
            catalog.products, catalog.categories, test_fraction, seed
        )
    else:
        raise ValueError(
            f"`draw` must be one of {', '.join(DRAWS)}. Received: {draw!r}"
        )
    splits, names = pd.factorize(
        np.where(held_out[catalog.products], TEST, TRAIN).astype(object),
        sort=True,
    )
    return dataclasses.replace(
        catalog,
        splits=splits.astype(np.int32),
        split_names=np.asarray(names, object),
    )


def _check_fraction(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"`test_fraction` must lie in (0, 1). Received: {test_fraction}"
        )
