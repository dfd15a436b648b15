"""Which groups of images every step visits.

This module is pure NumPy. It answers one question: given a seed and a step,
from which pool does the batch draw, and how often has that pool been drawn
from before?

A *unit* is what a batch is counted in: a product, or one pair of a product's
images. A *pool* is a set of units that a batch can draw from. Pool 0 holds
all units, and pool c + 1 holds the units of category c. A *visit* is the
number of earlier draws from the same pool; the sampler turns it into an
epoch of the pool and a place in that epoch.

The rules, for P units per batch:

- *One pool per batch.* With the single-category probability, the batch draws
  from one category, chosen uniformly. Otherwise it draws from pool 0.
- *Small categories* have fewer than P units. With "fill" they can be drawn
  and are topped up with units of other categories. With "exclude" they are
  never drawn on their own.
- *Several categories per batch* (C of them, with P / C units each). The batch
  draws from C distinct categories, chosen uniformly. With "fill", the
  categories with fewer than P / C units together form one additional pool.

References:
    Dodds et al., 2018, https://arxiv.org/abs/1810.04652, on single-category
    minibatches.
    Ramzi et al., 2021, https://arxiv.org/abs/2110.01445, on several
    categories per batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

# The pools of this many steps are drawn at once, from one seeded generator.
BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Groups:
    """Members sorted by group.

    Attributes:
        members: `[members]` int64. Group g is
            `members[starts[g]:starts[g + 1]]`.
        starts: `[groups + 1]` int64.
    """

    members: np.ndarray
    starts: np.ndarray

    @classmethod
    def by_label(cls, labels: np.ndarray, groups: int) -> Groups:
        """Groups the places of `[n]` integer labels below `groups`."""
        counts = np.bincount(labels, minlength=groups)
        return cls(
            np.argsort(labels, kind="stable").astype(np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )

    @property
    def sizes(self) -> np.ndarray:
        """`[groups]` int64, the number of members of each group."""
        return np.diff(self.starts)


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a table of images, sorted by product.

    Attributes:
        products: `[units]` int64 product labels.
        pairs: `[units]` int64, the number of the unit among the pairs of its
            product; 0 if units are products.
        categories: `[units]` int64 category labels.
        dropped_products: The number of products without a unit.
    """

    products: np.ndarray
    pairs: np.ndarray
    categories: np.ndarray
    dropped_products: int

    def __len__(self) -> int:
        return len(self.products)


def group_rows(
    products: np.ndarray, sides: np.ndarray | None = None
) -> tuple[Groups, ...]:
    """Groups rows by product.

    Args:
        products: `[rows]` integer product labels.
        sides: `[rows]` 0 or 1, or None if the sides are not kept apart.

    Returns:
        One grouping of all rows, or one grouping for each of the two sides.
    """
    if not len(products):
        raise ValueError(
            "There are no rows to sample from. Received: `products` of shape "
            f"{np.shape(products)}"
        )
    labels = int(products.max()) + 1
    if sides is None:
        return (Groups.by_label(products, labels),)
    groups = []
    for side in (0, 1):
        rows = np.flatnonzero(np.asarray(sides) == side)
        own = Groups.by_label(products[rows], labels)
        groups.append(Groups(rows[own.members], own.starts))
    return tuple(groups)


def build_units(
    products: np.ndarray,
    categories: np.ndarray,
    rows: tuple[Groups, ...],
    pairs: bool,
    keep_singletons: bool,
) -> Units:
    """Lists the units of a table.

    Args:
        products: `[rows]` integer product labels.
        categories: `[rows]` integer category labels. A product belongs to
            the category of its first row.
        rows: The result of `group_rows`.
        pairs: Whether a unit is a pair of images rather than a product.
        keep_singletons: Whether a product with one image is a unit, too.
            This applies only to products of one grouping.
    """
    labels, first_rows = np.unique(products, return_index=True)
    sizes = [side.sizes[labels] for side in rows]
    if len(rows) == 2:
        pair_counts = sizes[0] * sizes[1]
        kept = pair_counts > 0
    else:
        pair_counts = sizes[0] // 2
        kept = sizes[0] >= (1 if keep_singletons and not pairs else 2)
    repeats = pair_counts[kept] if pairs else np.ones(kept.sum(), np.int64)
    unit_products = np.repeat(labels[kept].astype(np.int64), repeats)
    first_units = np.cumsum(repeats) - repeats
    return Units(
        products=unit_products,
        pairs=np.arange(len(unit_products)) - np.repeat(first_units, repeats),
        categories=np.repeat(
            categories[first_rows[kept]].astype(np.int64), repeats
        ),
        dropped_products=int((~kept).sum()),
    )


@dataclasses.dataclass(frozen=True)
class Pools:
    """The sets of units that a batch can draw from.

    Attributes:
        units: The units of every pool: all units first, then those of each
            category.
        categories: `[units]` int64 category labels. Unit u lies in pool 0
            and in pool `categories[u] + 1`.
        eligible: `[E]` int64 labels of the categories that can be drawn.
        excluded: Labels of the categories that have units but are too small
            to be drawn.
    """

    units: Groups
    categories: np.ndarray
    eligible: np.ndarray
    excluded: np.ndarray

    def chances(self, draw: str) -> np.ndarray | None:
        """Returns how often each eligible category is drawn.

        Args:
            draw: One of `CATEGORY_DRAWS`.
        """
        return category_chances(self.units.sizes[1 + self.eligible], draw)


