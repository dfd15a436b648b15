"""The contract of `BatchLoss`: what the classes say, and label shapes."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import losses
from tf_triplet.losses import batch_loss, mining, third_party
from tf_triplet.losses.triplet import MININGS

KINDS = [
    value
    for value in (getattr(losses, name) for name in losses.__all__)
    if inspect.isclass(value)
    and issubclass(value, losses.BatchLoss)
    and value is not losses.BatchLoss
]
LABELS = np.repeat(np.arange(4), 2).astype(np.int32)
CONTRACT = {
    "in_pairs": bool,
    "needs_positives": bool,
    "needs_negatives": bool,
    "takes_keys": bool,
    "takes_sides": bool,
    "has_variables": bool,
    "loss_at_collapse": (float, type(None)),
    "collapse_advice": tuple,
    "metric_names": tuple,
}


def build(kind):
    if kind is losses.EnsembleLoss:
        loss = kind(losses.TripletLoss(), 2)
    elif kind is losses.ThirdPartyLoss:
        loss = kind("tfa_hard")
    else:
        loss = kind()
    loss.build(products=4, embedding_size=4)
    return loss


def unit_vectors():
    drawn = np.random.default_rng(0).normal(size=[8, 4]).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


each_loss = pytest.mark.parametrize("kind", KINDS)


@each_loss
@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_uniform(kind, name):
    """A class has a value or, if the arguments decide, a property."""
    assert isinstance(getattr(build(kind), name), CONTRACT[name])
    of_class = inspect.getattr_static(kind, name)
    assert isinstance(of_class, (*np.atleast_1d(CONTRACT[name]), property))


@each_loss
def test_only_a_loss_with_variables_has_a_layer(kind):
    loss = build(kind)
    assert (loss.parameters is not None) == loss.has_variables


@each_loss
def test_metric_names_are_those_of_compute(kind):
    loss = build(kind)
    value = loss.compute(tf.constant(LABELS), tf.constant(unit_vectors()))
    assert tuple(value.metrics) == loss.metric_names
    assert value.values.shape == (8,) and value.values.dtype == tf.float32


@each_loss
def test_takes_sides_is_true(kind):
    """Sides are accepted, or raise an error that names them."""
    loss = build(kind)
    labels = tf.constant(np.stack([LABELS, np.arange(8) % 2], 1))
    if loss.takes_sides:
        loss.compute(labels, tf.constant(unit_vectors()))
        return
    with pytest.raises(ValueError, match="does not support sides"):
        loss.compute(labels, tf.constant(unit_vectors()))


@each_loss
def test_takes_keys_is_true(kind):
    loss = build(kind)
    vectors = tf.constant(unit_vectors())
    keys = losses.Keys(tf.constant(LABELS), vectors, tf.fill([8], True))
    if loss.takes_keys:
        loss.compute(tf.constant(LABELS), vectors, keys)
        return
    with pytest.raises(ValueError, match="takes no `keys`"):
        loss.compute(tf.constant(LABELS), vectors, keys)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.in_pairs is not True])
def test_a_batch_without_positives_is_finite(kind):
    loss = build(kind)
    vectors = tf.constant(unit_vectors()[:4])
    value = loss.compute(tf.range(4), vectors)
    assert np.isfinite(value.values).all()
    if not loss.needs_positives:
        assert float(tf.reduce_mean(value.values)) > 0


def test_losses_that_need_pairs():
    paired = [m for m in MININGS if losses.TripletLoss(m).in_pairs]
    assert paired == ["paper", "random"]
    assert [kind for kind in KINDS if kind.in_pairs is True] == [
        losses.NPairsLoss
    ]
    assert third_party.PAIRED == ("tfa_npairs",)


def test_a_fixed_boundary_is_no_variable():
    assert losses.MarginLoss().has_variables
    assert not losses.MarginLoss(learn_beta=False).has_variables


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not losses.EnsembleLoss]
)
def test_an_ensemble_forwards_the_contract_of_its_base(kind):
    base = build(kind)
    loss = losses.EnsembleLoss(base, 2)
    for name in CONTRACT.keys() - {"loss_at_collapse", "metric_names"}:
        assert getattr(loss, name) == getattr(base, name), name
    assert loss.metric_names == (*base.metric_names, "divergence")


def test_only_triplets_have_advice():
    advised = [kind for kind in KINDS if build(kind).collapse_advice]
    assert advised == [losses.EnsembleLoss, losses.TripletLoss]
    assert losses.TripletLoss.collapse_advice == (
        "loss.soft=true",
        "loss.mining=semi_hard",
    )


def test_a_loss_without_compute_says_what_is_missing():
    class Empty(losses.BatchLoss):
        pass

    with pytest.raises(NotImplementedError, match="Empty must implement"):
        Empty()(LABELS, unit_vectors())


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_labels_are_split(dtype):
    labels = LABELS.astype(dtype)
    for form in (labels, labels[:, None]):
        products, sides = batch_loss.split_labels(form)
        np.testing.assert_array_equal(products, LABELS)
        assert sides is None
    products, sides = batch_loss.split_labels(np.stack([labels, labels % 2], 1))
    np.testing.assert_array_equal(products, LABELS)
    np.testing.assert_array_equal(sides, LABELS % 2)


@pytest.mark.parametrize(
    "labels", [np.eye(4)[LABELS], np.zeros([8, 1, 1]), np.zeros([])]
)
def test_labels_of_another_shape_raise(labels):
    message = "For one-hot labels pass .*argmax.*Received labels of shape"
    with pytest.raises(ValueError, match=message):
        batch_loss.split_labels(labels)


def test_one_hot_labels_of_unknown_width_raise():
    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def loss(labels):
        return losses.triplet_loss(labels, unit_vectors())

    with pytest.raises(tf.errors.InvalidArgumentError, match="argmax"):
        loss(np.eye(4, dtype=np.float32)[LABELS])


@pytest.mark.parametrize(
    "labels,share",
    [
        ([0, 0, 1, 1], 1.0),
        ([0, 0, 1, 2], 0.5),
        ([0, 1, 2, 3], 0.0),
        ([[0, 0], [0, 1], [1, 0], [1, 0]], 1 / 3),
        ([[0, 1], [0, 1], [1, 1], [1, 1]], 0.0),
    ],
)
def test_share_with_positive(labels, share):
    assert float(mining.share_with_positive(labels)) == pytest.approx(share)


@pytest.mark.parametrize("sides", [False, True])
def test_has_negative(sides):
    """As often as the mask of the negatives is not empty."""
    random, seen = np.random.default_rng(0), set()
    for batch in [0, 1, 2, 2, 3, 3, 4, 4] * 10:
        labels = random.integers(0, 2, [batch, 2])
        if not sides:
            labels = labels[:, 0]
        _, negatives = mining.pair_masks(tf.constant(labels))
        found = bool(mining.has_negative(tf.constant(labels)))
        assert found == bool(negatives.numpy().any()), labels
        seen.add(found)
    assert seen == {False, True}


def test_only_proxies_teach_without_negatives():
    without = {kind for kind in KINDS if not build(kind).needs_negatives}
    assert without == {
        losses.ArcFaceLoss,
        losses.NormSoftmaxLoss,
        losses.ProxyAnchorLoss,
        losses.ProxyNCALoss,
    }
