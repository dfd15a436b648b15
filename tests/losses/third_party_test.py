"""Third-party losses: their values, and every fault that we name."""

import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa
import tensorflow_similarity as tfsim

from tf_triplet.losses import third_party
from tf_triplet.losses.batch_loss import Keys
from tf_triplet.losses.third_party import KNOWN_FAULTS, ThirdPartyLoss
from tf_triplet.training.learner import Learner

PAIRS = np.repeat(np.arange(4), 2).astype(np.int32)
ADDONS = [n for n in third_party.THIRD_PARTY_LOSSES if n.startswith("tfa_")]
any_loss = pytest.mark.parametrize("name", third_party.THIRD_PARTY_LOSSES)


def vectors(seed=0, size=8, dim=4):
    drawn = np.random.default_rng(seed).normal(size=(size, dim))
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit.astype(np.float32)


def value_and_gradient(loss, labels, embeddings):
    embeddings = tf.convert_to_tensor(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        # The encoder's outputs are unit vectors, so normalize first.
        unit = tf.math.l2_normalize(embeddings, 1)
        value = tf.reduce_mean(
            loss.compute(tf.constant(labels, tf.int32), unit).values
        )
    return float(value), tape.gradient(value, embeddings).numpy()


THEIRS = {
    "tfa_hard": tfa.losses.TripletHardLoss,
    "tfa_semihard": tfa.losses.TripletSemiHardLoss,
    "tfa_lifted": tfa.losses.LiftedStructLoss,
    "tfsim_triplet": tfsim.losses.TripletLoss,
    "tfsim_triplet_hard": lambda: tfsim.losses.TripletLoss(
        negative_mining_strategy="hard"
    ),
    "tfsim_multisim": tfsim.losses.MultiSimilarityLoss,
    "tfsim_circle": tfsim.losses.CircleLoss,
    "tfsim_pn": tfsim.losses.PNLoss,
    "tfsim_soft_nn": tfsim.losses.SoftNearestNeighborLoss,
}


@pytest.mark.parametrize("name", THEIRS)
def test_is_theirs_spread_over_the_rows(name):
    x = vectors()
    values = ThirdPartyLoss(name).compute(PAIRS, x).values.numpy()
    want = float(tf.reduce_mean(THEIRS[name]()(PAIRS, tf.constant(x))))
    assert values.shape == (8,) and want > 0
    np.testing.assert_allclose(values, want, rtol=1e-6)


def test_pairs_are_fed_as_a_matrix():
    x = vectors()
    got, _ = value_and_gradient(ThirdPartyLoss("tfa_npairs"), PAIRS, x)
    logits = np.float64(x[::2]) @ np.float64(x[1::2]).T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert got == pytest.approx(-np.log(np.diag(shares)).mean(), rel=1e-5)
    assert ThirdPartyLoss("tfa_npairs").in_pairs
    assert not ThirdPartyLoss("tfa_hard").in_pairs


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 1]])
def test_npairs_refuses_what_is_no_pair(labels):
    x = vectors(size=len(labels))
    with pytest.raises(tf.errors.InvalidArgumentError, match="same product"):
        ThirdPartyLoss("tfa_npairs").compute(tf.constant(labels), x)


@pytest.mark.parametrize(
    "name,arguments",
    [
        ("tfa_hard", {"margin": 0.2, "distance_metric": "squared-L2"}),
        ("tfsim_triplet", {"margin": 0.9}),
        ("tfsim_circle", {"gamma": 10.0}),
    ],
)
def test_arguments_reach_them_and_the_config(name, arguments):
    loss = ThirdPartyLoss(name, **arguments)
    x = vectors()
    got, _ = value_and_gradient(loss, PAIRS, x)
    want = float(tf.reduce_mean(THEIRS[name]().call(PAIRS, x)))
    assert abs(got - want) > 0.01
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert value_and_gradient(again, PAIRS, x)[0] == got


@any_loss
def test_half_precision_is_cast_up(name):
    low = tf.cast(vectors(), tf.float16)
    loss = ThirdPartyLoss(name)
    got = loss.compute(PAIRS, low).values
    assert got.dtype == tf.float32
    want = loss.compute(PAIRS, tf.cast(low, tf.float32)).values
    np.testing.assert_array_equal(got, want)


