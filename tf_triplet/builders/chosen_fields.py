"""The fields of a config that are left to be chosen, and their values."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_collections

from tf_triplet import config as configs

# They need the network; see `workflows.mirroring`.
_CHOSEN_WITH_WEIGHTS = ("augment.flip", "data.mirrored_is_same")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One field of a recipe.

    Attributes:
        field: Name of the field, such as `training.steps`.
        value: Its value.
        reason: Why, in a few words.

    Example:

    >>> from tf_triplet.builders import Choice
    >>> print(Choice("training.steps", 184, "12,800 images in all"))
    training.steps = 184: 12,800 images in all
    """

    field: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value}: {self.reason}"


def open_fields(config: ml_collections.ConfigDict) -> list[str]:
    """Lists the fields that are still to be chosen.

    Args:
        config: The config of a run.

    Returns:
        Names such as `training.steps`.

    Example:

    >>> from tf_triplet import builders, config as configs
    >>> builders.open_fields(configs.paper_config())
    []
    """
    return [f for f in configs.CHOSEN_FIELDS if get_field(config, f) is None]


def check_resolved(config: ml_collections.ConfigDict) -> None:
    """Checks that a config leaves nothing to be chosen.

    Args:
        config: The config of a run.

    Raises:
        ValueError: If fields are `None`.
    """
    left = [f for f in open_fields(config) if f not in _CHOSEN_WITH_WEIGHTS]
    if left:
        raise ValueError(
            "The config leaves fields to be chosen for a catalog: "
            f"{', '.join(left)}. Call `builders.resolve` with the "
            "products of its training images first, or give them values."
        )


def fill(
    config: ml_collections.ConfigDict, other: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns a config whose open fields have the values of another.

    Args:
        config: The config of a run, which stays as it is.
        other: The config that a run has written, for instance.

    Returns:
        A copy.

    Example:

    >>> from tf_triplet import builders, config as configs
    >>> config = builders.fill(configs.base_config(), configs.paper_config())
    >>> config.loss.name, config.training.steps
    ('multi_similarity', 250000)
    """
    values = {f: get_field(other, f) for f in open_fields(config)}
    return with_fields(config, values)


def get_field(config: ml_collections.ConfigDict, field: str) -> Any:
    """Returns the value of a field, such as `training.steps`."""
    section, name = field.split(".")
    return config[section][name]


def with_fields(
    config: ml_collections.ConfigDict, values: dict[str, Any]
) -> ml_collections.ConfigDict:
    """Returns a copy of a config with other values.

    Args:
        config: The config of a run, which stays as it is.
        values: The values by dotted name, such as `training.steps`.

    Returns:
        The copy, in which these fields are no longer open.

    Example:

    >>> from tf_triplet import builders, config as configs
    >>> config = configs.base_config()
    >>> builders.with_fields(config, {"training.steps": 9}).training.steps
    9
    """
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for field, value in values.items():
            section, name = field.split(".")
            del copy[section][name]
            copy[section][name] = value
    return copy


def batch_size(config: ml_collections.ConfigDict) -> int:
    """Returns the number of images in a minibatch.

    Args:
        config: The config of a run, whose `sampling` leaves nothing open.

    Example:

    >>> from tf_triplet import builders, config as configs
    >>> builders.batch_size(configs.paper_config())
    128
    """
    sampling = config.sampling
    each = 2 if sampling.units == "pairs" else sampling.images_per_product
    return sampling.units_per_batch * each
