"""Publishes the next version of a run's model: `export(workdir)`.

One function serves tf-triplet-export (a new encoder) and tf-triplet-index (a
new catalog for the same encoder). It embeds the images that are new, builds
and tunes the index, compares the written model with evaluation, and publishes
the version by one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_collections
import numpy as np

from tf_triplet import builders
from tf_triplet.workflows.build_version import VersionContents, build_version
from tf_triplet.workflows.embed_catalog import (
    CACHE,
    EmbeddingCounts,
    embed_catalog,
    embed_with,
)
from tf_triplet.workflows.options import ExportOptions

if TYPE_CHECKING:
    from tf_triplet.data.catalog import Catalog

# Fields of `config.export` that the next version of the same encoder keeps.
KEPT = ("index", "k", "columns", "domains", "storage", "group_by_product")
KEPT += ("min_recall", "precision", "split")
# Paths of unreadable images that are printed.
_LISTED = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A version that was published.

    Attributes:
        folder: The folder of the version.
        record: Its fingerprint, as in `assets.extra/fingerprint.json`: what
            is indexed, and what was measured.
        skipped: Paths of images that could not be read.

    Example:

    >>> from tf_triplet import workflows
    >>> published = workflows.export("runs/shop")  # doctest: +SKIP
    >>> published.record["parity"]["recall"]  # doctest: +SKIP
    0.9975
    """

    folder: Path
    record: dict[str, Any]
    skipped: tuple[str, ...]

    def describe(self) -> str:
        """Returns what was published and measured, as a few lines of text."""
        record = self.record
        lines = [f"skipped: {path}" for path in self.skipped[:_LISTED]]
        work = dict(record["work"])
        work.pop("pictures", None)
        lines.append(EmbeddingCounts(**work).describe())
        parity = record["parity"]
        lines.append(
            f"{record['images']} images of {record['products']} products; "
            f"served = evaluated to {parity['largest_difference']:.1e} on "
            f"{parity['images']} images; {record['index']} finds "
            f"{parity['recall']:.4f} of the exact {parity['k']} nearest."
        )
        tuning = record["tuning"]
        if tuning.get("leaves"):
            lines.append(
                f"ScaNN searches {tuning['leaves_to_search']} of "
                f"{tuning['leaves']} leaves and scores {tuning['reorder']} "
                "candidates again."
            )
        if "precision" in record:
            from tf_triplet.servable import precision_cost

            lines.append(precision_cost.describe(record["precision"]))
        if "recall_cost" in tuning:
            lines.append(
                f"int8 storage costs {tuning['recall_cost']:.4f} of recall."
            )
        return "\n".join([*lines, f"Published: {self.folder}"])


def export(
    workdir: str | Path,
    options: ExportOptions | None = None,
    *,
    same_encoder: bool = False,
    progress: bool = True,
) -> Published:
    """Publishes the next version of a run's model.

    The version is `<workdir>/models/<config.export.name>/<number>/`, a
    SavedModel from an image file's bytes to the nearest products.

    Args:
        workdir: The folder of a run.
        options: What to publish. A field that is not given comes from the
            run's config.
        same_encoder: Whether the encoder must be that of the version before.
            A field of `options` that is not given then comes from that
            version, so that only the catalog changes.
        progress: Whether to show the progress.

    Returns:
        The version.

    Raises:
        FileNotFoundError: If the folder holds no run, or no encoder yet.
        ValueError: If an option is wrong; if `same_encoder` is set and the
            version before has another encoder; if another process publishes
            into the same folder; or if the written model does not answer what
            evaluation measured. Nothing is published then.

    Example:

    >>> from tf_triplet import workflows
    >>> options = workflows.ExportOptions(index="exact", k=20)
    >>> published = workflows.export("runs/shop", options)  # doctest: +SKIP
    >>> published.folder  # doctest: +SKIP
    PosixPath('runs/shop/models/product_search/1')
    """
    from tf_triplet.servable import fingerprint

    workdir = Path(workdir)
    options = options or ExportOptions()
    config = builders.load_config(workdir)
    target = workdir / "models" / config.export.name
    with _lock(target):
        last = _last_version(target) if same_encoder else None
        which = _apply(options, config, last)
        sha256 = builders.encoder_sha256(config, workdir, *which)
        if last is not None:
            fingerprint.check_same_encoder(last, sha256)
        catalog = _read_catalog(config, options)
        encoder = builders.load_encoder(workdir, *which)
        embeddings, counts = embed_with(
            config, encoder, sha256, catalog, workdir / CACHE, progress
        )
        catalog = catalog.select(embeddings.rows)
        record = {
            "checkpoint": which.checkpoint,
            "layer": which.layer,
            "export": {name: config.export[name] for name in KEPT},
            "catalog": catalog.name,
            "encoder": sha256,
            "work": {**dataclasses.asdict(counts), "pictures": counts.images},
        }
        if which.precision != "float32":
            record["precision"] = _cost_of_precision(
                config, workdir, which, embeddings.vectors, catalog, progress
            )
        contents = VersionContents(config, encoder, embeddings.vectors, catalog)
        folder, record = build_version(contents, target, record)
    return Published(folder, record, embeddings.skipped)


