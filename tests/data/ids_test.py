"""Product ids as text, and their hash."""

import hashlib

import numpy as np
import pytest

from tf_triplet.data import ids


@pytest.mark.parametrize(
    "values,wanted",
    [
        ([" P1", "P1\t", "p1"], ["P1", "P1", "p1"]),
        # Composed and decomposed, as two systems write the same letter.
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9", "caf\u00e9"]),
        (["007", "12.0", " 3 "], ["7", "12", "3"]),
        (np.array([7, -12]), ["7", "-12"]),
        (np.array([7.0, 1e22]), ["7", "1" + "0" * 22]),
        ([7, "007", 7.0], ["7", "7", "7"]),
        (["000", "-0.0"], ["0", "0"]),
        (["0" * 9 + "9" * 25], ["9" * 25]),
        # One id that is no whole number makes the column text.
        (["007", "12.0", "A1"], ["007", "12.0", "A1"]),
        (["007", "12.5"], ["007", "12.5"]),
        (["007", "+7"], ["007", "+7"]),
        (["007", "1e3"], ["007", "1e3"]),
        (["007", "\u0667"], ["007", "\u0667"]),
        ([], []),
    ],
)
def test_ids_are_written_in_one_way(values, wanted):
    found = ids.normalize_ids(values)
    assert found.tolist() == wanted
    assert found.dtype == object
    assert ids.normalize_ids(found).tolist() == wanted


def test_the_hash_is_the_head_of_a_sha256():
    digest = hashlib.sha256(b"split-3:bag").digest()
    wanted = int.from_bytes(digest[:8], "big") / 2**64
    found = ids.stable_hash(["bag"], "split-3")
    assert found[0] == pytest.approx(wanted, rel=1e-15)


def test_the_hash_depends_on_salt_and_id_alone():
    names = [f"p{i}" for i in range(2000)]
    found = ids.stable_hash(names, "a")
    np.testing.assert_array_equal(
        found[::-1], ids.stable_hash(names[::-1], "a")
    )
    other = ids.stable_hash(names, "b")
    assert abs(np.corrcoef(found, other)[0, 1]) < 0.1
    assert found.min() >= 0 and found.max() < 1
    # Evenly spread: the standard deviation of a tenth's share is 0.7 %.
    shares = np.histogram(found, 10, (0, 1))[0] / 2000
    assert np.abs(shares - 0.1).max() < 0.03


def test_a_number_keeps_its_hash_when_its_column_becomes_text():
    numbers = ids.normalize_ids(["007", "0042"])
    text = ids.normalize_ids(["007", "0042", "A1"])
    np.testing.assert_array_equal(
        ids.stable_hash(numbers, "s"), ids.stable_hash(text, "s")[:2]
    )


def test_ids_of_two_tables_are_compared_as_numbers_where_that_is_safe():
    assert ids.comparable_ids(["7"], ["007", "A"]) == [["7"], ["7", "A"]]
    # 7 and 007 are two products of one table.
    unsafe = [["7"], ["007", "7", "A"]]
    assert ids.comparable_ids(*unsafe) == unsafe
