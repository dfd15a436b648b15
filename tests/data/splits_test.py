"""Which products are held out where the table does not say."""

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data import ids
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import splits


def catalog(products, column="product_id"):
    frame = pd.DataFrame({column: np.repeat(products, 2)})
    frame["path"] = [f"{i}.jpg" for i in range(len(frame))]
    return Catalog.from_frame(frame, "shop")


def held_out(products, fraction=0.5, seed=0):
    split = splits.with_split(catalog(products), fraction, seed)
    return set(split.split("test").product_ids)


NAMES = [f"P{i:03}" for i in range(400)]


def test_the_hash_alone_decides():
    hashes = ids.stable_hash(NAMES, "split-7")
    wanted = {n for n, value in zip(NAMES, hashes) if value < 0.3}
    assert held_out(NAMES, 0.3, seed=7) == wanted


def test_a_product_never_changes_sides():
    before = held_out(NAMES[1:])
    for others in (NAMES, NAMES[1:200], [*NAMES[1:], *map(str, range(300))]):
        assert held_out(others) & set(NAMES[1:]) == before & set(others)


def test_a_number_never_changes_sides_however_it_is_written():
    numbers = list(range(1, 60))
    tested = {str(i) for i in held_out(numbers)}
    zeros = held_out([f"{i:05}" for i in numbers])
    assert {name.lstrip("0") for name in zeros} == tested
    decimals = held_out([f"{i}.0" for i in numbers])
    assert {name.removesuffix(".0") for name in decimals} == tested
    # One id that is no number makes the column text.
    text = held_out([*(f"{i:05}" for i in numbers), "A1"]) - {"A1"}
    assert {name.lstrip("0") for name in text} == tested


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_shares_hold_in_expectation(fraction):
    shares = [len(held_out(NAMES, fraction, seed)) / 400 for seed in range(30)]
    # The standard deviation of one share is at most 2.5 %.
    assert np.mean(shares) == pytest.approx(fraction, abs=0.02)
    assert len(set(shares)) > 1


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_side_that_would_be_empty_gets_the_nearest_hash(fraction):
    names = NAMES[:20]
    order = [names[i] for i in np.argsort(ids.stable_hash(names, "split-0"))]
    tested = held_out(names, fraction)
    assert tested == ({order[0]} if fraction < 0.5 else set(order[:-1]))


def test_the_draw_of_earlier_versions_is_kept():
    split = splits.with_split(catalog(NAMES[:8]), 0.5, 3, draw="permutation")
    # As the versions before the draw by hash drew them.
    tested = ["P001", "P003", "P005", "P006"]
    assert split.split("test").product_ids.tolist() == tested


def test_an_unknown_draw_is_named():
    with pytest.raises(ValueError, match="one of hash, permutation.*'coin'"):
        splits.with_split(catalog(NAMES), 0.5, 0, draw="coin")


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_a_permutation_holds_out_a_share_of_each_category(fraction):
    categories = np.repeat([0, 1, 2], [100, 60, 7])
    products = np.repeat(np.arange(167), 3)
    found = splits.draw_by_permutation(
        products, np.repeat(categories, 3), fraction, seed=3
    )
    assert found.sum() == int(167 * fraction + 1e-9)
    for category in range(3):
        share = found[categories == category]
        assert abs(share.sum() - fraction * len(share)) <= 1


def test_a_permutation_depends_on_the_seed_and_not_on_the_order_of_rows():
    products = np.repeat(np.arange(40), 2)
    categories = products % 3
    order = np.random.default_rng(0).permutation(80)
    found = splits.draw_by_permutation(products, categories, 0.5, seed=1)

    np.testing.assert_array_equal(
        splits.draw_by_permutation(
            products[order], categories[order], 0.5, seed=1
        ),
        found,
    )
    other = splits.draw_by_permutation(products, categories, 0.5, seed=2)
    assert (found != other).any()


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_permutation_of_two_gives_one_to_each_side(fraction):
    found = splits.draw_by_permutation(
        np.array([0, 1]), np.array([0, 0]), fraction, seed=0
    )
    assert sorted(found) == [False, True]


@pytest.mark.parametrize("draw", splits.DRAWS)
@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_the_fraction_is_checked(draw, fraction):
    with pytest.raises(ValueError, match=f"Received: {fraction}"):
        splits.with_split(catalog(NAMES[:3]), fraction, 0, draw)
