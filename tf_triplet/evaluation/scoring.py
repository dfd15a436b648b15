"""Scores the embeddings of a catalog with a retrieval protocol."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.evaluation.embeddings import Embeddings
from tf_triplet.retrieval import metrics as retrieval_metrics
from tf_triplet.retrieval.protocols import Protocol, ProtocolSpec
from tf_triplet.retrieval.query_metrics import QueryMetrics, evaluate_queries
from tf_triplet.retrieval.reranking import rerank as rerank_answers


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        catalog: Name of the catalog.
        protocol: Description of the protocol.
        ties: How ties were counted, see `evaluate`.
        overall: Metrics over all queries. If the catalog has several
            categories, `overall.by_group` holds the metrics of each, by the
            category of the query.
        gallery: Number of gallery images, including the query itself under
            leave-one-out. It is the size of the largest gallery if the
            protocol has several.
        skipped: Paths of images that could not be read.
        clustering: `nmi` and `f1`, if they were requested, otherwise empty.

    Example:

    >>> from tf_triplet.retrieval import RetrievalMetrics
    >>> result = Evaluation(
    ...     catalog="shop",
    ...     protocol="every image queries all others",
    ...     ties="against",
    ...     overall=RetrievalMetrics({1: 0.9}, {1: 0.9}, 0.8, 0.85, 99, 1),
    ...     gallery=100,
    ...     skipped=(),
    ... )
    >>> result.queries, result.left_out
    (99, 1)
    >>> result.to_dict()["overall"]["recall@1"]
    0.9
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
        """Number of queries that were scored."""
        return self.overall.queries

    @property
    def left_out(self) -> int:
        """Number of queries with no other image of their product to find."""
        return self.overall.left_out

    @property
    def by_category(self) -> dict[str, retrieval_metrics.RetrievalMetrics]:
        """Metrics of each category; empty if there is only one."""
        return self.overall.by_group

    def to_dict(self) -> dict[str, Any]:
        """Returns all values as types that JSON can hold."""
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
    protocol: ProtocolSpec | None = None,
    ties: str = "against",
    clustering: bool = False,
    rerank: str = "none",
) -> Evaluation:
    """Measures how well the nearest images show the query's product.

    Args:
        embeddings: Embeddings of `catalog`.
        catalog: The images.
        ks: Values of K for Recall@K and Precision@K.
        protocol: Which images are queries, and which are searched. None
            stands for `ProtocolSpec()`. Under `per_pair`, a query counts
            `catalog.extras["pairs"]` times if the catalog has that column,
            otherwise once for each gallery image of its product.
        ties: How an incorrect image with the score of a correct one is
            ranked. "against" ranks it first; "expected" averages over all
            orders of equal scores.
        clustering: Whether to compute NMI and F1 too, over all images of the
            protocol.
        rerank: How the answers are re-ranked, see `retrieval.rerank`.

    Returns:
        The metrics and the counts.

    Raises:
        ValueError: If a domain is unknown, or if no query has another image
            of its product to find.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": list("abcd"), "product_id": [1, 1, 2, 2]})
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [1, 0.3]], np.float32)
    >>> result = evaluate(Embeddings(vectors, np.arange(4)), catalog, ks=[1])
    >>> result.protocol
    'every image queries all others'
    >>> result.overall.recall
    {1: 0.75}
    """
    protocol = protocol or ProtocolSpec()
    readable = catalog.select(embeddings.rows)
    _check_domains(catalog, readable, protocol)
    protocols = build_protocols(readable, protocol)
    metrics, queries = _score(
        embeddings.vectors, readable, protocols, ks, ties, rerank
    )
    description = protocols[0].description
    if rerank != "none":
        description += f", re-ranked by {rerank.replace('_', ' ')}"
    if protocol.name == "per_pair":
        times = _pairs(readable, protocols[0])
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
        gallery=max(len(one.gallery) for one in protocols),
        skipped=embeddings.skipped,
        clustering=_cluster(embeddings.vectors, readable, protocols)
        if clustering
        else {},
    )


def evaluate_domains(
    embeddings: Embeddings,
    catalog: Catalog,
    ks: Sequence[int],
    protocol: ProtocolSpec | None = None,
    ties: str = "against",
) -> dict[tuple[str, str], Evaluation]:
    """Measures how well each domain finds its products in each other one.

    Args:
        embeddings: Embeddings of `catalog`.
        catalog: The images. Images without a domain are left out.
        ks: Values of K for Recall@K and Precision@K.
        protocol: The protocol of `evaluate`. If it is `within_category`, the
            pairs of domains are scored within categories too.
        ties: How ties are counted, see `evaluate`.

    Returns:
        Metrics by pair of query domain and gallery domain. A pair without a
        common product cannot be scored and is left out.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": list("abc"), "product_id": [1, 1, 2]})
    >>> frame["domain"] = ["street", "shop", "shop"]
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> vectors = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    >>> embeddings = Embeddings(vectors, np.arange(3))
    >>> results = evaluate_domains(embeddings, catalog, ks=[1])
    >>> {pair: result.overall.recall for pair, result in results.items()}
    {('shop', 'street'): {1: 1.0}, ('street', 'shop'): {1: 1.0}}
    """
    within = protocol is not None and protocol.name == "within_category"
    name = "within_category" if within else "query_gallery"
    readable = catalog.select(embeddings.rows)
    results = {}
    for pair in itertools.permutations(named_domains(readable), 2):
        protocols = build_protocols(readable, ProtocolSpec(name, *pair))
        metrics, _ = _score(embeddings.vectors, readable, protocols, ks, ties)
        overall = retrieval_metrics.summarize(metrics, ks)
        if overall.queries:
            results[pair] = Evaluation(
                catalog=catalog.name,
                protocol=protocols[0].description,
                ties=ties,
                overall=overall,
                gallery=max(len(one.gallery) for one in protocols),
                skipped=embeddings.skipped,
            )
    return results


def named_domains(catalog: Catalog) -> list[str]:
    """Returns the names of a catalog's domains, without the empty name.

    Args:
        catalog: The images.

    Returns:
        The names in alphabetical order. Empty if the table has no domains.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a", "b"], "product_id": ["p", "p"]})
    >>> named_domains(Catalog.from_frame(frame, "tiny"))
    []
    """
    return [str(name) for name in catalog.domain_names if name]


def build_protocols(catalog: Catalog, spec: ProtocolSpec) -> list[Protocol]:
    """Applies a protocol to the images of a catalog.

    Args:
        catalog: The images.
        spec: The protocol and its domains.

    Returns:
        One protocol, or one per category for `within_category`.

    Raises:
        ValueError: If the catalog has no such domain.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a", "b"], "product_id": ["p", "p"]})
    >>> frame["domain"] = ["street", "shop"]
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> from tf_triplet.retrieval import ProtocolSpec
    >>> spec = ProtocolSpec("query_gallery", "street", "shop")
    >>> build_protocols(catalog, spec)[0].description
    'street images query shop images'
    """
    return spec.apply(catalog.categories, catalog.domains, catalog.domain_names)


def check_protocol(catalog: Catalog, spec: ProtocolSpec) -> None:
    """Raises the error that `evaluate` would raise for this protocol.

    Embedding a catalog can take minutes, so call this first.

    Args:
        catalog: The images.
        spec: The protocol and its domains.

    Raises:
        ValueError: If the catalog has no such domain.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a", "b"], "product_id": ["p", "p"]})
    >>> frame["domain"] = ["street", "shop"]
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> from tf_triplet.retrieval import ProtocolSpec
    >>> check_protocol(catalog, ProtocolSpec("auto", "web", "shop"))
    Traceback (most recent call last):
        ...
    ValueError: `query_domain` must be one of 'shop', 'street'. Received: 'web'
    """
    build_protocols(catalog, spec)


def _score(
    vectors: np.ndarray,
    catalog: Catalog,
    protocols: Sequence[Protocol],
    ks: Sequence[int],
    ties: str,
    method: str = "none",
) -> tuple[QueryMetrics, np.ndarray]:
    """Returns the metrics of the queries of all protocols, and their rows."""
    metrics = []
    for one in protocols:
        own, gallery, new = vectors[one.queries], vectors[one.gallery], None
        if method != "none":
            new = rerank_answers(method, own, gallery, one.exclude)
            own = new.queries
        metrics.append(
            evaluate_queries(
                own,
                catalog.products[one.queries],
                gallery,
                catalog.products[one.gallery],
                ks,
                exclude=one.exclude,
                ties=ties,
                reranking=new,
            )
        )
    queries = np.concatenate([one.queries for one in protocols])
    return QueryMetrics.concatenate(metrics), queries


def _pairs(catalog: Catalog, protocol: Protocol) -> np.ndarray:
    """Returns `[q]` the number of pairs that each query belongs to."""
    if "pairs" in catalog.extras:
        return catalog.extras["pairs"][protocol.queries]
    in_gallery = np.bincount(
        catalog.products[protocol.gallery],
        minlength=len(catalog.product_ids),
    )
    return in_gallery[catalog.products[protocol.queries]]


def _cluster(
    vectors: np.ndarray, catalog: Catalog, protocols: Sequence[Protocol]
) -> dict[str, float]:
    # scikit-learn takes a second to load.
    from tf_triplet.retrieval import clustering

    rows = np.unique(
        np.concatenate([[*one.queries, *one.gallery] for one in protocols])
    )
    return clustering.evaluate_clusters(vectors[rows], catalog.products[rows])


def _check_domains(
    catalog: Catalog, readable: Catalog, spec: ProtocolSpec
) -> None:
    """Raises an error for a domain of which no image could be read.

    The protocol would call such a domain unknown, which it is not.
    """
    for name in filter(None, (spec.query_domain, spec.gallery_domain)):
        if name in catalog.domain_names and name not in readable.domain_names:
            raise ValueError(
                f"No image of domain {name!r} could be read, so it can "
                "neither query nor be searched."
            )
