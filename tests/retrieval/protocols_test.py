"""Who queries whom."""

import re

import numpy as np
import pytest

from tf_triplet.retrieval import protocols

DOMAINS = np.array([1, 0, 1, 0, 1], np.int32)
NAMES = np.array(["shop", "street"], object)


def test_leave_one_out_excludes_each_at_its_own_position():
    protocol = protocols.leave_one_out(np.array([4, 2, 9]))
    np.testing.assert_array_equal(protocol.queries, [4, 2, 9])
    np.testing.assert_array_equal(
        protocol.gallery[protocol.exclude], protocol.queries
    )


def test_cross_domain_excludes_nobody():
    protocol = protocols.cross_domain(DOMAINS, NAMES, "street", "shop")
    np.testing.assert_array_equal(protocol.queries, [0, 2, 4])
    np.testing.assert_array_equal(protocol.gallery, [1, 3])
    np.testing.assert_array_equal(protocol.exclude, [-1, -1, -1])
    assert protocol.description == "street images query shop images"


def test_one_domain_is_leave_one_out_within_it():
    protocol = protocols.cross_domain(DOMAINS, NAMES, "street", "street")
    np.testing.assert_array_equal(protocol.gallery, [0, 2, 4])
    np.testing.assert_array_equal(
        protocol.gallery[protocol.exclude], protocol.queries
    )


@pytest.mark.parametrize(
    "query, gallery, argument",
    [
        ("web", "shop", "query_domain"),
        ("shop", "web", "gallery_domain"),
    ],
)
def test_an_unknown_domain_lists_the_known(query, gallery, argument):
    message = f"`{argument}` must be one of 'shop', 'street'. Received: 'web'"
    with pytest.raises(ValueError, match=re.escape(message)):
        protocols.cross_domain(DOMAINS, NAMES, query, gallery)


CATEGORIES = np.array([0, 1, 1, 1, 0], np.int32)


def build(*spec):
    return protocols.ProtocolSpec(*spec).apply(CATEGORIES, DOMAINS, NAMES)


def test_auto_follows_the_domains():
    (everyone,) = build()
    np.testing.assert_array_equal(everyone.queries, np.arange(5))
    (crossed,) = build("auto", "street", "shop")
    np.testing.assert_array_equal(crossed.gallery, [1, 3])


def test_within_category_one_domain_queries_its_own_kind():
    split = build("within_category", "street", "shop")
    # Images 0 and 4 find no shop image of category 0.
    assert [p.queries.tolist() for p in split] == [[0, 4], [2]]
    assert [p.gallery.tolist() for p in split] == [[], [1, 3]]
    assert [p.exclude.tolist() for p in split] == [[-1, -1], [-1]]
    assert split[0].description.endswith("within a category")


def test_within_category_without_domains_leaves_each_out_at_its_place():
    split = build("within_category")
    assert [p.queries.tolist() for p in split] == [[0, 4], [1, 2, 3]]
    for one in split:
        np.testing.assert_array_equal(one.gallery[one.exclude], one.queries)


@pytest.mark.parametrize(
    "name, domains, message",
    [
        ("nearest", ("", ""), "`protocol` must be one of auto, leave_one_out"),
        ("per_pair", ("", ""), "`protocol=per_pair` needs `query_domain`"),
        ("query_gallery", ("street", ""), "needs `query_domain` and"),
        ("leave_one_out", ("street", "shop"), "has no domains"),
        ("auto", ("street", ""), "go together. Received: 'street' and ''"),
        ("within_category", ("", "shop"), "go together. Received: '' and"),
    ],
)
def test_a_specification_needs_domains_that_fit(name, domains, message):
    with pytest.raises(ValueError, match=message):
        protocols.ProtocolSpec(name, *domains)
