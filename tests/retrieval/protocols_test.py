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
    assert protocol.description == "street pictures query shop pictures"


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


def test_choose_by_the_names_given():
    everyone = protocols.choose(DOMAINS, NAMES)
    np.testing.assert_array_equal(everyone.queries, np.arange(5))
    crossed = protocols.choose(DOMAINS, NAMES, "street", "shop")
    np.testing.assert_array_equal(crossed.gallery, [1, 3])
    with pytest.raises(ValueError, match="Received: 'street' and ''"):
        protocols.choose(DOMAINS, NAMES, "street")
