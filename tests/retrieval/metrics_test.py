"""Metrics against a full sort, and expected values against every order."""

import itertools
import json

import numpy as np
import pytest

from tf_triplet.retrieval import metrics, ranks, tie_groups, unit_vectors


def ranked_metrics(right, ks):
    """Metrics of one ranking, `right` a list of booleans, nearest first."""
    relevant = sum(right)
    hits = np.cumsum(right)
    return {
        **{f"recall@{k}": float(any(right[:k])) for k in ks},
        **{f"precision@{k}": sum(right[:k]) / k for k in ks},
        "map@r": sum(hits[i] / (i + 1) for i in range(relevant) if right[i])
        / relevant,
        "r_precision": hits[relevant - 1] / relevant,
    }


def rankings(scores, right, ties):
    """The rankings that a tie rule allows: the worst one, or every one."""
    if ties == "against":
        order = sorted(range(len(scores)), key=lambda j: (-scores[j], right[j]))
        yield [right[j] for j in order]
        return
    values = sorted(set(scores), reverse=True)
    tied = [
        [right[j] for j in range(len(scores)) if scores[j] == value]
        for value in values
    ]
    for groups in itertools.product(*map(itertools.permutations, tied)):
        yield [flag for group in groups for flag in group]


def sorted_metrics(queries, labels, gallery, gallery_labels, ks, exclude, ties):
    """Slow oracle: score, round ties together, sort, average."""
    rows, left_out = [], 0
    for i, query in enumerate(queries.astype(np.float64)):
        keep = [j for j in range(len(gallery)) if j != exclude[i]]
        scores = []
        for j in keep:
            other = gallery[j].astype(np.float64)
            length = np.linalg.norm(query) * np.linalg.norm(other)
            scores.append(round(query @ other / length, 11) if length else 0.0)
        right = [gallery_labels[j] == labels[i] for j in keep]
        if not any(right):
            left_out += 1
            continue
        options = [
            ranked_metrics(list(map(bool, option)), ks)
            for option in rankings(scores, right, ties)
        ]
        rows.append(
            {key: np.mean([o[key] for o in options]) for key in options[0]}
        )
    means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
    return means, len(rows), left_out


def close(result, means):
    assert result.named().keys() == means.keys()
    for key, value in result.named().items():
        assert value == pytest.approx(means[key], abs=1e-9), key


def near_collapse(mean_distance, seed, rows=120, dim=16):
    rng = np.random.default_rng(seed)
    center = rng.normal(size=dim)
    center /= np.linalg.norm(center)
    spread = mean_distance / np.sqrt(2 * dim)
    return (center + spread * rng.normal(size=(rows, dim))).astype(np.float32)


@pytest.mark.parametrize("blocks", [5, 4096])
@pytest.mark.parametrize("seed", range(30))
def test_metrics_equal_a_full_sort(seed, blocks, monkeypatch):
    monkeypatch.setattr(unit_vectors, "GALLERY_BLOCK", blocks)
    monkeypatch.setattr(unit_vectors, "QUERY_BLOCK", blocks)
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(5, 60))
    # Ids that are not contiguous, from one product an image to few.
    labels = 1000 * rng.integers(0, rng.integers(2, rows), rows) - 7
    labels[:2] = 5
    # Integer vectors tie and repeat, and some are zero.
    vectors = (
        rng.normal(size=(rows, 8))
        if seed % 3 == 0
        else rng.integers(-1, 2, (rows, 3))
    ).astype(np.float32)
    arguments = (vectors, labels, vectors, labels, (1, 3, 100))
    result = metrics.evaluate(*arguments, exclude=np.arange(rows))
    means, queries, left_out = sorted_metrics(
        *arguments, np.arange(rows), "against"
    )
    close(result, means)
    assert (result.queries, result.left_out) == (queries, left_out)


@pytest.mark.parametrize("seed", range(12))
def test_expected_ties_equal_the_mean_over_every_order(seed):
    rng = np.random.default_rng(seed)
    # Seven images in the plane: at most 7! orders of a query.
    gallery = rng.integers(-1, 2, (7, 2)).astype(np.float32)
    labels = rng.integers(0, 2, 7)
    arguments = (gallery[:3], labels[:3], gallery, labels, (1, 2, 4, 9))
    result = metrics.evaluate(*arguments, exclude=np.arange(3), ties="expected")
    means, queries, left_out = sorted_metrics(
        *arguments, np.arange(3), "expected"
    )
    close(result, means)
    assert (result.queries, result.left_out) == (queries, left_out)


