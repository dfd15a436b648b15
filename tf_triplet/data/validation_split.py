"""Which training products are set aside, to choose the step by."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tf_triplet.data import ids

# The salt of the draw. Another one would choose other products.
SALT = "validation"
# Fewer products cannot tell one step from another.
LEAST = 5
# Where there are enough products, so many are taken at least.
WANTED = 20
# At most one in so many products is taken.
SHARE = 4


def choose_validation(
    product_ids: Sequence[str],
    fraction: float,
    units_needed: int,
    exclude: Collection[str] = (),
    units: np.ndarray | None = None,
) -> np.ndarray:
    """Chooses the training products that become validation products.

    They are the products with the smallest hash, so that the choice depends
    neither on the order of the table nor on the draw of the held-out split.
    `fraction` of the products are taken and at least 20, but never more than a
    quarter of them, and never so many that fewer than one minibatch remains
    to train on. Where that leaves fewer than 5, none is taken.

    Args:
        product_ids: `[n]` normalized ids of the training products.
        fraction: The share of products to take.
        units_needed: The number of units in a minibatch.
        exclude: Ids of products that must not be taken, because an earlier
            run was trained on them.
        units: `[n]` integers, the number of units (products or pairs) that
            each product brings to an epoch. A product that brings none can
            neither be trained on nor be found, so it is not taken. By
            default, each product is one unit.

    Returns:
        `[m]` rising integers, positions in `product_ids`.

    Example:
        >>> from tf_triplet.data.validation_split import choose_validation
        >>> names = [f"bag-{i}" for i in range(24)]
        >>> choose_validation(names, fraction=0.1, units_needed=16).tolist()
        [1, 6, 7, 16, 22, 23]
        >>> choose_validation(names, fraction=0.1, units_needed=20).tolist()
        []
    """
    if units is None:
        units = np.ones(len(product_ids), np.int64)
    usable = units > 0
    count = int(usable.sum())
    wanted = min(max(WANTED, int(fraction * count + 0.5)), count // SHARE)
    own, excluded = ids.comparable_ids(product_ids, set(exclude))
    free = usable & ~np.isin(np.array(own, object), list(excluded))
    order = np.argsort(ids.stable_hash(own, SALT), kind="stable")
    chosen = order[free[order]][:wanted]
    # Each product that is taken leaves fewer units to train on.
    remaining = units.sum() - np.cumsum(units[chosen])
    chosen = chosen[remaining >= units_needed]
    if len(chosen) < LEAST:
        return np.zeros(0, np.int64)
    return np.sort(chosen)
