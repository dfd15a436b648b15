"""Which products a run trains on, and by which ones it chooses the step.

`split_for_training` decides it once, at the first start of a run.
`split_again` applies the recorded decision when the run goes on, and
`split_unrecorded` continues a run that has no record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import ml_collections
import numpy as np

from tf_triplet import evaluation
from tf_triplet.builders import data, run_products
from tf_triplet.builders.run_products import RunProducts
from tf_triplet.data import ids, validation_split
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import schedule
from tf_triplet.retrieval import ProtocolSpec

# A split with such a name holds the validation products of its table.
VALIDATION_SPLITS = ("val", "validation")
_TRAIN = "train"
_TOO_FEW = (
    f"fewer than {validation_split.LEAST} products could be set apart to "
    "choose it by"
)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSplit:
    """The images of a run.

    Attributes:
        training: The images to train on. Their labels are positions in
            `products.train`.
        validation: The images by which the step is chosen, or None if the
            last step is kept.
        how: One sentence that says how the step is chosen.
        products: What the folder of the run records of them. None for a run
            of an earlier version, which recorded nothing.

    Example:
        >>> import pandas as pd
        >>> from tf_triplet import builders
        >>> from tf_triplet import config as configs
        >>> from tf_triplet.data import Catalog
        >>> frame = pd.DataFrame({"product_id": list("aabbcc")})
        >>> frame["path"], frame["split"] = list("123456"), "train"
        >>> catalog = Catalog.from_frame(frame, "tiny")
        >>> config = configs.paper_config()
        >>> split = builders.split_for_training(config, catalog)
        >>> split.how
        'The last step is kept and none is chosen, because fewer than 5 \
products could be set apart to choose it by.'
    """

    training: Catalog
    validation: Catalog | None
    how: str
    products: RunProducts | None


def split_for_training(
    config: ml_collections.ConfigDict,
    catalog: Catalog,
    earlier: Collection[str] = (),
    init_from: str = "",
) -> TrainingSplit:
    """Sets validation products apart from the training products.

    They are the products of the table's split `val` or `validation`. A table
    without such a split, or a run that is evaluated on it, gives up some of
    its training products, see `data.validation_split.choose_validation`.

    Args:
        config: The config of the run.
        catalog: The images of the whole table.
        earlier: Normalized ids of the products that an earlier run was
            trained on, if this run begins from its encoder. They do not
            become validation products.
        init_from: The folder of that run, or "".

    Returns:
        The images of the run.

    Raises:
        ValueError: If the table has no images to train on.
    """
    training = data.training_catalog(config, catalog)
    record = RunProducts(
        train=(), earlier=tuple(sorted(earlier)), init_from=init_from
    )
    reason = ""
    if not config.training.steps:
        reason = "the encoder is not trained"
    elif not config.data.validation_fraction:
        reason = "`data.validation_fraction` is 0"
    if reason:
        return _apply(config, catalog, _keep_last(record, reason))
    name = _own_split(config, catalog)
    if name:
        chosen = _of_own_split(catalog, training, name, earlier)
    else:
        chosen = _out_of_training(config, catalog, training, earlier)
    record = dataclasses.replace(
        _keep_last(record, _TOO_FEW),
        validation=chosen,
        validation_split=name or _TRAIN,
    )
    return _apply(config, catalog, record)


def split_again(
    config: ml_collections.ConfigDict, catalog: Catalog, record: RunProducts
) -> TrainingSplit:
    """Splits the products of a run that goes on.

    Args:
        config: The config of the run.
        catalog: The images of the whole table. If it has changed, products
            that are new in the training split are trained on, with labels
            after all others. The validation products stay those that were
            chosen first, as far as they are still there.
        record: What the folder of the run records.

    Returns:
        The images of the run. The labels are those of the record.
    """
    return _apply(config, catalog, record)


def split_unrecorded(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> TrainingSplit:
    """Splits the products of a run that an earlier version began.

    Args:
        config: The config of the run.
        catalog: The images of the whole table.

    Returns:
        All images of the training split, and no validation products. There is
        no record, because the table may have changed since the run began.
    """
    return TrainingSplit(
        data.training_catalog(config, catalog),
        validation=None,
        how="The last step is kept and none is chosen, because the run was "
        "begun by an earlier version, which had no validation products.",
        products=None,
    )


def _apply(
    config: ml_collections.ConfigDict, catalog: Catalog, record: RunProducts
) -> TrainingSplit:
    """Selects the images of a record, and completes the record."""
    training = data.training_catalog(config, catalog)
    names = run_products.product_names(training, catalog)
    validation = None
    if record.validation:
        own, held = ids.comparable_ids(names, record.validation)
        if record.validation_split == _TRAIN:
            keep = ~np.isin(own, held)
            training = training.select(keep[training.products])
            names = names[keep]
        else:
            # The table may have moved some to the training split since.
            left = [v for v, h in zip(record.validation, held) if h not in own]
            record = dataclasses.replace(record, validation=tuple(left))
        validation = record.validation_images(catalog)
        reason = _reason_against(config, training, validation)
        if reason:
            return _apply(config, catalog, _keep_last(record, reason))
        record = dataclasses.replace(
            record, how=_how(config, record, len(validation.product_ids))
        )
    order = _extended(record.train, names)
    record = dataclasses.replace(
        record,
        train=order,
        images=len(training),
        categories=tuple(map(str, training.category_names)),
        attributes=()
        if training.attribute_names is None
        else tuple(map(str, training.attribute_names)),
        digests=run_products.digest_products(catalog),
    )
    training = run_products.relabel(training, names, order)
    if not (config.training.steps or config.model.whitening):
        # Pretrained features have learned from no product.
        record = dataclasses.replace(record, train=(), images=0)
    return TrainingSplit(training, validation, record.how, record)


def _keep_last(record: RunProducts, reason: str) -> RunProducts:
    return dataclasses.replace(
        record,
        validation=(),
        how=f"The last step is kept and none is chosen, because {reason}.",
    )


def _how(
    config: ml_collections.ConfigDict, record: RunProducts, count: int
) -> str:
    source = "were taken out of the training products"
    if record.validation_split != _TRAIN:
        source = f"are those of the table's split {record.validation_split!r}"
    return (
        f"The step is chosen by recall@{min(config.evaluation.ks)} on {count} "
        f"validation products, which {source}."
    )


def _own_split(config: ml_collections.ConfigDict, catalog: Catalog) -> str:
    """Returns the table's own split of validation products, or ""."""
    # What is reported must not have chosen the step.
    reported = config.evaluation.split.split("+")
    for name in VALIDATION_SPLITS:
        if name in catalog.split_names and name not in reported:
            return name
    return ""


