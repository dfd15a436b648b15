"""Re-ranking against slow references, and inside the metrics."""

import numpy as np
import pytest

from tf_triplet.retrieval import (
    evaluate_queries,
    expand_queries,
    k_reciprocal,
    rerank,
)
from tf_triplet.retrieval.reranking import METHODS


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(products=12, images=4, dim=6, noise=0.9, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(products), images)
    centers = random.normal(size=(products, dim))
    vectors = centers[labels] + noise * random.normal(size=(len(labels), dim))
    return unit(vectors), labels


def nearest(cosines, k, left_out):
    """Rows of the k largest cosines, without one."""
    order = [j for j in np.argsort(-cosines, kind="stable") if j != left_out]
    return order[:k]


def reference(queries, gallery, exclude, k1, k2, weight):
    """The scores of Zhong et al., one pair after the other."""
    count = len(gallery)
    cosines = gallery @ gallery.T
    lists = [nearest(cosines[i], k1, i) for i in range(count)]
    halves = [one[: max(1, round(k1 / 2))] for one in lists]

    def describe(own_cosines, own_list, itself):
        def has(other, lists_, value):
            near = lists_[other]
            return value >= cosines[other, near[-1]] - 1e-6

        members = {j for j in own_list if has(j, lists, own_cosines[j])}
        grown = set(members)
        for j in members:
            theirs = {n for n in halves[j] if has(n, halves, cosines[j, n])} | {
                j
            }
            if len(members & theirs) * 3 > 2 * len(theirs):
                grown |= theirs
        if itself is not None:
            grown.add(itself)
        # What is no neighbor has no weight.
        grown &= set(own_list) | {itself}
        vector = np.zeros(count)
        for j in grown:
            vector[j] = np.exp(-(2 - 2 * own_cosines[j]))
        return vector / max(vector.sum(), 1e-12)

    of_gallery = np.array(
        [describe(cosines[i], lists[i], i) for i in range(count)]
    )
    own = queries @ gallery.T
    of_queries = np.array(
        [
            describe(own[q], nearest(own[q], k1, exclude[q]), None)
            for q in range(len(queries))
        ]
    )
    if k2 > 1:
        of_queries = np.array(
            [
                np.mean(
                    [of_queries[q]]
                    + [
                        of_gallery[j]
                        for j in nearest(own[q], k2 - 1, exclude[q])
                    ],
                    axis=0,
                )
                for q in range(len(queries))
            ]
        )
        of_gallery = np.array(
            [
                np.mean(
                    [of_gallery[i]]
                    + [of_gallery[j] for j in lists[i][: k2 - 1]],
                    axis=0,
                )
                for i in range(count)
            ]
        )
    jaccard = np.array(
        [
            [
                np.minimum(a, b).sum() / max(np.maximum(a, b).sum(), 1e-12)
                for b in of_gallery
            ]
            for a in of_queries
        ]
    )
    return weight * own + (1 - weight) * jaccard


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize(("k1", "k2"), [(6, 3), (4, 1), (7, 2)])
def test_scores_equal_a_slow_reference(leave_one_out, k1, k2):
    vectors, _ = draw()
    exclude = np.arange(len(vectors))
    queries, gallery = vectors, vectors
    if not leave_one_out:
        queries, gallery = (
            vectors[::4],
            np.delete(vectors, np.arange(0, len(vectors), 4), axis=0),
        )
        exclude = np.full(len(queries), -1)
    found = k_reciprocal(queries, gallery, exclude, k1, k2, 0.3)
    scores = 0.3 * queries @ gallery.T + found.bonus.toarray()
    wanted = reference(queries, gallery, exclude, k1, k2, 0.3)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_metrics_follow_the_new_scores():
    vectors, labels = draw(products=30, noise=1.1)
    exclude = np.arange(len(vectors))
    new = rerank("k_reciprocal", vectors, vectors, exclude)
    found = evaluate_queries(
        new.queries, labels, vectors, labels, [1, 3], exclude, reranking=new
    )
    scores = new.weight * vectors @ vectors.T + new.bonus.toarray()
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1)
    is_right = labels[order] == labels[:, None]
    assert found.recall[0].mean() == pytest.approx(is_right[:, 0].mean())
    assert found.recall[1].mean() == pytest.approx(
        is_right[:, :3].any(1).mean()
    )


@pytest.mark.parametrize("method", ["query_expansion", "k_reciprocal"])
def test_neighbors_of_neighbors_help_where_products_are_clusters(method):
    vectors, labels = draw(products=40, images=8, dim=10, noise=0.9)
    exclude = np.arange(len(vectors))

    def map_at_r(name):
        new = rerank(name, vectors, vectors, exclude)
        return evaluate_queries(
            new.queries, labels, vectors, labels, [1], exclude, reranking=new
        ).map_at_r.mean()

    assert map_at_r(method) > map_at_r("none") + 0.01


def test_expanded_queries_are_weighted_sums():
    vectors, _ = draw()
    queries, gallery = vectors[:5], vectors[5:]
    found = expand_queries(queries, gallery, neighbors=3, alpha=2.0)
    for query, got in zip(queries, found):
        cosines = gallery @ query
        order = np.argsort(-cosines)[:3]
        wanted = query + sum(
            max(cosines[j], 0) ** 2 * gallery[j] for j in order
        )
        np.testing.assert_allclose(
            got, wanted / np.linalg.norm(wanted), atol=1e-6
        )


def test_a_query_is_not_expanded_by_itself():
    gallery = unit([[1, 0], [0.9, 0.2], [0, 1]])
    found = expand_queries(gallery[:1], gallery, np.array([0]), neighbors=1)
    cosine = gallery[0] @ gallery[1]
    wanted = gallery[0] + cosine**3 * gallery[1]
    np.testing.assert_allclose(
        found[0], wanted / np.linalg.norm(wanted), atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_galleries_and_copies(method, size):
    vectors = np.repeat(unit([[1.0, 0.2]]), size, axis=0).astype(np.float32)
    exclude = np.arange(size)
    new = rerank(method, vectors, vectors, exclude)
    found = evaluate_queries(
        *(new.queries, [0] * size, vectors, [0] * size, [1], exclude),
        reranking=new,
    )
    wanted = np.nan if size == 1 else 1.0
    np.testing.assert_array_equal(found.recall[0], [wanted] * size)


def test_an_unknown_method_is_named():
    vectors, _ = draw()
    with pytest.raises(ValueError, match="none, query_expansion, k_reciprocal"):
        rerank("magic", vectors, vectors)
