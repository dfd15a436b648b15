"""What a run minimizes, and how: a config to loss, tasks and optimizer."""

from __future__ import annotations

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet import config as configs
from tf_triplet.data.catalog import Catalog
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
from tf_triplet.losses.third_party import ThirdPartyLoss
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.training import schedules
from tf_triplet.training.tasks import Tasks

# Those with a section of their own in `config.loss`.
LOSSES = {
    "contrastive": ContrastiveLoss,
    "lifted": LiftedStructureLoss,
    "margin_loss": MarginLoss,
    "npairs": NPairsLoss,
    "multi_similarity": MultiSimilarityLoss,
    "proxy_nca": ProxyNCALoss,
    "proxy_anchor": ProxyAnchorLoss,
    "norm_softmax": NormSoftmaxLoss,
}
_TRIPLET_FIELDS = ("mining", "margin", "soft", "distance", "reduction")
# Where a catalog gets its annotations from.
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
    """The loss; `scope` and the memory are the learner's.

    Its variables, where it has any, are still to be made: `loss.build`.
    """
    loss = _build_loss(config)
    if config.model.learners < 2:
        return loss
    return EnsembleLoss(
        loss,
        config.model.learners,
        config.loss.divergence_margin,
        config.loss.divergence_weight,
    )


def _build_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    name = config.loss.name
    if name != "triplet":
        _warn_of_unread(config)
    if name == "triplet":
        return TripletLoss(
            **{field: config.loss[field] for field in _TRIPLET_FIELDS}
        )
    if name not in LOSSES:
        return ThirdPartyLoss(name)
    arguments = config.loss[name].to_dict()
    if issubclass(LOSSES[name], ProxyLoss):
        arguments["seed"] = config.seed
    return LOSSES[name](**arguments)


def _warn_of_unread(config: ml_collections.ConfigDict) -> None:
    """A config may well have been a triplet's; an override hardly was."""
    default = configs.base_config().loss
    own = [
        f"loss.{field}={config.loss[field]}"
        for field in _TRIPLET_FIELDS
        if config.loss[field] != default[field]
    ]
    if own:
        name = config.loss.name
        where = f"loss.{name}" if name in LOSSES else "no field of the config"
        logging.warning(
            "loss.name=%s does not read %s; its own numbers are in %s.",
            name,
            ", ".join(own),
            where,
        )


def build_tasks(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Tasks | None:
    """What is learned beside the metric loss; None where nothing is.

    Raises:
        ValueError: a task is asked for that the training catalog has no
            annotation for; names what it lacks.
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
    """Whether a single image is."""
    if target == "attributes":
        values = catalog.attributes
        return values is not None and bool((values >= 0).any())
    marks = catalog.landmarks
    return marks is not None and not np.isnan(marks[..., 2]).all()


def build_optimizer(
    config: ml_collections.ConfigDict, learning_rate: float = 0.0
) -> tf.keras.optimizers.Optimizer:
    """The optimizer with its schedule.

    Args:
        config: of the run.
        learning_rate: in place of the config's; 0 = the config's.
    """
    optimizer = config.optimizer
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
    )