# The faults: each sentence of KNOWN_FAULTS has one of these tests.

DENSE = "dense"
SCALAR = [name for name in ADDONS if name != "tfa_npairs"]


def make_model():
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4, name=DENSE),
            tf.keras.layers.UnitNormalization(),
        ]
    )


def replica_step(strategy, model, x, y):
    """Performs one step of `model` with the shards `x[i]`, `y[i]`."""

    def shard(context):
        i = context.replica_id_in_sync_group
        return tf.constant(x[i]), tf.constant(y[i])

    values = strategy.experimental_distribute_values_from_function(shard)
    strategy.run(tf.function(lambda data: model.train_step(data)), (values,))


def shards():
    x = np.random.default_rng(1).normal(size=[2, 4, 6]).astype(np.float32)
    return x, np.int32([[0, 0, 1, 1], [2, 2, 3, 3]])


@pytest.mark.parametrize(
    "name,times",
    [*((name, 2.0) for name in SCALAR), ("tfsim_triplet", 1.0)],
)
def test_scaling_under_plain_compile(two_replicas, name, times):
    """Two replicas with the same shard should equal one device."""
    theirs = THEIRS[name]
    x, y = shards()
    x, y = np.stack([x[0]] * 2), np.stack([y[0]] * 2)
    single = make_model()
    before = single.get_layer(DENSE).get_weights()[0]
    single.compile(tf.keras.optimizers.SGD(1.0), loss=theirs())
    single.train_step((tf.constant(x[0]), tf.constant(y[0])))
    one = single.get_layer(DENSE).get_weights()[0] - before
    with two_replicas.scope():
        model = make_model()
        model.compile(tf.keras.optimizers.SGD(1.0), loss=theirs())
    replica_step(two_replicas, model, x, y)
    two = model.get_layer(DENSE).get_weights()[0] - before
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(two, times * one, rtol=1e-4, atol=1e-6)
    assert (times == 2.0) == ("N times too long" in KNOWN_FAULTS[name])


def test_npairs_under_plain_compile_is_nan():
    model = make_model()
    model.compile("sgd", loss=tfa.losses.NpairsLoss())
    x, y = shards()
    # It asks for a matrix: four rows of four.
    logs = model.train_step((tf.constant(x[0]), tf.constant(y[0])))
    assert np.isnan(logs["loss"])
    assert "Keras makes labels a column" in KNOWN_FAULTS["tfa_npairs"]


@pytest.mark.parametrize("name", [*ADDONS, "tfsim_circle"])
def test_learner_on_two_replicas_equals_one_device(two_replicas, name):
    def make():
        learner = Learner(make_model(), ThirdPartyLoss(name))
        learner.compile(tf.keras.optimizers.SGD(1e-2))
        return learner

    x, y = shards()
    single = make()
    before = single.encoder.get_weights()
    single.train_step((tf.constant(np.vstack(x)), tf.constant(y.ravel())))
    with two_replicas.scope():
        learner = make()
    replica_step(two_replicas, learner, x, y)
    for start, got, want in zip(
        before, learner.encoder.get_weights(), single.encoder.get_weights()
    ):
        assert np.abs(want - start).max() > 1e-5
        np.testing.assert_allclose(
            got - start, want - start, rtol=1e-3, atol=1e-6
        )


def test_fit_on_two_replicas(two_replicas):
    with two_replicas.scope():
        learner = Learner(make_model(), ThirdPartyLoss("tfsim_triplet"))
        learner.compile(tf.keras.optimizers.SGD(0.1))
    x, y = shards()
    data = tf.data.Dataset.from_tensors((np.vstack(x), y.ravel())).repeat(30)
    first = learner.fit(data.take(1), verbose=0).history["loss"][0]
    last = learner.fit(data, verbose=0).history["loss"][0]
    assert np.isfinite(last) and last < first


@pytest.mark.parametrize(
    "name,labels",
    [
        ("tfa_semihard", np.arange(8)),
        ("tfa_lifted", np.arange(8)),
        ("tfa_lifted", np.zeros(8)),
    ],
)
def test_nan_where_nothing_is_to_compare(name, labels):
    value, gradient = value_and_gradient(
        ThirdPartyLoss(name), labels, vectors()
    )
    assert np.isnan(value) and np.isnan(gradient).any()
    assert "is NaN" in KNOWN_FAULTS[name]


