"""The gain of an encoder over another, and its interval."""

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data import Catalog
from tf_triplet.evaluation import Embeddings, evaluate, measure_gain
from tf_triplet.retrieval import ProtocolSpec


def make_catalog(products=40, images=4, domains=False):
    rows = products * images
    frame = pd.DataFrame({"path": [f"{row}.jpg" for row in range(rows)]})
    frame["product_id"] = np.repeat(np.arange(products), images)
    if domains:
        frame["domain"] = np.where(np.arange(rows) % 2, "street", "shop")
    return Catalog.from_frame(frame, "shop")


def embed(catalog, noise, seed=0):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(len(catalog.product_ids), 16))
    drawn = noise * random.normal(size=(len(catalog), 16))
    vectors = (centers[catalog.products] + drawn).astype(np.float32)
    return Embeddings(vectors, np.arange(len(catalog)))


def recall(embeddings, catalog, protocol=None):
    return evaluate(embeddings, catalog, [1], protocol).overall.recall[1]


@pytest.mark.parametrize("domains", [False, True])
def test_value_is_the_difference_of_recall(domains):
    catalog = make_catalog(domains=domains)
    before, after = embed(catalog, 1.2), embed(catalog, 0.8)
    protocol = None
    if domains:
        protocol = ProtocolSpec("query_gallery", "street", "shop")
    gain = measure_gain(before, after, catalog, protocol)
    expected = recall(after, catalog, protocol) - recall(
        before, catalog, protocol
    )
    assert gain.value == pytest.approx(expected)
    assert gain.low < gain.value < gain.high
    assert gain.low > 0


def test_interval_equals_a_slow_bootstrap():
    catalog = make_catalog(products=12)
    before, after = embed(catalog, 1.1), embed(catalog, 0.9)

    def hits(embeddings):
        vectors = embeddings.vectors.astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        return catalog.products[cosines.argmax(1)] == catalog.products

    difference = hits(after).astype(float) - hits(before)
    random, means = np.random.default_rng(5), []
    for _ in range(2_000):
        drawn = random.integers(0, 12, 12)
        means.append(
            np.mean([difference[catalog.products == one] for one in drawn])
        )
    gain = measure_gain(before, after, catalog)
    np.testing.assert_allclose(
        [gain.low, gain.high], np.quantile(means, (0.025, 0.975)), atol=0.03
    )


def test_same_embeddings_gain_nothing():
    catalog = make_catalog()
    embeddings = embed(catalog, 1.0)
    gain = measure_gain(embeddings, embeddings, catalog)
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_gain_by_chance_has_zero_in_its_interval():
    catalog = make_catalog()
    gain = measure_gain(
        embed(catalog, 1.0, seed=1), embed(catalog, 1.0, seed=2), catalog
    )
    assert gain.low < 0 < gain.high


def test_products_of_one_image_are_not_scored():
    catalog = make_catalog(images=1)
    with pytest.raises(ValueError, match="No query has another image"):
        measure_gain(embed(catalog, 1.0), embed(catalog, 0.5), catalog)


def test_embeddings_of_other_images_are_an_error():
    catalog = make_catalog()
    before = embed(catalog, 1.0)
    after = Embeddings(before.vectors[1:], before.rows[1:])
    with pytest.raises(ValueError, match="the same images"):
        measure_gain(before, after, catalog)
