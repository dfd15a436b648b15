"""What an evaluation is of: the images, the step, and what it has learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np

from tf_triplet import builders, evaluation
from tf_triplet.workflows.options import EvaluateOptions
from tf_triplet.workflows.train_folder import last_step

if TYPE_CHECKING:
    from tf_triplet.builders import RunProducts, TableDifference
    from tf_triplet.data.catalog import Catalog

# The split that stands for the validation products of the run.
VALIDATION = "validation"
# On these splits, products of the training are expected.
_MAY_BE_TRAINED = ("train", "all")
# Ids that an error names.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class ChosenStep:
    """The step of an encoder, and how it was chosen.

    Attributes:
        step: The step, or None if it is not known.
        on: "validation" for validation products, "last" for the last step,
            the name of a split for a run of an earlier version, or None if it
            is not known.
        sentence: One sentence that says how the step was chosen.
    """

    step: int | None
    on: str | None
    sentence: str


@dataclasses.dataclass(frozen=True)
class TrainedImages:
    """How many images show products that the encoder was trained on.

    Attributes:
        queries: Queries of such products.
        all_queries: All queries.
        gallery: Searched images of such products.
        all_gallery: All images that are searched.
    """

    queries: int
    all_queries: int
    gallery: int
    all_gallery: int

    def __str__(self) -> str:
        return (
            f"{self.queries:,} of {self.all_queries:,} queries and "
            f"{self.gallery:,} of {self.all_gallery:,} images searched show "
            "products that the encoder was trained on."
        )


@dataclasses.dataclass(frozen=True)
class EvaluationScope:
    """What an evaluation is of.

    Attributes:
        split: The name of the split.
        images: Number of its images, readable or not.
        table: The fingerprint of the whole table.
        trained_table: The fingerprint of the table that the run was trained
            with, or None if it is not known.
        difference: What has changed in the table since, or None if it is not
            known.
        chosen: The step of the trained encoder, or None if only a baseline is
            scored.
        trained: How many images show products of the training, or None if it
            is not known or only a baseline is scored.
        notes: Sentences that a reader of the metrics must know.
    """

    split: str
    images: int
    table: str
    trained_table: str | None
    difference: TableDifference | None
    chosen: ChosenStep | None
    trained: TrainedImages | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns all values but the notes as types that JSON can hold."""
        values = dataclasses.asdict(self)
        del values["notes"]
        values["table_difference"] = values.pop("difference")
        values["trained_on"] = values.pop("trained")
        for name, found in (
            ("table_difference", self.difference),
            ("trained_on", self.trained),
        ):
            if found is not None:
                values[name]["sentence"] = str(found)
        return values

    def lines(self) -> list[str]:
        """Returns what a report prints below its tables."""
        lines = [f"Split: {self.split}, {self.images:,} images"]
        if self.chosen is not None:
            step = self.chosen.step
            step = "not known" if step is None else f"{step:,}"
            lines.append(f"Step: {step}. {self.chosen.sentence}")
        table = f"Table: fingerprint {self.table[:12]}"
        if self.difference:
            table += f", changed since the run began: {self.difference}"
        elif self.difference is not None:
            table += ", unchanged since the run began"
        lines.append(table)
        if self.trained is not None:
            lines.append(f"Trained on: {self.trained}")
        return lines


def select_split(
    whole: Catalog, record: RunProducts | None, split: str
) -> Catalog:
    """Selects the images of a split, or those of the validation products.

    Args:
        whole: The images of the whole table.
        record: What the run was trained on, if it is known.
        split: The name of a split. `validation` stands for the validation
            products of the run, unless the table has a split of that name.

    Returns:
        The images.

    Raises:
        ValueError: If there is no such split, or if the run has no validation
            products.
    """
    if not _is_of_the_run(whole, split):
        return whole.split(split)
    if record is None:
        raise ValueError(
            f"The table has no split {split!r}, and the run has no "
            "products.json that names validation products. Received: "
            f"split={split!r}. The splits of the table are "
            f"{', '.join(map(repr, whole.split_names))}."
        )
    images = record.validation_images(whole)
    if not len(images):
        why = record.how or "The run chose no step by them."
        if record.validation:
            why = "The table no longer holds any of them."
        raise ValueError(
            f"The run has no validation products to score. {why} Received: "
            f"split={split!r}. Choose another split."
        )
    return images