NO_NEGATIVE = ["tfa_semihard", "tfsim_triplet", "tfsim_pn"]


@pytest.mark.parametrize("name", NO_NEGATIVE)
def test_gradients_from_nothing_without_a_negative(name):
    value, gradient = value_and_gradient(
        ThirdPartyLoss(name), np.zeros(8), vectors()
    )
    assert value > 1 and np.abs(gradient).max() > 0.01
    assert "gradients from nothing" in KNOWN_FAULTS[name]


@pytest.mark.parametrize("name", ["tfa_hard", "tfsim_triplet_hard"])
def test_without_a_negative_it_costs_the_margin(name):
    loss = ThirdPartyLoss(name, margin=0.7)
    value, gradient = value_and_gradient(loss, np.zeros(8), vectors())
    assert value == pytest.approx(0.7, rel=1e-4)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert "costs the margin" in KNOWN_FAULTS[name]


@pytest.mark.parametrize(
    "name", ["tfa_hard", "tfsim_triplet", "tfsim_triplet_hard", "tfsim_pn"]
)
def test_rows_without_a_positive_are_counted_and_pushed(name):
    value, gradient = value_and_gradient(
        ThirdPartyLoss(name), np.arange(8), vectors()
    )
    assert value > 0.1 and np.abs(gradient).max() > 0.01
    assert "without a positive is counted" in KNOWN_FAULTS[name]


@pytest.mark.parametrize(
    "name,function",
    [
        ("tfa_semihard", tfa.losses.triplet_semihard_loss),
        ("tfa_lifted", tfa.losses.lifted_struct_loss),
        ("tfa_hard", tfa.losses.triplet_hard_loss),
    ],
)
def test_the_largest_tensor_is_cubic_in_the_batch(name, function):
    size = 11
    graph = (
        tf.function(function.python_function)
        .get_concrete_function(
            tf.TensorSpec([size], tf.int32), tf.TensorSpec([size, 3])
        )
        .graph
    )
    shapes = [out.shape for op in graph.get_operations() for out in op.outputs]
    largest = max(shape.num_elements() or 0 for shape in shapes)
    cubic = "[B^2, B]" in KNOWN_FAULTS[name]
    assert largest == (size**3 if cubic else size**2)


def test_soft_hard_overflows_at_large_distances():
    loss = ThirdPartyLoss("tfa_hard", soft=True)
    x = tf.constant([[0.0, 0], [90, 0], [0, 0], [90, 0]])
    value = loss.compute(tf.constant([0, 0, 1, 1]), x).values
    assert np.isinf(value).all() and "overflows" in KNOWN_FAULTS["tfa_hard"]


def test_npairs_never_gets_low_on_unit_vectors():
    best = np.float32([[1, 0], [1, 0], [-1, 0], [-1, 0]])
    value, _ = value_and_gradient(
        ThirdPartyLoss("tfa_npairs"), [0, 0, 1, 1], best
    )
    assert value == pytest.approx(np.log1p(np.exp(-2)), rel=1e-5)
    assert "(n - 1) / e^2" in KNOWN_FAULTS["tfa_npairs"]


def circle(labels, x, gamma=80.0, margin=0.4, product=True, constant=True):
    """Computes the loss of the paper, or with the library's two changes."""
    s = tf.matmul(x, x, transpose_b=True)
    hold = tf.stop_gradient if constant else tf.identity
    own = hold(tf.nn.relu(1 + margin - s)) * (s - (1 - margin))
    other = hold(tf.nn.relu(s + margin)) * (s - margin)
    same = labels[:, None] == labels[None, :]
    different = ~same
    np.fill_diagonal(same, False)
    pull = tf.reduce_logsumexp(tf.where(same, -gamma * own, -np.inf), 1)
    push = tf.reduce_logsumexp(tf.where(different, gamma * other, -np.inf), 1)
    if product:
        return tf.reduce_mean(tf.math.softplus(pull + push))
    return tf.reduce_mean(tf.math.softplus(pull) + tf.math.softplus(push))


