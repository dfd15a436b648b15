"""The catalog inside the SavedModel: finds the products of embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.servable import scann_index
from tf_triplet.servable.scann_index import PADDING_SCORE

FILTERS = ("category", "domain")
ANSWER = ("product_ids", "scores", "paths")
# Why an image of the request could not be decoded, or "".
STATUS = "status"
# The names that TensorFlow and its clients accept for inputs and outputs.
_NAME = "[A-Za-z][A-Za-z0-9_]*"


class CatalogSearch(tf.Module):
    """Searches the catalog and returns the columns of what it finds.

    Example:

    >>> catalog = CatalogSearch(
    ...     np.eye(3, dtype=np.float32),
    ...     product_ids=["red", "green", "blue"],
    ...     paths=["r.png", "g.png", "b.png"],
    ...     k=1,
    ... )
    >>> catalog.search(tf.constant([[0.1, 0.9, 0.2]]))["product_ids"].numpy()
    array([[b'green']], dtype=object)
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        product_ids: Sequence,
        paths: Sequence[str],
        *,
        k: int,
        columns: Mapping[str, Sequence] | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
        group_by_product: bool = False,
    ):
        """Stores the catalog in variables.

        Args:
            embeddings: `[n, dim]` float32 vectors of unit length.
            product_ids: `[n]` product ids.
            paths: `[n]` image paths, as they appear in the answer.
            k: Number of neighbors in an answer. It is reduced to the number
                of images or, with `group_by_product`, of products.
            columns: Extra columns of the answer, `[n]` values each.
            filters: `{"category": [n] names, "domain": [n] names}`, which
                `search_filtered` compares.
            group_by_product: Whether each product is answered once, by its
                nearest image.

        Raises:
            ValueError: The lengths differ, or a column's name is not allowed.
        """
        super().__init__()
        _check(embeddings, product_ids, paths, columns, filters)
        ids = [str(value) for value in product_ids]
        self.group_by_product = group_by_product
        names, products = np.unique(ids, return_inverse=True)
        self.k = min(k, len(names) if group_by_product else len(ids))
        self.fetched = self.k
        if group_by_product:
            self.fetched = images_to_fetch(products, self.k)
        # Variables, because a graph with constants would exceed 2 GB.
        self.embeddings = tf.Variable(
            np.float32(embeddings), trainable=False, name="embeddings"
        )
        # The empty last row is what index -1 answers.
        texts = {"product_ids": ids, "paths": paths, **(columns or {})}
        self.texts = {
            name: tf.Variable([*map(str, values), ""], trainable=False)
            for name, values in texts.items()
        }
        self._products = None
        if group_by_product:
            self._products = tf.Variable(
                np.int32([*products, -1]), trainable=False, name="products"
            )
        self._filters = {
            name: _encode_names(values)
            for name, values in (filters or {}).items()
        }
        self.scann: scann_index.ScannIndex | None = None

    def search(self, embedding: tf.Tensor) -> dict[str, tf.Tensor]:
        """Finds the nearest neighbors, with ScaNN if there is an index.

        Args:
            embedding: `[q, dim]` float32 queries.

        Returns:
            `[q, k]` values of each column of the answer.
        """
        if self.scann is None:
            return self.search_exact(embedding)
        indices, scores = self.scann.search(embedding, self.fetched)
        if self.scann.tuning.storage == "int8":
            indices, scores = self._rescore(embedding, indices)
        return self._answer(indices, scores)

    def search_exact(self, embedding: tf.Tensor) -> dict[str, tf.Tensor]:
        """Finds the nearest neighbors by brute force (see `search`)."""
        scores = tf.matmul(embedding, self.embeddings, transpose_b=True)
        scores, indices = tf.math.top_k(scores, self.fetched)
        return self._answer(indices, scores)

    def search_filtered(
        self,
        embedding: tf.Tensor,
        category_filter: tf.Tensor,
        domain_filter: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Finds the nearest of the images that match, by brute force.

        Args:
            embedding: `[q, dim]` float32 queries.
            category_filter: `[q]` names of categories. "" matches any.
            domain_filter: `[q]` names of domains. "" matches any.

        Returns:
            `[q, k]` values of each column of the answer.
        """
        scores = tf.matmul(embedding, self.embeddings, transpose_b=True)
        for name, wanted in zip(FILTERS, (category_filter, domain_filter)):
            scores = tf.where(
                self._matches(name, wanted, tf.shape(embedding)[0]),
                scores,
                PADDING_SCORE,
            )
        scores, indices = tf.math.top_k(scores, self.fetched)
        # A cosine is at least -1, also after rounding.
        indices = tf.where(scores > PADDING_SCORE + 0.5, indices, -1)
        return self._answer(indices, scores)

    def _matches(self, name, wanted, queries):
        """Returns `[q, n]` booleans: the images that each query accepts."""
        kinds, rows = self._filters[name]
        # One name for several queries would be broadcast silently.
        is_one_each = tf.debugging.Assert(
            tf.shape(wanted)[0] == queries,
            [f"`{name}_filter` must hold one name for each query."]
            + ["Received names and queries:", tf.shape(wanted), queries],
        )
        with tf.control_dependencies([is_one_each]):
            same = wanted[:, None] == kinds[None, :]
        number = tf.where(
            tf.reduce_any(same, 1), tf.argmax(same, 1, tf.int32), -1
        )
        return (wanted == "")[:, None] | (number[:, None] == rows[None, :])

    def _rescore(self, embedding, indices):
        """Replaces int8's scores by exact ones, and sorts by them."""
        vectors = tf.gather(self.embeddings, tf.maximum(indices, 0))
        scores = tf.einsum("qd,qkd->qk", embedding, vectors)
        scores = tf.where(indices < 0, PADDING_SCORE, scores)
        scores, order = tf.math.top_k(scores, self.fetched)
        return tf.gather(indices, order, batch_dims=1), scores

    def _answer(self, indices, scores):
        """Looks up the columns of `[q, fetched]` images, nearest first."""
        if self.group_by_product:
            indices, scores = self._best_of_products(indices, scores)
        last = tf.shape(self.texts["paths"])[0] - 1
        at = tf.where(indices < 0, last, indices)
        answer = {
            name: tf.gather(values, at) for name, values in self.texts.items()
        }
        return {**answer, "scores": tf.identity(scores)}

    def _best_of_products(self, indices, scores):
        """Keeps the nearest image of each product.

        Args:
            indices: `[q, fetched]` images, nearest first.
            scores: `[q, fetched]` their scores.

        Returns:
            `[q, k]` images of distinct products, and their scores.
        """
        last = tf.shape(self._products)[0] - 1
        products = tf.gather(
            self._products, tf.where(indices < 0, last, indices)
        )
        # A stable sort keeps the nearest image of each product first.
        order = tf.argsort(products, stable=True)
        by_product = tf.gather(products, order, batch_dims=1)
        # Missing images have product -1, so they never start a product.
        before = tf.pad(by_product, [[0, 0], [1, 0]], constant_values=-1)[
            :, :-1
        ]
        is_best = by_product != before
        places = tf.where(is_best, order, self.fetched)
        places = tf.sort(places)[:, : self.k]
        # One more column, for the places that are `fetched`.
        one_more = [[0, 0], [0, 1]]
        indices = tf.pad(indices, one_more, constant_values=-1)
        scores = tf.pad(scores, one_more, constant_values=PADDING_SCORE)
        return (
            tf.gather(indices, places, batch_dims=1),
            tf.gather(scores, places, batch_dims=1),
        )


def with_status(
    answer: Mapping[str, tf.Tensor], failures: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Empties the answers to images that could not be decoded.

    Args:
        answer: `[q, k]` values of each column.
        failures: `[q]` strings, why an image could not be decoded, or "".

    Returns:
        The answer with the column `status`: `[q, k]` strings. For an image
        that could not be decoded, it says why, and the others are those of
        the padding.
    """
    is_bad = failures != ""
    marked = {}
    for name, values in answer.items():
        padding = "" if values.dtype == tf.string else PADDING_SCORE
        marked[name] = tf.where(is_bad[:, None], padding, values)
    status = tf.broadcast_to(failures[:, None], tf.shape(answer["scores"]))
    return {**marked, STATUS: status}


def images_to_fetch(products: np.ndarray, k: int) -> int:
    """Counts how many of the nearest images surely hold k products.

    Args:
        products: `[n]` labels.
        k: Number of products, at most as many as there are.

    Returns:
        One more than the k - 1 largest products have images together.

    Example:

    >>> images_to_fetch(np.array([0, 0, 0, 1, 1, 2]), k=2)
    4
    """
    sizes = np.sort(np.unique(products, return_counts=True)[1])
    return int(sizes[len(sizes) - (k - 1) :].sum()) + 1


def _encode_names(values) -> tuple[tf.Variable, tf.Variable]:
    """Returns the distinct names, and the number of each row's name."""
    kinds, rows = np.unique(np.asarray(values, str), return_inverse=True)
    return (
        tf.Variable(list(kinds), trainable=False),
        tf.Variable(np.int32(rows), trainable=False),
    )


def _check(embeddings, product_ids, paths, columns, filters) -> None:
    if not len(embeddings):
        raise ValueError("There is no image to index.")
    if not len(embeddings) == len(product_ids) == len(paths):
        raise ValueError(
            "`embeddings`, `product_ids` and `paths` must have the same "
            f"length. Received: {len(embeddings)}, {len(product_ids)}, "
            f"{len(paths)}"
        )
    for kind, more in (("columns", columns), ("filters", filters)):
        for name, values in (more or {}).items():
            if len(values) != len(embeddings):
                raise ValueError(
                    f"Each of `{kind}` must have one value for each of the "
                    f"{len(embeddings)} images. Received: {len(values)} "
                    f"values of {name!r}"
                )
    taken = (*ANSWER, STATUS)
    for name in columns or {}:
        if name in taken or not re.fullmatch(_NAME, name):
            raise ValueError(
                "The name of an extra column must start with a letter, hold "
                "only letters, digits and _, and be none of "
                f"{', '.join(taken)}. Received: {name!r}. Rename it in "
                "the manifest."
            )
    if filters and tuple(filters) != FILTERS:
        raise ValueError(
            f"`filters` must hold {' and '.join(FILTERS)}, in this order. "
            f"Received: {', '.join(filters)}"
        )
