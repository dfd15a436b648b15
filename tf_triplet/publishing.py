"""From a catalogue and a run's encoder to the next version that is served.

The one road of tf-triplet-export (a new encoder) and tf-triplet-index (the
same encoder, another catalogue): embed what is new, build and tune the index,
hold the written model against evaluation, publish by one rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from absl import logging

from tf_triplet import config as configs
from tf_triplet import evaluation, experiment
from tf_triplet.data import pipeline, transcode
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import manifest
from tf_triplet.models import branches
from tf_triplet.serving import (
    catalog_search,
    embedding_cache,
    fingerprint,
    parity,
    saved_model,
    tuning,
    versions,
    warmup,
)

CACHE = "index_cache"
# Pictures of a warm-up request; those of a second one are one.
_WARM_PICTURES = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """What there was to embed, in pictures; they add up to `pictures`.

    Attributes:
        pictures: of the catalogue.
        cached: embedded by an earlier run.
        embedded: by this one.
        repeated: of the same content as another of this catalogue.
        unreadable: left out.
    """

    pictures: int
    cached: int
    embedded: int
    repeated: int
    unreadable: int


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A new version.

    Attributes:
        folder: of the version.
        record: its fingerprint.
        skipped: pictures that could not be read.
    """

    folder: Path
    record: dict
    skipped: tuple[str, ...]


def publish(
    workdir: str | Path,
    *,
    checkpoint: str = "best",
    catalog_path: str = "",
    split: str = "",
    domains: Sequence[str] = (),
    index: str = "",
    k: int = 0,
    columns: Sequence[str] = (),
    new_encoder: bool = False,
    progress: bool = True,
) -> Published:
    """Publishes the next version of a run's model.

    Args:
        workdir: of the run.
        checkpoint: "best" or "last".
        catalog_path: a manifest; "": the run's own catalogue.
        split: of the catalogue; "": the config's, and all of a manifest.
        domains: to index; none: the config's.
        index: "scann" or "exact"; "": the config's.
        k: neighbours an answer holds; 0: the config's.
        columns: further ones to answer; none: the config's.
        new_encoder: the encoder may be another than the last version's.
        progress: show how far it is.

    Raises:
        ValueError: the last version is another encoder's, a bad argument, or
            a model that does not answer what was measured (`ParityError`,
            `TuningError`). Nothing is published then.
    """
    workdir = Path(workdir)
    config = experiment.load_config(workdir)
    given = {"index": index, "k": k, "columns": tuple(columns)}
    config.export.update({f: value for f, value in given.items() if value})
    configs.validate(config)
    sha256 = experiment.encoder_sha256(config, workdir, checkpoint)
    target = workdir / "models" / config.export.name
    with _alone(target):
        known = versions.list_versions(target)
        if known and not new_encoder:
            fingerprint.check_same_encoder(target / str(known[-1]), sha256)
        catalog = _read_catalog(config, catalog_path, split, domains)
        encoder = experiment.load_encoder(workdir, checkpoint)
        embeddings, work = embed(
            config, encoder, sha256, catalog, workdir / CACHE, progress
        )
        record = {
            "checkpoint": checkpoint,
            "catalog": catalog.name,
            "encoder": sha256,
            "work": dataclasses.asdict(work),
        }
        catalog = catalog.select(embeddings.rows)
        folder, record = _build(
            config, encoder, embeddings.vectors, catalog, target, record
        )
    return Published(folder, record, embeddings.skipped)


def describe(published: Published) -> str:
    """Tells a person what was published."""
    record = published.record
    work, figures = record["work"], record["parity"]
    lines = [f"skipped: {path}" for path in published.skipped[:20]]
    lines += [
        f"{work['pictures']} pictures: {work['cached']} cached, "
        f"{work['embedded']} embedded, {work['repeated']} repeated, "
        f"{work['unreadable']} unreadable.",
        f"{record['pictures']} pictures of {record['products']} products; "
        f"served = evaluated to {figures['largest_difference']:.1e} on "
        f"{figures['images']} pictures; {record['index']} finds "
        f"{figures['recall']:.4f} of the exact {figures['k']} nearest.",
    ]
    tuned = record["tuning"]
    if tuned.get("leaves"):
        lines.append(
            f"ScaNN: {tuned['leaves_to_search']} of {tuned['leaves']} leaves "
            f"searched, {tuned['reorder']} candidates scored again."
        )
    if "recall_cost" in tuned:
        lines.append(f"int8 costs {tuned['recall_cost']:.4f} of recall.")
    return "\n".join([*lines, f"Published: {published.folder}"])


