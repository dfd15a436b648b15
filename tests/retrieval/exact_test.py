"""Exact search and ranks against sorting everything."""

import re

import numpy as np
import pytest

from tf_triplet.retrieval import exact, unit_vectors
from tf_triplet.retrieval.ranks import positive_ranks


def cosines(queries, gallery):
    """All scores in float64, equal ones made equal numbers."""
    queries = queries.astype(np.float64)
    gallery = gallery.astype(np.float64)
    scores = np.zeros((len(queries), len(gallery)))
    for i, query in enumerate(queries):
        for j, other in enumerate(gallery):
            length = np.linalg.norm(query) * np.linalg.norm(other)
            scores[i, j] = query @ other / length if length else 0.0
    return np.round(scores, 11)


def sorted_top_k(queries, gallery, k, exclude):
    """Indices by score, then by row; the excluded row left out."""
    found = np.full((len(queries), k), -1)
    for i, scores in enumerate(cosines(queries, gallery)):
        rows = [j for j in range(len(gallery)) if j != exclude[i]]
        rows.sort(key=lambda j: (-scores[j], j))
        found[i, : len(rows[:k])] = rows[:k]
    return found


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks, the last of them partial."""
    monkeypatch.setattr(unit_vectors, "GALLERY_BLOCK", 7)
    monkeypatch.setattr(unit_vectors, "QUERY_BLOCK", 5)


@pytest.mark.parametrize("seed", range(20))
def test_top_k_equals_a_full_sort(seed, small_blocks):
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(rng.integers(1, 40), 6)).astype(np.float32)
    # Small integers tie often; their scores are equal to the last bits.
    if seed % 2:
        gallery = rng.integers(-1, 2, gallery.shape).astype(np.float32)
    queries = rng.integers(-1, 2, (23, 6)).astype(np.float32)
    exclude = rng.integers(-1, len(gallery), len(queries))
    k = int(rng.integers(1, 12))
    indices, scores = exact.top_k(queries, gallery, k, exclude, block=4)
    expected = sorted_top_k(queries, gallery, k, exclude)
    np.testing.assert_array_equal(indices, expected)
    wanted = np.take_along_axis(
        cosines(queries, gallery), np.maximum(expected, 0), axis=1
    )
    np.testing.assert_allclose(
        scores, np.where(expected < 0, np.nan, wanted), atol=1e-6
    )
    assert indices.dtype == np.int64 and scores.dtype == np.float32


def test_top_k_of_equal_vectors_takes_the_lowest_rows(small_blocks):
    gallery = np.ones((30, 4), np.float32)
    indices, scores = exact.top_k(gallery[:2], gallery, 3, np.array([-1, 1]))
    np.testing.assert_array_equal(indices, [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)


def test_top_k_finds_a_copy_and_not_self():
    gallery = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    indices, _ = exact.top_k(gallery, gallery, 1, np.arange(4))
    assert indices[0, 0] == 1 and indices[1, 0] == 0


def test_top_k_wider_than_the_gallery_fills_up():
    indices, scores = exact.top_k(
        np.array([[1.0, 0]]), np.array([[0, 1.0], [1, 0]]), 4, np.array([0])
    )
    np.testing.assert_array_equal(indices, [[1, -1, -1, -1]])
    np.testing.assert_array_equal(scores, [[1, np.nan, np.nan, np.nan]])


@pytest.mark.parametrize("queries, gallery", [(0, 3), (3, 0)])
def test_top_k_of_nothing(queries, gallery):
    indices, scores = exact.top_k(
        np.zeros((queries, 2)), np.zeros((gallery, 2)), 2
    )
    assert indices.shape == scores.shape == (queries, 2)
    assert (indices == -1).all() and np.isnan(scores).all()


@pytest.mark.parametrize("mean_distance", [1e-3, 4e-4])
def test_top_k_of_nearly_collapsed_vectors(mean_distance):
    rng = np.random.default_rng(0)
    center = rng.normal(size=32)
    center /= np.linalg.norm(center)
    spread = mean_distance / np.sqrt(2 * 32)
    vectors = (center + spread * rng.normal(size=(200, 32))).astype(np.float32)
    distances = np.linalg.norm(
        vectors[:, None].astype(np.float64) - vectors[None], axis=-1
    )
    assert distances.mean() == pytest.approx(mean_distance, rel=0.1)
    indices, _ = exact.top_k(vectors, vectors, 5, np.arange(200))
    scores = cosines(vectors, vectors)
    np.fill_diagonal(scores, -np.inf)
    # Row numbers could differ where two cosines round to one number.
    np.testing.assert_allclose(
        np.take_along_axis(scores, indices, axis=1),
        -np.sort(-scores, axis=1)[:, :5],
        rtol=0,
        atol=1.1e-11,
    )


@pytest.mark.parametrize("many_positives", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_positive_ranks_equal_counting(seed, many_positives, small_blocks):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2 if many_positives else 12, 31)
    vectors = rng.integers(-1, 2, (31, 4)).astype(np.float32)
    scores = cosines(vectors, vectors)
    seen = []
    for ranks in positive_ranks(
        vectors, labels, vectors, labels, np.arange(31)
    ):
        for i, row in enumerate(ranks.rows):
            seen.append(row)
            same = labels == labels[row]
            positives = scores[row, same & (np.arange(31) != row)]
            positives = np.sort(positives)[::-1]
            negatives = scores[row, ~same]
            count = ranks.counts[i]
            assert count == len(positives)
            np.testing.assert_array_equal(
                ranks.above[i, :count],
                [(negatives > score).sum() for score in positives],
            )
            np.testing.assert_array_equal(
                ranks.tied[i, :count],
                [(negatives == score).sum() for score in positives],
            )
            np.testing.assert_array_equal(
                ranks.sizes[i, :count],
                [(positives == score).sum() for score in positives],
            )
            np.testing.assert_array_equal(
                ranks.leaders[i, :count],
                [(positives > score).sum() for score in positives],
            )
    with_positives = np.flatnonzero(np.bincount(labels)[labels] > 1)
    assert sorted(seen) == with_positives.tolist()


def test_nan_rows_are_counted():
    vectors = np.ones((5, 3), np.float32)
    vectors[[1, 3], 0] = np.nan, np.inf
    message = (
        "2 of 5 rows of `gallery` hold NaN or infinity, the first is row 1"
    )
    with pytest.raises(ValueError, match=message):
        exact.top_k(vectors[:1], vectors, 1)


@pytest.mark.parametrize(
    "exclude, received", [([0], "[0]"), ([0, 3], "[0 3]"), ([-2, 0], "[-2  0]")]
)
def test_exclude_must_name_gallery_rows(exclude, received):
    vectors = np.ones((3, 2))
    with pytest.raises(ValueError, match=re.escape(f"Received: {received}")):
        exact.top_k(vectors[:2], vectors, 1, exclude)


def test_other_mistakes_are_errors():
    vectors = np.ones((3, 2))
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        exact.top_k(vectors, vectors, 0)
    with pytest.raises(ValueError, match="Received: 2 and 3 dimensions"):
        exact.top_k(vectors, np.ones((3, 3)), 1)
    with pytest.raises(ValueError, match=r"Received shape: \(3,\)"):
        exact.top_k(np.ones(3), vectors, 1)
