"""Batches of row numbers, grouped by product.

Batch t is a pure function of (seed, t). Nothing is saved, and training
resumes exactly at any step. Three modules take part:

- `schedule.py` decides which pools of units a step draws from.
- `choice.py` chooses the units of a pool, and the images of each unit.
- This module puts both together as a `tf.data.Dataset`.

*Mixed draws.* The units of M consecutive draws can be shuffled together and
dealt to M batches, as a shuffle buffer after the draws would do.
"""

from __future__ import annotations

import typing

import numpy as np
import tensorflow as tf

from tf_triplet.data.sampling import checks, choice, permutation, schedule


class Sampler(typing.Protocol):
    """What `training_batches` needs of a sampler.

    Any object with these two members is a sampler; it need not inherit from
    this class. A run can be resumed exactly if the rows of a batch depend on
    its step alone.

    Attributes:
        batch_size: The number of rows in each batch.

    Example:

    A sampler that takes four images in the order of the catalog:

    >>> class InOrder:
    ...     batch_size = 2
    ...
    ...     def dataset(self, start_step=0):
    ...         steps = tf.data.Dataset.range(start_step, tf.int64.max)
    ...         return steps.map(lambda step: (step, self._rows(step)))
    ...
    ...     def _rows(self, step):
    ...         places = step * self.batch_size + tf.range(2, dtype=tf.int64)
    ...         return places % 4
    >>> sampler: Sampler = InOrder()
    >>> for step, rows in sampler.dataset(start_step=3).take(2):
    ...     print(step.numpy(), rows.numpy())
    3 [2 3]
    4 [0 1]
    """

    batch_size: int

    def dataset(self, start_step: int = 0) -> tf.data.Dataset:
        """Returns the batches from a step on, without end.

        Args:
            start_step: The first step.

        Returns:
            A dataset of (scalar int64 step, `[batch_size]` int64 rows of the
            catalog). Steps rise by one.
        """
        ...


