"""Batches of row numbers: what every batch holds, and exact restarts."""

import re

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


@pytest.mark.parametrize(
    ("units", "start"),
    [("products", 1), ("pairs", 37), ("products", 4095), ("pairs", 4097)],
)
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
        category_draw="uniform",
    )
    drawn = np.zeros(4)
    for rows in take(sampler, 600):
        held = set(categories[rows])
        drawn[held.pop() if len(held) == 1 else 3] += 1
    # Four standard deviations of a binomial of 600 draws.
    np.testing.assert_allclose(drawn[:3] / 600, 0.8 / 3, atol=0.073)
    np.testing.assert_allclose(drawn[3] / 600, 0.2, atol=0.066)


def test_products_of_a_small_category_come_little_more_often():
    # One category of 900 products, and thirty of three.
    products = np.arange(990).repeat(2)
    categories = np.repeat([0, *range(1, 31)], [900] + [3] * 30).repeat(2)
    shares = {}
    for draw in ("square_root", "uniform"):
        sampler = GroupedSampler(
            products,
            categories,
            units_per_batch=32,
            images_per_product=2,
            single_category_probability=0.8,
            category_draw=draw,
        )
        counts = np.zeros(990)
        for rows in take(sampler, 300):
            counts += np.bincount(products[rows[::2]], minlength=990)
        shares[draw] = counts[900:].mean() / counts[:900].mean()
    assert 0.7 < shares["square_root"] < 1.5 < shares["uniform"]


def single_categories(**arguments):
    """Products, categories and a sampler; category 0 is a small one."""
    categories = np.repeat([0, 1], [3, 40]).repeat(2)
    products = np.arange(43).repeat(2)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=8,
        images_per_product=2,
        single_category_probability=1.0,
        **arguments,
    )
    return products, categories, sampler


def test_small_category_is_filled_with_distinct_products_of_others():
    products, categories, sampler = single_categories()
    filled = 0
    for rows in take(sampler, 40):
        assert len(set(rows)) == 16
        if (categories[rows] == 0).any():
            filled += 1
            assert set(products[rows][categories[rows] == 0]) == {0, 1, 2}
    assert filled > 0


def test_small_category_can_be_excluded():
    _, categories, sampler = single_categories(small_category="exclude")
    np.testing.assert_array_equal(sampler.excluded_categories, [0])
    for rows in take(sampler, 20):
        assert (categories[rows] == 1).all()


def test_all_orders_of_images_come_about_equally():
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


def test_too_few_products_are_an_error():
    with pytest.raises(ValueError, match="is 64 but there are only 3 prod"):
        GroupedSampler(
            np.arange(3).repeat(2), np.zeros(6, int), units_per_batch=64
        )


@pytest.mark.parametrize("units", ["products", "pairs"])
@pytest.mark.parametrize("products", [2, 3, 7, 30])
@pytest.mark.parametrize("several", [0, 2])
def test_the_advice_for_too_few_products_is_valid(units, products, several):
    labels, categories = np.arange(products).repeat(2), np.zeros(2 * products)
    categories[:6] = 1
    arguments = dict(units=units, categories_per_batch=several)
    if several and products == 3:
        categories[:2] = 0
    table = (labels, categories.astype(int) if products > 2 else labels)
    with pytest.raises(ValueError, match="is 64 but there are only") as error:
        GroupedSampler(*table, units_per_batch=64, **arguments)
    advice = re.search(r"sampling.units_per_batch=(\d+)\)", str(error.value))
    sampler = GroupedSampler(
        *table, units_per_batch=int(advice[1]), **arguments
    )
    # Batches of two products have negatives.
    assert len(np.unique(labels[sampler.batch(0)])) >= 2


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 1], [0, 1, 2]])
def test_fewer_than_two_products_are_an_error(labels):
    with pytest.raises(ValueError, match="at least two products. Received: "):
        GroupedSampler(
            np.array(labels), np.zeros(len(labels), int), units_per_batch=1
        )


def test_images_are_those_that_are_ever_drawn():
    products = np.array([0, 0, 0, 1, 2, 2])
    sampler = GroupedSampler(products, np.zeros(6, int), units_per_batch=2)
    assert sampler.images == 5
    sides = np.array([0, 1, 1, 0, 0, 1])
    sampler = GroupedSampler(
        products, np.zeros(6, int), units_per_batch=2, sides=sides
    )
    assert sampler.images == 5


@pytest.mark.parametrize("probability", [0.5, 0.8, 1.0])
def test_a_batch_holds_units_of_the_pool_of_its_step(probability):
    products, categories = table(1, products=200, categories=6)
    sampler = GroupedSampler(
        products,
        categories,
        units="pairs",
        units_per_batch=8,
        single_category_probability=probability,
        seed=3,
    )
    pools = sampler.pools(0)
    assert set(pools) == set(range(0 if probability < 1 else 1, 8))
    for step, rows in enumerate(take(sampler, 50)):
        if pools[step]:
            own = rows[categories[rows] == pools[step] - 1]
            pairs = np.bincount(products[categories == pools[step] - 1]) // 2
            assert len(own) == 2 * min(8, pairs.sum())