def _of_own_split(
    catalog: Catalog, training: Catalog, name: str, earlier: Collection[str]
) -> tuple[str, ...]:
    """Returns the products of a split that no run is trained on."""
    names = run_products.product_names(catalog.split(name), catalog)
    trained = [*run_products.product_names(training, catalog), *earlier]
    own, trained = ids.comparable_ids(names, trained)
    trained = set(trained)
    return tuple(n for n, o in zip(names, own) if o not in trained)


def _out_of_training(
    config: ml_collections.ConfigDict,
    catalog: Catalog,
    training: Catalog,
    earlier: Collection[str],
) -> tuple[str, ...]:
    names = run_products.product_names(training, catalog)
    exclude = set(earlier)
    if config.model.branch_by == "category":
        # Each branch keeps a product to learn from.
        _, rows = np.unique(training.categories, return_index=True)
        exclude.update(names[training.products[rows]])
    units = schedule.build_units(
        training.products,
        training.categories,
        schedule.group_rows(
            training.products, data.sampling_sides(config, training)
        ),
        pairs=config.sampling.units == "pairs",
        keep_singletons=False,
    )
    chosen = validation_split.choose_validation(
        names,
        config.data.validation_fraction,
        config.sampling.units_per_batch,
        exclude,
        np.bincount(units.products, minlength=len(names)),
    )
    return tuple(names[chosen])


def _reason_against(
    config: ml_collections.ConfigDict, training: Catalog, validation: Catalog
) -> str:
    """Says why these validation products cannot choose the step, or ""."""
    if len(validation.product_ids) < validation_split.LEAST:
        return _TOO_FEW
    if not _can_be_scored(config, validation):
        return (
            "no image of the validation products has another image of its "
            "product to find"
        )
    try:
        data.build_sampler(config, training)
    except ValueError:
        return "fewer products than a minibatch needs would remain"
    return ""


def _can_be_scored(config: ml_collections.ConfigDict, images: Catalog) -> bool:
    section = config.evaluation
    spec = ProtocolSpec(
        section.protocol, section.query_domain, section.gallery_domain
    )
    try:
        protocols = evaluation.build_protocols(images, spec)
    except ValueError:
        return False  # There is no image of one of the domains.
    for protocol in protocols:
        found = np.bincount(
            images.products[protocol.gallery],
            minlength=len(images.product_ids),
        )
        itself = protocol.exclude >= 0
        if (found[images.products[protocol.queries]] > itself).any():
            return True
    return False


def _extended(order: Sequence[str], names: np.ndarray) -> tuple[str, ...]:
    """Appends those names to a recorded order that it lacks."""
    own, known = ids.comparable_ids(names, order)
    known = set(known)
    new = [name for name, o in zip(names, own) if o not in known]
    return (*order, *dict.fromkeys(new))
