"""Proxy losses against NumPy loops, and edge cases of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses import arcface, proxies
from tf_triplet.losses.batch_loss import Keys

LOSSES = (
    proxies.ProxyNCALoss,
    proxies.ProxyAnchorLoss,
    proxies.NormSoftmaxLoss,
    arcface.ArcFaceLoss,
)
PRODUCTS, DIM = 6, 5
any_loss = pytest.mark.parametrize("kind", LOSSES)


def unit(vectors):
    vectors = np.float64(vectors)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def nca(labels, x, p, scale=3.0):
    x, p = scale * unit(x), scale * unit(p)
    losses = []
    for i, y in enumerate(labels):
        near = np.exp(-((x[i] - p[y]) ** 2).sum())
        far = sum(
            np.exp(-((x[i] - p[z]) ** 2).sum()) for z in range(len(p)) if z != y
        )
        losses.append(-np.log(near / far))
    return np.mean(losses)


def anchor(labels, x, p, alpha=32.0, delta=0.1):
    s = unit(x) @ unit(p).T
    pull, push = [], []
    for z in range(len(p)):
        own = [i for i in range(len(x)) if labels[i] == z]
        others = [i for i in range(len(x)) if labels[i] != z]
        if own:
            near = sum(np.exp(-alpha * (s[i, z] - delta)) for i in own)
            pull.append(np.log1p(near))
        push.append(
            np.log1p(sum(np.exp(alpha * (s[i, z] + delta)) for i in others))
        )
    return np.mean(pull) + np.mean(push)


def softmax(labels, x, p, temperature=0.05):
    logits = unit(x) @ unit(p).T / temperature
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return np.mean([-np.log(shares[i, y]) for i, y in enumerate(labels)])


def angular(labels, x, p, scale=64.0, margin=0.5):
    """As in PyTorch Metric Learning, which has no rule for large angles."""
    losses = []
    for i, y in enumerate(labels):
        cosines = unit(x[i]) @ unit(p).T
        angle = np.arccos(np.clip(cosines[y], -1, 1))
        logits = scale * cosines
        logits[y] = scale * np.cos(angle + margin)
        if angle > np.pi - margin:
            logits[y] = scale * (cosines[y] - margin * np.sin(margin))
        most = logits.max()
        total = most + np.log(np.exp(logits - most).sum())
        losses.append(total - logits[y])
    return np.mean(losses)


ORACLES = dict(zip(LOSSES, (nca, anchor, softmax, angular)))


def built(kind, products=PRODUCTS, dim=DIM, **arguments):
    loss = kind(**arguments)
    loss.build(products, dim)
    return loss


def batch(seed, size=9):
    random = np.random.default_rng(seed)
    labels = random.integers(0, PRODUCTS - 1, size)  # The last has no row.
    return labels, random.normal(size=(size, DIM)).astype(np.float32)


def with_gradients(loss, labels, vectors):
    """Returns the loss and its gradients for embeddings and proxies."""
    vectors = tf.convert_to_tensor(vectors)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        value = tf.reduce_mean(loss.compute(labels, vectors).values)
    by_row, by_proxy = tape.gradient(
        value, (vectors, loss.parameters.trainable_variables[0])
    )
    return float(value), by_row.numpy(), by_proxy.numpy()


@any_loss
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop(kind, seed):
    loss = built(kind, seed=seed)
    labels, vectors = batch(seed)
    got, _, _ = with_gradients(loss, labels, vectors)
    want = ORACLES[kind](labels, vectors, loss.parameters.proxies.numpy())
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "kind,arguments",
    [
        (proxies.ProxyNCALoss, {"scale": 1.5}),
        (proxies.ProxyAnchorLoss, {"alpha": 8.0, "delta": 0.3}),
        (proxies.NormSoftmaxLoss, {"temperature": 0.5}),
        (arcface.ArcFaceLoss, {"scale": 8.0, "margin": 0.2}),
    ],
)
def test_arguments_reach_the_formula(kind, arguments):
    loss = built(kind, **arguments)
    labels, vectors = batch(1)
    p = loss.parameters.proxies.numpy()
    want = ORACLES[kind](labels, vectors, p, **arguments)
    got, _, _ = with_gradients(loss, labels, vectors)
    assert got == pytest.approx(want, rel=1e-5)
    assert abs(want - ORACLES[kind](labels, vectors, p)) > 0.1


@any_loss
def test_both_gradients_equal_finite_differences(kind):
    # Less steep than the default, so that rounding hides no entry.
    steepness = {
        proxies.ProxyNCALoss: {"scale": 1.5},
        proxies.ProxyAnchorLoss: {"alpha": 4.0},
        proxies.NormSoftmaxLoss: {"temperature": 0.3},
        arcface.ArcFaceLoss: {"scale": 4.0},
    }[kind]
    loss = built(kind, **steepness)
    labels, vectors = batch(2, size=5)
    p = loss.parameters.proxies.numpy()
    _, by_row, by_proxy = with_gradients(loss, labels, vectors)

    def gradients(array, value):
        numeric = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            for sign in (1, -1):
                moved = np.float64(array)
                moved[index] += sign * 1e-6
                numeric[index] += sign * value(moved) / 2e-6
        return numeric

    oracle = ORACLES[kind]
    np.testing.assert_allclose(
        by_row,
        gradients(vectors, lambda x: oracle(labels, x, p, **steepness)),
        rtol=1e-3,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        by_proxy,
        gradients(p, lambda q: oracle(labels, vectors, q, **steepness)),
        rtol=1e-3,
        atol=1e-5,
    )


def numbers(metrics):
    return {name: float(value) for name, value in metrics.items()}


def collapsed():
    return np.array([0, 0, 1]), np.ones([3, DIM], np.float32)


def one_product():
    return np.zeros(4, int), batch(3, size=4)[1]


def one_image_each():
    return np.arange(PRODUCTS), batch(3, size=PRODUCTS)[1]


def duplicates():
    labels, vectors = batch(4)
    return np.repeat(labels, 2), np.repeat(vectors, 2, 0)


def one_row():
    return np.array([2]), batch(5, size=1)[1]


@any_loss
@pytest.mark.parametrize(
    "edge", [collapsed, one_product, one_image_each, duplicates, one_row]
)
def test_edges_equal_the_loop_with_finite_gradients(kind, edge):
    loss = built(kind)
    labels, vectors = edge()
    got, by_row, by_proxy = with_gradients(loss, labels, vectors)
    want = ORACLES[kind](labels, vectors, loss.parameters.proxies.numpy())
    assert got == pytest.approx(want, rel=1e-5)
    assert np.isfinite(by_row).all() and np.isfinite(by_proxy).all()
    assert by_proxy.any()


@pytest.mark.parametrize(
    "kind,steep,want",
    [
        # One row equals its proxy, one another proxy, and one is 0.
        (proxies.ProxyNCALoss, {"scale": 20.0}, (-1600 + 1600 + 0) / 3),
        (
            proxies.ProxyAnchorLoss,
            {"alpha": 500.0},
            (50 + 550) / 2 + (550 + 50) / 2,
        ),
        (
            proxies.NormSoftmaxLoss,
            {"temperature": 0.001},
            (0 + 2000 + np.log(2)) / 3,
        ),
        (
            arcface.ArcFaceLoss,
            {"scale": 1000.0, "margin": 0.0},
            (0 + 2000 + np.log(2)) / 3,
        ),
    ],
)
def test_exponentials_beyond_float32_are_safe(kind, steep, want):
    loss = built(kind, products=2, dim=2, **steep)
    loss.parameters.set_weights([np.float32([[1, 0], [-1, 0]])])
    vectors = np.float32([[1, 0], [1, 0], [0, 0]])
    value, by_row, by_proxy = with_gradients(loss, [0, 1, 0], vectors)
    assert value == pytest.approx(want, rel=1e-5, abs=1e-4)
    assert np.isfinite(by_row).all() and np.isfinite(by_proxy).all()


@any_loss
def test_a_product_without_a_row_is_pushed_away(kind):
    loss = built(kind)
    labels, vectors = batch(6)
    before = loss.parameters.proxies.numpy()
    _, _, by_proxy = with_gradients(loss, labels, vectors)
    absent = PRODUCTS - 1
    assert absent not in labels
    moved = before[absent] - 1e-3 * by_proxy[absent]
    nearest = (unit(vectors) @ unit(before[absent])).argmax()
    x = unit(vectors)[nearest]
    assert x @ unit(moved) < x @ unit(before[absent])


@any_loss
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_cast_up(kind, dtype):
    loss = built(kind)
    labels, vectors = batch(7)
    low = tf.cast(vectors, dtype)
    got, by_row, _ = with_gradients(loss, labels, low)
    want, _, _ = with_gradients(loss, labels, tf.cast(low, tf.float32))
    assert got == pytest.approx(want, rel=1e-6)
    assert np.isfinite(np.float32(by_row)).all()


@any_loss
def test_sides_have_no_effect(kind):
    loss = built(kind)
    labels, vectors = batch(8)
    want = loss.compute(labels, vectors).values
    column = loss.compute(labels[:, None], vectors).values
    np.testing.assert_array_equal(column, want)
    for sides in (np.arange(9) % 2, np.zeros(9, int)):
        got = loss.compute(np.stack([labels, sides], 1), vectors).values
        np.testing.assert_array_equal(got, want)


@any_loss
def test_metrics_are_of_the_nearest_and_of_the_own_proxy(kind):
    loss = built(kind)
    labels, vectors = batch(9)
    p = loss.parameters.proxies.numpy()
    s = unit(vectors) @ unit(p).T
    metrics = numbers(loss.compute(labels, vectors).metrics)
    assert tuple(metrics) == loss.metric_names
    assert metrics["accuracy"] == pytest.approx((s.argmax(1) == labels).mean())
    own = s[np.arange(9), labels].mean()
    assert metrics["own_proxy"] == pytest.approx(own, rel=1e-5)
    # The embeddings are the proxies.
    metrics = numbers(loss.compute(np.arange(PRODUCTS), p).metrics)
    assert metrics["accuracy"] == 1
    assert metrics["own_proxy"] == pytest.approx(1, rel=1e-5)


@any_loss
def test_proxies_are_seeded_and_about_one_long(kind):
    first, again, other = (
        built(kind, 50, 32, seed=s).parameters.proxies.numpy()
        for s in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert np.linalg.norm(first, axis=1).mean() == pytest.approx(1, abs=0.1)


@any_loss
def test_config_round_trip(kind):
    arguments = {
        proxies.ProxyNCALoss: {"scale": 2.0},
        proxies.ProxyAnchorLoss: {"alpha": 16.0, "delta": 0.2},
        proxies.NormSoftmaxLoss: {"temperature": 0.1},
        arcface.ArcFaceLoss: {"scale": 30.0, "margin": 0.3},
    }[kind]
    loss = kind(**arguments, seed=3)
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is kind
    assert again.get_config() == loss.get_config()
    assert again.get_config().items() >= {**arguments, "seed": 3}.items()


@any_loss
def test_before_build_it_says_what_to_call(kind):
    message = rf"{kind.__name__} has no proxies yet. Call `build\(products"
    with pytest.raises(ValueError, match=message):
        kind().compute([0, 1], np.eye(2, dtype=np.float32))


@any_loss
def test_another_width_is_refused(kind):
    message = r"embeddings of shape \(2, 4\), proxies of width 5"
    with pytest.raises(ValueError, match=message):
        built(kind).compute([0, 1], np.ones([2, 4], np.float32))


@any_loss
@pytest.mark.parametrize("label", [PRODUCTS, -1])
def test_a_label_without_a_proxy_is_refused(kind, label):
    loss = built(kind)
    step = tf.function(lambda y, x: loss.compute(y, x).values)
    x = np.ones([2, DIM], np.float32)
    for call in (loss.compute, step):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"must lie in \[0, products\)"
        ):
            call(tf.constant([0, label]), tf.constant(x))


@any_loss
def test_keys_are_refused(kind):
    assert not kind.takes_keys
    x = np.ones([2, DIM], np.float32)
    keys = Keys(tf.constant([0, 1]), tf.constant(x), tf.constant([True] * 2))
    with pytest.raises(ValueError, match="it takes no `keys`"):
        built(kind).compute([0, 1], x, keys)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: proxies.ProxyNCALoss(scale=0), "`scale` must be more than 0"),
        (
            lambda: proxies.ProxyAnchorLoss(alpha=-1),
            "`alpha` must be more than 0. Received: -1",
        ),
        (
            lambda: proxies.ProxyAnchorLoss(delta=-0.1),
            "`delta` must be at least 0. Received: -0.1",
        ),
        (
            lambda: proxies.NormSoftmaxLoss(temperature=float("nan")),
            "`temperature` must be more than 0. Received: nan",
        ),
        (
            lambda: arcface.ArcFaceLoss(scale=0),
            "`scale` must be more than 0. Received: 0",
        ),
        (
            lambda: arcface.ArcFaceLoss(margin=28.6),
            "`margin` must be an angle in radians.*Received: 28.6",
        ),
        (
            lambda: built(proxies.ProxyNCALoss, products=1),
            "`products` must be at least 2 for ProxyNCALoss. Received: 1",
        ),
        (
            lambda: built(proxies.NormSoftmaxLoss, dim=0),
            "`embedding_size` must be at least 1.*Received: 0",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.2])
def test_a_larger_angle_to_the_own_proxy_always_costs_more(margin):
    angles = np.linspace(0, np.pi, 721)
    similarities = np.stack([np.cos(angles), np.zeros(721)], 1)
    products = tf.zeros([721], tf.int32)
    losses = arcface.arcface_loss(products, np.float32(similarities), 8, margin)
    # Below this, the loss is 0 in float32.
    rises = np.diff(losses.numpy()) > -1e-6
    assert rises.all()
    assert losses[-1] > losses[360] > losses[0]


def test_without_a_margin_arcface_is_the_normalized_softmax():
    labels, vectors = batch(3)
    ours = built(arcface.ArcFaceLoss, scale=20.0, margin=0.0)
    want = built(proxies.NormSoftmaxLoss, temperature=0.05)
    for got, other in zip(
        with_gradients(ours, labels, vectors),
        with_gradients(want, labels, vectors),
    ):
        np.testing.assert_allclose(got, other, rtol=1e-4, atol=1e-6)


def test_an_embedding_at_its_proxy_has_a_finite_gradient():
    loss = built(arcface.ArcFaceLoss)
    p = loss.parameters.proxies.numpy()
    # Up to rounding and scale, each row is its own proxy, or its opposite.
    labels = np.tile(np.arange(PRODUCTS), 3)
    vectors = np.concatenate([p, 3 * p, -p])
    _, by_row, by_proxy = with_gradients(loss, labels, vectors)
    assert np.isfinite(by_row).all() and np.isfinite(by_proxy).all()
    assert np.abs(by_row).max() < 1e3
