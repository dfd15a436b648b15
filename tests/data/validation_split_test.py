"""Which training products become validation products."""

import numpy as np
import pytest

from tf_triplet.data import ids
from tf_triplet.data.validation_split import choose_validation


def names(count):
    return [f"p{i}" for i in range(count)]


@pytest.mark.parametrize(
    "count,fraction,taken",
    [
        (1000, 0.1, 100),
        (1000, 0.15, 150),
        (200, 0.1, 20),
        (120, 0.1, 20),  # At least 20,
        (60, 0.1, 15),  # but never over a quarter.
        (20, 0.1, 5),
        (19, 0.1, 0),  # A quarter is under 5.
        (0, 0.1, 0),
    ],
)
def test_how_many_are_taken(count, fraction, taken):
    assert len(choose_validation(names(count), fraction, 1)) == taken


@pytest.mark.parametrize("needed,taken", [(85, 15), (90, 10), (95, 5), (96, 0)])
def test_a_minibatch_remains(needed, taken):
    chosen = choose_validation(names(100), 0.1, needed)
    assert len(chosen) == taken


def test_a_minibatch_of_pairs_remains():
    units = np.full(100, 3)
    # 300 pairs, and each product that is taken brings three of them.
    assert len(choose_validation(names(100), 0.1, 270, units=units)) == 10


def test_they_have_the_smallest_hash():
    chosen = choose_validation(names(400), 0.1, 1)
    hashes = ids.stable_hash(names(400), "validation")
    assert set(chosen) == set(np.argsort(hashes)[:40])


def test_order_and_other_products_do_not_matter():
    chosen = choose_validation(names(400), 0.1, 1)
    turned = choose_validation(names(400)[::-1], 0.1, 1)
    assert set(turned) == {399 - i for i in chosen}
    more = choose_validation([*names(400), "new"], 0.1, 1)
    assert len(set(more) & set(chosen)) >= 39


def test_excluded_products_are_never_taken():
    first = choose_validation(names(400), 0.1, 1)
    exclude = {f"p{i}" for i in first}
    second = choose_validation(names(400), 0.1, 1, exclude)
    assert len(second) == 40 and not set(second) & set(first)
    # Where too few others are left, none is taken.
    assert not len(choose_validation(names(400), 0.1, 1, names(396)))
    assert len(choose_validation(names(400), 0.1, 1, names(395))) == 5


def test_an_excluded_number_is_known_as_text():
    column = [*(f"{i:03}" for i in range(100)), "A"]
    chosen = choose_validation(
        column, 0.1, 1, exclude=list(map(str, range(90)))
    )
    assert len(chosen) >= 5 and min(chosen) >= 90


def test_products_without_a_second_image_are_not_taken():
    units = np.ones(100, np.int64)
    units[::2] = 0
    chosen = choose_validation(names(100), 0.1, 1, units=units)
    # A quarter of the 50 that can be trained on.
    assert len(chosen) == 12 and (units[chosen] > 0).all()
