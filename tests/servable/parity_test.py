"""The parity check passes good exports and fails bad ones."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.servable import parity


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
    metrics = check(exported[index], shop, index=index, min_recall=1.0)
    assert metrics.images == metrics.searched == 12 and metrics.k == 3
    assert metrics.recall == 1 and metrics.largest_difference < 1e-6


def test_an_embedding_of_another_encoder_fails(exported, shop):
    other = shop.embeddings.copy()
    other[7] += 1e-3
    with pytest.raises(parity.ParityError, match=r"7\.jpg differs.*0\.001"):
        check(exported["scann"], shop, other)
    other[7] = np.nan
    with pytest.raises(parity.ParityError, match="differs.*nan"):
        check(exported["scann"], shop, other)


@pytest.fixture(scope="module")
def missing(shop, tmp_path_factory):
    """An export whose index misses many neighbors, and its embeddings."""
    random = np.random.default_rng(0)
    data = random.normal(size=[400, 3]).astype(np.float32)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    data[:12] = shop.embeddings
    folder = shop.export(
        tmp_path_factory.mktemp("missing"),
        "scann",
        k=50,
        embeddings=data,
        product_ids=[str(i) for i in range(400)],
        paths=(shop.paths * 34)[:400],
        leaves=60,
        leaves_to_search=1,
        reorder=60,
    )
    return folder, data


@pytest.mark.parametrize("index", ["scann", "exact"])
def test_grouped_answers_are_compared_with_grouped_ones(shop, tmp_path, index):
    folder = shop.export(tmp_path, index, group_by_product=True)
    arguments = {"index": index, "min_recall": 1.0}
    products = np.arange(12) // 2
    metrics = parity.check(
        folder,
        shop.paths,
        shop.embeddings,
        np.arange(12),
        products=products,
        **arguments,
    )
    assert metrics.recall == 1 and metrics.k == 3
    # Without labels, another image of the same product would be nearer.
    with pytest.raises(parity.ParityError, match="ScaNN finds 0"):
        check(folder, shop, **arguments)


def test_an_index_that_misses_fails(shop, missing):
    folder, data = missing
    with pytest.raises(parity.ParityError, match="min_recall=0.95.*--index"):
        check(folder, shop, data, min_recall=0.95)


def test_the_recall_equals_that_of_a_loop(shop, missing):
    folder, data = missing
    rows = np.array([2, 5, 11])
    # This difference is allowed, and the largest one.
    data = data.copy()
    data[5, 0] += 5e-5
    metrics = parity.check(
        folder,
        shop.paths,
        data,
        rows,
        index="scann",
        min_recall=0.0,
        searched=100,
    )
    loaded = tf.saved_model.load(str(folder))
    answer = loaded.signatures["search"](tf.constant(data[::4]))
    loaded.release()
    want = np.argsort(-(data[::4] @ data.T), axis=1)[:, :50]
    got = answer["product_ids"].numpy()
    hits = []
    for own, (ids, truth) in enumerate(zip(got, want.tolist())):
        # Neighbors other than the query, whose row is 4 times its number.
        others = [int(i) for i in ids if i and int(i) != 4 * own][:49]
        hits.append(len(set(others) & set(truth)))
    assert (metrics.images, metrics.searched, metrics.k) == (3, 100, 50)
    assert metrics.largest_difference == pytest.approx(5e-5, rel=0.01)
    assert 0.1 < metrics.recall < 0.9
    assert metrics.recall == pytest.approx(np.sum(hits) / 4900, abs=1e-3)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_index_is_freed_whether_it_passes_or_not(
    exported, shop, watch, monkeypatch, shift
):
    load, watched = tf.saved_model.load, []

    def load_and_watch(*arguments):
        loaded = load(*arguments)
        watched.append(watch(loaded))
        loaded.signatures["search"](tf.constant(shop.embeddings))
        return loaded

    monkeypatch.setattr(tf.saved_model, "load", load_and_watch)
    with pytest.raises(parity.ParityError) if shift else nullcontext():
        check(exported["scann"], shop, shop.embeddings + shift)
    (is_there,) = watched
    assert not is_there()


def test_images_are_sent_within_the_pixels_that_are_allowed(tmp_path):
    path = tmp_path / "a.webp"
    Image.new("RGB", (50, 30)).save(path, lossless=True)
    rows, boxes = np.array([0]), np.array([[0.0, 0.0, 9.0, 9.0]])
    assert parity.sent_images([path], rows, boxes, 0.002)
    with pytest.raises(ValueError, match="more than the 0.001 million"):
        parity.sent_images([path], rows, boxes, 0.001)