@pytest.mark.parametrize("mean_distance", [1e-3, 4e-4])
@pytest.mark.parametrize("seed", range(3))
def test_near_collapse_equals_a_full_sort(mean_distance, seed):
    vectors = near_collapse(mean_distance, seed)
    labels = np.arange(120) // 4
    arguments = (vectors, labels, vectors, labels, (1, 10))
    means, *_ = sorted_metrics(*arguments, np.arange(120), "against")
    result = metrics.evaluate(*arguments, exclude=np.arange(120))
    close(result, means)


@pytest.mark.parametrize("value", [1.0, 0.3, 0.0])
def test_total_collapse_scores_nothing_against_and_chance_expected(value):
    vectors = np.full((40, 8), value, np.float32)
    labels = np.arange(40) // 4
    arguments = (vectors, labels, vectors, labels, (1, 36, 37, 50))
    against = metrics.evaluate(*arguments, exclude=np.arange(40))
    # 36 wrong ones come first, then the three right ones.
    assert against.recall == {1: 0, 36: 0, 37: 1, 50: 1}
    assert against.precision == {1: 0, 36: 0, 37: 1 / 37, 50: 3 / 50}
    assert against.map_at_r == against.r_precision == 0
    expected = metrics.evaluate(
        *arguments, exclude=np.arange(40), ties="expected"
    )
    chance = 3 / 39
    assert expected.recall[1] == pytest.approx(chance)
    assert expected.precision[1] == pytest.approx(chance)
    assert expected.precision[36] == pytest.approx(chance)
    assert expected.r_precision == pytest.approx(chance)
    assert expected.recall[37] == pytest.approx(1)


def test_collapse_to_a_dominant_direction_in_float32_noise():
    # A bias that drowns everything: what is left is rounding, not signal.
    rng = np.random.default_rng(0)
    vectors = (1e9 + rng.normal(size=(60, 8))).astype(np.float32)
    labels = np.arange(60) // 3
    result = metrics.evaluate(
        vectors, labels, vectors, labels, (1,), exclude=np.arange(60)
    )
    assert result.recall[1] == 0


def test_copies_of_a_right_and_a_wrong_image():
    # The query, its copy of another product, its copy of the same one.
    vectors = np.eye(3)[[0, 0, 0, 1]]
    labels = np.array([7, 8, 7, 9])
    arguments = (vectors[:1], labels[:1], vectors, labels, (1, 2))
    against = metrics.evaluate(*arguments, exclude=[0])
    assert against.recall == {1: 0, 2: 1}
    expected = metrics.evaluate(*arguments, exclude=[0], ties="expected")
    assert expected.recall == {1: pytest.approx(0.5), 2: 1}


def test_self_is_left_out_by_position_and_not_by_rank():
    vectors = np.eye(3)[[0, 0, 1, 1]]
    labels = np.array([0, 0, 1, 1])
    arguments = (vectors, labels, vectors, labels, (1,))
    result = metrics.evaluate(*arguments, exclude=np.arange(4))
    assert result.recall[1] == 1
    # The positions of the copies: what is left to find is self.
    result = metrics.evaluate(*arguments, exclude=[1, 0, 3, 2])
    assert result.recall[1] == 1
    # Nobody excluded: self and its copy are both right.
    assert metrics.evaluate(*arguments).precision[1] == 1


def test_excluding_a_negative_takes_it_out_of_the_ranking():
    vectors = np.array([[1.0, 0], [1, 0.1], [1, 0.2]])
    labels = np.array([0, 1, 0])
    arguments = (vectors[:1], labels[:1], vectors[1:], labels[1:], (1,))
    assert metrics.evaluate(*arguments, exclude=[-1]).recall[1] == 0
    assert metrics.evaluate(*arguments, exclude=[0]).recall[1] == 1


@pytest.mark.parametrize("ties", tie_groups.TIES)
def test_a_perfect_ranking_scores_exactly_one(ties):
    vectors = np.eye(50)[np.arange(200) % 50]
    labels = np.arange(200) % 50
    result = metrics.evaluate(
        vectors, labels, vectors, labels, (1,), np.arange(200), ties
    )
    assert result.recall[1] == 1
    assert result.map_at_r == pytest.approx(1, abs=1e-12)
    assert result.r_precision == pytest.approx(1, abs=1e-12)


def test_map_at_r_by_hand():
    # Ranking: right, wrong, right, wrong, right; R = 3.
    angles = np.radians([0, 10, 20, 30, 40, 50])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([1, 1, 0, 1, 0, 1])
    result = metrics.evaluate(
        vectors[:1], labels[:1], vectors[1:], labels[1:], (1, 2, 5)
    )
    assert result.map_at_r == pytest.approx((1 + 2 / 3) / 3)
    assert result.r_precision == pytest.approx(2 / 3)
    assert result.precision == {1: 1, 2: 0.5, 5: 0.6}


