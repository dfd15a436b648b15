"""An encoder and a catalog to metrics: embed once, then score."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import metrics as retrieval_metrics
from tf_triplet.retrieval import protocols

_LOG_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of the images of a catalog that could be read.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog, rising.
        skipped: Paths of the images that could not be read.
    """

    vectors: np.ndarray
    rows: np.ndarray
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class SavedEmbeddings:
    """What an embeddings file holds.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog that was embedded.
        product_ids: `[m]` the owner's ids, strings or int64.
        paths: `[m]` strings, the image files.
        skipped: Paths of the images that could not be read.
        source: What made them, for instance the encoder file's sha256.
    """

    vectors: np.ndarray
    rows: np.ndarray
    product_ids: np.ndarray
    paths: np.ndarray
    skipped: tuple[str, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        catalog: The catalog's name.
        protocol: Who queried whom, in words.
        ties: How ties were counted.
        overall: Metrics over all queries. `overall.by_group` holds those of
            each category of the query image, where there are several.
        gallery: Images searched among, the query itself included; the
            largest gallery where there are several.
        skipped: Paths of images that could not be read.
        clustering: `nmi` and `f1`, where asked for.
    """

    catalog: str
    protocol: str
    ties: str
    overall: retrieval_metrics.RetrievalMetrics
    gallery: int
    skipped: tuple[str, ...]
    clustering: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def queries(self) -> int:
        """Queries that counted."""
        return self.overall.queries

    @property
    def left_out(self) -> int:
        """Queries without another image of their product to find."""
        return self.overall.left_out

    @property
    def by_category(self) -> dict[str, retrieval_metrics.RetrievalMetrics]:
        """Metrics of each category, empty where there is only one."""
        return self.overall.by_group

    def to_dict(self) -> dict[str, Any]:
        """Returns everything in the types that JSON has."""
        return {
            "catalog": self.catalog,
            "protocol": self.protocol,
            "ties": self.ties,
            "gallery": self.gallery,
            "skipped": list(self.skipped),
            "overall": {**self.overall.to_dict(), **self.clustering},
            "by_category": {
                name: metrics.to_dict()
                for name, metrics in self.by_category.items()
            },
        }


def compute_embeddings(
    encoder: Callable,
    catalog: Catalog,
    image_size: int,
    batch_size: int,
    resize: str = "area",
    use_boxes: bool = True,
    on_bad_image: str = "stop",
    progress: bool = True,
) -> Embeddings:
    """Embeds every image of a catalog, in order.

    Args:
        encoder: A Keras model from `[b, size, size, 3]` float32 pixels in
            [0, 1] to `[b, dim]`, or one with branches: then each image
            goes through that of its own domain or category.
        catalog: The images.
        image_size: Pixels a side.
        batch_size: Images a forward pass.
        resize: "area" or "bilinear".
        use_boxes: Crop to the box where an image has one.
        on_bad_image: "stop" makes an unreadable image an error, "skip"
            leaves it out and names it in `skipped`.
        progress: Tell how far it is: a bar on a terminal, else a line of
            log every ten seconds.

    Raises:
        ValueError: an unreadable image, no image at all, an embedding
            that is not finite, or an image that no branch is for.
    """
    # Scoring saved vectors needs no TensorFlow, which takes seconds to load.
    from tf_triplet.data import pipeline

    bad = pipeline.BadImages(on_bad_image)
    rows, vectors = [], []
    with show_progress("Embedding", len(catalog), progress) as advance:
        for batch_rows, batch in embed_batches(
            encoder, catalog, image_size, batch_size, resize, use_boxes, bad
        ):
            rows.append(batch_rows)
            vectors.append(batch)
            advance(int(batch_rows[-1]) + 1)
    if not rows:
        raise ValueError(
            f"No image of catalog {catalog.name!r} could be embedded. "
            f"Received: {len(catalog)} images, {len(bad.counts)} unreadable"
        )
    rows = np.concatenate(rows)
    vectors = np.concatenate(vectors)
    check_finite(vectors, catalog.paths[rows])
    skipped = np.delete(catalog.paths, rows)
    return Embeddings(vectors, rows, tuple(map(str, skipped)))


def embed_batches(
    encoder: Callable,
    catalog: Catalog,
    image_size: int,
    batch_size: int,
    resize: str,
    use_boxes: bool,
    bad,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeds every image of a catalog, a batch at a time.

    Args:
        encoder: See `compute_embeddings`, as for all that is not here.
        catalog: The images.
        image_size: Pixels a side.
        batch_size: Images a forward pass.
        resize: "area" or "bilinear".
        use_boxes: Crop to the box where an image has one.
        bad: A `pipeline.BadImages`, which learns what cannot be read.

    Yields:
        `[b]` rising rows and `[b, dim]` float32; b is at least 1, and
        smaller than a batch where images could not be read.
    """
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.models import branches

    branch = branch_of_rows(branches.find(encoder), catalog)
    batches = pipeline.evaluation_batches(
        catalog, image_size, batch_size, resize, use_boxes, bad_images=bad
    )

    @tf.function(reduce_retracing=True)
    def embed(images):
        return encoder(images, training=False)

    try:
        for rows, pixels in batches:
            if not len(rows):
                continue
            rows, images = rows.numpy(), pixels
            if branch is not None:
                own = tf.constant(branch[rows])
                images = {"pixels": pixels, "branch": own}
            yield rows, embed(images).numpy().astype(np.float32)
    except tf.errors.OpError as error:
        if bad.counts and bad.on_bad_image == "stop":
            raise ValueError(bad.message) from error
        raise


def branch_of_rows(branches, catalog: Catalog) -> np.ndarray | None:
    """`[n]` int32: the branch of each image, by its name.

    Args:
        branches: The encoder's (`models.branches.Branches`); None: it has
            none, and so has the image.
        catalog: The images. Its labels are dense anew in every selection,
            so only names can tell a branch.
    """
    if branches is None:
        return None
    return branches.index(branch_names(branches.by, catalog))


def branch_names(by: str, catalog: Catalog) -> np.ndarray:
    """`[n]` strings: the domain, or the category, of each image."""
    if by == "domain":
        return catalog.domain_names[catalog.domains].astype(str)
    return catalog.category_names[catalog.categories].astype(str)


def evaluate(
    embeddings: Embeddings,
    catalog: Catalog,
    ks: Sequence[int],
    query_domain: str = "",
    gallery_domain: str = "",
    ties: str = "against",
    protocol: str = "auto",
    clustering: bool = False,
) -> Evaluation:
    """Scores embeddings: are the nearest images of the same product?

    Args:
        embeddings: Of this very catalog.
        catalog: The images.
        ks: Ranks for Recall@K and Precision@K.
        query_domain: With `gallery_domain`: the images that query.
        gallery_domain: The images they are searched among. Both empty:
            every image queries all others.
        ties: `against` the system, or their `expected` value.
        protocol: `auto` is what the domains say; `leave_one_out`,
            `query_gallery`; `per_pair`, where a query counts once for each
            pair it stands in (`catalog.extras["pairs"]`, or the gallery's
            images of its product); `within_category`, where only the
            images of its own category are searched.
        clustering: NMI and F1 too, over all images that take part.

    Raises:
        ValueError: an unknown domain, or no query has anything to find.
    """
    readable = catalog.select(embeddings.rows)
    _check_domains(catalog, readable, query_domain, gallery_domain)
    parts = _parts(readable, query_domain, gallery_domain, protocol)
    metrics, queries = _score(embeddings.vectors, readable, parts, ks, ties)
    description = parts[0].description
    if protocol == "per_pair":
        times = _pairs(readable, parts[0])
        metrics, queries = metrics.repeat(times), np.repeat(queries, times)
        description += ", once for each pair"
    groups = None
    if len(readable.category_names) > 1:
        names = readable.category_names.astype(str)
        groups = names[readable.categories[queries]]
    metrics = retrieval_metrics.summarize(metrics, ks, groups)
    if not metrics.queries:
        raise ValueError(
            f"No query of catalog {catalog.name!r} has another image of "
            f"its product to find ({description}), so there is "
            "nothing to score: products need two images or more. "
            f"Received: {len(readable)} images of "
            f"{len(readable.product_ids)} products"
        )
    return Evaluation(
        catalog=catalog.name,
        protocol=description,
        ties=ties,
        overall=metrics,
        gallery=max(len(part.gallery) for part in parts),
        skipped=embeddings.skipped,
        clustering=_cluster(embeddings.vectors, readable, parts)
        if clustering
        else {},
    )


def check_protocol(
    catalog: Catalog, query_domain: str, gallery_domain: str, protocol: str
) -> None:
    """Raises what `evaluate` would of its protocol and domains."""
    _parts(catalog, query_domain, gallery_domain, protocol)


def _parts(catalog: Catalog, query_domain, gallery_domain, protocol: str):
    """Who queries whom."""
    return protocols.named(
        protocol,
        catalog.categories,
        catalog.domains,
        catalog.domain_names,
        query_domain,
        gallery_domain,
    )


def _score(
    vectors: np.ndarray, catalog: Catalog, parts, ks, ties: str
) -> tuple[retrieval_metrics.QueryMetrics, np.ndarray]:
    """The metrics of each query of all parts, and its row."""
    metrics = [
        retrieval_metrics.evaluate_queries(
            vectors[part.queries],
            catalog.products[part.queries],
            vectors[part.gallery],
            catalog.products[part.gallery],
            ks,
            exclude=part.exclude,
            ties=ties,
        )
        for part in parts
    ]
    queries = np.concatenate([part.queries for part in parts])
    return retrieval_metrics.QueryMetrics.concatenate(metrics), queries


def _pairs(catalog: Catalog, protocol: protocols.Protocol) -> np.ndarray:
    """`[q]` pairs that each query stands in."""
    if "pairs" in catalog.extras:
        return catalog.extras["pairs"][protocol.queries]
    in_gallery = np.bincount(
        catalog.products[protocol.gallery],
        minlength=len(catalog.product_ids),
    )
    return in_gallery[catalog.products[protocol.queries]]


def _cluster(vectors: np.ndarray, catalog: Catalog, parts) -> dict[str, float]:
    # scikit-learn takes a second to load.
    from tf_triplet.retrieval import clustering

    rows = np.unique(
        np.concatenate([[*part.queries, *part.gallery] for part in parts])
    )
    return clustering.evaluate_clusters(vectors[rows], catalog.products[rows])


def save_embeddings(
    path: str | Path,
    embeddings: Embeddings,
    catalog: Catalog,
    source: str = "",
) -> None:
    """Writes embeddings with product ids and paths to an .npz file.

    Args:
        path: The file; its folder is made.
        embeddings: Of this very catalog.
        catalog: The images.
        source: What made them; a reader compares it before reusing them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = catalog.row_product_ids[embeddings.rows]
    # Plain strings: an object array would need pickle to be read.
    ids = ids.astype(str) if ids.dtype == object else ids
    # Renamed when complete: a file that is there is whole.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        np.savez(
            file,
            vectors=embeddings.vectors,
            rows=embeddings.rows,
            product_ids=ids,
            paths=catalog.paths[embeddings.rows].astype(str),
            skipped=np.array(embeddings.skipped, dtype=str),
            source=np.array(source),
        )
    os.replace(partial, path)


def load_embeddings(path: str | Path) -> SavedEmbeddings:
    """Reads what `save_embeddings` wrote.

    Raises:
        ValueError: the file is not such a file.
    """
    names = [field.name for field in dataclasses.fields(SavedEmbeddings)]
    with np.load(path, allow_pickle=False) as file:
        missing = set(names) - set(getattr(file, "files", ()))
        if missing:
            raise ValueError(
                f"{path} is no embeddings file: it lacks "
                f"{', '.join(sorted(missing))}. Write it with "
                "tf-triplet-evaluate."
            )
        values = {name: file[name] for name in names}
    values["skipped"] = tuple(values["skipped"].tolist())
    values["source"] = str(values["source"])
    return SavedEmbeddings(**values)


def check_finite(vectors: np.ndarray, paths: np.ndarray) -> None:
    """Raises ValueError where `[m, dim]` vectors hold NaN or infinity."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum():,} of {len(bad):,} embeddings hold NaN or infinity, "
            f"the first of {paths[np.argmax(bad)]}. The training diverged: "
            "lower the learning rate, or take an earlier checkpoint "
            "(--checkpoint=best)."
        )


def _check_domains(catalog: Catalog, readable: Catalog, *wanted: str) -> None:
    """Tells a domain that lost all its images from one that never was."""
    for name in filter(None, wanted):
        if name in catalog.domain_names and name not in readable.domain_names:
            raise ValueError(
                f"No image of domain {name!r} could be read, so it can "
                "neither query nor be searched."
            )


@contextlib.contextmanager
def show_progress(
    what: str, total: int, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many images are done.

    Args:
        what: Is being done: "Embedding".
        total: Images.
        show: A bar on a terminal, else a line of log every ten seconds.
    """
    if not show:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        yield _LogProgress(what, total)
        return
    import rich.console
    import rich.progress

    with rich.progress.Progress(
        rich.progress.TextColumn(what),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


class _LogProgress:
    """Logs how far it is every ten seconds."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS:
            return
        self._last = now
        logging.info(
            "%s: %d of %d images, %.0f a second.",
            self._what,
            done,
            self._total,
            done / (now - self._start),
        )