def find_scope(
    config: ml_collections.ConfigDict,
    workdir: Path,
    whole: Catalog,
    catalog: Catalog,
    record: RunProducts | None,
    options: EvaluateOptions,
) -> EvaluationScope:
    """Collects what an evaluation is of, and refuses one that would flatter.

    Args:
        config: The config of the run.
        workdir: The folder of the run.
        whole: The images of the whole table.
        catalog: The images to score.
        record: What the run was trained on, or None if it is not known.
        options: The options, all of them given.

    Returns:
        The scope.

    Raises:
        ValueError: If a query of a held-out split shows a product that the
            run was trained on.
    """
    notes, chosen, trained = [], None, None
    if options.checkpoint != "none":
        chosen = _find_step(config, workdir, options.checkpoint)
        if record is None:
            notes.append(
                f"{workdir / 'products.json'} does not exist, as in "
                "runs of earlier versions, so it is not known whether these "
                "products were trained on."
            )
        else:
            trained = _count_trained(whole, catalog, record, options)
            if chosen.on == VALIDATION and len(
                record.validation_images(catalog)
            ):
                notes.append(
                    "The step was chosen by products of this split, so other "
                    "products may be found less well."
                )
    return EvaluationScope(
        split=options.split,
        images=len(catalog),
        table=builders.table_fingerprint(whole),
        trained_table=None if record is None else record.table,
        difference=None if record is None else record.difference(whole),
        chosen=chosen,
        trained=trained,
        notes=tuple(notes),
    )


def _is_of_the_run(whole: Catalog, split: str) -> bool:
    return split == VALIDATION and split not in whole.split_names


def _find_step(
    config: ml_collections.ConfigDict, workdir: Path, checkpoint: str
) -> ChosenStep:
    """Returns the step of an encoder, from the files of its run."""
    if checkpoint == "last":
        step = last_step(workdir)
        if not step and config.training.steps:
            step = None  # The checkpoints were deleted.
        return ChosenStep(
            step, "last", "It is the last step, as `checkpoint=last` asks."
        )
    from tf_triplet.training import evaluator  # It imports TensorFlow.

    best = evaluator.read_best(workdir)
    if not best:
        return ChosenStep(
            None,
            None,
            "The folder has no best.json, so it is not known how the step was "
            "chosen.",
        )
    if "chosen_on" in best:
        return ChosenStep(best["step"], best["chosen_on"], best["sentence"])
    split = config.evaluation.split
    return ChosenStep(
        best["step"],
        split,
        "An earlier version began the run and may have chosen the step by "
        f"the split {split!r} itself, which flatters the metrics of that "
        "split.",
    )


def _count_trained(
    whole: Catalog,
    catalog: Catalog,
    record: RunProducts,
    options: EvaluateOptions,
) -> TrainedImages:
    """Counts images of the training's products, and refuses such queries."""
    trained = record.was_trained(catalog)
    protocols = evaluation.build_protocols(catalog, options.protocol_spec)
    queries, gallery = (
        np.unique(np.concatenate([getattr(one, rows) for one in protocols]))
        for rows in ("queries", "gallery")
    )
    asked = queries[trained[catalog.products[queries]]]
    allowed = _is_of_the_run(whole, options.split) or any(
        name in _MAY_BE_TRAINED for name in options.split.split("+")
    )
    if len(asked) and not allowed:
        _refuse_trained(catalog, asked, len(queries), options.split)
    return TrainedImages(
        queries=len(asked),
        all_queries=len(queries),
        gallery=int(trained[catalog.products[gallery]].sum()),
        all_gallery=len(gallery),
    )


def _refuse_trained(
    catalog: Catalog, asked: np.ndarray, queries: int, split: str
) -> None:
    ids = catalog.product_ids[np.unique(catalog.products[asked])]
    named = ", ".join(map(str, ids[:_NAMED]))
    if len(ids) > _NAMED:
        named += ", ..."
    products = "1 product" if len(ids) == 1 else f"{len(ids):,} products"
    raise ValueError(
        f"{len(asked):,} of {queries:,} queries of split {split!r} show "
        f"{products} that the run was trained on ({named}), so the metrics "
        "would not be those of unseen products. Move these products back to "
        "the split 'train' of the table, or score products of the training on "
        f"purpose with --split=train or --split=all. Received: split={split!r}"
    )


def format_share(part: int, whole: int) -> str:
    """Formats a share in percent, which is never rounded to all or nothing.

    Args:
        part: A count of at most `whole`.
        whole: A count of at least 1.

    Returns:
        A text such as `35 %`, with as many decimals as it takes.

    Example:

    >>> format_share(7, 20), format_share(2999, 3000)
    ('35 %', '99.97 %')
    """
    text = f"{100 * part / whole:.0f}"
    decimals = 0
    while 0 < part < whole and float(text) in (0, 100):
        decimals += 1
        text = f"{100 * part / whole:.{decimals}f}"
    return f"{text} %"
