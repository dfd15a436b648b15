"""ScaNN compared with NumPy, edge cases, and two indexes in one process."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.servable import scann_index


def vectors(n, dim=16, seed=0):
    found = np.random.default_rng(seed).normal(size=[n, dim])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def build(data, k, **more):
    tuning = scann_index.tune(len(data), k, **more)
    return scann_index.ScannIndex(data, k, tuning)


def search(index, queries, k):
    found = tf.function(lambda q: index.search(q, k))(tf.constant(queries))
    return [value.numpy() for value in found]


def test_default_tunings_are_within_bounds():
    tune = scann_index.tune
    assert tune(1999, 10) == scann_index.Tuning(0, 0, 0)
    assert tune(10_000, 10) == scann_index.Tuning(100, 30, 100)
    assert tune(1_000_000, 50) == scann_index.Tuning(1000, 100, 500)
    assert tune(500, 10, leaves=20) == scann_index.Tuning(20, 20, 100)
    assert tune(60, 10, 5, 2, 7) == scann_index.Tuning(5, 2, 7)


@pytest.mark.parametrize("n", [11, 300])
def test_brute_force_is_exact(n):
    data, queries, k = vectors(n), vectors(20, seed=1), 10
    rows, scores = search(build(data, k), queries, k)
    want = -np.sort(-(queries @ data.T), axis=1)[:, :k]
    np.testing.assert_allclose(scores, want, atol=1e-5)
    got = np.einsum("qd,qkd->qk", queries, data[rows])
    np.testing.assert_allclose(got, scores, atol=1e-5)


@pytest.mark.parametrize("n", [11, 300, 3000])
def test_searching_all_leaves_finds_the_exact_rows(n):
    data, queries, k = vectors(n), vectors(20, seed=1), 10
    leaves = {"leaves": 20, "leaves_to_search": 20, "reorder": n}
    index = build(data, k, **(leaves if n == 3000 else {}))
    rows, _ = search(index, queries, k)
    want = np.argsort(-(queries @ data.T), axis=1)[:, :k]
    np.testing.assert_array_equal(rows, want)


def test_a_tree_finds_nearly_all_neighbors():
    data, queries, k = vectors(5000), vectors(100, seed=1), 10
    rows, scores = search(build(data, k), queries, k)
    want = np.argsort(-(queries @ data.T), axis=1)[:, :k]
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(rows, want)])
    assert recall > 0.9
    got = np.einsum("qd,qkd->qk", queries, data[rows])
    np.testing.assert_allclose(got, scores, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_fewer_vectors_than_k(n):
    data = vectors(n)
    rows, scores = search(build(data, 5), data, 5)
    assert rows.shape == scores.shape == (n, 5)
    assert (rows[:, n:] == -1).all() and (scores[:, n:] == -2).all()
    np.testing.assert_array_equal(rows[:, 0], np.arange(n))


@pytest.mark.parametrize("n", [50, 3000])
def test_an_empty_batch(n):
    rows, scores = search(build(vectors(n), 5), np.zeros([0, 16], "f"), 5)
    assert rows.shape == scores.shape == (0, 5)


def test_missing_neighbors_are_padding():
    data = vectors(200)
    index = build(data, 50, leaves=40, leaves_to_search=1, reorder=60)
    # Training is random. A leaf may be empty, and then nothing is found.
    rows, scores = search(index, data, 50)
    missing = rows == -1
    np.testing.assert_array_equal(missing, scores == -2)
    assert missing.any() and not missing.all()
    # The padding comes last, and the other scores are right.
    np.testing.assert_array_equal(missing, np.sort(missing, axis=1))
    got = np.einsum("qd,qkd->qk", data, data[rows])
    np.testing.assert_allclose(scores[~missing], got[~missing], atol=1e-5)


def test_duplicates_are_all_found():
    data = np.repeat(vectors(4), 3, axis=0)
    rows, scores = search(build(data, 3), data[::3], 3)
    np.testing.assert_array_equal(np.sort(rows), np.arange(12).reshape(4, 3))
    np.testing.assert_allclose(scores, 1, atol=1e-5)


def test_two_indexes_in_one_process_are_separate():
    first, second = vectors(50), vectors(50, seed=9)
    a, b = build(first, 1), build(second, 1)
    for _ in range(2):
        assert search(a, first, 1)[0][:, 0].tolist() == list(range(50))
        assert search(b, second, 1)[0][:, 0].tolist() == list(range(50))
    a.release()
    a.release()  # Releasing it twice does no harm.
    assert search(b, second, 1)[0][:, 0].tolist() == list(range(50))


def is_there(handle):
    """Returns whether the C++ index is in memory, and destroys it."""
    try:
        tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=False)
    except tf.errors.NotFoundError:
        return False
    return True


def test_a_search_after_release_builds_the_index_again():
    data = vectors(50)
    index = build(data, 1)
    assert is_there(index.handle())
    handle = index.handle()
    index.release()
    assert not is_there(handle)
    assert search(index, data, 1)[0][:, 0].tolist() == list(range(50))
    index.release()
    assert not is_there(handle)


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("storage", scann_index.STORAGES)
def test_a_saved_index_can_be_loaded(tmp_path, n, storage):
    data = vectors(n)
    tuning = dataclasses.replace(scann_index.tune(n, 5), storage=storage)
    index = scann_index.ScannIndex(data, 5, tuning)

    @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32)])
    def run(queries):
        return index.search(queries, 5)

    module = tf.Module()
    module.index, module.run = index, run
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(module, str(tmp_path), options=options)
    want = [value.numpy() for value in run(data[:20])]
    loaded = tf.saved_model.load(str(tmp_path))
    for got, wanted in zip(loaded.run(data[:20]), want):
        np.testing.assert_array_equal(got.numpy(), wanted)
