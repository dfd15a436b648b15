"""The check passes what is right, and fails what is not."""

import numpy as np
import pytest

from tf_triplet.serving import parity


def check(folder, shop, embeddings=None, index="scann", min_recall=0.9):
    return parity.check(
        folder,
        shop.paths,
        shop.embeddings if embeddings is None else embeddings,
        np.arange(12),
        index=index,
        min_recall=min_recall,
    )


@pytest.mark.parametrize("index", ["scann", "exact"])
def test_a_good_export_passes(exported, shop, index):
    figures = check(exported[index], shop, index=index, min_recall=1.0)
    assert figures.images == figures.searched == 12 and figures.k == 3
    assert figures.recall == 1 and figures.largest_difference < 1e-6


def test_an_embedding_of_another_encoder_fails(exported, shop):
    other = shop.embeddings.copy()
    other[7] += 1e-3
    with pytest.raises(parity.ParityError, match=r"7\.jpg differs.*0\.001"):
        check(exported["scann"], shop, other)
    other[7] = np.nan
    with pytest.raises(parity.ParityError, match="differs.*nan"):
        check(exported["scann"], shop, other)


def test_an_index_that_misses_fails(shop, tmp_path):
    random = np.random.default_rng(0)
    data = random.normal(size=[400, 3]).astype(np.float32)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    data[:12] = shop.embeddings
    folder = shop.export(
        tmp_path,
        "scann",
        k=50,
        embeddings=data,
        product_ids=[str(i) for i in range(400)],
        paths=(shop.paths * 34)[:400],
        leaves=60,
        leaves_to_search=1,
        reorder=60,
    )
    with pytest.raises(parity.ParityError, match="min_recall=0.95.*--index"):
        check(folder, shop, data, min_recall=0.95)
