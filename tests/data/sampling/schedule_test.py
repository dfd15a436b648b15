"""The schedule: units, pools, and which pool each step draws from."""

import itertools
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from tf_triplet.data.sampling import schedule


def build(eligible, probability=0.0, draws=1, seed=3):
    return schedule.Schedule(
        pool_count=max(eligible) + 2,
        eligible=np.asarray(eligible),
        probability=probability,
        draws=draws,
        seed=seed,
    )


def first_blocks(plan, start, count):
    """Steps, pools and visits of `count` blocks, each concatenated."""
    blocks = itertools.islice(plan.blocks(start), count)
    return [np.concatenate(column) for column in zip(*blocks)]


@pytest.mark.parametrize("probability", [0.5, 0.8, 1.0])
def test_eligible_categories_are_drawn_uniformly(probability):
    plan = build([0, 1, 3, 4, 6], probability)
    _, pools, _ = first_blocks(plan, 0, 3)
    counts = np.bincount(pools[:10_000, 0], minlength=8)
    expected = np.zeros(8)
    expected[0] = 1 - probability
    expected[[1, 2, 4, 5, 7]] = probability / 5
    assert (counts[expected == 0] == 0).all()
    drawn = expected > 0
    test = scipy.stats.chisquare(counts[drawn], expected[drawn] * 10_000)
    assert test.pvalue > 0.01


def test_several_categories_of_a_step_are_distinct_and_uniform():
    plan = build(range(6), draws=3)
    _, pools, _ = first_blocks(plan, 0, 3)
    assert (np.diff(np.sort(pools, 1), axis=1) > 0).all()
    counts = np.bincount(pools[:10_000].reshape(-1))[1:]
    # Draws without replacement vary less than chi-square assumes.
    assert scipy.stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("draws", [1, 2])
def test_a_visit_counts_the_earlier_draws_from_the_pool(draws):
    steps, pools, visits = first_blocks(build([0, 2, 3], 0.6, draws), 0, 2)
    assert steps.tolist() == list(range(2 * schedule.BLOCK))
    earlier = Counter()
    for pool, visit in zip(pools.reshape(-1), visits.reshape(-1)):
        assert visit == earlier[pool]
        earlier[pool] += 1


@pytest.mark.parametrize("start", [1, 4095, 4096, 5000])
def test_the_schedule_can_start_at_any_step(start):
    plan = build([0, 2, 3], 0.6)
    whole = first_blocks(plan, 0, 3)
    rest = first_blocks(plan, start, 1)
    for column, wanted in zip(rest, whole):
        np.testing.assert_array_equal(
            column, wanted[start : start + len(column)]
        )


@pytest.mark.parametrize(
    "draw,shares",
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("proportional", [0.9, 0.09, 0.01]),
        ("square_root", [30 / 41, 10 / 41, 1 / 41]),
    ],
)
@pytest.mark.parametrize("draws", [1, 2])
def test_chances_follow_the_size_of_a_category(draw, shares, draws):
    sizes = np.array([900, 90, 10])
    if draw == "square_root":
        sizes = np.array([900, 100, 1])
    plan = schedule.Schedule(
        *(6, np.array([0, 2, 4]), 1.0, draws, 5),
        schedule.category_chances(sizes, draw),
    )
    first = plan.pools(0).reshape(schedule.BLOCK, draws)[:, 0]
    counts = np.bincount(first, minlength=6)[[1, 3, 5]]
    assert counts.sum() == schedule.BLOCK
    if draws == 1:
        expected = np.array(shares) * schedule.BLOCK
        assert scipy.stats.chisquare(counts, expected).pvalue > 0.01
    else:  # Both of a step are distinct, so that shares are less uneven.
        np.testing.assert_array_less(0, np.abs(np.diff(plan.pools(0))))
        assert (np.diff(counts) <= 0.05 * schedule.BLOCK).all()


def test_without_an_eligible_category_all_steps_draw_from_pool_0():
    plan = schedule.Schedule(4, np.array([], int), 1.0, 1, 0)
    assert (plan.pools(0) == 0).all()


