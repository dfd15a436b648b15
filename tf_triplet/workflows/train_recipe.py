"""Chooses what a config leaves open, for the table that is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections
from absl import logging

from tf_triplet import builders
from tf_triplet.builders import Choice, Machine
from tf_triplet.workflows.time_budget import fit_to_time

if TYPE_CHECKING:
    from tf_triplet.builders import TrainingSplit
    from tf_triplet.data.catalog import Catalog

SecondsPerStep = Callable[[ml_collections.ConfigDict, "Catalog"], float]
# What an encoder of another run must share, to be continued.
_OF_THE_ENCODER = ("model.", "data.image_size", "data.mirrored_is_same")
_TOO_FEW = "too few products are left to tell whether training helps"


def choose_before_reading(
    config: ml_collections.ConfigDict, init_from: str | Path = ""
) -> ml_collections.ConfigDict:
    """Chooses what does not depend on the table.

    Args:
        config: The config of the run.
        init_from: The folder of the run from whose encoder it begins, or "".

    Returns:
        The config. With `init_from`, open fields of the encoder have the
        values of that run. The size of drawn images is chosen.
    """
    left = builders.open_fields(config)
    if init_from and left:
        other = builders.load_config(init_from)
        values = {
            field: builders.get_field(other, field)
            for field in left
            if field.startswith(_OF_THE_ENCODER)
        }
        config = builders.with_fields(config, values)
    if config.data.source == "rendered" and config.data.image_size is None:
        size = builders.image_size_for(Machine.detect())
        config = builders.with_fields(config, {"data.image_size": size})
    return config


def choose_for_table(
    config: ml_collections.ConfigDict,
    catalog: Catalog,
    decide_products: Callable[[ml_collections.ConfigDict], TrainingSplit],
    minutes: float | None = None,
    seconds_per_step: SecondsPerStep | None = None,
) -> tuple[ml_collections.ConfigDict, TrainingSplit, list[Choice]]:
    """Chooses all fields but those that need the network.

    Args:
        config: The config of the run.
        catalog: The images of the whole table.
        decide_products: Returns the images to train on, for a config whose
            fields are chosen.
        minutes: Time for the training, or None.
        seconds_per_step: Measures the time of a step, for `minutes`.

    Returns:
        The config, the images to train on, and the choices.

    Raises:
        ValueError: If the chosen fields and those of the user exclude each
            other, or if the table cannot be trained on.
    """
    left = builders.open_fields(config)
    training = builders.training_catalog(config, catalog)
    if not left:
        return config, decide_products(config), []
    chosen, choices = builders.resolve(config, training.products)
    builders.validate(chosen)
    untrained = _without_training(config, training)
    too_small = untrained is not None and _is_too_small(chosen, training)
    split = None if too_small else decide_products(chosen)
    if split is None or split.validation is None:
        if untrained is not None:
            chosen, choices = untrained
            split = decide_products(chosen)
    if minutes and chosen.training.steps:
        chosen, choices = fit_to_time(
            config,
            minutes,
            training.products,
            lambda found: seconds_per_step(found, split.training),
        )
    return chosen, split, choices


def _is_too_small(config: ml_collections.ConfigDict, training: Catalog) -> bool:
    """Tells whether the table does not even fill a minibatch."""
    try:
        builders.build_sampler(config, training)
    except ValueError:
        return True
    return False


def _without_training(
    config: ml_collections.ConfigDict, training: Catalog
) -> tuple[ml_collections.ConfigDict, list[Choice]] | None:
    """Returns the recipe that keeps the pretrained features.

    Returns:
        None if the user has asked for a training, or if nothing is pretrained.
    """
    left = builders.open_fields(config)
    needed = ("training.steps", "data.validation_fraction")
    if not set(needed) <= set(left) or not builders.is_pretrained(config):
        return None
    values = {"training.steps": 0}
    if config.model.whitening is None:
        values["model.whitening"] = 0
    if config.model.embedding_size is None:
        values["model.embedding_size"] = 0
    kept = builders.with_fields(config, values)
    chosen, choices = builders.resolve(kept, training.products)
    try:
        builders.validate(chosen)
    except ValueError:
        return None
    reasons = [
        Choice(field, value, _TOO_FEW) for field, value in values.items()
    ]
    return chosen, [*choices, *reasons]


def tell(choices: Sequence[Choice]) -> None:
    """Prints what was chosen, each with its reason."""
    if choices:
        lines = "\n  ".join(map(str, choices))
        print(
            "Chosen for this catalog and this machine (set a field, such as "
            f"--config.training.steps=500, to choose it yourself):\n  {lines}"
        )


def warn_of_unreached(config: ml_collections.ConfigDict) -> None:
    """Warns of parts of the schedule that lie beyond the last step."""
    from tf_triplet.training import schedule_checks

    optimizer, loss = config.optimizer, config.loss
    for sentence in schedule_checks.unreached(
        config.training.steps,
        optimizer.schedule,
        optimizer.boundaries,
        optimizer.warmup_steps,
        loss.memory_warmup if loss.memory_size else 0,
        config.training.collapse_every,
        optimizer.head_warmup_steps,
    ):
        logging.warning("%s", sentence)
