"""Who queries whom."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Protocol:
    """Which pictures are queries, and which they are searched among.

    Attributes:
        description: For a report.
        queries: `[q]` int64 rows.
        gallery: `[g]` int64 rows.
        exclude: `[q]` int64 positions in `gallery` of the query itself, -1
            where it is not in there. Masked by position and never by rank:
            an exact copy of the query may come before it.
    """

    description: str
    queries: np.ndarray
    gallery: np.ndarray
    exclude: np.ndarray


def leave_one_out(rows: np.ndarray, description: str = "") -> Protocol:
    """Every picture queries all others.

    Args:
        rows: `[n]` integers.
        description: In place of the usual one.
    """
    rows = np.asarray(rows, np.int64)
    return Protocol(
        description or "every picture queries all others",
        queries=rows,
        gallery=rows,
        exclude=np.arange(len(rows)),
    )


def cross_domain(
    domains: np.ndarray,
    domain_names: np.ndarray,
    query_domain: str,
    gallery_domain: str,
) -> Protocol:
    """The pictures of one domain query those of another.

    The same domain twice is leave-one-out within it.

    Args:
        domains: `[n]` integers into `domain_names`.
        domain_names: `[domains]` strings.
        query_domain: For instance `street`.
        gallery_domain: For instance `shop`.

    Raises:
        ValueError: a domain that there is not.
    """
    queries = _rows_of(domains, domain_names, "query_domain", query_domain)
    gallery = _rows_of(domains, domain_names, "gallery_domain", gallery_domain)
    if query_domain == gallery_domain:
        return leave_one_out(
            queries, f"every {query_domain} picture queries all others"
        )
    return Protocol(
        f"{query_domain} pictures query {gallery_domain} pictures",
        queries=queries,
        gallery=gallery,
        exclude=np.full(len(queries), -1, np.int64),
    )


def choose(
    domains: np.ndarray,
    domain_names: np.ndarray,
    query_domain: str = "",
    gallery_domain: str = "",
) -> Protocol:
    """Returns leave-one-out, or query domain to gallery domain where named.

    Args:
        domains: `[n]` integers into `domain_names`.
        domain_names: `[domains]` strings.
        query_domain: Empty for every picture.
        gallery_domain: Empty for every picture.

    Raises:
        ValueError: an unknown domain, or one of the two without the other.
    """
    if not query_domain and not gallery_domain:
        return leave_one_out(np.arange(len(domains)))
    if not query_domain or not gallery_domain:
        raise ValueError(
            "`query_domain` and `gallery_domain` go together. Received: "
            f"{query_domain!r} and {gallery_domain!r}"
        )
    return cross_domain(domains, domain_names, query_domain, gallery_domain)


def _rows_of(domains, domain_names, argument: str, name: str) -> np.ndarray:
    found = np.flatnonzero(np.asarray(domain_names) == name)
    if not len(found):
        raise ValueError(
            f"`{argument}` must be one of "
            f"{', '.join(repr(str(known)) for known in domain_names)}. "
            f"Received: {name!r}"
        )
    return np.flatnonzero(np.asarray(domains) == found[0])