class GroupedSampler:
    """Draws batches of P products with K images each, or of P pairs.

    Args:
        products: `[rows]` dense integer product labels.
        categories: `[rows]` dense integer category labels. A product belongs
            to the category of its first row.
        units: "products" or "pairs". With "pairs", the n images of a product
            form floor(n / 2) disjoint pairs, drawn anew each epoch. One image
            of an odd number sits out that epoch.
        units_per_batch: P, the number of products or pairs per batch.
        images_per_product: K, the number of images per product. It has no
            effect on pairs.
        single_category_probability: The share of batches that hold a single
            category, in [0, 1].
        small_category: How a category with fewer than P units is drawn on
            its own: "fill" tops it up with other categories, and "exclude"
            never draws it.
        category_draw: How often a category is drawn on its own:
            "square_root" of its number of units, "proportional" to it, or
            "uniform", equally often. With "uniform", a product of a small
            category is drawn far more often than others.
        singletons: What happens to products with one image: "drop" leaves
            them out, and "keep" makes them negatives, with their image
            repeated K times. Pairs and two sides always drop them.
        sides: `[rows]` 0 (query, street) or 1 (gallery, shop), or None for
            one domain.
        categories_per_batch: C, the number of categories per batch, with
            P / C units each. With 0, `single_category_probability` decides.
        mixed_draws: M, the number of draws that are shuffled together. With
            1, each draw is one batch. The released code of Dodds et al.
            mixes two or three.
        seed: The seed of all draws.

    Attributes:
        batch_size: The number of rows per batch. The K images of a product
            are neighbors. With pairs, rows 2i and 2i + 1 are a query and its
            positive.
        units: The number of products, or of pairs per epoch.
        images: The number of images that are ever drawn.
        steps_per_epoch: The number of batches in which pool 0 visits every
            unit.
        dropped_singletons: The number of products that are left out because
            they have one image, or images of one side only.
        excluded_categories: `[excluded]` int64 labels of the categories that
            are never drawn on their own.

    Raises:
        ValueError: If an argument is out of range, or if there are too few
            units or categories for a batch.

    Example:

    >>> products = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    >>> categories = np.zeros(8, int)
    >>> sampler = GroupedSampler(
    ...     products, categories, units_per_batch=2, images_per_product=2
    ... )
    >>> sampler.batch_size, sampler.steps_per_epoch
    (4, 2)
    >>> groups = products[sampler.batch(step=0)].reshape(2, 2)
    >>> bool((groups[:, 0] == groups[:, 1]).all())
    True
    """

    def __init__(
        self,
        products: np.ndarray,
        categories: np.ndarray,
        *,
        units: str = "products",
        units_per_batch: int = 16,
        images_per_product: int = 4,
        single_category_probability: float = 0.0,
        small_category: str = "fill",
        category_draw: str = "square_root",
        singletons: str = "drop",
        sides: np.ndarray | None = None,
        categories_per_batch: int = 0,
        mixed_draws: int = 1,
        seed: int = 0,
    ):
        checks.check_choices(
            units=units,
            small_category=small_category,
            category_draw=category_draw,
            singletons=singletons,
        )
        checks.check_probability(single_category_probability)
        checks.check_sides(sides, len(products))
        check_draws(units_per_batch, categories_per_batch, mixed_draws)
        self._unit_name = units
        self._pairs = units == "pairs"
        self._images = 2 if self._pairs else int(images_per_product)
        self._units_per_batch = int(units_per_batch)
        self._draws = max(int(categories_per_batch), 1)
        self._units_per_draw = self._units_per_batch // self._draws
        self._mixed = int(mixed_draws)
        self._seed = int(seed)
        self.batch_size = self._units_per_batch * self._images
        products, categories = np.asarray(products), np.asarray(categories)
        rows = schedule.group_rows(products, sides)
        table = self._list_units(products, categories, rows, singletons)
        several = categories_per_batch > 0
        pools = self._build_pools(
            table, int(categories.max()) + 1, small_category == "fill", several
        )
        self.excluded_categories = pools.excluded
        self._schedule = schedule.Schedule(
            pool_count=len(pools.units.sizes),
            eligible=pools.eligible,
            probability=1.0 if several else float(single_category_probability),
            draws=self._draws,
            seed=self._seed,
            chances=pools.chances(category_draw),
        )
        self._choice = choice.ImageChoice(
            rows,
            pools,
            table,
            pairs=self._pairs,
            images_per_unit=self._images,
            units_per_draw=self._units_per_draw,
            seed=self._seed,
        )

    def _list_units(
        self,
        products: np.ndarray,
        categories: np.ndarray,
        rows: tuple[schedule.Groups, ...],
        singletons: str,
    ) -> schedule.Units:
        table = schedule.build_units(
            products, categories, rows, self._pairs, singletons == "keep"
        )
        self.units = len(table)
        drawn = np.unique(table.products)
        self.images = int(sum(side.sizes[drawn].sum() for side in rows))
        self.dropped_singletons = table.dropped_products
        self.steps_per_epoch = -(-self.units // self._units_per_batch)
        left_out = (
            f"({self.dropped_singletons} products with one image "
            f"{'or of one domain ' if len(rows) == 2 else ''}are left out)"
        )
        if len(drawn) < 2:
            raise ValueError(
                "Training compares images of different products, so it needs "
                f"at least two products. Received: {len(drawn)} {left_out}. "
                "Add products with two images."
            )
        if self.units < self._units_per_batch:
            lower = self._advise(table)
            raise ValueError(
                f"`units_per_batch` is {self._units_per_batch} but there are "
                f"only {self.units} {self._unit_name} to draw from "
                f"{left_out}. Lower it (--config.sampling.units_per_batch="
                f"{lower}), or add products with two images."
            )
        return table

    def _advise(self, table: schedule.Units) -> int:
        """Returns a number of units per batch that these units allow."""
        if self._draws == 1:
            return max(2, self.units // 4)
        sizes = np.bincount(table.categories)
        fitting = [
            each
            for each in range(1, self.units // (4 * self._draws) + 1)
            if (sizes >= each).sum() >= self._draws
        ]
        return max(fitting, default=1) * self._draws

    def _build_pools(
        self, table: schedule.Units, categories: int, fill: bool, several: bool
    ) -> schedule.Pools:
        pools = schedule.build_pools(
            table.categories, categories, self._units_per_draw, fill, several
        )
        eligible = len(pools.eligible)
        if several and eligible < self._draws:
            raise ValueError(
                f"`categories_per_batch` is {self._draws} but only {eligible} "
                f"categories have {self._units_per_draw} {self._unit_name} or "
                "more. Lower it, or `units_per_batch`."
            )
        return pools

    def pools(self, block: int) -> np.ndarray:
        """Returns the pools that a block of 4096 steps draws from.

        Args:
            block: The number of the block. It covers the steps from
                `block * 4096` up to, but not including,
                `(block + 1) * 4096`.

        Returns:
            `[4096]` int64 pools, or `[4096, C]` with C categories per batch.
            Pool 0 is "all categories", and pool c + 1 is category c.
        """
        return self._schedule.pools(block)

    def dataset(self, start_step: int = 0) -> tf.data.Dataset:
        """Returns the batches from a step on, without end.

        Args:
            start_step: The first step.

        Returns:
            A dataset of (scalar int64 step, `[batch_size]` int64 rows).

        Raises:
            ValueError: If `start_step` is negative.
        """
        if start_step < 0:
            raise ValueError(
                f"`start_step` must be at least 0. Received: {start_step}"
            )
        # Mixed draws begin where their group of M draws begins.
        first = start_step - start_step % self._mixed
        draws = tf.TensorSpec([None, self._draws], tf.int64)
        scheduled = tf.data.Dataset.from_generator(
            lambda: self._schedule.blocks(first),
            output_signature=(tf.TensorSpec([None], tf.int64), draws, draws),
        ).unbatch()
        dataset = scheduled.map(
            lambda step, pools, visits: (
                step,
                self._batch(step, pools, visits),
            ),
            num_parallel_calls=2,
            deterministic=True,
        )
        if self._mixed == 1:
            return dataset
        mixed = dataset.batch(self._mixed).map(
            lambda steps, rows: (steps, self._mix(steps, rows))
        )
        return mixed.unbatch().skip(start_step - first)

    def batch(self, step: int) -> np.ndarray:
        """Returns one batch, for tests and inspection.

        Args:
            step: The number of the batch.

        Returns:
            `[batch_size]` int64 rows.
        """
        return next(iter(self.dataset(step).take(1)))[1].numpy()

    def _mix(self, steps: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Shuffles the units of `[M]` draws and deals them to M batches."""
        size = self._mixed * self._units_per_batch
        order = permutation.permute(
            tf.range(size, dtype=tf.int64),
            permutation.make_key(self._seed, permutation.MIX, steps[0], 0),
            tf.constant(size, tf.int64),
        )
        units = tf.gather(tf.reshape(rows, [size, self._images]), order)
        return tf.reshape(units, [self._mixed, self.batch_size])

    def _batch(
        self, step: tf.Tensor, pools: tf.Tensor, visits: tf.Tensor
    ) -> tf.Tensor:
        draws = [
            self._choice.draw(step, pools[i], visits[i])
            for i in range(self._draws)
        ]
        return tf.ensure_shape(tf.concat(draws, 0), [self.batch_size])


def check_draws(
    units_per_batch: int, categories_per_batch: int, mixed_draws: int
) -> None:
    """Checks numbers that are known before there is a catalog.

    Args:
        units_per_batch: See `GroupedSampler`.
        categories_per_batch: See `GroupedSampler`.
        mixed_draws: See `GroupedSampler`.

    Raises:
        ValueError: If they do not go together.
    """
    if categories_per_batch < 0 or (
        units_per_batch % max(categories_per_batch, 1)
    ):
        raise ValueError(
            "`categories_per_batch` must divide `units_per_batch`, "
            f"{units_per_batch}, so that every category contributes as many "
            f"units. Received: {categories_per_batch}"
        )
    if mixed_draws < 1 or (mixed_draws > 1 and categories_per_batch > 1):
        raise ValueError(
            "`mixed_draws` must be at least 1, and 1 with several "
            f"categories per batch. Received: {mixed_draws}"
        )
