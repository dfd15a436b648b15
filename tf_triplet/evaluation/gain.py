"""How much better one encoder is than another, and how sure that is."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.evaluation.embeddings import Embeddings
from tf_triplet.evaluation.scoring import build_protocols
from tf_triplet.retrieval import evaluate_queries
from tf_triplet.retrieval.protocols import ProtocolSpec

_DRAWS = 2_000


@dataclasses.dataclass(frozen=True)
class Gain:
    """A difference of Recall@1, with its interval.

    Attributes:
        value: The difference.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.

    Example:

    >>> str(Gain(0.052, 0.031, 0.074))
    '+0.052 (95 % interval +0.031 to +0.074)'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.value:+.3f} (95 % interval {self.low:+.3f} to "
            f"{self.high:+.3f})"
        )


def measure_gain(
    before: Embeddings,
    after: Embeddings,
    catalog: Catalog,
    protocol: ProtocolSpec | None = None,
    ties: str = "against",
) -> Gain:
    """Compares Recall@1 of two encoders on the same queries.

    Products are drawn with replacement, with all their queries, because the
    images of a product are found or missed together (a paired bootstrap over
    clusters; Efron and Tibshirani, 1993, chapter 8).

    Args:
        before: Embeddings of `catalog` by one encoder.
        after: Embeddings of the same images by the other encoder.
        catalog: The images.
        protocol: Which images are queries, and which are searched. None
            stands for `ProtocolSpec()`.
        ties: See `evaluate`.

    Returns:
        The gain of `after` over `before`. Its interval is one point if there
        is a single product.

    Raises:
        ValueError: If the embeddings are of different images, or if no query
            has another image of its product to find.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": list("abcd"), "product_id": [1, 1, 2, 2]})
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> rows = np.arange(4)
    >>> bad = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    >>> good = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    >>> gain = measure_gain(
    ...     Embeddings(bad, rows), Embeddings(good, rows), catalog
    ... )
    >>> gain.value, gain.low, gain.high
    (1.0, 1.0, 1.0)
    """
    if not np.array_equal(before.rows, after.rows):
        raise ValueError(
            "`before` and `after` must be embeddings of the same images. "
            f"Received: {len(before.rows)} and {len(after.rows)} images, or "
            "others in another order"
        )
    readable = catalog.select(before.rows)
    differences, products = [], []
    for one in build_protocols(readable, protocol or ProtocolSpec()):
        found = [
            evaluate_queries(
                embeddings.vectors[one.queries],
                readable.products[one.queries],
                embeddings.vectors[one.gallery],
                readable.products[one.gallery],
                ks=(1,),
                exclude=one.exclude,
                ties=ties,
            ).recall[0]
            for embeddings in (before, after)
        ]
        differences.append(found[1] - found[0])
        products.append(readable.products[one.queries])
    differences = np.concatenate(differences)
    scored = np.isfinite(differences)
    if not scored.any():
        raise ValueError(
            "No query has another image of its product to find. Received: "
            f"{len(readable)} images"
        )
    return _bootstrap(differences[scored], np.concatenate(products)[scored])


def _bootstrap(differences: np.ndarray, products: np.ndarray) -> Gain:
    """Draws products with replacement.

    Args:
        differences: `[n]` difference of each query.
        products: `[n]` its product.
    """
    _, index, counts = np.unique(
        products, return_inverse=True, return_counts=True
    )
    sums = np.bincount(index, differences)
    # A fixed seed: the same embeddings always give the same interval.
    random = np.random.default_rng(0)
    means = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        drawn = random.integers(0, len(sums), len(sums))
        means[draw] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return Gain(float(differences.mean()), float(low), float(high))