def _read_catalog(config, path, split, domains) -> Catalog:
    """The pictures of the split and the domains."""
    columns = tuple(config.export.columns)
    if path:
        catalog = manifest.read_manifest(path, columns=columns)
        catalog = catalog.split(split or "all")
    else:
        catalog = experiment.build_catalog(config, columns)
        catalog = catalog.split(split or config.export.split)
    domains = list(domains or config.export.domains)
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
    searcher, tuned = None, {}
    products = catalog.products if export.group_by_product else None
    if export.index == "scann":
        searcher, tuned = _tune(export, vectors, products, config.seed)
    try:
        named = {name: catalog.extras[name] for name in export.columns}
        filters = {
            name: evaluation.branch_names(name, catalog)
            for name in catalog_search.FILTERS
        }
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
            columns=named,
            filters=filters,
            group_by_product=export.group_by_product,
        )
        sample = _parity_rows(config, catalog)
        own_branches = branches.find(encoder)
        names = {}
        if own_branches is not None:
            names[own_branches.by] = filters[own_branches.by]
        with versions.publish(target) as folder:
            with _quiet():
                inputs = model.save(folder)
            _write_warmup(
                folder, export.name, inputs, catalog, vectors, sample, names
            )
            figures = parity.check(
                folder,
                catalog.paths,
                vectors,
                sample[: export.parity_images],
                index=export.index,
                min_recall=export.min_recall,
                more_inputs=names,
                products=products,
            )
            texts = {"product_ids": catalog.row_product_ids, **named}
            record = {
                **record,
                "index": export.index,
                "index_sha256": fingerprint.index_sha256(
                    vectors, {**texts, "paths": catalog.paths, **filters}
                ),
                "pictures": len(catalog),
                "products": len(catalog.product_ids),
                "dim": vectors.shape[1],
                "branches": own_branches and dataclasses.asdict(own_branches),
                "columns": list(named),
                "group_by_product": export.group_by_product,
                "parity": dataclasses.asdict(figures),
                "tuning": tuned,
                "packages": fingerprint.package_versions(),
            }
            fingerprint.write(folder, record)
    finally:
        if searcher is not None:
            searcher.release()
    return target / str(versions.list_versions(target)[-1]), record


def _tune(export, vectors, products, seed):
    k = min(export.k, len(vectors))
    if products is not None:
        k = min(export.k, products.max() + 1)
        k = catalog_search.pictures_to_fetch(products, k)
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


def _parity_rows(config, catalog: Catalog) -> np.ndarray:
    """Rows whose pictures are served as they were embedded, shuffled."""
    # A served picture is whole: boxed ones are no measure of parity.
    whole = np.flatnonzero(np.isnan(catalog.boxes).any(1))
    if not config.data.use_boxes:
        whole = np.arange(len(catalog))
    if not len(whole):
        raise ValueError(
            "Every picture of the catalogue is cropped to a box, so the "
            "served answer (of whole pictures) cannot be held against "
            "evaluation. Train with --config.data.use_boxes=false."
        )
    return np.random.default_rng(config.seed).permutation(whole)


def _write_warmup(folder, name, inputs, catalog, vectors, sample, names):
    rows = sample[:_WARM_PICTURES]
    values = {
        "image_bytes": [
            transcode.servable(Path(catalog.paths[row]).read_bytes())
            for row in rows
        ],
        "embedding": vectors[rows],
        # A filter that is set, and one that is not.
        "category_filter": [
            *evaluation.branch_names("category", catalog)[rows]
        ],
        "domain_filter": [""] * len(rows),
        **{by: [*values[rows]] for by, values in names.items()},
    }
    warmup.write(folder, name, inputs, values)


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


