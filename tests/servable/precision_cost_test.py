"""The draw of images, and the metrics compared with a plain loop."""

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.catalog import Catalog
from tf_triplet.servable import precision_cost


def catalog(*sizes):
    products = np.repeat(np.arange(len(sizes)), sizes)
    paths = [f"{i}.png" for i in range(len(products))]
    frame = pd.DataFrame({"path": paths, "product_id": products})
    return Catalog.from_frame(frame, "test")


def test_the_draw_holds_a_few_images_of_many_products():
    made = catalog(5000, *[6] * 200)
    rows = precision_cost.draw(made, 0)
    assert len(rows) == len(set(rows)) == precision_cost.IMAGES
    counts = np.bincount(made.products[rows])
    # Four images of each product, except perhaps of the last one.
    assert counts.max() == 4 and (counts == 4).sum() == 128
    assert (precision_cost.draw(made, 1) != rows).any()
    np.testing.assert_array_equal(precision_cost.draw(made, 0), rows)
    assert len(precision_cost.draw(catalog(1), 0)) == 1


def test_the_metrics_equal_those_of_a_loop():
    random = np.random.default_rng(0)
    want = random.normal(size=[40, 6])
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    got = want + 0.2 * random.normal(size=want.shape)
    products = np.append(np.repeat(np.arange(13), 3), 13)
    found = precision_cost.measure(
        np.float32(got), np.float32(want), products, "bfloat16"
    )
    hits, kept = {"got": [], "want": []}, []
    for i in range(40):
        near = {}
        for name, vectors in (("got", got), ("want", want)):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            others = [j for j in range(40) if j != i]
            near[name] = sorted(others, key=lambda j: -(unit[i] @ unit[j]))
            if products[i] != 13:
                hits[name].append(products[near[name][0]] == products[i])
        kept.append(len(set(near["got"][:10]) & set(near["want"][:10])) / 10)
    assert found["recall_at_1"] == pytest.approx(np.mean(hits["got"]))
    assert found["recall_at_1_float32"] == pytest.approx(np.mean(hits["want"]))
    assert found["neighbors_kept"] == pytest.approx(np.mean(kept))
    assert found["images"] == 40
    gap = np.abs(got - want).max()
    assert found["largest_difference"] == pytest.approx(gap, rel=1e-5)


@pytest.mark.parametrize("products", [[0], [0, 0], [0, 1]])
def test_metrics_without_queries_are_none(products):
    same = np.eye(2, dtype=np.float32)[: len(products)]
    found = precision_cost.measure(same, same, np.array(products), "bfloat16")
    assert found["recall_at_1"] is None
    assert (found["neighbors_kept"] is None) == (len(products) == 1)
    assert "Recall" not in precision_cost.describe(found)
