"""Triplet loss against a triple loop, and known numerical problems."""

import itertools

import numpy as np
import pair_reference
import pytest
import reference
import scipy.stats
import tensorflow as tf

from tf_triplet.losses import distances, triplet

# The oracle cannot know which negative `random` draws.
KNOWN = [mining for mining in triplet.MININGS if mining != "random"]
COMBINATIONS = list(
    itertools.product(KNOWN, distances.DISTANCES, [False, True], range(4))
)


def batch(seed, products=5, size=16, dim=8, mining="batch_hard"):
    random = np.random.default_rng(seed)
    labels = random.integers(0, products, size)
    if mining in triplet.PAIRED:
        labels = np.repeat(labels[: size // 2], 2)
    vectors = random.normal(size=(size, dim)).astype(np.float32)
    return labels, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loss_and_gradient(labels, embeddings, **arguments):
    embeddings = tf.convert_to_tensor(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = triplet.triplet_loss(labels, embeddings, **arguments)
    gradient = tape.gradient(loss, embeddings)
    return float(loss), tf.convert_to_tensor(gradient).numpy()


@pytest.mark.parametrize("mining,distance,soft,seed", COMBINATIONS)
def test_equals_the_triple_loop(mining, distance, soft, seed):
    labels, vectors = batch(seed, mining=mining)
    for reduction in ("mean", "sum") if soft else triplet.REDUCTIONS:
        got = triplet.triplet_loss(
            labels,
            vectors,
            mining=mining,
            margin=0.3,
            soft=soft,
            distance=distance,
            reduction=reduction,
        )
        want = reference.triplet_loss(
            labels, vectors, mining, 0.3, soft, distance, reduction
        )
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mining,distance,soft,seed", COMBINATIONS)
def test_two_domains_equal_the_triple_loop(mining, distance, soft, seed):
    labels, vectors = batch(seed, mining=mining)
    sides = np.random.default_rng(seed).integers(0, 2, len(labels))
    if mining == "paper":
        sides = np.arange(len(labels)) % 2
    got = triplet.triplet_loss(
        np.stack([labels, sides], 1),
        vectors,
        mining=mining,
        margin=0.3,
        soft=soft,
        distance=distance,
    )
    want = reference.triplet_loss(
        labels, vectors, mining, 0.3, soft, distance, "mean", sides
    )
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_two_domains_anchor_on_the_street_and_compare_with_the_shop(mining):
    labels, vectors = batch(3, mining=mining)
    sides = np.arange(len(labels)) % 2
    terms = triplet.triplet_terms(
        np.stack([labels, sides], 1), vectors, mining=mining
    )
    counts = terms.counts.numpy()
    assert counts[::2].any() and not counts[1::2].any()
    # Another street image, equal to the anchor, is not a negative.
    loss, gradient = loss_and_gradient(
        np.stack([[0, 0, 1, 1], [0, 1, 0, 1]], 1),
        np.float32([[1, 0], [0.8, 0.6], [1, 0], [-1, 0]]),
        mining=mining,
        margin=0.1,
    )
    assert loss == pytest.approx((0.0 + (2.0 - 0.2 + 0.1)) / 2)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_one_side_only_has_no_loss(mining):
    labels, vectors = batch(3, mining=mining)
    for side in (0, 1):
        y = np.stack([labels, np.full_like(labels, side)], 1)
        loss, gradient = loss_and_gradient(y, vectors, mining=mining)
        assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mining", triplet.MININGS)
def test_margin_of_the_paper_in_both_units(mining, seed):
    """0.1 in cosine is 0.2 in squared Euclidean, with twice the loss."""
    labels, vectors = batch(seed, mining=mining)
    cosine, gradient = loss_and_gradient(
        labels, vectors, mining=mining, margin=0.1, distance="cosine"
    )
    squared, other = loss_and_gradient(
        labels, vectors, mining=mining, margin=0.2, distance="squared_euclidean"
    )
    assert cosine > 0
    np.testing.assert_allclose(2 * cosine, squared, rtol=1e-5)

    def on_the_sphere(gradient):
        """Removes the part along the vectors, as normalizing does."""
        along = (gradient * vectors).sum(1, keepdims=True)
        return gradient - along * vectors

    np.testing.assert_allclose(
        2 * on_the_sphere(gradient), on_the_sphere(other), atol=1e-6
    )


def test_random_negatives_are_uniform_over_the_other_products():
    # Rows 2, 3, 4 and 5 lie at distances of 0.2, 0.4, 0.6 and 0.8.
    cosines = np.array([1, 1, 0.8, 0.6, 0.4, 0.2])
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], 1)
    seen = []
    for i in range(400):
        labels = np.array([2 * i, 2 * i, 2 * i + 1, 2 * i + 1, -1 - i, -1 - i])
        terms = triplet.triplet_terms(labels, vectors, mining="random")
        again = triplet.triplet_terms(labels, vectors, mining="random")
        seen.append(float(terms.negative_distances[0]))
        np.testing.assert_array_equal(
            terms.negative_distances, again.negative_distances
        )
    counts = np.bincount(np.rint(np.array(seen) * 5).astype(int), minlength=5)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 0.01


@pytest.mark.parametrize("mining", KNOWN)
@pytest.mark.parametrize("distance", distances.DISTANCES)
def test_gradient_equals_finite_differences(mining, distance):
    labels, vectors = batch(7, size=8, dim=4, mining=mining)
    _, gradient = loss_and_gradient(
        labels, vectors, mining=mining, margin=0.31, distance=distance
    )
    numeric = np.zeros_like(vectors, np.float64)
    step = 1e-6
    for index in np.ndindex(vectors.shape):
        for sign in (1, -1):
            moved = vectors.astype(np.float64)
            moved[index] += sign * step
            value = reference.triplet_loss(
                labels, moved, mining, 0.31, False, distance, "mean"
            )
            numeric[index] += sign * value / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mining", triplet.MININGS)
@pytest.mark.parametrize("distance", distances.DISTANCES)
@pytest.mark.parametrize("soft", [False, True])
def test_collapse_costs_the_margin_and_has_finite_gradient(
    mining, distance, soft
):
    labels = np.repeat(np.arange(4), 2)
    vectors = np.tile(np.float32([[0.6, 0.8]]), (8, 1))
    loss, gradient = loss_and_gradient(
        labels, vectors, mining=mining, distance=distance, soft=soft
    )
    wanted = triplet.TripletLoss(mining, 0.1, soft).loss_at_collapse
    assert loss == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


@pytest.mark.parametrize("spread", [1e-3, 4e-4])
@pytest.mark.parametrize("clusters", [1, 2])
def test_hardest_negative_is_right_near_collapse(spread, clusters):
    random = np.random.default_rng(0)
    centers = np.eye(32)[:clusters]
    vectors = np.repeat(centers, 64 // clusters, 0)
    vectors = vectors + random.normal(size=(64, 32)) * spread / 8
    vectors = vectors.astype(np.float32)
    got = distances.squared_pairwise(tf.constant(vectors)).numpy()
    exact = vectors.astype(np.float64)
    want = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    np.fill_diagonal(got, np.inf)
    np.fill_diagonal(want, np.inf)
    np.testing.assert_array_equal(got.argmin(1), want.argmin(1))


@pytest.mark.parametrize("mining", ["batch_hard", "batch_all", "semi_hard"])
def test_one_image_a_product_has_no_loss(mining):
    _, vectors = batch(1)
    loss, gradient = loss_and_gradient(
        np.arange(16), vectors, mining=mining, margin=5.0
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_no_negative_has_no_loss(mining):
    _, vectors = batch(1)
    loss, gradient = loss_and_gradient(
        np.zeros(16, int), vectors, mining=mining, margin=5.0, soft=True
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_lone_anchor_is_left_out_of_the_mean_unless_counted():
    vectors = np.float32([[1, 0], [0, 1], [-1, 0]])
    arguments = {"margin": 3.0, "distance": "euclidean"}
    left_out = triplet.triplet_loss([0, 0, 1], vectors, **arguments)
    counted = triplet.triplet_loss(
        [0, 0, 1], vectors, count_lone_anchors=True, **arguments
    )
    a, b = 3 + np.sqrt(2) - 2, 3.0
    np.testing.assert_allclose(left_out, (a + b) / 2, rtol=1e-6)
    lone = 3 - np.sqrt(2)
    np.testing.assert_allclose(counted, (a + b + lone) / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("mining", triplet.MININGS)
def test_half_precision_is_cast_up(dtype, mining):
    labels, vectors = batch(3, mining=mining)
    low = tf.cast(vectors, dtype)
    got, gradient = loss_and_gradient(labels, low, mining=mining)
    want = triplet.triplet_loss(labels, tf.cast(low, tf.float32), mining=mining)
    assert got == pytest.approx(float(want), rel=1e-6)
    assert np.isfinite(gradient.astype(np.float32)).all()


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_soft_margin_does_not_overflow(mining):
    labels = np.repeat(np.arange(4), 2)
    vectors = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    loss, gradient = loss_and_gradient(
        labels,
        vectors * 1e4,
        mining=mining,
        soft=True,
        distance="squared_euclidean",
    )
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_paper_mining_refuses_a_batch_without_pairs():
    _, vectors = batch(0, size=4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="same product"):
        triplet.triplet_loss([0, 1, 0, 1], vectors, mining="paper")


def test_semi_hard_without_fallback_skips_the_pair():
    # The only negative is nearer than the positive, so not semi-hard.
    vectors = np.float32([[1, 0], [-1, 0], [0.8, 0.6]])
    arguments = {"mining": "semi_hard", "margin": 0.1}
    skipped = triplet.triplet_loss(
        [0, 0, 1], vectors, semi_hard_fallback="skip", **arguments
    )
    taken = triplet.triplet_loss([0, 0, 1], vectors, **arguments)
    # Anchor 1 has its positive at 2 and the negative at 1.8.
    np.testing.assert_allclose(skipped, 0.0)
    np.testing.assert_allclose(
        taken, ((2 - 0.2 + 0.1) + (2 - 1.8 + 0.1)) / 2, rtol=1e-5
    )


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_empty_batch_is_zero(mining):
    labels, vectors = np.zeros([0], int), np.zeros([0, 4], np.float32)
    assert float(triplet.triplet_loss(labels, vectors, mining=mining)) == 0


@pytest.mark.parametrize("mining", KNOWN)
def test_plain_keras_fit_with_large_ids(mining):
    # Six ids above 2^24, which float32 would round to three.
    ids = 2**24 + np.arange(6)
    labels = np.repeat(ids, 2)
    images = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(4), tf.keras.layers.UnitNormalization()]
    )
    loss = triplet.TripletLoss(mining, margin=0.5)
    model.compile("sgd", loss=loss)
    before = model.predict(images, verbose=0)
    history = model.fit(images, labels, batch_size=12, shuffle=False, verbose=0)
    want = reference.triplet_loss(
        labels, before, mining, 0.5, False, "cosine", "mean"
    )
    np.testing.assert_allclose(history.history["loss"][0], want, rtol=1e-4)


def test_config_round_trip():
    loss = triplet.TripletLoss(
        "semi_hard", 0.2, distance="euclidean", semi_hard_fallback="skip"
    )
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"mining": "hard"}, "`mining` must be one of.*Received: 'hard'"),
        ({"distance": "l2"}, "`distance` must be one of"),
        ({"margin": -1.0}, "`margin` must be at least 0"),
        ({"margin": float("nan")}, "`margin` must be at least 0"),
        ({"soft": True, "reduction": "mean_active"}, "no meaning"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        triplet.TripletLoss(**arguments)


@pytest.mark.parametrize("mining", ["batch_hard", "paper"])
def test_sides_of_unknown_width_are_refused_not_flattened(mining):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def loss(labels):
        return triplet.triplet_loss(labels, tf.eye(4), mining=mining)

    assert float(loss([[0], [0], [1], [1]])) >= 0
    with pytest.raises(tf.errors.InvalidArgumentError, match="set_shape"):
        loss([[0, 0], [0, 1], [1, 0], [1, 1]])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("distance", distances.DISTANCES)
@pytest.mark.parametrize("mining", ["paper", "batch_hard", "semi_hard"])
def test_selective_triplets_only_push_near_negatives(mining, distance, soft):
    """With the distance of those positives held fixed, all is the same."""
    labels, vectors = batch(11, mining=mining, products=3)
    arguments = {"mining": mining, "distance": distance, "soft": soft}
    plain, by_plain = loss_and_gradient(
        labels, vectors, margin=0.3, **arguments
    )
    got, gradient = loss_and_gradient(
        labels, vectors, margin=0.3, selective=True, **arguments
    )
    assert got == pytest.approx(plain, rel=1e-6)
    if mining == "semi_hard":  # Most negatives are farther by definition.
        return
    assert np.abs(gradient - by_plain).max() > 1e-3

    def fixed(moved):
        """The loss, with chosen rows and near-negative positives fixed."""
        x, old = np.float64(moved), np.float64(vectors)
        total, count = 0.0, 0
        for i, label in enumerate(labels):
            if mining == "paper" and i % 2:
                continue
            same = [j for j in np.flatnonzero(labels == label) if j != i]
            other = np.flatnonzero(labels != label)
            if not same:
                continue

            def d(rows, i=i):
                return [
                    reference.distance(rows[i], rows[j], distance)
                    for j in range(len(rows))
                ]

            before, now = d(old), d(x)
            p = max(same, key=before.__getitem__)
            p = i + 1 if mining == "paper" else p
            n = min(other, key=before.__getitem__)
            held = before[n] < before[p]
            gap = (before[p] if held else now[p]) - now[n] + 0.3
            total += np.log1p(np.exp(gap)) if soft else max(gap, 0.0)
            count += 1
        return total / count

    assert fixed(vectors) == pytest.approx(plain, rel=1e-5)
    numeric = pair_reference.finite_differences(fixed, vectors)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=2e-5)


def test_all_triplets_cannot_be_selective():
    with pytest.raises(ValueError, match="`selective` is for a mining"):
        triplet.TripletLoss("batch_all", selective=True)
    labels, vectors = batch(1)
    with pytest.raises(ValueError, match="Received: `mining=batch_all`"):
        triplet.triplet_loss(
            labels, vectors, mining="batch_all", selective=True
        )


def test_selective_is_in_the_config_of_the_loss():
    loss = triplet.TripletLoss(selective=True)
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config()["selective"] is True
