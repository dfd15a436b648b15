"""A run goes on with more products than its checkpoint knows."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.data import pipeline
from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.losses.margin import MarginLoss
from tf_triplet.losses.proxies import ProxyAnchorLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import growth, loop, optimizer_variables
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

BEFORE, AFTER, DIM = 4, 6, 4


def encoder():
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential(
        [
            tf.keras.Input([3]),
            tf.keras.layers.Dense(DIM),
            tf.keras.layers.UnitNormalization(),
        ]
    )


def make(loss, products, network=None, optimizer="adam", loss_rate=None):
    loss = loss()
    loss.build(products, DIM)
    memory = CrossBatchMemory(8, DIM, 0) if loss.takes_keys else None
    learner = Learner(network or encoder(), loss, memory=memory)
    if optimizer == "lamb":
        import tensorflow_addons as tfa

        optimizer = tfa.optimizers.LAMB(0.01)
    own = tf.keras.optimizers.SGD(loss_rate, 0.9) if loss_rate else None
    learner.compile(optimizer, own)
    return learner


def batches(products):
    random = np.random.default_rng(0)
    images = random.normal(size=[8, 3]).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) // 2 % products
    return lambda start: tf.data.Dataset.from_tensors((images, labels)).repeat()


def train(learner, workdir, steps, products, build_smaller=None):
    settings = loop.Settings(steps, 100, 1, 0, 0, True, "recall@1")
    return loop.train(
        learner,
        batches(products),
        None,
        pipeline.BadImages(),
        workdir,
        settings,
        verbose=0,
        build_smaller=build_smaller,
    )


def grow(loss, workdir, **more):
    """Trains with four products, and restores that with six."""
    small = make(loss, BEFORE, **more)
    train(small, workdir, 3, BEFORE)
    large = make(loss, AFTER, **more)
    fresh = [v.numpy() for v in large.loss_variables]

    def build_smaller(products):
        assert products == BEFORE
        return make(loss, products, large.encoder, **more)

    # A complete run only restores its state.
    train(large, workdir, 3, AFTER, build_smaller)
    return small, large, fresh


@pytest.mark.parametrize(
    "loss",
    [
        ProxyAnchorLoss,
        lambda: MarginLoss(beta_per="product"),
        lambda: EnsembleLoss(ProxyAnchorLoss(), 2),
    ],
    ids=["proxies", "boundaries", "ensemble"],
)
@pytest.mark.parametrize("loss_rate", [None, 0.5])
def test_products_keep_their_rows_and_new_ones_are_fresh(
    tmp_path, loss, loss_rate
):
    small, large, fresh = grow(loss, tmp_path, loss_rate=loss_rate)
    assert growth.count_in_loss(large) == AFTER
    for old, new, first in zip(
        small.loss_variables, large.loss_variables, fresh
    ):
        np.testing.assert_array_equal(new[:BEFORE], old)
        np.testing.assert_array_equal(new[BEFORE:], first[BEFORE:])
    for old, new in zip(small.encoder.weights, large.encoder.weights):
        np.testing.assert_array_equal(new, old)
    pairs = list(zip(small.optimizer.variables, large.optimizer.variables))
    if loss_rate:
        pairs += zip(
            small.loss_optimizer.variables, large.loss_optimizer.variables
        )
    assert any(old.shape != new.shape for old, new in pairs)
    for old, new in pairs:
        grown = old.shape != new.shape
        np.testing.assert_array_equal(new[:BEFORE] if grown else new, old)
        if grown:
            assert not np.any(new[BEFORE:])
    if large.memory is not None:
        np.testing.assert_array_equal(large.memory.labels, small.memory.labels)


def test_a_grown_run_trains_on_and_resumes(tmp_path):
    _, large, _ = grow(ProxyAnchorLoss, tmp_path)
    step = train(
        large,
        tmp_path,
        5,
        AFTER,
        lambda products: make(ProxyAnchorLoss, products, large.encoder),
    )
    assert step == 5
    again = make(ProxyAnchorLoss, AFTER)
    assert train(again, tmp_path, 5, AFTER) == 5
    for got, want in zip(again.get_weights(), large.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_a_loss_without_variables_needs_nothing(tmp_path):
    small = make(lambda: TripletLoss("batch_hard"), BEFORE)
    train(small, tmp_path, 2, BEFORE)
    state = tf.train.latest_checkpoint(tmp_path / "checkpoints")
    assert growth.count_in_checkpoint(state) == growth.count_in_loss(small) == 0
    large = make(lambda: TripletLoss("batch_hard"), AFTER)
    assert train(large, tmp_path, 3, AFTER, lambda products: 1 / 0) == 3


def test_an_optimizer_of_tf_addons_grows_too(tmp_path):
    small, large, _ = grow(ProxyAnchorLoss, tmp_path, optimizer="lamb")
    pairs = list(
        zip(small.optimizer.get_weights(), large.optimizer.get_weights())
    )
    assert len(pairs) > 6
    for old, new in pairs:
        np.testing.assert_array_equal(new[:BEFORE] if old.ndim else new, old)


def test_what_cannot_grow_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer_variables, "create_all", lambda one: False)
    with pytest.raises(ValueError, match="proxy_anchor_loss has variables of"):
        grow(ProxyAnchorLoss, tmp_path)


def test_a_variable_without_rows_per_product_is_refused_by_name(tmp_path):
    class ByColumn(ProxyAnchorLoss):
        def build(self, products, embedding_size):
            super().build(products, embedding_size)
            self.parameters.other = self.parameters.add_weight(
                "columns", [3, products]
            )

    with pytest.raises(ValueError, match="proxy_anchor_loss cannot.*columns"):
        grow(ByColumn, tmp_path)
