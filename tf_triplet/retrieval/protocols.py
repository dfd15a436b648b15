"""Protocols: which images are queries, and which are searched.

A `ProtocolSpec` names a protocol. Its method `apply` takes the labels of a
catalog and returns the rows to search as `Protocol` objects.
"""

from __future__ import annotations

import dataclasses

import numpy as np

PROTOCOLS = (
    "auto",
    "leave_one_out",
    "query_gallery",
    "per_pair",
    "within_category",
)


@dataclasses.dataclass(frozen=True)
class ProtocolSpec:
    """The name of a protocol and the domains that it compares.

    The protocols are:

    * `leave_one_out`: Every image queries all other images.
    * `query_gallery`: The images of one domain query those of another.
    * `per_pair`: The same, but a query counts once for each pair of images
      that it forms with a correct gallery image.
    * `within_category`: A query searches only the images of its own category.
      Domains are optional.
    * `auto`: `query_gallery` if domains are given, otherwise `leave_one_out`.

    Attributes:
        name: One of `PROTOCOLS`.
        query_domain: Domain of the queries, for instance `street`. Empty to
            use the images of all domains.
        gallery_domain: Domain of the images to search, for instance `shop`.
            Give both domains or neither. The same domain twice means
            leave-one-out within it.

    Raises:
        ValueError: If the name is unknown, or if the domains do not fit the
            protocol.

    Example:

    >>> ProtocolSpec("query_gallery", "street", "shop").query_domain
    'street'
    >>> ProtocolSpec("per_pair")
    Traceback (most recent call last):
        ...
    ValueError: `protocol=per_pair` needs `query_domain` and \
`gallery_domain`. Received: '' and ''
    """

    name: str = "auto"
    query_domain: str = ""
    gallery_domain: str = ""

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(
                f"`protocol` must be one of {', '.join(PROTOCOLS)}. "
                f"Received: {self.name!r}"
            )
        domains = (self.query_domain, self.gallery_domain)
        if self.name in ("query_gallery", "per_pair") and not all(domains):
            raise ValueError(
                f"`protocol={self.name}` needs `query_domain` and "
                f"`gallery_domain`. Received: {domains[0]!r} and "
                f"{domains[1]!r}"
            )
        if self.name == "leave_one_out" and any(domains):
            raise ValueError(
                "`protocol=leave_one_out` has no domains: every image queries "
                f"all others. Received: {domains[0]!r} and {domains[1]!r}. "
                "Leave them empty, or take query_gallery."
            )
        if any(domains) and not all(domains):
            raise ValueError(
                "`query_domain` and `gallery_domain` go together. Received: "
                f"{domains[0]!r} and {domains[1]!r}"
            )

    def apply(
        self,
        categories: np.ndarray,
        domains: np.ndarray,
        domain_names: np.ndarray,
    ) -> list[Protocol]:
        """Applies the protocol to the labels of a catalog.

        `per_pair` gives the same rows as `query_gallery`. The caller has to
        weight the queries.

        Args:
            categories: `[n]` integers, the category of each image.
            domains: `[n]` integers, each image's position in `domain_names`.
            domain_names: `[domains]` strings.

        Returns:
            One protocol, or one per category for `within_category`.

        Raises:
            ValueError: If a domain is not in `domain_names`.

        Example:

        >>> spec = ProtocolSpec("within_category")
        >>> categories, domains = np.array([0, 1, 0]), np.zeros(3, int)
        >>> protocols = spec.apply(categories, domains, np.array(["shop"]))
        >>> [protocol.queries.tolist() for protocol in protocols]
        [[0, 2], [1]]
        """
        if self.query_domain:
            protocol = cross_domain(
                domains, domain_names, self.query_domain, self.gallery_domain
            )
        else:
            protocol = leave_one_out(np.arange(len(domains)))
        if self.name == "within_category":
            return within_category(protocol, categories)
        return [protocol]


@dataclasses.dataclass(frozen=True, eq=False)
class Protocol:
    """The queries and the gallery of one evaluation, as rows of a catalog.

    Attributes:
        description: One phrase for a report.
        queries: `[q]` int64 rows of the catalog.
        gallery: `[g]` int64 rows of the catalog.
        exclude: `[q]` int64 positions in `gallery` at which the query itself
            is found, or -1 if the gallery does not contain it. A search must
            hide this position. It must not drop the best result instead,
            because an exact copy of the query can rank above the query.

    Example:

    >>> protocol = leave_one_out(np.array([4, 7]))
    >>> protocol.gallery[protocol.exclude].tolist()
    [4, 7]
    """

    description: str
    queries: np.ndarray
    gallery: np.ndarray
    exclude: np.ndarray


def leave_one_out(rows: np.ndarray, description: str = "") -> Protocol:
    """Lets every image query all others.

    Args:
        rows: `[n]` integers, the rows of the images in the catalog.
        description: Replaces the default description.

    Returns:
        A protocol in which queries and gallery are the same rows.

    Example:

    >>> leave_one_out(np.array([4, 7])).exclude.tolist()
    [0, 1]
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
    """Lets the images of one domain query those of another.

    Args:
        domains: `[n]` integers, each image's position in `domain_names`.
        domain_names: `[domains]` strings.
        query_domain: Domain of the queries, for instance `street`.
        gallery_domain: Domain of the images to search, for instance `shop`.

    Returns:
        The protocol. If both domains are the same, it is leave-one-out within
        that domain.

    Raises:
        ValueError: If a domain is not in `domain_names`.

    Example:

    >>> domains, names = np.array([1, 0, 1]), np.array(["shop", "street"])
    >>> protocol = cross_domain(domains, names, "street", "shop")
    >>> protocol.queries.tolist(), protocol.gallery.tolist()
    ([0, 2], [1])
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


def within_category(
    protocol: Protocol, categories: np.ndarray
) -> list[Protocol]:
    """Restricts each query to the gallery images of its own category.

    Args:
        protocol: The queries and the whole gallery.
        categories: `[n]` integers, the category of each image of the catalog.

    Returns:
        One protocol per category that has a query, in rising order of
        category. A gallery can be empty.

    Example:

    >>> everyone = leave_one_out(np.arange(3))
    >>> split = within_category(everyone, np.array([5, 3, 5]))
    >>> [one.gallery.tolist() for one in split]
    [[1], [0, 2]]
    """
    query_categories = np.asarray(categories)[protocol.queries]
    gallery_categories = np.asarray(categories)[protocol.gallery]
    protocols = []
    for category in np.unique(query_categories):
        is_query = query_categories == category
        in_gallery = gallery_categories == category
        # New position of each gallery row; the last entry maps -1 to -1.
        positions = np.append(np.cumsum(in_gallery) - 1, -1)
        protocols.append(
            Protocol(
                f"{protocol.description}, within a category",
                protocol.queries[is_query],
                protocol.gallery[in_gallery],
                positions[protocol.exclude[is_query]],
            )
        )
    return protocols


def _rows_of(
    domains: np.ndarray, domain_names: np.ndarray, argument: str, name: str
) -> np.ndarray:
    """Returns the rows of a domain; `argument` is named in the error."""
    found = np.flatnonzero(np.asarray(domain_names) == name)
    if not len(found):
        raise ValueError(
            f"`{argument}` must be one of "
            f"{', '.join(repr(str(known)) for known in domain_names)}. "
            f"Received: {name!r}"
        )
    return np.flatnonzero(np.asarray(domains) == found[0])
