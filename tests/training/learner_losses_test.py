"""Losses over pairs on two replicas equal one device, also with memory."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet.losses.contrastive import ContrastiveLoss
from tf_triplet.losses.lifted import LiftedStructureLoss
from tf_triplet.losses.margin import MarginLoss
from tf_triplet.losses.multi_similarity import MultiSimilarityLoss
from tf_triplet.losses.npairs import NPairsLoss
from tf_triplet.losses.smooth_ap import SmoothAPLoss
from tf_triplet.losses.supervised_contrastive import SupervisedContrastiveLoss
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

LOSSES = {
    "contrastive": ContrastiveLoss,
    "lifted": lambda: LiftedStructureLoss("original"),
    "generalized": lambda: LiftedStructureLoss("generalized"),
    "margin": lambda: MarginLoss(beta_regularization=0.1),
    "margin_by_product": lambda: MarginLoss(beta_per="product"),
    "n_pairs": NPairsLoss,
    "multi_similarity": MultiSimilarityLoss,
    "supcon": SupervisedContrastiveLoss,
    "smooth_ap": lambda: SmoothAPLoss(temperature=0.1),
}
# These losses train on two domains here, the others on one.
WITH_SIDES = ("lifted", "margin", "n_pairs", "supcon")


def make(name, sides):
    tf.keras.utils.set_random_seed(3)
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([6]),
            tf.keras.layers.Dense(4),
            tf.keras.layers.UnitNormalization(),
        ]
    )
    loss = LOSSES[name]()
    loss.build(products=4, embedding_size=4)
    memory = CrossBatchMemory(20, 4, warmup_steps=1, sides=sides)
    learner = Learner(encoder, loss, memory=memory)
    learner.compile(tf.keras.optimizers.SGD(0.1))
    return learner


def weights(learner):
    return [variable.numpy() for variable in learner.optimized_variables]


@pytest.mark.parametrize("name", LOSSES)
def test_two_replicas_equal_one_device(two_replicas, name):
    """In the second step, the memory holds the embeddings of the first."""
    random = np.random.default_rng(0)
    images = random.normal(size=(16, 6)).astype(np.float32)
    labels = np.repeat(np.arange(4), 4).astype(np.int32)
    sides = name in WITH_SIDES
    if sides:
        labels = np.stack([labels, np.arange(16) % 2], 1).astype(np.int32)
    single = make(name, sides)
    before = weights(single)
    for _ in range(2):
        single.train_step((tf.constant(images), tf.constant(labels)))
    with two_replicas.scope():
        learner = make(name, sides)

    def shard(context):
        i = context.replica_id_in_sync_group
        # Uneven shards, one of which ends within a pair.
        part = slice(0, 5) if i == 0 else slice(5, None)
        return tf.constant(images[part]), tf.constant(labels[part])

    values = two_replicas.experimental_distribute_values_from_function(shard)
    step = tf.function(lambda batch: learner.train_step(batch))
    for _ in range(2):
        two_replicas.run(step, args=(values,))
    for got, want, start in zip(weights(learner), weights(single), before):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        # All variables have changed, also a learned boundary.
        assert (want != start).any()
    wanted = {m.name: float(m.result()) for m in single.metrics}
    got = {m.name: float(m.result()) for m in learner.metrics}
    assert got == pytest.approx(wanted, rel=1e-4)
    assert got["loss"] > 0 and got["memory_loss"] > 0
