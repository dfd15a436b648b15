"""Filters, grouping by product and extra columns, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.servable import catalog_search, scann_index

K = 4


def vectors(n, seed=0):
    found = np.random.default_rng(seed).normal(size=[n, 5])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("f")


class Shop:
    """40 images of 9 products of very different sizes."""

    def __init__(self):
        random = np.random.default_rng(1)
        self.vectors = vectors(40)
        self.vectors[7] = self.vectors[3]  # An exact duplicate.
        self.products = np.sort(random.integers(0, 9, 40) ** 2 // 9)
        self.category = random.choice(["bags", "hats", ""], 40)
        self.domain = random.choice(["street", "shop"], 40)
        self.paths = [f"{i}.png" for i in range(40)]

    def build(self, k=K, storage=None, **more):
        made = catalog_search.CatalogSearch(
            self.vectors, self.products, self.paths, k=k, **more
        )
        if storage:
            made.scann = scann_index.ScannIndex(
                self.vectors,
                made.fetched,
                scann_index.Tuning(0, 0, 0, storage),
            )
        return made

    def filters(self):
        return {"category": self.category, "domain": self.domain}


@pytest.fixture(scope="module")
def shop():
    return Shop()


def oracle(shop, query, k, category="", domain="", grouped=False):
    """Returns the rows and scores of the answer, by a loop over all images."""
    found, seen = [], set()
    scores = shop.vectors @ query
    for row in np.argsort(-scores, kind="stable"):
        if category and shop.category[row] != category:
            continue
        if domain and shop.domain[row] != domain:
            continue
        if grouped and shop.products[row] in seen:
            continue
        seen.add(shop.products[row])
        found.append((row, scores[row]))
    found = found[:k] + [(-1, -2.0)] * (k - len(found))
    rows, scores = zip(*found)
    return list(rows), list(scores)


def check(answer, wants, shop):
    for i, (rows, scores) in enumerate(wants):
        np.testing.assert_allclose(answer["scores"][i], scores, atol=1e-5)
        ids = [str(shop.products[r]) if r >= 0 else "" for r in rows]
        assert answer["product_ids"].numpy()[i].astype(str).tolist() == ids
        # Either of two duplicates may come first.
        got = [p.decode() for p in answer["paths"].numpy()[i]]
        want = [shop.paths[r] if r >= 0 else "" for r in rows]
        swap = {"7.png": "3.png"}
        assert [swap.get(p, p) for p in got] == [swap.get(p, p) for p in want]


ASKED = [
    ("", ""),
    ("bags", ""),
    ("", "shop"),
    ("hats", "street"),
    ("gloves", ""),
    ("bags", "nowhere"),
]


@pytest.mark.parametrize("grouped", [False, True])
def test_filters(shop, grouped):
    made = shop.build(filters=shop.filters(), group_by_product=grouped)
    queries = vectors(6, seed=3)
    queries[0] = shop.vectors[3]
    categories, domains = zip(*ASKED)
    answer = tf.function(made.search_filtered)(
        tf.constant(queries), tf.constant(categories), tf.constant(domains)
    )
    wants = [
        oracle(shop, q, K, *asked, grouped) for q, asked in zip(queries, ASKED)
    ]
    check(answer, wants, shop)
    # Nothing matches the last two.
    assert (answer["scores"].numpy()[4:] == -2).all()
    empty = made.search_filtered(
        tf.zeros([0, 5]), tf.zeros([0], tf.string), tf.zeros([0], tf.string)
    )
    assert empty["paths"].shape == (0, K)


def test_fewer_matches_than_k(shop):
    made = shop.build(k=40, filters=shop.filters())
    query = vectors(1, seed=4)
    answer = made.search_filtered(
        tf.constant(query), tf.constant(["hats"]), tf.constant(["shop"])
    )
    check(answer, [oracle(shop, query[0], 40, "hats", "shop")], shop)
    assert (answer["scores"].numpy() == -2).any()


def test_one_filter_for_two_queries_is_an_error(shop):
    made = shop.build(filters=shop.filters())
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="`domain_filter` must hold one name",
    ):
        made.search_filtered(
            tf.zeros([2, 5]), tf.constant(["", ""]), tf.constant([""])
        )


@pytest.mark.parametrize("storage", [None, "float32", "int8"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_each_product_once_by_its_best_image(shop, storage, k):
    made = shop.build(k, storage, group_by_product=True)
    products = len(set(shop.products))
    assert made.k == min(k, products)
    queries = np.concatenate([vectors(20, seed=6), shop.vectors[[3, 30]]])
    wants = [oracle(shop, q, made.k, grouped=True) for q in queries]
    for search in (made.search, made.search_exact):
        answer = tf.function(search)(tf.constant(queries))
        assert answer["paths"].shape == (22, made.k)
        if storage == "int8" and search == made.search and k < 50:
            # int8 may find slightly fewer neighbors. Their scores are exact.
            want = np.array([scores for _, scores in wants])
            assert np.mean(answer["scores"] >= want - 1e-5) > 0.9
            continue
        check(answer, wants, shop)
    if made.scann:
        made.scann.release()


def test_int8_answers_are_sorted_by_exact_scores(shop):
    made = shop.build(5, "int8")
    queries = vectors(30, seed=8)
    answer = tf.function(made.search)(tf.constant(queries))
    made.scann.release()
    rows = answer["paths"].numpy().astype(str)
    rows = np.char.replace(rows, ".png", "").astype(int)
    got = np.einsum("qd,qkd->qk", queries, shop.vectors[rows])
    np.testing.assert_allclose(answer["scores"], got, atol=1e-6)
    assert (np.diff(answer["scores"]) <= 0).all()


@pytest.mark.parametrize("sizes", [[1], [3], [1, 1, 1], [5, 2, 7, 1]])
def test_the_images_to_fetch_surely_hold_k_products(sizes):
    products = np.repeat(np.arange(len(sizes)), sizes)
    for k in range(1, len(sizes) + 1):
        fetched = catalog_search.images_to_fetch(products, k)
        # The worst order has the largest products first.
        worst = np.repeat(np.arange(len(sizes)), sorted(sizes)[::-1])
        assert len(set(worst[:fetched])) == k
        assert len(set(worst[: fetched - 1])) == k - 1


def test_extra_columns_are_strings_and_empty_in_the_padding(shop):
    made = shop.build(
        filters=shop.filters(), columns={"price": np.arange(40) / 2}
    )
    answer = made.search_filtered(
        tf.constant(shop.vectors[[9]]), tf.constant(["x"]), tf.constant([""])
    )
    assert answer["price"].numpy().tolist() == [[b""] * K]
    answer = made.search(tf.constant(shop.vectors[[9]]))
    assert answer["price"].numpy()[0, 0] == b"4.5"


@pytest.mark.parametrize(
    "more,message",
    [
        ({"columns": {"scores": range(40)}}, "none of product_ids, scores"),
        ({"columns": {"a b": range(40)}}, "Received: 'a b'. Rename it"),
        (
            {"columns": {"price": [1]}},
            "`columns` must .* 40 images. Received: 1 values",
        ),
        ({"filters": {"category": [""] * 40}}, "must hold category and domain"),
    ],
)
def test_bad_arguments(shop, more, message):
    with pytest.raises(ValueError, match=message):
        shop.build(**more)
