"""Class-grouped minibatches of row numbers.

Batch t is a pure function of (seed, t): nothing is saved, and a run resumes
exactly at any step. Units (products, or pairs of one product's pictures) are
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
- *Pictures.* K of a product, without repetition unless it has fewer.

Reference: Dodds et al., 2018, https://arxiv.org/abs/1810.04652, section on
single-category minibatches; the exact rules for the ends are ours.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

# Steps whose pools are drawn at once, from one seeded generator.
_BLOCK = 4096
_SCHEDULE, _UNITS, _IMAGES, _FILL = range(4)


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


class GroupedSampler:
    """P products x K pictures, or P (query, positive) pairs, a minibatch.

    Attributes:
        batch_size: rows a batch; groups of K, or interleaved pairs (rows 2i
            and 2i + 1 are a query and its positive).
        units: products, or pairs an epoch brings.
        steps_per_epoch: batches in which pool 0 visits every unit.
        dropped_singletons: products left out for having one picture.
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
        seed: int = 0,
    ):
        """Groups the rows.

        Args:
            products: `[rows]` dense integer labels.
            categories: `[rows]` dense integer labels; a product belongs to
                the category of its first row.
            units: "products" or "pairs". Pairs are the floor(n / 2) disjoint
                pairs of a product's n pictures, made anew each epoch; an odd
                picture sits out that epoch.
            units_per_batch: P.
            images_per_product: K (products only).
            single_category_probability: of a batch from one category.
            small_category: "fill" or "exclude".
            singletons: "drop" products with one picture, or "keep" them as
                negatives (products only; their picture comes K times).
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
        self._pairs = units == "pairs"
        self._images = 2 if self._pairs else int(images_per_product)
        self._units_per_batch = int(units_per_batch)
        self._probability = float(single_category_probability)
        self._seed = int(seed)
        self.batch_size = self._units_per_batch * self._images
        self._group(np.asarray(products), np.asarray(categories), singletons)
        if self.units < self._units_per_batch:
            raise ValueError(
                f"`units_per_batch` is {self._units_per_batch} but there are "
                f"only {self.units} {units} to draw from "
                f"({self.dropped_singletons} products with one picture are "
                "left out). Lower it, or add products with two pictures."
            )
        sizes = self._pools.sizes[1:]
        least = 1 if small_category == "fill" else self._units_per_batch
        self._eligible = np.flatnonzero(sizes >= least)
        self._tensors = self._make_tensors()
        self.excluded_categories = np.flatnonzero((sizes > 0) & (sizes < least))
        self.steps_per_epoch = -(-self.units // self._units_per_batch)

    def _group(self, products, categories, singletons: str) -> None:
        """Builds rows by product, and units by pool."""
        if len(products) == 0:
            raise ValueError("There are no rows to sample from.")
        self._rows = _Groups.by_label(products, int(products.max()) + 1)
        counts = self._rows.sizes
        keep = counts >= (1 if singletons == "keep" and not self._pairs else 2)
        self.dropped_singletons = int(((counts > 0) & ~keep).sum())
        labels = np.flatnonzero(keep)
        first_rows = self._rows.members[self._rows.starts[labels]]
        repeats = counts[labels] // 2 if self._pairs else np.ones_like(labels)
        self._unit_products = np.repeat(labels, repeats)
        # Which pair of its product a unit is: 0, 1, … within the product.
        ends = np.cumsum(repeats)
        self._unit_pairs = np.arange(len(self._unit_products)) - np.repeat(
            ends - repeats, repeats
        )
        self.units = len(self._unit_products)
        unit_categories = np.repeat(categories[first_rows], repeats)
        by_category = _Groups.by_label(
            unit_categories, int(categories.max()) + 1
        )
        self._unit_categories = unit_categories
        self._pools = _Groups(
            np.concatenate([np.arange(self.units), by_category.members]),
            np.concatenate([[0], self.units + by_category.starts]),
        )

    def _make_tensors(self) -> dict[str, tf.Tensor]:
        """The tables, outside the graph: a constant there is copied often."""
        with tf.init_scope(), tf.device("cpu:0"):
            return {
                "rows": tf.constant(self._rows.members),
                "row_starts": tf.constant(self._rows.starts),
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

        0 is "all categories", c + 1 is category c.
        """
        random = np.random.Generator(
            np.random.Philox(key=[self._seed & (2**64 - 1), block])
        )
        single = random.random(_BLOCK) < self._probability
        if not len(self._eligible):
            return np.zeros(_BLOCK, np.int64)
        choice = self._eligible[random.integers(0, len(self._eligible), _BLOCK)]
        return np.where(single, choice + 1, 0).astype(np.int64)

    def _schedule(self, start_step: int):
        """Yields (steps, pools, visits) in blocks, from `start_step` on."""
        counts = np.zeros(len(self._pools.sizes), np.int64)
        first, skip = divmod(start_step, _BLOCK)
        for block in range(first):
            counts += np.bincount(self.pools(block), minlength=len(counts))
        block = first
        while True:
            pools = self.pools(block)
            visits = np.empty(_BLOCK, np.int64)
            for pool in np.unique(pools):
                at = np.flatnonzero(pools == pool)
                visits[at] = counts[pool] + np.arange(len(at))
                counts[pool] += len(at)
            steps = block * _BLOCK + np.arange(_BLOCK)
            yield steps[skip:], pools[skip:], visits[skip:]
            block, skip = block + 1, 0

    def dataset(self, start_step: int = 0) -> tf.data.Dataset:
        """Returns the endless dataset of (step, `[batch_size]` int64 rows)."""
        if start_step < 0:
            raise ValueError(
                f"`start_step` must be at least 0. Received: {start_step}"
            )
        block = tf.TensorSpec([None], tf.int64)
        return (
            tf.data.Dataset.from_generator(
                lambda: self._schedule(start_step),
                output_signature=(block, block, block),
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

    def batch(self, step: int) -> np.ndarray:
        """Returns the rows of batch `step`; for tests and inspection."""
        return next(iter(self.dataset(step).take(1)))[1].numpy()

    def _batch(self, step, pool, visit) -> tf.Tensor:
        wanted = self._units_per_batch
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
        wanted = self._units_per_batch
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
        """Chooses the pictures of `[P]` units; `[P * K]` rows."""
        products = tf.gather(self._tensors["unit_products"], units)
        starts = tf.gather(self._tensors["row_starts"], products)
        sizes = tf.gather(self._tensors["row_starts"], products + 1) - starts
        if self._pairs:
            # All pairs of one product in one epoch share its permutation.
            first = 2 * tf.gather(self._tensors["unit_pairs"], units)
            key = self._key(_IMAGES, pool, epoch)
        else:
            first = tf.zeros_like(products)
            key = self._key(_IMAGES, step, 0)
        images = tf.range(self._images, dtype=tf.int64)
        positions = (first[:, None] + images) % sizes[:, None]
        keys = tf.bitwise.bitwise_xor(
            tf.repeat(key[None], tf.size(products), 0),
            _mix(tf.stack([products, products], -1)),
        )
        order = _permuted(
            tf.reshape(positions, [-1]),
            tf.repeat(keys, self._images, 0),
            tf.repeat(sizes, self._images),
        )
        rows = tf.repeat(starts, self._images) + order
        return tf.ensure_shape(
            tf.gather(self._tensors["rows"], rows), [self.batch_size]
        )

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
    """Spreads neighbouring `[..., 2]` int64 numbers over all 64 bits.

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
