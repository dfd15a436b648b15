"""Builds one version of a served model: index, SavedModel, checks.

The version is written under a partial name and renamed when every check has
passed, so a server sees a whole version or none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np
from absl import logging

from tf_triplet import builders, evaluation

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.data.catalog import Catalog
    from tf_triplet.servable.scann_index import ScannIndex

# Images in one of the two warm-up requests; the other holds one image.
_WARM_IMAGES = 2


@dataclasses.dataclass(frozen=True, eq=False)
class VersionContents:
    """What a version is made of.

    Attributes:
        config: The run's config, its `export` section as it is to be used.
        encoder: The encoder to serve.
        vectors: `[n, dim]` float32 embeddings of the catalog's images.
        catalog: `[n]` images to index.
        keys: `[n]` keys of their content, from `embedding_cache.image_key`.
    """

    config: ml_collections.ConfigDict
    encoder: tf.keras.Model
    vectors: np.ndarray
    catalog: Catalog
    keys: Sequence[bytes]

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The extra columns that an answer holds, by name."""
        wanted = self.config.export.columns
        return {name: self.catalog.extras[name] for name in wanted}

    @functools.cached_property
    def filters(self) -> dict[str, np.ndarray]:
        """The names that a search can be narrowed down by."""
        from tf_triplet.servable import catalog_search

        return {
            name: evaluation.branch_names(name, self.catalog)
            for name in catalog_search.FILTERS
        }

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """A hash of the images and answers of each product, by its id."""
        answers = [
            self.catalog.path_values,
            *self.filters.values(),
            *self.columns.values(),
        ]
        rows = zip(*(map(str, values) for values in answers))
        return builders.digest_rows(
            self.catalog,
            ((key.hex(), *row) for key, row in zip(self.keys, rows)),
        )

    @property
    def branch_inputs(self) -> dict[str, np.ndarray]:
        """What an encoder with branches needs beside an image; else empty."""
        from tf_triplet.models import branches

        own = branches.find(self.encoder)
        return {} if own is None else {own.by: self.filters[own.by]}

    @property
    def grouped_by(self) -> np.ndarray | None:
        """`[n]` products, if an answer names each only once."""
        if self.config.export.group_by_product:
            return self.catalog.products
        return None

    @property
    def boxes(self) -> np.ndarray | None:
        """`[n, 4]` boxes that the images are cropped to, if any."""
        return self.catalog.boxes if self.config.data.use_boxes else None