PRODUCTS = np.array([1, 0, 1, 3, 1, 0, 1, 1])
CATEGORIES = np.array([5, 2, 6, 2, 5, 2, 5, 5])


def units_of(pairs=False, keep_singletons=False, sides=None):
    rows = schedule.group_rows(PRODUCTS, sides)
    return schedule.build_units(
        PRODUCTS, CATEGORIES, rows, pairs, keep_singletons
    )


def test_units_are_products_with_the_category_of_their_first_row():
    units = units_of()
    assert units.products.tolist() == [0, 1]
    assert units.categories.tolist() == [2, 5]
    assert units.dropped_products == 1
    kept = units_of(keep_singletons=True)
    assert kept.products.tolist() == [0, 1, 3]
    assert kept.dropped_products == 0


def test_units_are_disjoint_pairs():
    units = units_of(pairs=True, keep_singletons=True)
    # Two images make one pair, five make two, and one makes none.
    assert units.products.tolist() == [0, 1, 1]
    assert units.pairs.tolist() == [0, 0, 1]
    assert units.dropped_products == 1


def test_units_are_all_pairs_of_both_sides():
    sides = np.array([0, 1, 0, 0, 1, 1, 1, 1])
    units = units_of(pairs=True, sides=sides)
    # Product 1 has two images of side 0 and three of side 1.
    assert units.products.tolist() == [1] * 6
    assert units.pairs.tolist() == list(range(6))
    assert units.dropped_products == 2


def test_rows_of_each_side_keep_their_place_in_the_table():
    sides = np.array([0, 1, 0, 0, 1, 1, 1, 1])
    for side, rows in enumerate(schedule.group_rows(PRODUCTS, sides)):
        for product in range(4):
            own = rows.members[rows.starts[product] : rows.starts[product + 1]]
            wanted = np.flatnonzero((sides == side) & (PRODUCTS == product))
            assert own.tolist() == wanted.tolist()


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows to sample from.*Received"):
        schedule.group_rows(np.array([], int))


def members(pools):
    groups = pools.units
    return [
        groups.members[start:end].tolist()
        for start, end in itertools.pairwise(groups.starts)
    ]


@pytest.mark.parametrize(
    "fill,several,eligible,excluded,pools",
    [
        (True, False, [0, 1, 3], [], [[0, 2, 5], [1], [], [3, 4]]),
        (False, False, [0, 3], [1], [[0, 2, 5], [1], [], [3, 4]]),
        (False, True, [0, 3], [1], [[0, 2, 5], [1], [], [3, 4]]),
        # One unit alone is too few, even in a pool of small categories.
        (True, True, [0, 3], [4], [[0, 2, 5], [], [], [3, 4], [1]]),
    ],
)
def test_pools_of_small_categories(fill, several, eligible, excluded, pools):
    categories = np.array([0, 1, 0, 3, 3, 0])
    got = schedule.build_pools(categories, 4, 2, fill, several)
    assert members(got) == [[0, 1, 2, 3, 4, 5], *pools]
    assert got.eligible.tolist() == eligible
    assert got.excluded.tolist() == excluded


def test_small_categories_together_can_be_drawn():
    categories = np.array([0, 0, 0, 1, 2, 2, 4])
    got = schedule.build_pools(categories, 5, 3, fill=True, several=True)
    assert members(got)[6] == [3, 4, 5, 6]
    assert got.eligible.tolist() == [0, 5]
    assert not len(got.excluded)


def test_every_seed_draws_its_own_pools():
    seeds = [-(2**63), -5_000, -2, -1, 0, 1, 2**63 - 1]
    drawn = {build(range(6), 1.0, seed=s).pools(0).tobytes() for s in seeds}
    assert len(drawn) == len(seeds)
    # The pools that earlier versions drew.
    first = build(range(6), 1.0, seed=5).pools(0)[:8]
    assert first.tolist() == [1, 4, 6, 4, 5, 1, 5, 5]