def test_batches_of_several_categories():
    products, categories = table(2, products=120, categories=5)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=12,
        images_per_product=2,
        categories_per_batch=3,
        small_category="exclude",
        seed=5,
    )
    np.testing.assert_array_equal(sampler.excluded_categories, [5])
    pools = sampler.pools(0)
    for step, rows in enumerate(take(sampler, 60)):
        assert len(set(rows)) == 24
        counts = np.bincount(categories[rows], minlength=6)
        assert sorted(counts) == [0, 0, 0, 8, 8, 8]
        assert set(categories[rows]) == set(pools[step] - 1)
        assert len(set(products[rows])) == 12


def test_small_categories_share_a_pool_and_all_products_come():
    sizes = [20, 20, 1, 2, 2]
    categories = np.repeat(range(5), sizes).repeat(2)
    products = np.arange(45).repeat(2)
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=8,
        images_per_product=2,
        categories_per_batch=2,
    )
    assert not len(sampler.excluded_categories)
    seen = set()
    for rows in take(sampler, 60):
        assert len(set(rows)) == 16
        seen |= set(products[rows])
    assert seen == set(range(45))


def test_mixed_draws_deal_the_same_pairs_to_other_batches():
    products, categories = table(4, products=200, categories=5)
    arguments = dict(
        units="pairs",
        units_per_batch=8,
        single_category_probability=1.0,
        small_category="exclude",
        seed=9,
    )
    exact = GroupedSampler(products, categories, **arguments)
    mixed = GroupedSampler(products, categories, mixed_draws=3, **arguments)
    plain, dealt = take(exact, 30), take(mixed, 30)
    kinds = 0
    for start in range(0, 30, 3):
        before = np.concatenate(plain[start : start + 3]).reshape(-1, 2)
        after = np.concatenate(dealt[start : start + 3]).reshape(-1, 2)
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
        kinds += sum(
            len(set(categories[rows])) > 1 for rows in dealt[start : start + 3]
        )
    assert kinds > 15
    assert all(len(set(categories[rows])) == 1 for rows in plain)
    for start in (1, 2, 3, 16):
        again = take(mixed, 3, start)
        np.testing.assert_array_equal(again, dealt[start : start + 3])


def two_domains(seed=0):
    random = np.random.default_rng(seed)
    street, shop = random.integers(0, 4, 40), random.integers(0, 4, 40)
    products = np.concatenate(
        [np.repeat(range(40), street), np.repeat(range(40), shop)]
    )
    sides = np.repeat([0, 1], [street.sum(), shop.sum()])
    order = random.permutation(len(products))
    return products[order], products[order] % 3, sides[order]


@pytest.mark.parametrize("seed", range(3))
def test_every_street_image_meets_every_shop_image_once(seed):
    products, categories, sides = two_domains(seed)
    sampler = GroupedSampler(
        products,
        categories,
        units="pairs",
        units_per_batch=7,
        sides=sides,
        seed=seed,
    )
    want = {
        (i, j)
        for i in np.flatnonzero(sides == 0)
        for j in np.flatnonzero(sides == 1)
        if products[i] == products[j]
    }
    assert sampler.units == len(want)
    rows = np.concatenate(take(sampler, sampler.steps_per_epoch))
    pairs = rows.reshape(-1, 2)[: sampler.units]
    assert sorted(map(tuple, pairs)) == sorted(want)
    one_sided = [
        set(sides[products == p]) != {0, 1} for p in np.unique(products)
    ]
    assert sampler.dropped_singletons == sum(one_sided) > 0


@pytest.mark.parametrize("images", [2, 3, 4])
def test_images_of_both_sides_take_turns(images):
    products, categories, sides = two_domains()
    sampler = GroupedSampler(
        products,
        categories,
        units_per_batch=6,
        images_per_product=images,
        sides=sides,
    )
    seen = set()
    for rows in take(sampler, 150):
        groups = rows.reshape(6, images)
        assert (products[groups] == products[groups][:, :1]).all()
        assert len(set(products[groups][:, 0])) == 6
        np.testing.assert_array_equal(
            sides[groups], np.tile(np.arange(images) % 2, (6, 1))
        )
        seen |= set(rows)
    both = [p for p in range(40) if set(sides[products == p]) == {0, 1}]
    assert seen == set(np.flatnonzero(np.isin(products, both)))


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"categories_per_batch": 3}, "must divide `units_per_batch`, 8"),
        ({"categories_per_batch": 8}, "only 5 categories have 1 products"),
        ({"mixed_draws": 0}, "`mixed_draws` must be at least 1"),
        ({"mixed_draws": 2, "categories_per_batch": 2}, "and 1 with several"),
        ({"sides": [0, 1]}, "`sides` must hold 0 or 1 for each of"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    products, categories = table()
    with pytest.raises(ValueError, match=message):
        GroupedSampler(products, categories, units_per_batch=8, **arguments)