def test_one_image_products_are_left_out_and_counted():
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    labels = np.array([0, 0, 1, 2, 3, 3])
    result = metrics.evaluate(
        vectors, labels, vectors, labels, (1,), exclude=np.arange(6)
    )
    assert (result.queries, result.left_out) == (4, 2)


def test_nothing_to_score_is_nan_and_null():
    vectors = np.eye(3)
    result = metrics.evaluate(
        vectors, [0, 1, 2], vectors, [0, 1, 2], (1,), exclude=np.arange(3)
    )
    assert (result.queries, result.left_out) == (0, 3)
    assert np.isnan(result.recall[1])
    assert json.loads(json.dumps(result.to_dict()))["recall@1"] is None


@pytest.mark.parametrize("queries, gallery", [(0, 4), (4, 0)])
def test_empty_sides(queries, gallery):
    result = metrics.evaluate(
        np.ones((queries, 2)),
        np.zeros(queries),
        np.ones((gallery, 2)),
        np.zeros(gallery),
        (1,),
    )
    assert (result.queries, result.left_out) == (0, queries)


def test_float16_is_scored_as_its_own_values():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 8)).astype(np.float16)
    labels = np.arange(60) // 3
    half, single = (
        metrics.evaluate(v, labels, v, labels, (1, 5), np.arange(60))
        for v in (vectors, vectors.astype(np.float32))
    )
    assert half == single


def test_length_does_not_matter():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 8))
    lengths = rng.uniform(0.01, 100, (60, 1))
    labels = np.arange(60) // 3
    plain, scaled = (
        metrics.evaluate(v, labels, v, labels, (1, 5), np.arange(60))
        for v in (vectors, vectors * lengths)
    )
    assert plain == scaled


def test_string_labels():
    vectors = np.eye(2)[[0, 0, 1, 1]]
    labels = np.array(["b", "b", "a", "a"], object)
    result = metrics.evaluate(
        vectors, labels, vectors, labels, (1,), exclude=np.arange(4)
    )
    assert result.recall[1] == 1


def test_groups_average_their_own_queries():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 4))
    labels = rng.integers(0, 12, 50)
    groups = np.where(labels % 2 == 0, "even", "odd")
    arguments = dict(
        gallery=vectors, gallery_labels=labels, ks=(1, 2), ties="against"
    )
    result = metrics.evaluate(
        vectors, labels, exclude=np.arange(50), groups=groups, **arguments
    )
    assert list(result.by_group) == ["even", "odd"]
    for name, group in result.by_group.items():
        members = groups == name
        alone = metrics.evaluate(
            vectors[members],
            labels[members],
            exclude=np.flatnonzero(members),
            **arguments,
        )
        assert group == alone
    assert result.queries == sum(
        group.queries for group in result.by_group.values()
    )


def test_many_positives_in_little_memory(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 4))
    labels = rng.integers(0, 3, 300)
    arguments = (vectors, labels, vectors, labels, (1, 5), np.arange(300))
    expected = metrics.evaluate(*arguments)
    monkeypatch.setattr(ranks, "_MAX_POSITIVES", 250)
    widths = [
        block.above.size
        for block in ranks.positive_ranks(
            vectors, labels, vectors, labels, np.arange(300)
        )
    ]
    assert max(widths) <= 250
    assert metrics.evaluate(*arguments).named() == pytest.approx(
        expected.named()
    )


@pytest.mark.parametrize("where", ["queries", "gallery"])
def test_nan_embeddings_are_an_error(where):
    vectors = {name: np.ones((4, 2)) for name in ("queries", "gallery")}
    vectors[where][2:, 0] = np.nan
    with pytest.raises(ValueError, match=f"2 of 4 rows of `{where}`"):
        metrics.evaluate(
            vectors["queries"], [0] * 4, vectors["gallery"], [0] * 4, (1,)
        )


@pytest.mark.parametrize("ks", [(), (0,), (1.5,), (-1, 2)])
def test_ranks_must_be_positive(ks):
    with pytest.raises(ValueError, match="must hold positive ranks. Received"):
        metrics.evaluate(np.eye(2), [0, 0], np.eye(2), [0, 0], ks)


def test_other_mistakes_are_errors():
    eye = np.eye(2)
    with pytest.raises(ValueError, match="Received: 'random'"):
        metrics.evaluate(eye, [0, 0], eye, [0, 0], (1,), ties="random")
    with pytest.raises(ValueError, match="`gallery_labels` must hold a label"):
        metrics.evaluate(eye, [0, 0], eye, [0, 0, 1], (1,))
    with pytest.raises(ValueError, match="`groups` must name a group"):
        metrics.evaluate(eye, [0, 0], eye, [0, 0], (1,), groups=["a"])
