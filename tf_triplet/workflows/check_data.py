"""Checks the images of a config before hours are spent on them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import ml_collections

from tf_triplet import builders
from tf_triplet.workflows.train_recipe import (
    choose_before_reading,
    choose_for_table,
)

if TYPE_CHECKING:
    from tf_triplet.data.preflight import Report


@dataclasses.dataclass(frozen=True, eq=False)
class DataCheck:
    """What `tf_triplet.workflows.check_data` has found.

    Attributes:
        counts: Comparison of a benchmark with its published counts, one line
            per part. Empty for any other data set.
        report: Everything about the images. `report.problems` lists what will
            cost images or stop a run.
        refusal: The error that training would raise, or an empty string.

    Example:

    >>> from tf_triplet import workflows
    >>> from tf_triplet.config import base_config
    >>> config = base_config()
    >>> config.data.path = "shop/manifest.csv"
    >>> check = workflows.check_data(config)  # doctest: +SKIP
    >>> check.report.problems  # doctest: +SKIP
    ['1 of 96 images cannot be read.']
    """

    counts: list[str]
    report: Report
    refusal: str

    def show(self) -> None:
        """Prints the counts and the report on a terminal."""
        from rich.console import Console

        from tf_triplet.data import preflight_text

        for line in self.counts:
            print(line)
        Console().print(preflight_text.render(self.report))

    def raise_for_problems(self) -> None:
        """Raises an error if training would, or if images have problems.

        Raises:
            ValueError: If so.
        """
        if self.refusal:
            raise ValueError(self.refusal)
        if self.report.problems:
            raise ValueError(
                "The images have problems: " + " ".join(self.report.problems)
            )


def check_data(config: ml_collections.ConfigDict) -> DataCheck:
    """Opens, decodes and compares all images of a config.

    Args:
        config: The config of a run.

    Returns:
        What was found. A problem is not an error.

    Raises:
        ValueError: If a field of the config is wrong, or if the catalog
            cannot be read.

    Example:

    >>> from tf_triplet import workflows
    >>> from tf_triplet.config import base_config
    >>> config = base_config()
    >>> config.data.path = "shop/manifest.csv"
    >>> workflows.check_data(config).raise_for_problems()  # doctest: +SKIP
    """
    from tf_triplet.data import preflight

    builders.validate(config)
    config = choose_before_reading(config)
    catalog = builders.build_catalog(config)
    counts = builders.verify_counts(config.data.source, catalog)
    report = preflight.inspect(
        catalog, max_megapixels=config.data.max_megapixels
    )
    refusal = ""
    try:
        config, split, _ = choose_for_table(
            config,
            catalog,
            lambda chosen: builders.split_for_training(chosen, catalog),
        )
        catalog.split(config.evaluation.split)
        if config.training.steps:
            builders.build_sampler(config, split.training)
    except ValueError as error:
        refusal = str(error)
    return DataCheck(counts, report, refusal)


def verify_counts(config: ml_collections.ConfigDict) -> list[str]:
    """Compares a benchmark with its published counts; opens no image.

    Args:
        config: The config of a run on a benchmark.

    Returns:
        A summary of the catalog, and one line per part of the benchmark. A
        line with PUBLISHED names a count that differs.

    Raises:
        ValueError: If the data set has no published counts.

    Example:

    >>> from tf_triplet import workflows
    >>> from tf_triplet.config import base_config
    >>> config = base_config()
    >>> config.data.source = "folder"
    >>> config.data.path = "shop"
    >>> workflows.verify_counts(config)
    Traceback (most recent call last):
        ...
    ValueError: `data.source` must be a benchmark with published counts: \
sop, inshop, consumer2shop, street2shop, cars196, cub200. Received: 'folder'. \
Check your own images with --check.
    """
    builders.validate(config)
    config = choose_before_reading(config)
    source = config.data.source
    if source not in builders.BENCHMARKS:
        raise ValueError(
            "`data.source` must be a benchmark with published counts: "
            f"{', '.join(builders.BENCHMARKS)}. Received: {source!r}. Check "
            "your own images with --check."
        )
    catalog = builders.build_catalog(config)
    return [str(catalog), *builders.verify_counts(source, catalog)]
