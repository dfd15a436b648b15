"""Publishes the next version of a run's model: `export(workdir)`.

One function serves tf-triplet-export (a new encoder) and tf-triplet-index (a
new catalog for the same encoder). It embeds the images that are new, builds
and tunes the index, compares the written model with evaluation, and publishes
the version by one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_collections
import numpy as np

from tf_triplet import builders
from tf_triplet.workflows import publish_checks
from tf_triplet.workflows.build_version import VersionContents, build_version
from tf_triplet.workflows.embed_catalog import CACHE, embed_catalog, embed_with
from tf_triplet.workflows.options import ExportOptions
from tf_triplet.workflows.publish_checks import LastVersion
from tf_triplet.workflows.published import Published, count_changes

if TYPE_CHECKING:
    from tf_triplet.data.catalog import Catalog

# Fields of `config.export` that the next version of the same encoder keeps.
KEPT = ("index", "k", "columns", "domains", "storage", "group_by_product")
KEPT += ("min_recall", "precision", "split")


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
            version before has another encoder; if too many images cannot be
            read, or the catalog is less than half of that of the version
            before, and `options` does not allow it; if another process
            publishes into the same folder; or if the written model does not
            answer what evaluation measured. Nothing is published then.

    Example:

    >>> from tf_triplet import workflows
    >>> options = workflows.ExportOptions(index="exact", k=20)
    >>> published = workflows.export("runs/shop", options)  # doctest: +SKIP
    >>> published.folder  # doctest: +SKIP
    PosixPath('runs/shop/models/product_search/1')
    """
    workdir = Path(workdir)
    options = options or ExportOptions()
    config = builders.load_config(workdir)
    target = workdir / "models" / config.export.name
    with _lock(target):
        last = LastVersion.find(target)
        kept = last if same_encoder else None
        which = _apply(options, config, kept.record if kept else {})
        sha256 = builders.encoder_sha256(config, workdir, *which)
        if kept is not None:
            publish_checks.check_same_encoder(kept, sha256)
        catalog = _read_catalog(config, options)
        compared = kept or _if_same_part(last, config)
        encoder = builders.load_encoder(workdir, *which)
        embeddings, counts, keys = embed_with(
            *(config, encoder, sha256, catalog, workdir / CACHE, progress),
            check=functools.partial(
                _check_catalog,
                options,
                compared,
                max_megapixels=config.data.max_megapixels,
            ),
        )
        indexed = catalog.select(embeddings.rows)
        contents = VersionContents(
            config, encoder, embeddings.vectors, indexed, keys
        )
        if kept is not None:
            publish_checks.check_answers(contents, kept)
        changes = last and last.compare(contents.digests)
        record = {
            **_describe_run(contents, workdir, which, sha256),
            "work": {**dataclasses.asdict(counts), "pictures": counts.images},
            "since_version": last and last.number,
            "changes": count_changes(changes),
        }
        if which.precision != "float32":
            record["precision"] = _cost_of_precision(
                config, workdir, which, embeddings.vectors, indexed, progress
            )
        folder, record = build_version(contents, target, record)
        removed, left = _prune(target, options)
    return Published(folder, record, embeddings.skipped, changes, removed, left)


class _Encoder(NamedTuple):
    """Which of a run's encoders, in the order of `builders.load_encoder`."""

    checkpoint: str
    layer: str
    precision: str


def _apply(
    options: ExportOptions,
    config: ml_collections.ConfigDict,
    kept: Mapping[str, Any],
) -> _Encoder:
    """Writes the options into `config.export`; returns the encoder.

    Args:
        options: What is given.
        config: The run's config, which is changed.
        kept: Fingerprint of the version whose settings come before those of
            the config; empty for none.

    Returns:
        The encoder to publish.
    """
    given = options.given()
    for values in (kept.get("export", {}), given):
        for name, value in values.items():
            if name in KEPT:
                # JSON has lists where the config has tuples.
                value = tuple(value) if isinstance(value, list) else value
                config.export[name] = value
    builders.validate(config)
    return _Encoder(
        given.get("checkpoint", kept.get("checkpoint")) or "best",
        given.get("layer", kept.get("layer")) or "",
        config.export.precision,
    )


def _read_catalog(
    config: ml_collections.ConfigDict, options: ExportOptions
) -> Catalog:
    """Returns the images to index: those of the split and the domains."""
    if options.catalog:
        catalog = _read_given(
            options.catalog,
            tuple(config.export.columns),
            options.encoding or config.data.encoding,
        )
        catalog = catalog.split(options.split or "all")
    else:
        catalog = builders.build_catalog(config, tuple(config.export.columns))
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


def _read_given(
    path: str | Path, columns: tuple[str, ...], encoding: str
) -> Catalog:
    """Reads a manifest, or a folder that has one folder per product."""
    from tf_triplet.data.sources import folder, manifest

    if not Path(path).is_dir():
        return manifest.read_manifest(path, columns=columns, encoding=encoding)
    if columns:
        raise ValueError(
            "Only a manifest has extra columns. Received: --columns="
            f"{','.join(columns)} with the folder {str(path)!r}. Pass "
            "--columns= to answer none, or a manifest as --catalog."
        )
    return folder.read_folder(path)


def _if_same_part(
    last: LastVersion | None, config: ml_collections.ConfigDict
) -> LastVersion | None:
    """Returns the last version if it indexes the same splits and domains."""
    if last is None:
        return None
    before = last.record.get("export", {})
    same = before.get("split") == config.export.split and set(
        before.get("domains", ())
    ) == set(config.export.domains)
    return last if same else None


def _check_catalog(
    options: ExportOptions,
    last: LastVersion | None,
    catalog: Catalog,
    unreadable: np.ndarray,
    max_megapixels: float,
) -> None:
    if not options.allow_unreadable:
        publish_checks.check_readable(catalog, unreadable, max_megapixels)
    if last is not None and not options.allow_smaller_catalog:
        publish_checks.check_size(catalog.select(~unreadable), last)


def _describe_run(
    contents: VersionContents, workdir: Path, which: _Encoder, sha256: str
) -> dict[str, Any]:
    """Returns the part of the fingerprint that tells what is published."""
    from tf_triplet.servable import fingerprint

    trained = builders.RunProducts.read(workdir)
    return {
        "checkpoint": which.checkpoint,
        "layer": which.layer,
        "export": {name: contents.config.export[name] for name in KEPT},
        "catalog": contents.catalog.name,
        "encoder": sha256,
        "pixels": fingerprint.describe_pixels(),
        "trained_products": None
        if trained is None
        else int(trained.was_trained(contents.catalog).sum()),
    }


def _prune(
    target: Path, options: ExportOptions
) -> tuple[tuple[int, ...], dict[int, str]]:
    """Removes old versions; returns which, and why others stay."""
    from tf_triplet.servable import versions

    if options.keep_versions is None:
        return (), {}
    removed, left = versions.prune(target, options.keep_versions)
    return tuple(removed), left


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