def build_pools(
    categories: np.ndarray,
    count: int,
    units_per_draw: int,
    fill: bool,
    several: bool,
) -> Pools:
    """Groups units into pools.

    Args:
        categories: `[units]` integer category labels below `count`.
        count: The number of categories.
        units_per_draw: The number of units that one draw takes from a pool.
        fill: Whether small categories can be drawn.
        several: Whether a batch holds several categories. With `fill`, the
            small ones then become one pool with the label `count`.
    """
    if several and fill:
        small = np.bincount(categories, minlength=count) < units_per_draw
        categories = np.where(small[categories], count, categories)
        count += 1
    by_category = Groups.by_label(categories, count)
    units = len(categories)
    sizes = by_category.sizes
    least = 1 if fill and not several else units_per_draw
    return Pools(
        units=Groups(
            np.concatenate([np.arange(units), by_category.members]),
            np.concatenate([[0], units + by_category.starts]),
        ),
        categories=categories,
        eligible=np.flatnonzero(sizes >= least),
        excluded=np.flatnonzero((sizes > 0) & (sizes < least)),
    )


# How the chance of a category follows from its number of units.
CATEGORY_DRAWS = ("square_root", "proportional", "uniform")


def category_chances(sizes: np.ndarray, draw: str) -> np.ndarray | None:
    """Returns how often each category is drawn.

    Args:
        sizes: `[E]` numbers of units, at least 1.
        draw: "uniform" draws all categories equally often, so that a product
            of a small category is seen far more often than one of a large
            category. "proportional" draws them by their size, and
            "square_root" by its square root, which lies between the two.

    Returns:
        `[E]` chances that add up to 1, or None if they are equal.

    Example:

    >>> category_chances(np.array([100, 1]), "square_root").round(2).tolist()
    [0.91, 0.09]
    """
    if draw == "uniform" or not len(sizes):
        return None
    weights = sizes.astype(np.float64)
    weights = np.sqrt(weights) if draw == "square_root" else weights
    return weights / weights.sum()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The pools that every step draws from.

    Attributes:
        pool_count: The number of pools, including pool 0.
        eligible: `[E]` int64 labels of the categories that can be drawn.
        probability: The share of batches from a single category. It has no
            effect if `draws` is greater than 1.
        draws: C, the number of distinct categories per batch.
        seed: The seed of all draws.
        chances: `[E]` how often each of the eligible categories is drawn, or
            None for equally often. See `category_chances`.
    """

    pool_count: int
    eligible: np.ndarray
    probability: float
    draws: int
    seed: int
    chances: np.ndarray | None = None

    def pools(self, block: int) -> np.ndarray:
        """Draws the pools of one block of steps.

        Args:
            block: The number of the block, which begins at step
                `block * BLOCK`.

        Returns:
            `[BLOCK]` int64 pools, or `[BLOCK, C]` if C is greater than 1.
        """
        random = np.random.Generator(
            np.random.Philox(
                # Of a list of large and small integers, NumPy makes floats.
                key=np.array([self.seed % 2**64, block], np.uint64)
            )
        )
        single = random.random(BLOCK) < self.probability
        if not len(self.eligible):
            return np.zeros(BLOCK, np.int64)
        if self.draws > 1:
            return 1 + np.stack(
                [
                    random.choice(
                        self.eligible, self.draws, False, self.chances
                    )
                    for _ in range(BLOCK)
                ]
            )
        if self.chances is None:
            places = random.integers(0, len(self.eligible), BLOCK)
        else:
            places = random.choice(len(self.eligible), BLOCK, p=self.chances)
        choice = self.eligible[places]
        return np.where(single, choice + 1, 0).astype(np.int64)

    def blocks(
        self, start_step: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the schedule from a step on, without end.

        Args:
            start_step: The first step.

        Yields:
            `[n]` steps, `[n, C]` pools and `[n, C]` visits, all int64.
        """
        counts = np.zeros(self.pool_count, np.int64)
        block, skip = divmod(start_step, BLOCK)
        for earlier in range(block):
            counts += np.bincount(
                self.pools(earlier).reshape(-1), minlength=len(counts)
            )
        while True:
            pools = self.pools(block).reshape(-1)
            visits = np.empty(len(pools), np.int64)
            for pool in np.unique(pools):
                at = np.flatnonzero(pools == pool)
                visits[at] = counts[pool] + np.arange(len(at))
                counts[pool] += len(at)
            steps = block * BLOCK + np.arange(BLOCK)
            # One row per step: the pools of one step are distinct.
            pools = pools.reshape(BLOCK, self.draws)
            visits = visits.reshape(BLOCK, self.draws)
            yield steps[skip:], pools[skip:], visits[skip:]
            block, skip = block + 1, 0
