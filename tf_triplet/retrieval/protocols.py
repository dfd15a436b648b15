"""Who queries whom."""

from __future__ import annotations

import dataclasses

import numpy as np

# auto is query_gallery where domains are named, else leave_one_out.
PROTOCOLS = (
    "auto",
    "leave_one_out",
    "query_gallery",
    "per_pair",
    "within_category",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Protocol:
    """Which images are queries, and which they are searched among.

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
    """Every image queries all others.

    Args:
        rows: `[n]` integers.
        description: In place of the usual one.
    """
    rows = np.asarray(rows, np.int64)
    return Protocol(
        description or "every image queries all others",
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
    """The images of one domain query those of another.

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
            queries, f"every {query_domain} image queries all others"
        )
    return Protocol(
        f"{query_domain} images query {gallery_domain} images",
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
        query_domain: Empty for every image.
        gallery_domain: Empty for every image.

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


def within_category(
    categories: np.ndarray,
    domains: np.ndarray,
    domain_names: np.ndarray,
    query_domain: str = "",
    gallery_domain: str = "",
) -> list[Protocol]:
    """A query is searched for among images of its own category alone.

    Args:
        categories: `[n]` integers.
        domains: `[n]` integers into `domain_names`.
        domain_names: `[domains]` strings.
        query_domain: As in `choose`.
        gallery_domain: As in `choose`.

    Returns:
        A protocol a category that has queries, in order of category.

    Raises:
        ValueError: an unknown domain, or one of the two without the other.
    """
    categories = np.asarray(categories)
    whole = choose(domains, domain_names, query_domain, gallery_domain)
    parts = []
    for category in np.unique(categories[whole.queries]):
        asks = categories[whole.queries] == category
        searched = categories[whole.gallery] == category
        places = np.append(np.cumsum(searched) - 1, -1)
        parts.append(
            Protocol(
                f"{whole.description}, within a category",
                whole.queries[asks],
                whole.gallery[searched],
                places[whole.exclude[asks]],
            )
        )
    return parts


def named(
    name: str,
    categories: np.ndarray,
    domains: np.ndarray,
    domain_names: np.ndarray,
    query_domain: str = "",
    gallery_domain: str = "",
) -> list[Protocol]:
    """The protocol that a config picks, a part for each gallery.

    Args:
        name: Of `PROTOCOLS`. `per_pair` is `query_gallery` whose queries the
            caller counts once for each pair they stand in.
        categories: `[n]` integers.
        domains: `[n]` integers into `domain_names`.
        domain_names: `[domains]` strings.
        query_domain: As in `choose`.
        gallery_domain: As in `choose`.

    Raises:
        ValueError: an unknown name or domain, or domains that the protocol
            has no use for, or lacks.
    """
    check_domains(name, query_domain, gallery_domain)
    if name == "within_category":
        return within_category(
            categories, domains, domain_names, query_domain, gallery_domain
        )
    return [choose(domains, domain_names, query_domain, gallery_domain)]


def check_domains(name: str, query_domain: str, gallery_domain: str) -> None:
    """Raises ValueError where protocol and domains do not fit together."""
    if name not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}. "
            f"Received: {name!r}"
        )
    named_both = bool(query_domain and gallery_domain)
    if name in ("query_gallery", "per_pair") and not named_both:
        raise ValueError(
            f"`protocol={name}` needs `query_domain` and `gallery_domain`. "
            f"Received: {query_domain!r} and {gallery_domain!r}"
        )
    if name == "leave_one_out" and (query_domain or gallery_domain):
        raise ValueError(
            "`protocol=leave_one_out` has no domains: every image queries "
            f"all others. Received: {query_domain!r} and {gallery_domain!r}. "
            "Leave them empty, or take query_gallery."
        )


def _rows_of(domains, domain_names, argument: str, name: str) -> np.ndarray:
    found = np.flatnonzero(np.asarray(domain_names) == name)
    if not len(found):
        raise ValueError(
            f"`{argument}` must be one of "
            f"{', '.join(repr(str(known)) for known in domain_names)}. "
            f"Received: {name!r}"
        )
    return np.flatnonzero(np.asarray(domains) == found[0])
