"""Class-grouped minibatches of row numbers.

Batch t is a pure function of (seed, t): nothing is saved, and a run resumes
exactly at any step. Units (products, or pairs of one product's images) are
visited through a constant-memory random permutation, so beyond the row table
the memory does not grow with an epoch.

Rules, for P units a batch:

- *Pools.* Pool 0 holds all units; every category has one of its own. A batch
  draws its pool: one category, uniformly, with the single-category
  probability, else pool 0.
- *Epochs.* A pool of N units is walked in ceil(N / P) batches, each epoch in
  a new order. The last batch of an epoch is topped up with the epoch's first
  units, so every unit is visited and no batch holds one twice.
- *Small categories* (N < P). `fill`: the whole category and, drawn afresh,
  distinct units of the others. `exclude`: never drawn on its own.
- *Several categories* (C of them, P / C units of each): C distinct pools a
  batch, uniformly. With `fill`, categories of fewer than P / C units form one
  pool together.
- *Mixed draws.* The units of M consecutive draws are shuffled together and
  dealt to M batches, as a shuffle buffer behind the draws does.
- *Images.* K of a product, without repetition unless it has fewer.
- *Two domains.* With sides, a pair is an image of side 0 with one of side 1,
  and every such pair of a product is a unit; of K images, half (rounded
  up) are of side 0. Products with images of one side only are left out.

Reference: Dodds et al., 2018, https://arxiv.org/abs/1810.04652, section on
single-category minibatches; the exact rules for the ends are ours. Several
categories a batch: Ramzi et al., 2021, https://arxiv.org/abs/2110.01445.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

# Steps whose pools are drawn at once, from one seeded generator.
_BLOCK = 4096
_SCHEDULE, _UNITS, _IMAGES, _FILL, _MIX = range(5)


@dataclasses.dataclass(frozen=True)
class _Groups:
    """Members by group: `members[starts[g]:starts[g + 1]]`."""

    members: np.ndarray
    starts: np.ndarray

    @classmethod
    def by_label(cls, labels: np.ndarray, groups: int) -> _Groups:
        counts = np.bincount(labels, minlength=groups)
        return cls(
            np.argsort(labels, kind="stable").astype(np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)

    def at(self, places: np.ndarray) -> _Groups:
        """The same groups of a table of which these rows were taken."""
        return _Groups(np.asarray(places, np.int64)[self.members], self.starts)


class GroupedSampler:
    """P products x K images, or P (query, positive) pairs, a minibatch.

    Attributes:
        batch_size: rows a batch; groups of K, or interleaved pairs (rows 2i
            and 2i + 1 are a query and its positive).
        units: products, or pairs an epoch brings.
        steps_per_epoch: batches in which pool 0 visits every unit.
        dropped_singletons: products left out for having one image, or
            images of one side only.
        excluded_categories: labels of categories never drawn on their own.
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
        singletons: str = "drop",
        sides: np.ndarray | None = None,
        categories_per_batch: int = 0,
        mixed_draws: int = 1,
        seed: int = 0,
    ):
        """Groups the rows.

        Args:
            products: `[rows]` dense integer labels.
            categories: `[rows]` dense integer labels; a product belongs to
                the category of its first row.
            units: "products" or "pairs". Pairs are the floor(n / 2) disjoint
                pairs of a product's n images, made anew each epoch; an odd
                image sits out that epoch.
            units_per_batch: P.
            images_per_product: K (products only).
            single_category_probability: of a batch from one category.
            small_category: "fill" or "exclude".
            singletons: "drop" products with one image, or "keep" them as
                negatives (products only; their image comes K times).
            sides: `[rows]` 0 (query, street) or 1 (gallery, shop); None for
                one domain.
            categories_per_batch: C categories of P / C units each; 0 leaves
                it to `single_category_probability`.
            mixed_draws: M; 1 keeps every draw a batch of its own, exactly.
                The paper's released code mixes two or three.
            seed: of every draw.

        Raises:
            ValueError: P exceeds the units there are, or a bad argument.
        """
        _check_choice("units", units, ("products", "pairs"))
        _check_choice("small_category", small_category, ("fill", "exclude"))
        _check_choice("singletons", singletons, ("drop", "keep"))
        if not 0 <= single_category_probability <= 1:
            raise ValueError(
                "`single_category_probability` must be in [0, 1]. Received: "
                f"{single_category_probability}"
            )
        if sides is not None and (
            np.shape(sides) != np.shape(products)
            or not np.isin(sides, (0, 1)).all()
        ):
            raise ValueError(
                "`sides` must hold 0 or 1 for each of "
                f"{len(products)} rows. Received: shape {np.shape(sides)}, "
                f"values {np.unique(sides)[:5]}"
            )
        self._draws = max(int(categories_per_batch), 1)
        self._mixed = int(mixed_draws)
        if units_per_batch % self._draws or categories_per_batch < 0:
            raise ValueError(
                "`categories_per_batch` must divide `units_per_batch`, "
                f"{units_per_batch}, so that each category brings as many. "
                f"Received: {categories_per_batch}"
            )
        if self._mixed < 1 or (self._mixed > 1 and self._draws > 1):
            raise ValueError(
                "`mixed_draws` must be at least 1, and 1 with several "
                f"categories a batch. Received: {mixed_draws}"
            )
        self._pairs = units == "pairs"
        self._images = 2 if self._pairs else int(images_per_product)
        self._units_per_batch = int(units_per_batch)
        self._units_per_draw = self._units_per_batch // self._draws
        self._hierarchical = categories_per_batch > 0
        self._probability = float(single_category_probability)
        if self._hierarchical:
            self._probability = 1.0
        self._seed = int(seed)
        self.batch_size = self._units_per_batch * self._images
        self._group(
            np.asarray(products),
            np.asarray(categories),
            singletons,
            None if sides is None else np.asarray(sides),
            pool_small=self._hierarchical and small_category == "fill",
        )
        if self.units < self._units_per_batch:
            raise ValueError(
                f"`units_per_batch` is {self._units_per_batch} but there are "
                f"only {self.units} {units} to draw from "
                f"({self.dropped_singletons} products with one image "
                f"{'' if sides is None else 'or of one domain '}are "
                "left out). Lower it (--config.sampling.units_per_batch="
                f"{max(1, self.units // 4)}), or add products with two "
                "images."
            )
        sizes = self._pools.sizes[1:]
        filled = small_category == "fill" and not self._hierarchical
        least = 1 if filled else self._units_per_draw
        self._eligible = np.flatnonzero(sizes >= least)
        if self._hierarchical and len(self._eligible) < self._draws:
            raise ValueError(
                f"`categories_per_batch` is {self._draws} but only "
                f"{len(self._eligible)} categories have "
                f"{self._units_per_draw} {units} or more. Lower it, or "
                "`units_per_batch`."
            )
        self._tensors = self._make_tensors()
        self.excluded_categories = np.flatnonzero((sizes > 0) & (sizes < least))
        self.steps_per_epoch = -(-self.units // self._units_per_batch)

    def _group(
        self, products, categories, singletons: str, sides, pool_small: bool
    ) -> None:
        """Builds rows by product, and units by pool."""
        if len(products) == 0:
            raise ValueError("There are no rows to sample from.")
        labels_there = int(products.max()) + 1
        rows = _Groups.by_label(products, labels_there)
        counts = rows.sizes
        if sides is None:
            self._rows = (rows,)
            least = 1 if singletons == "keep" and not self._pairs else 2
            keep, pairs = counts >= least, counts // 2
        else:
            self._rows = tuple(
                _Groups.by_label(products[of_side], labels_there).at(of_side)
                for of_side in (np.flatnonzero(sides == s) for s in (0, 1))
            )
            pairs = self._rows[0].sizes * self._rows[1].sizes
            keep = pairs > 0
        self.dropped_singletons = int(((counts > 0) & ~keep).sum())
        labels = np.flatnonzero(keep)
        first_rows = rows.members[rows.starts[labels]]
        repeats = pairs[labels] if self._pairs else np.ones_like(labels)
        self._unit_products = np.repeat(labels, repeats)
        # Which pair of its product a unit is: 0, 1, … within the product.
        ends = np.cumsum(repeats)
        self._unit_pairs = np.arange(len(self._unit_products)) - np.repeat(
            ends - repeats, repeats
        )
        self.units = len(self._unit_products)
        unit_categories = np.repeat(categories[first_rows], repeats)
        pools = int(categories.max()) + 1
        if pool_small:
            sizes = np.bincount(unit_categories, minlength=pools)
            small = sizes[unit_categories] < self._units_per_draw
            unit_categories = np.where(small, pools, unit_categories)
            pools += 1
        by_category = _Groups.by_label(unit_categories, pools)
        self._unit_categories = unit_categories
        self._pools = _Groups(
            np.concatenate([np.arange(self.units), by_category.members]),
            np.concatenate([[0], self.units + by_category.starts]),
        )

    def _make_tensors(self) -> dict[str, tf.Tensor]:
        """The tables, outside the graph: a constant there is copied often."""
        with tf.init_scope(), tf.device("cpu:0"):
            return {
                "rows": [tf.constant(side.members) for side in self._rows],
                "row_starts": [tf.constant(s.starts) for s in self._rows],
                "pool_units": tf.constant(self._pools.members),
                "pool_starts": tf.constant(self._pools.starts),
                "unit_products": tf.constant(self._unit_products),
                "unit_pairs": tf.constant(self._unit_pairs),
                "unit_categories": tf.constant(
                    self._unit_categories.astype(np.int64)
                ),
            }

    def pools(self, block: int) -> np.ndarray:
        """Returns the pools of steps `[block * 4096, (block + 1) * 4096)`.

        0 is "all categories", c + 1 is category c. `[4096]`, or `[4096, C]`
        with C categories a batch.
        """
        random = np.random.Generator(
            np.random.Philox(key=[self._seed & (2**64 - 1), block])
        )
        single = random.random(_BLOCK) < self._probability
        if not len(self._eligible):
            return np.zeros(_BLOCK, np.int64)
        if self._draws > 1:
            return 1 + np.stack(
                [
                    random.choice(self._eligible, self._draws, replace=False)
                    for _ in range(_BLOCK)
                ]
            )
        choice = self._eligible[random.integers(0, len(self._eligible), _BLOCK)]
        return np.where(single, choice + 1, 0).astype(np.int64)

    def _schedule(self, start_step: int):
        """Yields (steps, pools, visits) in blocks, from `start_step` on."""
        counts = np.zeros(len(self._pools.sizes), np.int64)
        first, skip = divmod(start_step, _BLOCK)
        for block in range(first):
            counts += np.bincount(
                self.pools(block).reshape(-1), minlength=len(counts)
            )
        block = first
        while True:
            pools = self.pools(block).reshape(-1)
            visits = np.empty(len(pools), np.int64)
            for pool in np.unique(pools):
                at = np.flatnonzero(pools == pool)
                visits[at] = counts[pool] + np.arange(len(at))
                counts[pool] += len(at)
            steps = block * _BLOCK + np.arange(_BLOCK)
            # A row a step: the pools of its draws are distinct.
            pools = pools.reshape(_BLOCK, self._draws)
            visits = visits.reshape(_BLOCK, self._draws)
            yield steps[skip:], pools[skip:], visits[skip:]
            block, skip = block + 1, 0

    def dataset(self, start_step: int = 0) -> tf.data.Dataset:
        """Returns the endless dataset of (step, `[batch_size]` int64 rows)."""
        if start_step < 0:
            raise ValueError(
                f"`start_step` must be at least 0. Received: {start_step}"
            )
        first, skip = start_step - start_step % self._mixed, start_step
        steps = tf.TensorSpec([None], tf.int64)
        draws = tf.TensorSpec([None, self._draws], tf.int64)
        dataset = (
            tf.data.Dataset.from_generator(
                lambda: self._schedule(first),
                output_signature=(steps, draws, draws),
            )
            .unbatch()
            .map(
                lambda step, pool, visit: (
                    step,
                    self._batch(step, pool, visit),
                ),
                num_parallel_calls=2,
                deterministic=True,
            )
        )
        if self._mixed == 1:
            return dataset
        mixed = dataset.batch(self._mixed).map(
            lambda steps, rows: (steps, self._mix(steps, rows))
        )
        return mixed.unbatch().skip(skip - first)

    def _mix(self, steps, rows) -> tf.Tensor:
        """Shuffles the units of `[M]` draws and deals them to M batches."""
        size = self._mixed * self._units_per_batch
        order = _permuted(
            tf.range(size, dtype=tf.int64),
            self._key(_MIX, steps[0], 0),
            tf.constant(size, tf.int64),
        )
        units = tf.gather(tf.reshape(rows, [size, self._images]), order)
        return tf.reshape(units, [self._mixed, self.batch_size])

    def batch(self, step: int) -> np.ndarray:
        """Returns the rows of batch `step`; for tests and inspection."""
        return next(iter(self.dataset(step).take(1)))[1].numpy()

    def _batch(self, step, pools, visits) -> tf.Tensor:
        draws = [
            self._draw(step, pools[i], visits[i]) for i in range(self._draws)
        ]
        return tf.ensure_shape(tf.concat(draws, 0), [self.batch_size])

    def _draw(self, step, pool, visit) -> tf.Tensor:
        """The rows of one draw from one pool."""
        wanted = self._units_per_draw
        starts = self._tensors["pool_starts"]
        start = starts[pool]
        size = starts[pool + 1] - start
        units, epoch = tf.cond(
            size >= wanted,
            lambda: self._walk(pool, start, size, visit),
            lambda: self._fill(pool, start, size, step),
        )
        units.set_shape([wanted])
        return self._rows_of(units, pool, epoch, step)

    def _walk(self, pool, start, size, visit):
        """P units of a pool that is large enough."""
        wanted = self._units_per_draw
        batches = (size + wanted - 1) // wanted
        epoch, index = visit // batches, visit % batches
        positions = (index * wanted + tf.range(wanted, dtype=tf.int64)) % size
        order = _permuted(positions, self._key(_UNITS, pool, epoch), size)
        return tf.gather(self._tensors["pool_units"], start + order), epoch

    def _fill(self, pool, start, size, step):
        """The whole of a small category, and distinct units of others."""
        wanted = self._units_per_batch
        own = tf.gather(
            self._tensors["pool_units"], start + tf.range(size, dtype=tf.int64)
        )
        # Fewer than P of 2 P candidates are the category's own.
        candidates = _permuted(
            tf.range(min(self.units, 2 * wanted), dtype=tf.int64),
            self._key(_FILL, pool, step),
            tf.constant(self.units, tf.int64),
        )
        of_others = (
            tf.gather(self._tensors["unit_categories"], candidates) != pool - 1
        )
        others = tf.boolean_mask(candidates, of_others)
        # Negative: never an epoch number of a pool that is walked.
        return tf.concat([own, others[: wanted - size]], 0), -1 - step

    def _rows_of(self, units, pool, epoch, step) -> tf.Tensor:
        """Chooses the images of `[P]` units; `[P * K]` rows."""
        products = tf.gather(self._tensors["unit_products"], units)
        if len(self._rows) == 2:
            return self._rows_across(units, products, step)
        if self._pairs:
            # All pairs of one product in one epoch share its permutation.
            first = 2 * tf.gather(self._tensors["unit_pairs"], units)
            key = self._key(_IMAGES, pool, epoch)
        else:
            first = tf.zeros_like(products)
            key = self._key(_IMAGES, step, 0)
        rows = self._shuffled(0, products, first, self._images, key)
        return tf.reshape(rows, [-1])

    def _rows_across(self, units, products, step) -> tf.Tensor:
        """Images of both sides, those of side 0 at even places."""
        if self._pairs:
            starts, _ = self._slices(0, products)
            other_starts, others = self._slices(1, products)
            pair = tf.gather(self._tensors["unit_pairs"], units)
            sides = [
                tf.gather(self._tensors["rows"][0], starts + pair // others),
                tf.gather(
                    self._tensors["rows"][1], other_starts + pair % others
                ),
            ]
            return tf.reshape(tf.stack(sides, -1), [-1])
        first = tf.zeros_like(products)
        own = (self._images + 1) // 2
        sides = [
            self._shuffled(
                side, products, first, count, self._key(_IMAGES, step, side)
            )
            for side, count in ((0, own), (1, self._images - own))
        ]
        rows = tf.concat(sides, -1)
        # 0 2 1 for K = 3: queries and positives take turns.
        places = [i // 2 + own * (i % 2) for i in range(self._images)]
        return tf.reshape(tf.gather(rows, places, axis=-1), [-1])

    def _slices(self, side: int, products) -> tuple[tf.Tensor, tf.Tensor]:
        """Where `[n]` products' rows of a side begin, and how many."""
        starts = self._tensors["row_starts"][side]
        first = tf.gather(starts, products)
        return first, tf.gather(starts, products + 1) - first

    def _shuffled(self, side, products, first, count, key) -> tf.Tensor:
        """`[n, count]` rows of each product's permutation, from `first` on."""
        starts, sizes = self._slices(side, products)
        images = tf.range(count, dtype=tf.int64)
        positions = (first[:, None] + images) % sizes[:, None]
        keys = tf.bitwise.bitwise_xor(
            tf.repeat(key[None], tf.size(products), 0),
            _mix(tf.stack([products, products], -1)),
        )
        order = _permuted(
            tf.reshape(positions, [-1]),
            tf.repeat(keys, count, 0),
            tf.repeat(sizes, count),
        )
        rows = tf.gather(
            self._tensors["rows"][side], tf.repeat(starts, count) + order
        )
        return tf.reshape(rows, [-1, count])

    def _key(self, purpose: int, first, second) -> tf.Tensor:
        """A `[2]` permutation key of the seed and two numbers."""
        first, second = tf.cast(first, tf.int64), tf.cast(second, tf.int64)
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant([self._seed, purpose], tf.int64), first
        )
        seed = tf.random.experimental.stateless_fold_in(seed, second)
        return tf.random.stateless_uniform(
            [2], seed, minval=None, maxval=None, dtype=tf.int64
        )


def _mix(numbers: tf.Tensor) -> tf.Tensor:
    """Spreads neighboring `[..., 2]` int64 numbers over all 64 bits.

    Multiplication by odd constants (golden-ratio hashing, Knuth, TAOCP 6.4).
    """
    odd = tf.constant(
        [-7046029254386353131, -4417276706812531889],
        tf.int64,
    )
    mixed = (numbers + 1) * odd
    return tf.bitwise.bitwise_xor(
        mixed, tf.bitwise.right_shift(mixed, tf.constant(29, tf.int64))
    )


def _permuted(index: tf.Tensor, key: tf.Tensor, size) -> tf.Tensor:
    """Where `index` lands in the random permutation of `range(size)`.

    Args:
        index: `[n]` int64 below size.
        key: `[2]` or `[n, 2]` int64.
        size: scalar or `[n]` int64.
    """
    # The op takes 32-bit keys. The public `index_shuffle` pads a batch of
    # keys along the wrong axis in TF 2.15, so its op is called directly.
    key = tf.cast(tf.bitwise.bitwise_and(key, 0xFFFFFFFF), tf.uint32)
    padding = [[0, 0]] * (key.shape.rank - 1) + [[0, 1]]
    return tf.raw_ops.RandomIndexShuffle(
        index=index,
        seed=tf.pad(key, padding),
        max_index=tf.cast(size, tf.int64) - 1,
        rounds=4,
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}"
        )
