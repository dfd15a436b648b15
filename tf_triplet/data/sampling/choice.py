"""Which units and images one draw takes from its pool.

The schedule names the pool, and how often it was drawn from before. Units
and images follow random permutations that need no memory, so only the table
of rows is stored.

The rules, for draws of P units:

- *Epochs.* A pool of N units is visited in ceil(N / P) draws, in a new order
  each epoch. The last draw of an epoch is topped up with the epoch's first
  units. Every unit is visited, and no draw contains a unit twice.
- *Small categories* (fewer than P units). The draw holds the whole category,
  topped up with distinct units of other categories, chosen afresh each time.
- *Images.* A draw holds K images of a product, without repetition unless the
  product has fewer.
- *Pairs.* The n images of a product form floor(n / 2) disjoint pairs, drawn
  anew each epoch.
- *Two sides.* A pair is an image of side 0 with an image of side 1, and every
  such pair of a product is a unit. Of K images, half (rounded up) are of side
  0, and the sides take turns.

References:
    Dodds et al., 2018, https://arxiv.org/abs/1810.04652, section on
    single-category minibatches. It does not say how an epoch ends; that rule
    is specific to this implementation.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.data.sampling import permutation, schedule


class ImageChoice:
    """Chooses the units and images of every draw, inside a graph.

    Args:
        rows: The rows of each product, one grouping for each side.
        pools: The units of each pool.
        units: The units of the table.
        pairs: Whether a unit is a pair of images rather than a product.
        images_per_unit: The number of images of each unit.
        units_per_draw: The number of units of each draw.
        seed: The seed of all draws.
    """

    def __init__(
        self,
        rows: tuple[schedule.Groups, ...],
        pools: schedule.Pools,
        units: schedule.Units,
        *,
        pairs: bool,
        images_per_unit: int,
        units_per_draw: int,
        seed: int,
    ):
        self._tables = _Tables.build(rows, pools, units)
        self._units = len(units)
        self._pairs = pairs
        self._images = images_per_unit
        self._units_per_draw = units_per_draw
        self._seed = seed

    def draw(
        self, step: tf.Tensor, pool: tf.Tensor, visit: tf.Tensor
    ) -> tf.Tensor:
        """Chooses the rows of one draw from one pool.

        Args:
            step: Scalar int64.
            pool: Scalar int64.
            visit: Scalar int64, the number of earlier draws from the pool.

        Returns:
            `[units_per_draw * images_per_unit]` int64 rows.
        """
        wanted = self._units_per_draw
        starts = self._tables.pool_starts
        start = starts[pool]
        size = starts[pool + 1] - start
        units, epoch = tf.cond(
            size >= wanted,
            lambda: self._walk(pool, start, size, visit),
            lambda: self._fill(pool, start, size, step),
        )
        units.set_shape([wanted])
        return self._choose_images(units, pool, epoch, step)

    def _walk(self, pool, start, size, visit) -> tuple[tf.Tensor, tf.Tensor]:
        """Chooses units of a pool that is large enough for a draw.

        Returns:
            `[units_per_draw]` units and the epoch of the pool.
        """
        wanted = self._units_per_draw
        batches = (size + wanted - 1) // wanted
        epoch, index = visit // batches, visit % batches
        places = (index * wanted + tf.range(wanted, dtype=tf.int64)) % size
        order = permutation.permute(
            places, self._key(permutation.UNITS, pool, epoch), size
        )
        return tf.gather(self._tables.pool_units, start + order), epoch

    def _fill(self, pool, start, size, step) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes all of a small category, and distinct units of others.

        Returns:
            `[units_per_draw]` units and a number in place of an epoch.
        """
        wanted = self._units_per_draw
        own = tf.gather(
            self._tables.pool_units, start + tf.range(size, dtype=tf.int64)
        )
        # Of 2 P candidates, fewer than P belong to the category itself.
        candidates = permutation.permute(
            tf.range(min(self._units, 2 * wanted), dtype=tf.int64),
            self._key(permutation.FILL, pool, step),
            tf.constant(self._units, tf.int64),
        )
        categories = tf.gather(self._tables.unit_categories, candidates)
        others = tf.boolean_mask(candidates, categories != pool - 1)
        # Negative, so that it is never an epoch of a pool that is walked.
        return tf.concat([own, others[: wanted - size]], 0), -1 - step

    def _choose_images(self, units, pool, epoch, step) -> tf.Tensor:
        """Returns the `[P * K]` rows of `[P]` units."""
        products = tf.gather(self._tables.unit_products, units)
        if len(self._tables.rows) == 2:
            return self._choose_images_of_both_sides(units, products, step)
        if self._pairs:
            # All pairs of a product in one epoch share its permutation.
            first = 2 * tf.gather(self._tables.unit_pairs, units)
            key = self._key(permutation.IMAGES, pool, epoch)
        else:
            first = tf.zeros_like(products)
            key = self._key(permutation.IMAGES, step, 0)
        rows = self._shuffled(0, products, first, self._images, key)
        return tf.reshape(rows, [-1])

    def _choose_images_of_both_sides(self, units, products, step) -> tf.Tensor:
        """Returns rows of both sides in turn, beginning with side 0."""
        if self._pairs:
            starts, _ = self._tables.slices(0, products)
            other_starts, others = self._tables.slices(1, products)
            pair = tf.gather(self._tables.unit_pairs, units)
            sides = [
                tf.gather(self._tables.rows[0], starts + pair // others),
                tf.gather(self._tables.rows[1], other_starts + pair % others),
            ]
            return tf.reshape(tf.stack(sides, -1), [-1])
        first = tf.zeros_like(products)
        own = (self._images + 1) // 2
        sides = [
            self._shuffled(
                side,
                products,
                first,
                count,
                self._key(permutation.IMAGES, step, side),
            )
            for side, count in ((0, own), (1, self._images - own))
        ]
        rows = tf.concat(sides, -1)
        # For K = 3 the order is 0 2 1: side 0, side 1, side 0.
        places = [i // 2 + own * (i % 2) for i in range(self._images)]
        return tf.reshape(tf.gather(rows, places, axis=-1), [-1])

    def _shuffled(self, side, products, first, count, key) -> tf.Tensor:
        """Returns rows of products in the order of their permutations.

        Args:
            side: The grouping of the rows.
            products: `[n]` int64 labels.
            first: `[n]` int64, the first place in each permutation.
            count: The number of rows of each product.
            key: `[2]` int64, the key of all permutations.

        Returns:
            `[n, count]` int64 rows.
        """
        starts, sizes = self._tables.slices(side, products)
        images = tf.range(count, dtype=tf.int64)
        places = (first[:, None] + images) % sizes[:, None]
        order = permutation.permute(
            tf.reshape(places, [-1]),
            tf.repeat(permutation.key_per_label(key, products), count, 0),
            tf.repeat(sizes, count),
        )
        rows = tf.gather(
            self._tables.rows[side], tf.repeat(starts, count) + order
        )
        return tf.reshape(rows, [-1, count])

    def _key(self, purpose: int, first, second) -> tf.Tensor:
        return permutation.make_key(self._seed, purpose, first, second)


@dataclasses.dataclass(frozen=True)
class _Tables:
    """The row table as tensors.

    Attributes:
        rows: For each side, `[rows]` row numbers sorted by product.
        row_starts: For each side, `[products + 1]` places in `rows`.
        pool_units: Units sorted by pool.
        pool_starts: `[pools + 1]` places in `pool_units`.
        unit_products: `[units]` product labels.
        unit_pairs: `[units]` the number of a pair within its product.
        unit_categories: `[units]` category labels.
    """

    rows: list[tf.Tensor]
    row_starts: list[tf.Tensor]
    pool_units: tf.Tensor
    pool_starts: tf.Tensor
    unit_products: tf.Tensor
    unit_pairs: tf.Tensor
    unit_categories: tf.Tensor

    @classmethod
    def build(
        cls,
        rows: tuple[schedule.Groups, ...],
        pools: schedule.Pools,
        units: schedule.Units,
    ) -> _Tables:
        # Constants inside a graph would be copied with it.
        with tf.init_scope(), tf.device("cpu:0"):
            return cls(
                rows=[tf.constant(side.members) for side in rows],
                row_starts=[tf.constant(side.starts) for side in rows],
                pool_units=tf.constant(pools.units.members),
                pool_starts=tf.constant(pools.units.starts),
                unit_products=tf.constant(units.products),
                unit_pairs=tf.constant(units.pairs),
                unit_categories=tf.constant(pools.categories, tf.int64),
            )

    def slices(
        self, side: int, products: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns where `[n]` products begin in `rows`, and their sizes."""
        starts = self.row_starts[side]
        first = tf.gather(starts, products)
        return first, tf.gather(starts, products + 1) - first
