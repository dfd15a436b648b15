"""Batches of row numbers: what every batch holds, and exact restarts."""

import numpy as np
import pytest

from tf_triplet.data.sampling import GroupedSampler


def table(seed=0, products=60, categories=4):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(products), random.integers(1, 9, products))
    category = random.integers(0, categories, products)
    category[:3] = categories  # A category smaller than a batch.
    order = random.permutation(len(labels))
    return labels[order], category[labels][order]


def take(sampler, count, start=0):
    return [r.numpy() for _, r in sampler.dataset(start).take(count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("probability", [0.0, 0.8, 1.0])
def test_a_batch_is_p_distinct_products_of_k_rows(seed, probability):
    products, categories = table(seed)
    counts = np.bincount(products)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=8,
        images_per_product=3,
        single_category_probability=probability,
        seed=seed,
    )
    for rows in take(sampler, 60):
        groups = rows.reshape(8, 3)
        assert (products[groups] == products[groups][:, :1]).all()
        assert len(set(products[groups][:, 0])) == 8
        for group in groups:
            n = counts[products[group[0]]]
            assert n >= 2 and len(set(group)) == min(n, 3)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_disjoint_within_an_epoch_and_every_pair_comes(seed):
    products, categories = table(seed)
    counts = np.bincount(products)
    sampler = GroupedSampler(
        products, categories, units="pairs", units_per_batch=7, seed=seed
    )
    assert sampler.units == (counts // 2).sum()
    epoch = take(sampler, sampler.steps_per_epoch)
    rows = np.concatenate(epoch)[: 2 * sampler.units]
    assert len(set(rows)) == len(rows)
    pairs = products[rows].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    for batch in epoch:
        assert len(set(batch)) == len(batch)


@pytest.mark.parametrize("seed", range(3))
def test_every_product_is_visited_in_every_epoch(seed):
    products, categories = table(seed)
    sampler = GroupedSampler(products, categories, units_per_batch=8, seed=seed)
    wanted = set(np.flatnonzero(np.bincount(products) >= 2))
    steps = sampler.steps_per_epoch
    for epoch in range(3):
        batches = take(sampler, steps, epoch * steps)
        assert set(products[np.concatenate(batches)]) == wanted


@pytest.mark.parametrize("units", ["products", "pairs"])
@pytest.mark.parametrize("start", [1, 37, 4095, 4097])
def test_restart_at_a_step_gives_the_same_rows(units, start):
    products, categories = table()
    sampler = GroupedSampler(
        products,
        categories,
        units=units,
        units_per_batch=8,
        single_category_probability=0.8,
    )
    whole = take(sampler, start + 5)
    np.testing.assert_array_equal(take(sampler, 5, start), whole[start:])


def test_single_categories_come_uniformly_with_their_probability():
    # Category 0 holds most products, and must not come more often.
    categories = np.repeat([0, 1, 2], [120, 20, 20]).repeat(2)
    products = np.arange(160).repeat(2)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=16,
        images_per_product=2,
        single_category_probability=0.8,
    )
    drawn = np.zeros(4)
    for rows in take(sampler, 600):
        held = set(categories[rows])
        drawn[held.pop() if len(held) == 1 else 3] += 1
    # Four standard deviations of a binomial of 600 draws.
    np.testing.assert_allclose(drawn[:3] / 600, 0.8 / 3, atol=0.073)
    np.testing.assert_allclose(drawn[3] / 600, 0.2, atol=0.066)


def test_small_category_is_filled_with_distinct_products_of_others():
    categories = np.repeat([0, 1], [3, 40]).repeat(2)
    products = np.arange(43).repeat(2)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=8,
        images_per_product=2,
        single_category_probability=1.0,
    )
    filled = 0
    for rows in take(sampler, 40):
        assert len(set(rows)) == 16
        if (categories[rows] == 0).any():
            filled += 1
            assert set(products[rows][categories[rows] == 0]) == {0, 1, 2}
    assert filled > 0


def test_small_category_can_be_excluded():
    categories = np.repeat([0, 1], [3, 40]).repeat(2)
    products = np.arange(43).repeat(2)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=8,
        images_per_product=2,
        single_category_probability=1.0,
        small_category="exclude",
    )
    np.testing.assert_array_equal(sampler.excluded_categories, [0])
    for rows in take(sampler, 20):
        assert (categories[rows] == 1).all()


def test_all_orders_of_pictures_come_about_equally():
    sampler = GroupedSampler(
        np.arange(40).repeat(3),
        np.zeros(120, int),
        units_per_batch=40,
        images_per_product=3,
    )
    orders = np.concatenate(take(sampler, 100)).reshape(-1, 3) % 3
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    # 4000 draws of 1/6: five standard deviations.
    np.testing.assert_allclose(counts, 4000 / 6, atol=118)


def test_singletons_are_dropped_and_counted_or_kept():
    products = np.array([0, 0, 1, 2, 2])
    arguments = dict(units_per_batch=2, images_per_product=2)
    dropped = GroupedSampler(products, np.zeros(5, int), **arguments)
    assert dropped.dropped_singletons == 1 and dropped.units == 2
    arguments["units_per_batch"] = 3
    kept = GroupedSampler(
        products, np.zeros(5, int), singletons="keep", **arguments
    )
    assert sorted(set(kept.batch(0))) == [0, 1, 2, 3, 4]


def test_a_batch_wider_than_the_products_says_so():
    with pytest.raises(ValueError, match="is 64 but there are only 3 prod"):
        GroupedSampler(
            np.arange(3).repeat(2), np.zeros(6, int), units_per_batch=64
        )
