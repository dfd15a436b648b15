"""The products of a run: decided at its first start, read ever after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections
from absl import logging

from tf_triplet import builders

if TYPE_CHECKING:
    from tf_triplet.builders import RunProducts, TrainingSplit
    from tf_triplet.data.catalog import Catalog


def check_init_from(
    config: ml_collections.ConfigDict, workdir: Path, init_from: str
) -> None:
    """Checks the argument `init_from` of a run.

    Args:
        config: The config of the run.
        workdir: The folder of the run.
        init_from: Absolute path of another run, or "".

    Raises:
        ValueError: If it is the run itself, or if nothing is trained.
    """
    if not init_from:
        return
    if init_from == str(workdir.resolve()):
        raise ValueError(
            "`init_from` must be the folder of another run, whose encoder the "
            f"new run begins from. Received: {init_from!r}, the folder of this "
            "run. Leave it out to continue, or choose another --workdir."
        )
    if not config.training.steps:
        raise ValueError(
            "`init_from` begins a training, and `training.steps` is 0. "
            f"Received: {init_from!r}. Leave it out, or set training.steps."
        )


def decide_products(
    config: ml_collections.ConfigDict,
    workdir: Path,
    catalog: Catalog,
    *,
    begun: bool,
    init_from: str = "",
    accept_new_catalog: bool = False,
) -> TrainingSplit:
    """Returns the images to train on and to choose the step by.

    Nothing is written; see `store_products`.

    Args:
        config: The config of the run.
        workdir: The folder of the run.
        catalog: The images of the whole table.
        begun: Whether the run goes on. Otherwise the products are decided.
        init_from: Absolute path of the run from whose encoder this one
            begins, or "".
        accept_new_catalog: Whether a run may go on with a changed table.

    Returns:
        The images of the run.

    Raises:
        ValueError: If the table has changed since the run began, or if the
            run began from another encoder.
    """
    if not begun:
        earlier = builders.earlier_products(config, init_from)
        return builders.split_for_training(config, catalog, earlier, init_from)
    record = builders.RunProducts.read(workdir)
    if record is None:
        if config.data.split_draw != "permutation":
            raise ValueError(
                f"{workdir / 'products.json'} is missing, so it is not known "
                "which products the run was trained on. Restore the file, or "
                "begin anew with --noresume."
            )
        return builders.split_unrecorded(config, catalog)
    if init_from and init_from != record.init_from:
        raise ValueError(
            f"The run in {workdir} began from "
            f"{record.init_from or 'weights of its own'}, so it cannot go on "
            f"from another encoder. Received: --init_from={init_from}. Leave "
            "it out, or choose another --workdir."
        )
    difference = record.difference(catalog)
    if difference and not accept_new_catalog:
        raise ValueError(
            f"The table has changed since the run in {workdir} began: "
            f"{difference}. Restore the table to continue the run as it was, "
            "or pass --accept_new_catalog to continue it with the new table. "
            "To begin a new run from its encoder, choose another --workdir "
            f"and pass --init_from={workdir}."
        )
    if difference:
        logging.warning("The table has changed: %s.", difference)
    split = builders.split_again(config, catalog, record)
    _check_positions(config, record, split.products)
    return split


def store_products(
    workdir: Path, split: TrainingSplit, goes_on: bool = True
) -> None:
    """Writes `products.json`.

    If a run goes on with other validation products, the best value so far
    does not compare with the next ones, so it is forgotten.

    Args:
        workdir: The folder of the run.
        split: The images of the run.
        goes_on: Whether there are steps left.
    """
    if split.products is None:
        return
    former = builders.RunProducts.read(workdir)
    if goes_on and former is not None and former.validation:
        before, now = (
            [(name, record.digests.get(name)) for name in record.validation]
            for record in (former, split.products)
        )
        if before != now:
            (workdir / "best.json").unlink(missing_ok=True)
    split.products.write(workdir)


def _check_positions(
    config: ml_collections.ConfigDict, before: RunProducts, now: RunProducts
) -> None:
    """Checks what the network knows by position, besides the products."""
    for field, used, what, old, new in (
        (
            "model.branch_by=category",
            config.model.branch_by == "category",
            "categories",
            before.categories,
            now.categories,
        ),
        (
            "loss.attribute_weight",
            config.loss.attribute_weight > 0,
            "attributes",
            before.attributes,
            now.attributes,
        ),
    ):
        if used and old != new:
            raise ValueError(
                f"The run cannot go on with the new table, because `{field}` "
                f"gives each of the {what} a part of the network, and they "
                f"have changed. Received: {', '.join(new)}. The run began "
                f"with: {', '.join(old)}. Choose another --workdir."
            )
