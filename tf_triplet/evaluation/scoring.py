"""An encoder and a catalog to metrics: embed once, then score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.evaluation.embeddings import Embeddings
from tf_triplet.retrieval import metrics as retrieval_metrics
from tf_triplet.retrieval import protocols


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


def _check_domains(catalog: Catalog, readable: Catalog, *wanted: str) -> None:
    """Tells a domain that lost all its images from one that never was."""
    for name in filter(None, wanted):
        if name in catalog.domain_names and name not in readable.domain_names:
            raise ValueError(
                f"No image of domain {name!r} could be read, so it can "
                "neither query nor be searched."
            )
