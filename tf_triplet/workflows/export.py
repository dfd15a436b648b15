"""The next version that is served: a run's encoder, a catalog, an index.

The one road of tf-triplet-export (a new encoder) and tf-triplet-index (the
same encoder, another catalog): embed what is new, build and tune the index,
hold the written model against evaluation, publish by one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from tf_triplet import builders, evaluation
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import manifest
from tf_triplet.models import branches
from tf_triplet.servable import (
    catalog_search,
    fingerprint,
    parity,
    precision_cost,
    saved_model,
    versions,
    warmup,
)
from tf_triplet.servable import (
    index_tuning as tuning,
)
from tf_triplet.workflows import embed_catalog as embedding

CACHE = "index_cache"
# Fields of `config.export` that tf-triplet-index takes from the version before.
KEPT = ("index", "k", "columns", "domains", "storage", "group_by_product")
KEPT += ("min_recall", "precision", "split")
# Images of a warm-up request; another holds one.
_WARM_IMAGES = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A new version.

    Attributes:
        folder: of the version.
        record: its fingerprint.
        skipped: images that could not be read.
    """

    folder: Path
    record: dict
    skipped: tuple[str, ...]


def publish(
    workdir: str | Path,
    *,
    checkpoint: str = "",
    catalog_path: str = "",
    split: str = "",
    domains: Sequence[str] | None = None,
    index: str = "",
    k: int = 0,
    columns: Sequence[str] | None = None,
    storage: str = "",
    group_by_product: bool | None = None,
    min_recall: float | None = None,
    precision: str = "",
    layer: str = "",
    new_encoder: bool = False,
    progress: bool = True,
) -> Published:
    """Publishes the next version of a run's model.

    Args:
        workdir: of the run.
        checkpoint: "best" or "last"; "": as in the last version without
            `new_encoder`, else "best".
        catalog_path: a manifest; "": the run's own catalog.
        split: of the catalog; "": all of a manifest. What else is not
            given, here and below, is as in the last version without
            `new_encoder`, else the config's.
        domains: to index; empty: all.
        index: "scann" or "exact".
        k: neighbors an answer holds.
        columns: further ones to answer; empty: none.
        storage: of the vectors in ScaNN, "float32" or "int8".
        group_by_product: answer each product once.
        min_recall: that ScaNN must reach.
        precision: of the encoder (`precisions.PRECISIONS`).
        layer: read this layer in place of the embedding; "": the embedding
            or, without `new_encoder`, what the last version reads.
        new_encoder: the encoder may be another than the last version's.
        progress: show how far it is.

    Raises:
        ValueError: the last version is another encoder's, a bad argument, or
            a model that does not answer what was measured (`ParityError`,
            `TuningError`). Nothing is published then.
    """
    workdir = Path(workdir)
    config = builders.load_config(workdir)
    given = {
        "index": index or None,
        "k": k or None,
        "columns": None if columns is None else tuple(columns),
        "domains": None if domains is None else tuple(domains),
        "storage": storage or None,
        "group_by_product": group_by_product,
        "min_recall": min_recall,
        "precision": precision or None,
        "split": split or None,
    }
    target = workdir / "models" / config.export.name
    with _alone(target):
        known = versions.list_versions(target)
        if known and not new_encoder:
            last = fingerprint.read(target / str(known[-1])) or {}
            layer = layer or last.get("layer", "")
            checkpoint = checkpoint or last.get("checkpoint", "")
            _override(config.export, last.get("export", {}))
        _override(config.export, given)
        checkpoint = checkpoint or "best"
        builders.validate(config)
        which = (checkpoint, layer, config.export.precision)
        sha256 = builders.encoder_sha256(config, workdir, *which)
        if known and not new_encoder:
            fingerprint.check_same_encoder(target / str(known[-1]), sha256)
        catalog = _read_catalog(config, catalog_path, split)
        encoder = builders.load_encoder(workdir, *which)
        embeddings, work = embedding.embed(
            config, encoder, sha256, catalog, workdir / CACHE, progress
        )
        record = {
            "checkpoint": checkpoint,
            "layer": layer,
            "export": {name: config.export[name] for name in KEPT},
            "catalog": catalog.name,
            "encoder": sha256,
            "work": {**dataclasses.asdict(work), "pictures": work.images},
        }
        catalog = catalog.select(embeddings.rows)
        if config.export.precision != "float32":
            record["precision"] = _cost_of_precision(
                config, workdir, which, embeddings.vectors, catalog, progress
            )
        folder, record = _build(
            config, encoder, embeddings.vectors, catalog, target, record
        )
    return Published(folder, record, embeddings.skipped)


