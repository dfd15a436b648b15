"""What a run minimizes: the loss, the tasks beside it, the optimizer."""

from __future__ import annotations

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet import config as configs
from tf_triplet.builders import extensions
from tf_triplet.data.catalog import Catalog
from tf_triplet.losses import third_party
from tf_triplet.losses.arcface import ArcFaceLoss
from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.losses.contrastive import ContrastiveLoss
from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.losses.lifted import LiftedStructureLoss
from tf_triplet.losses.margin import MarginLoss
from tf_triplet.losses.multi_similarity import MultiSimilarityLoss
from tf_triplet.losses.npairs import NPairsLoss
from tf_triplet.losses.proxies import (
    NormSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyLoss,
    ProxyNCALoss,
)
from tf_triplet.losses.smooth_ap import SmoothAPLoss
from tf_triplet.losses.supervised_contrastive import SupervisedContrastiveLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import group_rates, schedules
from tf_triplet.training.tasks import Tasks

# The losses that have a section of `config.loss`, named like the section.
LOSSES = {
    "contrastive": ContrastiveLoss,
    "lifted": LiftedStructureLoss,
    "margin_loss": MarginLoss,
    "npairs": NPairsLoss,
    "multi_similarity": MultiSimilarityLoss,
    "supcon": SupervisedContrastiveLoss,
    "smooth_ap": SmoothAPLoss,
    "proxy_nca": ProxyNCALoss,
    "proxy_anchor": ProxyAnchorLoss,
    "norm_softmax": NormSoftmaxLoss,
    "arcface": ArcFaceLoss,
}
_TRIPLET_FIELDS = (
    *("mining", "margin", "soft", "distance", "reduction", "selective"),
)
# How to add annotations to a catalog.
_COLUMNS = {
    "attributes": (
        "the column `attributes` (red|long sleeve) to the manifest, or "
        "list_attr_items.txt and list_attr_cloth.txt to DeepFashion"
    ),
    "landmarks": (
        "the columns landmark1_x, landmark1_y[, landmark1_visible], ... to "
        "the manifest, or list_landmarks_*.txt to DeepFashion"
    ),
}


def build_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    """Builds the loss of `config.loss`.

    The scope and the memory belong to the learner. If the loss has
    variables, call its `build` before training.

    Args:
        config: The config of the run.

    Returns:
        The loss, for each learner if `config.model.learners` is above 1.

    Raises:
        ValueError: If the loss does not accept its arguments.
    """
    name = config.loss.name
    if name != "triplet":
        _warn_of_unread(config)
    loss = _build_loss(config)
    if config.model.learners < 2:
        return loss
    try:
        return EnsembleLoss(
            loss,
            config.model.learners,
            config.loss.divergence_margin,
            config.loss.divergence_weight,
        )
    except TypeError as error:
        if not extensions.is_extension(name):
            raise
        raise ValueError(
            f"`model.learners={config.model.learners}` copies the loss, which "
            f"`loss.name={name}` does not allow: {error}. Give it a method "
            "get_config() that returns the arguments of its constructor."
        ) from error


def loss_for_validation(config: ml_collections.ConfigDict) -> BatchLoss:
    """Builds the loss to ask it what it needs, without loading much.

    Args:
        config: The config of the run.

    Returns:
        The loss, without copies for learners. A third-party loss without
        arguments is replaced by one that has its attributes, because
        importing its library takes many seconds.

    Raises:
        ValueError: If the loss does not accept its arguments.
    """
    name = config.loss.name
    if name not in third_party.THIRD_PARTY_LOSSES or len(config.loss.arguments):
        return _build_loss(config)
    loss = BatchLoss(name=name)
    for attribute in ("takes_keys", "takes_sides", "has_variables"):
        value = getattr(third_party.ThirdPartyLoss, attribute)
        setattr(loss, attribute, value)
    loss.in_pairs = name in third_party.PAIRED
    return loss


def _build_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    name, arguments = config.loss.name, config.loss.arguments.to_dict()
    if extensions.is_extension(name):
        return extensions.make(
            "loss.name",
            name,
            BatchLoss,
            "a tf_triplet.losses.BatchLoss",
            arguments,
        )
    if name == "triplet":
        return TripletLoss(
            **{field: config.loss[field] for field in _TRIPLET_FIELDS}
        )
    if name not in LOSSES:
        return third_party.ThirdPartyLoss(name, **arguments)
    arguments = config.loss[name].to_dict()
    if issubclass(LOSSES[name], ProxyLoss):
        arguments["seed"] = config.seed
    return LOSSES[name](**arguments)


def _warn_of_unread(config: ml_collections.ConfigDict) -> None:
    """Warns of a field that only the triplet loss reads, if it was set."""
    default = configs.paper_config().loss
    unread = [
        f"loss.{field}={config.loss[field]}"
        for field in _TRIPLET_FIELDS
        if config.loss[field] != default[field]
    ]
    if unread:
        name = config.loss.name
        where = f"loss.{name}" if name in LOSSES else "loss.arguments"
        logging.warning(
            "loss.name=%s does not read %s. Its arguments are in %s.",
            name,
            ", ".join(unread),
            where,
        )


def build_tasks(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Tasks | None:
    """Builds the tasks that are learned beside the embedding.

    Args:
        config: The config of the run.
        catalog: The training catalog.

    Returns:
        The tasks, or None if `config.loss` gives them no weight.

    Raises:
        ValueError: If the training catalog has no annotations for a task.
    """
    loss = config.loss
    weights = {
        "attributes": ("attribute_weight", loss.attribute_weight),
        "landmarks": ("landmark_weight", loss.landmark_weight),
    }
    for target, (field, weight) in weights.items():
        if weight and not _annotated(catalog, target):
            raise ValueError(
                f"`loss.{field}` is {weight} but the training images of "
                f"the catalog {catalog.name!r} have no {target}. Add "
                f"{_COLUMNS[target]}, or set loss.{field}=0."
            )
    if not (loss.attribute_weight or loss.landmark_weight):
        return None
    return Tasks(
        loss.attribute_weight,
        loss.landmark_weight,
        loss.attribute_positive_weight,
    )


def _annotated(catalog: Catalog, target: str) -> bool:
    """Whether at least one image has such annotations."""
    if target == "attributes":
        values = catalog.attributes
        return values is not None and bool((values >= 0).any())
    marks = catalog.landmarks
    return marks is not None and not np.isnan(marks[..., 2]).all()


def build_optimizer(
    config: ml_collections.ConfigDict,
    learning_rate: float = 0.0,
    trained: tf.keras.Model | None = None,
) -> tf.keras.optimizers.Optimizer:
    """Builds the optimizer with its learning-rate schedule.

    Args:
        config: The config of the run.
        learning_rate: Replaces `config.optimizer.learning_rate`, unless 0.
        trained: The model whose head and backbone may have rates of their
            own. None: it is for other variables.

    Returns:
        The optimizer.

    Raises:
        ValueError: If the head is to have a rate of its own, and there is
            none.
    """
    optimizer, groups = config.optimizer, None
    if trained is not None:
        groups = group_rates.find_groups(
            trained, optimizer.head_rate, optimizer.head_warmup_steps
        )
    rate = schedules.build_schedule(
        optimizer.schedule,
        learning_rate or optimizer.learning_rate,
        config.training.steps,
        optimizer.boundaries,
        optimizer.warmup_steps,
    )
    return schedules.build_optimizer(
        optimizer.name,
        rate,
        optimizer.momentum,
        optimizer.weight_decay,
        optimizer.clip_norm,
        groups,
    )
