"""The cheapest setting of ScaNN that reaches a recall."""

import numpy as np
import pytest

from tf_triplet.servable import index_tuning, scann_index


def curve(*points):
    """Returns measurements of (cost, recall, low)."""
    return [
        index_tuning.Measurement(i + 1, 10, cost, recall, low, 0.1)
        for i, (cost, recall, low) in enumerate(points)
    ]


def test_the_cheapest_good_setting_is_chosen_in_any_order():
    points = [(10, 0.8, 0.79), (30, 0.97, 0.96), (20, 0.96, 0.951)]
    points += [(15, 0.96, 0.94), (90, 1.0, 1.0)]
    found = curve(*points)
    for measurements in (found, found[::-1]):
        assert index_tuning.choose(measurements, 0.95).cost == 20
    assert index_tuning.choose(found, 1.0).cost == 90
    assert index_tuning.choose(found, 0.0).cost == 10


def test_of_equal_costs_the_higher_recall_is_chosen():
    found = curve((10, 0.96, 0.95), (10, 0.97, 0.95), (10, 0.97, 0.95))
    assert index_tuning.choose(found, 0.95).leaves_to_search == 2
    assert index_tuning.choose(found[::-1], 0.95).leaves_to_search == 2


def test_a_target_that_no_setting_reaches_is_an_error():
    found = curve((10, 0.8, 0.7), (20, 0.96, 0.94), (30, 0.95, 0.93))
    with pytest.raises(index_tuning.TuningError) as caught:
        index_tuning.choose(found, 0.95)
    assert "export.min_recall=0.95" in str(caught.value)
    assert "0.9600 (at least 0.9400), with 2 leaves" in str(caught.value)


def test_settings_rise_in_cost_and_keep_given_values():
    pairs = index_tuning.settings(10_000, 10, 100)
    costs = [index_tuning.cost(10_000, 100, *pair) for pair in pairs]
    assert costs == sorted(costs) and len(set(pairs)) == len(pairs) == 48
    assert (100, 2000) in pairs
    assert index_tuning.settings(10_000, 10, 100, 7, 60) == [(7, 60)]
    assert index_tuning.settings(50, 10, 5, 9, 3) == [(5, 10)]
    assert {r for _, r in index_tuning.settings(60, 10, 5)} == {20, 50, 60}


def vectors(n, dim=16, seed=0):
    found = np.random.default_rng(seed).normal(size=[n, dim])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def recall(index, data, k):
    import tensorflow as tf

    queries = vectors(200, seed=5)
    rows, _ = index.search(tf.constant(queries), k)
    truth = np.argsort(-(queries @ data.T), axis=1)[:, :k]
    return np.mean(
        [len(set(a) & set(b)) / k for a, b in zip(rows.numpy(), truth)]
    )


def test_a_higher_target_costs_more_and_is_reached():
    data = vectors(3000)
    found = {}
    for target in (0.6, 0.99):
        index, record = index_tuning.tune(data, 10, target)
        last = record["curve"][-1]
        assert last["low"] >= target
        assert all(m["low"] < target for m in record["curve"][:-1])
        assert record["leaves"] == 55 and record["target"] == target
        assert record["leaves_to_search"] == last["leaves_to_search"]
        assert record["reorder"] == last["reorder"]
        assert index.tuning.reorder == last["reorder"]
        found[target] = last["cost"]
        # Queries that are not in the catalog find slightly less.
        assert recall(index, data, 10) > target - 0.1
        index.release()
    assert found[0.6] < found[0.99]


def test_finding_the_query_itself_does_not_count():
    data = vectors(3000)
    index, record = index_tuning.tune(data, 1, 0.9)
    # A search that finds the vector itself may still miss its neighbors.
    queries, first = data[:400], record["curve"][0]
    cheapest = scann_index.Tuning(55, first["leaves_to_search"], 2)
    itself = index.search(queries, 1, cheapest)[0].numpy()[:, 0]
    assert (itself == np.arange(400)).mean() > 2 * first["recall"] > 0
    rows = index.search(queries, 2)[0].numpy()
    similar = queries @ data.T
    np.fill_diagonal(similar, -2)
    want = similar.argmax(1)
    assert (rows == want[:, None]).any(1).mean() > 0.9
    index.release()


@pytest.mark.parametrize("n,k", [(1, 1), (12, 12), (16, 16), (30, 4)])
def test_a_tree_of_few_vectors(n, k):
    index, record = index_tuning.tune(vectors(n), k, 1.0, leaves=2)
    rows = index.search(vectors(n), k)[0].numpy()
    truth = np.argsort(-(vectors(n) @ vectors(n).T), axis=1)[:, :k]
    np.testing.assert_array_equal(np.sort(rows), np.sort(truth))
    assert bool(record["curve"]) == (index.tuning.leaves > 0) == (n >= 16)
    index.release()


def test_int8_without_a_tree_must_reach_the_target_too():
    # int8 confuses near copies, although each vector finds itself.
    centers = np.repeat(vectors(150), 10, 0)
    data = centers + 0.02 * vectors(1500, seed=1)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    with pytest.raises(
        index_tuning.TuningError, match="set export.storage=float"
    ):
        index_tuning.tune(data, 1, 0.99, storage="int8")
    index, record = index_tuning.tune(data, 1, 0.1, storage="int8")
    (measured,) = record["curve"]
    assert record["leaves"] == 0 and measured["cost"] == 1500
    assert 0.1 < record["recall"] == measured["recall"] < 0.99
    assert record["recall_cost"] == 1 - record["recall"]
    rows = index.search(data, 2)[0].numpy()
    similar = data @ data.T
    np.fill_diagonal(similar, -2)
    found = [
        similar[i, [j for j in answer if j != i][0]]
        for i, answer in enumerate(rows)
    ]
    counted = (found >= similar.max(1) - 1e-5).mean()
    assert record["recall"] == pytest.approx(counted, abs=0.08)
    index.release()


def test_no_more_leaves_than_vectors():
    index, record = index_tuning.tune(vectors(20), 3, 0.5, leaves=100)
    assert record["leaves"] == 20
    index.release()


def test_the_query_is_removed_from_its_answer():
    answer = np.array([[3, 1, 2], [5, 0, 4], [7, -1, -1]])
    found = index_tuning._without(answer, np.array([1, 9, 7]))
    assert found.tolist() == [[3, 2], [5, 0], [-1, -1]]


def test_given_values_are_not_tuned():
    data = vectors(2500)
    with pytest.raises(
        index_tuning.TuningError, match="with 1 leaves searched"
    ):
        index_tuning.tune(data, 10, 0.95, leaves_to_search=1)


def test_few_vectors_need_no_tuning():
    index, record = index_tuning.tune(vectors(200), 10, 1.0)
    assert index.tuning == scann_index.Tuning(0, 0, 0)
    assert record["curve"] == [] and "recall_cost" not in record
    assert recall(index, vectors(200), 10) == 1
    index.release()


@pytest.mark.parametrize("n", [300, 2500])
def test_int8_reports_its_cost(n):
    data = vectors(n)
    index, record = index_tuning.tune(data, 10, 0.8, storage="int8")
    assert record["storage"] == "int8" and index.tuning.storage == "int8"
    assert index.state.int8_dataset.numpy().size == n * 16
    assert index.state.dataset.numpy().size == 1
    assert 0 <= record["recall_cost"] < 0.1
    index.release()


def test_an_unknown_storage_is_an_error():
    with pytest.raises(ValueError, match="int8. Received: 'bfloat16'"):
        scann_index.Tuning(0, 0, 0, "bfloat16")