def describe(published: Published) -> str:
    """Tells a person what was published."""
    record = published.record
    work, metrics = record["work"], record["parity"]
    lines = [f"skipped: {path}" for path in published.skipped[:20]]
    lines += [
        f"{work['images']} images: {work['cached']} cached, "
        f"{work['embedded']} embedded, {work['repeated']} repeated, "
        f"{work['unreadable']} unreadable.",
        f"{record['images']} images of {record['products']} products; "
        f"served = evaluated to {metrics['largest_difference']:.1e} on "
        f"{metrics['images']} images; {record['index']} finds "
        f"{metrics['recall']:.4f} of the exact {metrics['k']} nearest.",
    ]
    tuned = record["tuning"]
    if tuned.get("leaves"):
        lines.append(
            f"ScaNN: {tuned['leaves_to_search']} of {tuned['leaves']} leaves "
            f"searched, {tuned['reorder']} candidates scored again."
        )
    if "precision" in record:
        lines.append(precision_cost.describe(record["precision"]))
    if "recall_cost" in tuned:
        lines.append(
            f"int8 storage costs {tuned['recall_cost']:.4f} of recall."
        )
    return "\n".join([*lines, f"Published: {published.folder}"])


def _override(export, values) -> None:
    for name, value in values.items():
        if value is not None:
            export[name] = tuple(value) if isinstance(value, list) else value