def embed(
    config,
    encoder,
    sha256: str,
    catalog: Catalog,
    cache_folder: str | Path,
    progress: bool = True,
) -> tuple[evaluation.Embeddings, Work]:
    """Embeds the pictures that the cache does not know.

    Args:
        config: of the run.
        encoder: the model.
        sha256: of it, from `experiment.encoder_sha256`.
        catalog: the pictures.
        cache_folder: of the caches of all encoders.
        progress: show how far it is.

    Raises:
        ValueError: as `evaluation.compute_embeddings`, or a cache of another
            encoder.
    """
    keys = _picture_keys(config, encoder, catalog, progress)
    dim = int(encoder.output_shape[-1])
    with embedding_cache.EmbeddingCache(cache_folder, sha256, dim) as cache:
        known, vectors = cache.lookup(keys)
        first = {}
        for row in np.flatnonzero(~known):
            # What could not be read shares no content with anything.
            first.setdefault(keys[row] or int(row), row)
        new = np.array(sorted(first.values()), np.int64)
        done = _embed_new(
            config, encoder, catalog, keys, new, vectors, cache, progress
        )
    ready = known.copy()
    ready[done] = True
    # Set in one go, after all: a repeated picture may precede its twin.
    row_of = {keys[row]: row for row in done}
    repeated = np.array(
        [r for r in np.flatnonzero(~ready) if keys[r] in row_of], np.int64
    )
    for row in repeated:
        vectors[row] = vectors[row_of[keys[row]]]
    ready[repeated] = True
    work = Work(
        pictures=len(catalog),
        cached=int(known.sum()),
        embedded=len(done),
        repeated=len(repeated),
        unreadable=int((~ready).sum()),
    )
    if not ready.any():
        raise ValueError(
            f"No picture of catalogue {catalog.name!r} could be embedded. "
            f"Received: {len(catalog)} pictures, all unreadable"
        )
    rows = np.flatnonzero(ready)
    skipped = tuple(map(str, catalog.paths[~ready]))
    return evaluation.Embeddings(vectors[rows], rows, skipped), work


def _picture_keys(config, encoder, catalog, progress) -> list[bytes | None]:
    """`[n]` keys of the cache, None where there is no file."""
    own_branches = branches.find(encoder)
    names = [""] * len(catalog)
    if own_branches is not None:
        # Before an hour of hashing: each picture has a branch.
        evaluation.branch_of_rows(own_branches, catalog)
        names = evaluation.branch_names(own_branches.by, catalog)
    boxes = catalog.boxes
    if not config.data.use_boxes:
        boxes = np.full([len(catalog), 4], np.nan, np.float32)

    def key(row):
        return _key(catalog.paths[row], boxes[row], str(names[row]))

    keys = []
    total = len(catalog)
    with evaluation.show_progress("Reading", total, progress) as advance:
        # Hashing leaves Python to other threads.
        with futures.ThreadPoolExecutor(8) as pool:
            for found in pool.map(key, range(total)):
                keys.append(found)
                advance(len(keys))
    return keys


def _key(path: str, box: np.ndarray, branch: str) -> bytes | None:
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None  # Told, or refused, when it should be embedded.
    return embedding_cache.picture_key(data, box, branch)


def _embed_new(
    config, encoder, catalog, keys, new, vectors, cache, progress
) -> np.ndarray:
    """Fills `vectors` of the rows `new`; returns those that were read."""
    if not len(new):
        return new
    bad = pipeline.BadImages(config.data.on_bad_image)
    done = []
    chosen = catalog.select(new)
    own_branches = branches.find(encoder)
    names = [""] * len(chosen)
    if own_branches is not None:
        names = evaluation.branch_names(own_branches.by, chosen)
    nowhere = np.full(4, np.nan, np.float32)
    with evaluation.show_progress("Embedding", len(new), progress) as advance:
        for rows, batch in experiment.embed_batches(
            config, encoder, chosen, bad
        ):
            evaluation.check_finite(batch, chosen.paths[rows])
            same = []
            for row in rows:
                box = chosen.boxes[row] if config.data.use_boxes else nowhere
                now = _key(chosen.paths[row], box, str(names[row]))
                # Else its old content would have its new embedding for ever.
                same.append(now is not None and now == keys[new[row]])
                if not same[-1]:
                    logging.warning(
                        "Skipping a picture that changed while it was "
                        "embedded: %s",
                        chosen.paths[row],
                    )
            kept = new[rows[same]]
            vectors[kept] = batch[same]
            cache.add([keys[row] for row in kept], batch[same])
            done.append(kept)
            advance(int(rows[-1]) + 1)
    return np.concatenate([np.zeros(0, np.int64), *done])