def build_version(
    contents: VersionContents, target: Path, record: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Writes the next version, and publishes it if it passes its checks.

    Args:
        contents: What the version is made of.
        target: Folder of the numbered versions.
        record: What the fingerprint should say beside what is measured here.

    Returns:
        The folder of the version, and its whole fingerprint.

    Raises:
        ValueError: If the written model does not answer what evaluation
            measured, or finds too few of the exact nearest neighbors. Nothing
            is published then.
    """
    from tf_triplet.servable import fingerprint, versions

    random = np.random.default_rng(contents.config.seed)
    rows = random.permutation(len(contents.catalog))
    with versions.publish(target) as folder:
        inputs, tuning = _write_model(contents, folder)
        _write_warmup(contents, folder, inputs, rows[:_WARM_IMAGES])
        parity = _check(contents, folder, rows, record, tuning)
        record = {
            **record,
            **_describe(contents),
            "parity": parity,
            "tuning": tuning,
            "packages": fingerprint.package_versions(),
        }
        fingerprint.write(folder, record)
        fingerprint.write_products(folder, contents.digests)
    return target / str(versions.list_versions(target)[-1]), record


def _write_model(
    contents: VersionContents, folder: Path
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Writes the SavedModel.

    Returns:
        The inputs of each signature, and how the index was tuned.
    """
    from tf_triplet.servable import saved_model

    config, catalog = contents.config, contents.catalog
    searcher, tuning = None, {}
    if config.export.index == "scann":
        searcher, tuning = _tune_index(contents)
    try:
        model = saved_model.ServedModel(
            contents.encoder,
            contents.vectors,
            catalog.row_product_ids,
            catalog.path_values,
            inputs=builders.input_spec(config),
            k=config.export.k,
            index=config.export.index,
            searcher=searcher,
            columns=contents.columns,
            filters=contents.filters,
            group_by_product=config.export.group_by_product,
        )
        with _quiet_logging():
            return model.save(folder), tuning
    finally:
        # The parity check loads the index a second time.
        if searcher is not None:
            searcher.release()


def _tune_index(
    contents: VersionContents,
) -> tuple[ScannIndex, dict[str, Any]]:
    from tf_triplet.servable import catalog_search, index_tuning

    export, products = contents.config.export, contents.grouped_by
    k = min(export.k, len(contents.vectors))
    if products is not None:
        k = min(export.k, products.max() + 1)
        k = catalog_search.images_to_fetch(products, k)
    return index_tuning.tune(
        contents.vectors,
        k,
        export.min_recall,
        leaves=export.leaves,
        leaves_to_search=export.leaves_to_search,
        reorder=export.reorder,
        storage=export.storage,
        seed=contents.config.seed,
    )


def _write_warmup(
    contents: VersionContents,
    folder: Path,
    inputs: Mapping[str, list[str]],
    rows: np.ndarray,
) -> None:
    """Writes warm-up requests of real images, with one filter of two set."""
    from tf_triplet.servable import parity, warmup

    catalog = contents.catalog
    images = parity.sent_images(
        catalog.paths,
        rows,
        contents.boxes,
        contents.config.data.max_megapixels,
    )
    values = {
        "image_bytes": images,
        "embedding": contents.vectors[rows],
        "category_filter": contents.filters["category"][rows],
        "domain_filter": [""] * len(rows),
    }
    for name, names in contents.branch_inputs.items():
        values[name] = names[rows]
    warmup.write(folder, contents.config.export.name, inputs, values)


def _check(
    contents: VersionContents,
    folder: Path,
    rows: np.ndarray,
    record: Mapping[str, Any],
    tuning: Mapping[str, Any],
) -> dict[str, Any]:
    """Compares the written model with evaluation; returns the measurements."""
    from tf_triplet.servable import parity

    config, export = contents.config, contents.config.export
    measured = parity.check(
        folder,
        contents.catalog.paths,
        contents.vectors,
        rows[: export.parity_images],
        index=export.index,
        min_recall=export.min_recall,
        boxes=contents.boxes,
        tolerance=tolerance(record),
        more_inputs=contents.branch_inputs,
        products=contents.grouped_by,
        max_megapixels=config.data.max_megapixels,
    )
    if measured.k == 1 and tuning:
        # With k = 1 the served model finds only the query itself. Tuning
        # asked the same index for two.
        measured = dataclasses.replace(measured, recall=tuning["recall"])
    return dataclasses.asdict(measured)


def tolerance(record: Mapping[str, Any]) -> float:
    """Returns how much a component of an embedding may differ.

    It forgives another batch size, but not another precision.

    Args:
        record: The fingerprint of a version.
    """
    from tf_triplet.servable import parity

    if "precision" not in record:
        return parity.TOLERANCE
    return max(parity.TOLERANCE, record["precision"]["largest_difference"] / 2)


def _describe(contents: VersionContents) -> dict[str, Any]:
    """Returns the part of the fingerprint that tells what is indexed."""
    from tf_triplet.models import branches
    from tf_triplet.servable import fingerprint

    catalog, export = contents.catalog, contents.config.export
    answered = {
        "product_ids": catalog.row_product_ids,
        "paths": catalog.path_values,
        **contents.columns,
        **{f"{by}_filter": names for by, names in contents.filters.items()},
    }
    own = branches.find(contents.encoder)
    return {
        "index": export.index,
        "index_sha256": fingerprint.index_sha256(contents.vectors, answered),
        "images": len(catalog),
        "pictures": len(catalog),  # The former name of `images`.
        "products": len(catalog.product_ids),
        "dim": contents.vectors.shape[1],
        "branches": own and dataclasses.asdict(own),
        "columns": list(contents.columns),
        "group_by_product": export.group_by_product,
    }


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Hides the page of function names that saving a model logs."""
    handler = logging.get_absl_handler()
    level = handler.level
    handler.setLevel("WARNING")
    try:
        yield
    finally:
        handler.setLevel(level)