def _read_catalog(config, path, split) -> Catalog:
    """The images of the split and the domains."""
    columns = tuple(config.export.columns)
    if path:
        catalog = manifest.read_manifest(path, columns=columns)
        catalog = catalog.split(split or "all")
    else:
        catalog = builders.build_catalog(config, columns)
        catalog = catalog.split(config.export.split)
    domains = list(config.export.domains)
    unknown = set(domains) - set(catalog.domain_names)
    if unknown:
        raise ValueError(
            f"There is no domain {', '.join(sorted(unknown))}. Known: "
            f"{', '.join(catalog.domain_names)}"
        )
    if not domains:
        return catalog
    names = catalog.domain_names[catalog.domains]
    return catalog.select(np.flatnonzero(np.isin(names, domains)))


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Holds the model's folder, and removes what a killed run left there.

    The lock goes with its process, however that ends.
    """
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"Another tf-triplet-index or tf-triplet-export publishes "
                f"into {target}. Wait until it has ended."
            ) from error
        versions.remove_partial(target)
        yield


def _build(
    config, encoder, vectors: np.ndarray, catalog: Catalog, target, record
) -> tuple[Path, dict]:
    """Index, model, checks; returns the version and its fingerprint."""
    export = config.export
    by_name = {
        name: evaluation.branch_names(name, catalog)
        for name in catalog_search.FILTERS
    }
    columns = {name: catalog.extras[name] for name in export.columns}
    own = branches.find(encoder)
    names = {} if own is None else {own.by: by_name[own.by]}
    products = catalog.products if export.group_by_product else None
    rows = np.random.default_rng(config.seed).permutation(len(catalog))
    boxes = catalog.boxes if config.data.use_boxes else None
    with versions.publish(target) as folder:
        inputs, tuned = _write(
            config, encoder, vectors, catalog, folder, columns, by_name
        )
        some = rows[:_WARM_IMAGES]
        requests = _warmup_inputs(catalog, boxes, vectors, some, by_name)
        requests.update({by: values[some] for by, values in names.items()})
        warmup.write(folder, export.name, inputs, requests)
        metrics = parity.check(
            folder,
            catalog.paths,
            vectors,
            rows[: export.parity_images],
            index=export.index,
            min_recall=export.min_recall,
            boxes=boxes,
            tolerance=_tolerance(record),
            more_inputs=names,
            products=products,
        )
        answered = {
            "product_ids": catalog.row_product_ids,
            "paths": catalog.paths,
            **columns,
            **{f"{name}_filter": values for name, values in by_name.items()},
        }
        if metrics.k == 1 and tuned:
            # The served model has but itself to find; tuning asked for two.
            metrics = dataclasses.replace(metrics, recall=tuned["recall"])
        record = {
            **record,
            "index": export.index,
            "index_sha256": fingerprint.index_sha256(vectors, answered),
            "images": len(catalog),
            "pictures": len(catalog),  # The former name of `images`.
            "products": len(catalog.product_ids),
            "dim": vectors.shape[1],
            "branches": own and dataclasses.asdict(own),
            "columns": list(columns),
            "group_by_product": export.group_by_product,
            "parity": dataclasses.asdict(metrics),
            "tuning": tuned,
            "packages": fingerprint.package_versions(),
        }
        fingerprint.write(folder, record)
    return target / str(versions.list_versions(target)[-1]), record


def _cost_of_precision(
    config, workdir, which, vectors, catalog, progress
) -> dict:
    """What the served encoder loses against the one that was trained."""
    checkpoint, layer, precision = which
    rows = precision_cost.draw(catalog, config.seed)
    want, _ = embedding.embed(
        config,
        builders.load_encoder(workdir, checkpoint, layer),
        builders.encoder_sha256(config, workdir, checkpoint, layer),
        catalog.select(rows),
        workdir / CACHE,
        progress,
    )
    rows = rows[want.rows]
    return precision_cost.measure(
        vectors[rows], want.vectors, catalog.products[rows], precision
    )


def _tolerance(record) -> float:
    """Enough for another batch size, too little for another precision."""
    if "precision" not in record:
        return parity.TOLERANCE
    return max(parity.TOLERANCE, record["precision"]["largest_difference"] / 2)


def _write(config, encoder, vectors, catalog, folder, columns, filters):
    """Writes the SavedModel; returns its signatures' inputs and the tuning."""
    export = config.export
    searcher, tuned = None, {}
    if export.index == "scann":
        products = catalog.products if export.group_by_product else None
        searcher, tuned = _tune(export, vectors, products, config.seed)
    try:
        model = saved_model.ServedModel(
            encoder,
            vectors,
            catalog.row_product_ids,
            catalog.paths,
            image_size=config.data.image_size,
            resize=config.data.resize,
            k=export.k,
            index=export.index,
            searcher=searcher,
            columns=columns,
            filters=filters,
            group_by_product=export.group_by_product,
        )
        with _quiet():
            return model.save(folder), tuned
    finally:
        # Before the check loads the index a second time.
        if searcher is not None:
            searcher.release()


def _tune(export, vectors, products, seed):
    k = min(export.k, len(vectors))
    if products is not None:
        k = min(export.k, products.max() + 1)
        k = catalog_search.images_to_fetch(products, k)
    return tuning.tune(
        vectors,
        k,
        export.min_recall,
        leaves=export.leaves,
        leaves_to_search=export.leaves_to_search,
        reorder=export.reorder,
        storage=export.storage,
        seed=seed,
    )


def _warmup_inputs(catalog, boxes, vectors, rows, by_name) -> dict:
    """Real images, and a filter that is set beside one that is not."""
    return {
        "image_bytes": parity.sent_images(catalog.paths, rows, boxes),
        "embedding": vectors[rows],
        "category_filter": by_name["category"][rows],
        "domain_filter": [""] * len(rows),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Saving tells a page of names that concern nobody."""
    handler = logging.get_absl_handler()
    level = handler.level
    handler.setLevel("WARNING")
    try:
        yield
    finally:
        handler.setLevel(level)