class _Encoder(NamedTuple):
    """Which of a run's encoders, in the order of `builders.load_encoder`."""

    checkpoint: str
    layer: str
    precision: str


def _apply(
    options: ExportOptions, config: ml_collections.ConfigDict, last: Path | None
) -> _Encoder:
    """Writes the options into `config.export`; returns the encoder.

    Args:
        options: What is given.
        config: The run's config, which is changed.
        last: Folder of the version whose settings come before the config's.

    Returns:
        The encoder to publish.
    """
    from tf_triplet.servable import fingerprint

    record = (fingerprint.read(last) if last else None) or {}
    given = options.given()
    for values in (record.get("export", {}), given):
        for name, value in values.items():
            if name in KEPT:
                # JSON has lists where the config has tuples.
                value = tuple(value) if isinstance(value, list) else value
                config.export[name] = value
    builders.validate(config)
    return _Encoder(
        given.get("checkpoint", record.get("checkpoint")) or "best",
        given.get("layer", record.get("layer")) or "",
        config.export.precision,
    )


def _last_version(target: Path) -> Path | None:
    from tf_triplet.servable import versions

    known = versions.list_versions(target)
    return target / str(known[-1]) if known else None


def _read_catalog(
    config: ml_collections.ConfigDict, options: ExportOptions
) -> Catalog:
    """Returns the images to index: those of the split and the domains."""
    columns = tuple(config.export.columns)
    if options.catalog:
        from tf_triplet.data.sources import manifest

        catalog = manifest.read_manifest(options.catalog, columns=columns)
        catalog = catalog.split(options.split or "all")
    else:
        catalog = builders.build_catalog(config, columns)
        catalog = catalog.split(config.export.split)
    domains = list(config.export.domains)
    unknown = set(domains) - set(catalog.domain_names)
    if unknown:
        raise ValueError(
            "`export.domains` must name domains of the catalog: "
            f"{', '.join(catalog.domain_names)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    if not domains:
        return catalog
    names = catalog.domain_names[catalog.domains]
    return catalog.select(np.flatnonzero(np.isin(names, domains)))


def _cost_of_precision(
    config: ml_collections.ConfigDict,
    workdir: Path,
    which: _Encoder,
    vectors: np.ndarray,
    catalog: Catalog,
    progress: bool,
) -> dict[str, Any]:
    """Compares the served encoder with the one in float32."""
    from tf_triplet.servable import precision_cost

    rows = precision_cost.draw(catalog, config.seed)
    exact, _ = embed_catalog(
        workdir,
        catalog.select(rows),
        checkpoint=which.checkpoint,
        layer=which.layer,
        progress=progress,
    )
    rows = rows[exact.rows]
    return precision_cost.measure(
        vectors[rows], exact.vectors, catalog.products[rows], which.precision
    )


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Locks the model's folder, and removes what a killed run left there.

    The lock ends with its process, however that ends.
    """
    import fcntl

    from tf_triplet.servable import versions

    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"Another process publishes into {target}. Wait until that "
                "tf-triplet-export or tf-triplet-index has ended."
            ) from error
        versions.remove_partial(target)
        yield