@pytest.mark.parametrize(
    "product,constant,value_is_theirs,gradient_is_theirs",
    [
        (False, False, True, True),
        (False, True, True, False),
        (True, True, False, False),  # The paper.
    ],
)
def test_circle_is_another_formula_than_the_papers(
    product, constant, value_is_theirs, gradient_is_theirs
):
    raw = tf.constant(vectors())
    got, got_gradient = value_and_gradient(
        ThirdPartyLoss("tfsim_circle", gamma=4.0), PAIRS, raw
    )
    with tf.GradientTape() as tape:
        tape.watch(raw)
        unit = tf.math.l2_normalize(raw, 1)
        want = circle(PAIRS, unit, 4.0, product=product, constant=constant)
    gradient = tape.gradient(want, raw).numpy()
    assert np.isclose(got, want, rtol=1e-4) == value_is_theirs
    same = np.allclose(got_gradient, gradient, rtol=1e-3, atol=1e-5)
    assert same == gradient_is_theirs
    assert "one of their product" in KNOWN_FAULTS["tfsim_circle"]


def test_soft_nearest_neighbor_is_nan_where_all_are_far():
    x = np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]])
    near = ThirdPartyLoss("tfsim_soft_nn", temperature=2.0 / 80)
    assert np.isfinite(value_and_gradient(near, [0, 0, 1, 1], x)[0])
    far = ThirdPartyLoss("tfsim_soft_nn", temperature=2.0 / 110)
    assert np.isnan(value_and_gradient(far, [0, 0, 1, 1], x)[0])
    assert "0 / 0" in KNOWN_FAULTS["tfsim_soft_nn"]


@pytest.mark.parametrize(
    "labels",
    [np.arange(8), np.zeros(8), PAIRS],
    ids=["one image each", "no negative", "collapse"],
)
def test_multisim_has_no_known_fault(labels):
    assert "tfsim_multisim" not in KNOWN_FAULTS
    x = np.ones([8, 4]) if labels is PAIRS else vectors()
    value, gradient = value_and_gradient(
        ThirdPartyLoss("tfsim_multisim"), labels, x
    )
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


# Warnings and errors.


@any_loss
def test_creating_a_loss_warns_of_its_faults_once(name, caplog):
    caplog.set_level("WARNING", logger="absl")
    loss = ThirdPartyLoss(name)
    loss.compute(PAIRS, vectors())
    told = [
        r.getMessage() for r in caplog.records if "has known faults" in r.msg
    ]
    wanted = [
        f"{name} has known faults: {text.strip()}"
        for text in [KNOWN_FAULTS.get(name)]
        if text
    ]
    assert told == wanted


def test_faults_belong_to_existing_losses():
    assert set(KNOWN_FAULTS) < set(third_party.THIRD_PARTY_LOSSES)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: ThirdPartyLoss("hard"),
            "`name` must be one of tfa_hard,.*'hard'",
        ),
        (
            lambda: ThirdPartyLoss("tfa_hard", gamma=1.0),
            "tfa_hard has no argument gamma. It accepts: margin, soft, dist",
        ),
        (
            lambda: ThirdPartyLoss("tfa_npairs", margin=1.0),
            "tfa_npairs has no argument margin. It accepts: none",
        ),
        (
            lambda: ThirdPartyLoss("tfsim_pn", positive_mining_strategy="x"),
            "tensorflow_similarity's PNLoss rejects .*'x'.*Invalid positive",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@any_loss
def test_sides_and_keys_are_refused(name):
    loss, x = ThirdPartyLoss(name), tf.constant(vectors())
    sides = tf.stack([PAIRS, PAIRS % 2], 1)
    with pytest.raises(ValueError, match=f"{name} does not support sides"):
        loss.compute(sides, x)
    keys = Keys(tf.constant(PAIRS), x, tf.fill([8], True))
    with pytest.raises(ValueError, match=f"{name} compares within the batch"):
        loss.compute(PAIRS, x, keys)


@pytest.mark.parametrize(
    "name,package",
    [
        ("tfa_hard", "tensorflow_addons"),
        ("tfsim_circle", "tensorflow_similarity"),
    ],
)
def test_a_missing_package_says_what_to_install(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    install = f"pip install {package.replace('_', '-')}"
    with pytest.raises(ValueError, match=install):
        ThirdPartyLoss(name)
