"""The catalog inside the SavedModel: embeddings in, products out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.servable import scann_index

FILTERS = ("category", "domain")
ANSWER = ("product_ids", "scores", "paths")
# Below any cosine.
NOTHING = -2.0
# What an input or an output of a signature may be called everywhere.
_NAME = "[A-Za-z][A-Za-z0-9_]*"


class CatalogSearch(tf.Module):
    """Searches the catalog and answers its columns."""

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
        """Keeps the catalog in variables.

        Args:
            embeddings: `[n, dim]` float32, unit length.
            product_ids: `[n]` ids.
            paths: `[n]` image paths, as the answer shows them.
            k: neighbors an answer holds; at most the images, or the
                products, that there are.
            columns: further ones to answer, `[n]` values each.
            filters: `{"category": [n] names, "domain": [n] names}`.
            group_by_product: answer a product once, by its best image.

        Raises:
            ValueError: columns of other lengths or of impossible names.
        """
        super().__init__()
        self._check(embeddings, product_ids, paths, columns, filters)
        ids = [str(value) for value in product_ids]
        self.group_by_product = group_by_product
        names, products = np.unique(ids, return_inverse=True)
        self.k = min(k, len(names) if group_by_product else len(ids))
        self.fetched = self.k
        if group_by_product:
            self.fetched = images_to_fetch(products, self.k)
        # Variables, not constants: a graph must stay below 2 GB.
        self.embeddings = tf.Variable(
            np.float32(embeddings), trainable=False, name="embeddings"
        )
        # A last, empty row answers index -1.
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
        self._filters = {}
        for name, values in (filters or {}).items():
            kinds, rows = np.unique(
                np.asarray(values, str), return_inverse=True
            )
            self._filters[name] = (
                tf.Variable(list(kinds), trainable=False),
                tf.Variable(np.int32(rows), trainable=False),
            )
        self.scann: scann_index.ScannIndex | None = None

    @staticmethod
    def _check(embeddings, product_ids, paths, columns, filters) -> None:
        if not len(embeddings):
            raise ValueError("There is no image to index.")
        if not len(embeddings) == len(product_ids) == len(paths):
            raise ValueError(
                "`embeddings`, `product_ids` and `paths` must be of one "
                f"length. Received: {len(embeddings)}, {len(product_ids)}, "
                f"{len(paths)}"
            )
        for kind, more in (("columns", columns), ("filters", filters)):
            for name, values in (more or {}).items():
                if len(values) != len(embeddings):
                    raise ValueError(
                        f"`{kind}` must have a row an image, "
                        f"{len(embeddings)}. Received: {len(values)} of "
                        f"{name!r}"
                    )
        for name in columns or {}:
            if name in ANSWER or not re.fullmatch(_NAME, name):
                raise ValueError(
                    "A column of the answer must be a word of letters, "
                    f"digits and _, and none of {', '.join(ANSWER)}. "
                    f"Received: {name!r}. Rename it in the manifest."
                )
        if filters and tuple(filters) != FILTERS:
            raise ValueError(
                f"`filters` must be of {' and '.join(FILTERS)}. Received: "
                f"{', '.join(filters)}"
            )

    def search(self, embedding):
        """Embeddings to neighbors, by ScaNN where there is one."""
        if self.scann is None:
            return self.search_exact(embedding)
        indices, scores = self.scann.search(embedding, self.fetched)
        if self.scann.tuning.storage == "int8":
            indices, scores = self._score_again(embedding, indices)
        return self._answer(indices, scores)

    def search_exact(self, embedding):
        """Embeddings to neighbors, by all dot products."""
        scores = tf.matmul(embedding, self.embeddings, transpose_b=True)
        scores, indices = tf.math.top_k(scores, self.fetched)
        return self._answer(indices, scores)

    def search_filtered(self, embedding, category_filter, domain_filter):
        """The nearest among the images that match, by all dot products.

        Args:
            embedding: `[n, dim]`.
            category_filter: `[n]` names; "" is any.
            domain_filter: likewise.
        """
        scores = tf.matmul(embedding, self.embeddings, transpose_b=True)
        for name, wanted in zip(FILTERS, (category_filter, domain_filter)):
            scores = tf.where(
                self._matches(name, wanted, tf.shape(embedding)[0]),
                scores,
                NOTHING,
            )
        scores, indices = tf.math.top_k(scores, self.fetched)
        # A cosine is -1 at least, also after rounding.
        indices = tf.where(scores > -1.5, indices, -1)
        return self._answer(indices, scores)

    def _matches(self, name, wanted, queries):
        """`[q, n]` booleans."""
        kinds, rows = self._filters[name]
        # One value for several queries would be broadcast silently.
        one_each = tf.debugging.Assert(
            tf.shape(wanted)[0] == queries,
            [f"`{name}_filter` must hold a name a query, or be empty strings."]
            + ["Received names and queries:", tf.shape(wanted), queries],
        )
        with tf.control_dependencies([one_each]):
            same = wanted[:, None] == kinds[None, :]
        number = tf.where(
            tf.reduce_any(same, 1), tf.argmax(same, 1, tf.int32), -1
        )
        return (wanted == "")[:, None] | (number[:, None] == rows[None, :])

    def _score_again(self, embedding, indices):
        """Exact scores in place of int8's, and their order."""
        vectors = tf.gather(self.embeddings, tf.maximum(indices, 0))
        scores = tf.einsum("qd,qkd->qk", embedding, vectors)
        scores = tf.where(indices < 0, NOTHING, scores)
        scores, order = tf.math.top_k(scores, self.fetched)
        return tf.gather(indices, order, batch_dims=1), scores

    def _answer(self, indices, scores):
        if self.group_by_product:
            indices, scores = self._best_of_products(indices, scores)
        last = tf.shape(self.texts["paths"])[0] - 1
        at = tf.where(indices < 0, last, indices)
        answer = {
            name: tf.gather(values, at) for name, values in self.texts.items()
        }
        return {**answer, "scores": tf.identity(scores)}

    def _best_of_products(self, indices, scores):
        """`[q, fetched]`, nearest first, to `[q, k]` of distinct products."""
        last = tf.shape(self._products)[0] - 1
        products = tf.gather(
            self._products, tf.where(indices < 0, last, indices)
        )
        # Stable: of a product, the nearest image stays first.
        order = tf.argsort(products, stable=True)
        by_product = tf.gather(products, order, batch_dims=1)
        before = tf.pad(by_product, [[0, 0], [1, 0]], constant_values=-1)[
            :, :-1
        ]
        # The padding's product is -1, which is never a new one.
        is_best = by_product != before
        places = tf.where(is_best, order, self.fetched)
        places = tf.sort(places)[:, : self.k]
        nothing = [[0, 0], [0, 1]]
        indices = tf.pad(indices, nothing, constant_values=-1)
        scores = tf.pad(scores, nothing, constant_values=NOTHING)
        return (
            tf.gather(indices, places, batch_dims=1),
            tf.gather(scores, places, batch_dims=1),
        )


def images_to_fetch(products: np.ndarray, k: int) -> int:
    """The fewest nearest images that surely hold the k best products.

    Args:
        products: `[n]` labels.
        k: products wanted, at most as many as there are.

    Returns:
        One more than the k - 1 largest products have together.
    """
    sizes = np.sort(np.unique(products, return_counts=True)[1])
    return int(sizes[len(sizes) - (k - 1) :].sum()) + 1
