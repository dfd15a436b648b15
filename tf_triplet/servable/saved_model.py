"""The SavedModel: an image file's bytes in, products out.

Signatures, for n requests and k neighbors:

| signature | input | output |
|---|---|---|
| serving_default | image_bytes [n] | product_ids, scores, paths [n, k] |
| encode | image_bytes [n] | embedding [n, dim] |
| search | embedding [n, dim] | product_ids, scores, paths [n, k] |
| search_exact | embedding [n, dim] | the same, by brute force |
| encode_and_search_exact | image_bytes [n] | the same, by brute force |
| search_filtered | embedding, category_filter, domain_filter [n] | the same |
| encode_and_search_filtered | image_bytes and these two filters | the same |

Product ids are strings. Where fewer than k are found, the rest have id and
path "" and score -2, below any cosine. Extra columns of the catalog
(`columns`) are outputs of their own names, `[n, k]` strings, "" in the rest.

The last two are there where `filters` is given. They answer the k best among
the images whose category and domain are the ones named, "" being any; the
dot products are exact, so the answer is complete. A name that no image has
matches nothing. TensorFlow Serving wants every input of a signature, hence
signatures of their own. An image without a category cannot be asked for.

With `group_by_product` every signature answers each product once, by its
nearest image: k products, best first. ScaNN then searches for as many
images as surely hold k products, one more than the k - 1 largest have. It
is a property of an export, not of a request: the signatures stay as they are.

An encoder with branches adds an input to the signatures that take image_bytes:
`domain` or `category`, `[n]` strings, a name an image. "" stands for the
domain that queries; no category stands for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_triplet.data import preprocessing
from tf_triplet.models import branches
from tf_triplet.servable import catalog_search

INDEXES = ("scann", "exact")


class ServedModel(tf.Module):
    """Encoder and catalog in one graph."""

    def __init__(
        self,
        encoder: tf.keras.Model,
        embeddings: np.ndarray,
        product_ids: Sequence,
        paths: Sequence[str],
        *,
        image_size: int,
        resize: str = "area",
        k: int = 10,
        index: str = "scann",
        leaves: int = 0,
        leaves_to_search: int = 0,
        reorder: int = 0,
        searcher=None,
        columns: Mapping[str, Sequence] | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
        group_by_product: bool = False,
    ):
        """Builds the index.

        Args:
            encoder: pixels to embeddings, with branches or without.
            embeddings: `[n, dim]` float32 of the catalog, unit length.
            product_ids: `[n]` ids.
            paths: `[n]` image paths, as the answer shows them.
            image_size: pixels a side that the encoder takes.
            resize: as in evaluation.
            k: neighbors an answer holds; at most n.
            index: "scann" or "exact" (no custom op in the graph).
            leaves: of ScaNN's tree; 0 chooses.
            leaves_to_search: of them; 0 chooses.
            reorder: candidates scored exactly; 0 chooses.
            searcher: a `ScannIndex` of the embeddings, tuned already, that
                finds `images_to_fetch`; the three above are then its own.
            columns: further ones to answer, `[n]` values each.
            filters: `{"category": [n] names, "domain": [n] names}`, for the
                signatures that filter.
            group_by_product: answer a product once, by its best image.
        """
        super().__init__()
        if index not in INDEXES:
            raise ValueError(
                f"`index` must be scann or exact. Received: {index!r}"
            )
        self.catalog = catalog_search.CatalogSearch(
            embeddings,
            product_ids,
            paths,
            k=k,
            columns=columns,
            filters=filters,
            group_by_product=group_by_product,
        )
        self.encoder = encoder
        self._filtered = bool(filters)
        self._branches = branches.find(encoder)
        if self._branches is not None:
            # Not for the graph: a server warms up with one of them.
            self.branch_names = tf.Variable(
                list(self._branches.names), trainable=False
            )
        self._image_size, self._resize = image_size, resize
        # Traced once for all signatures of images.
        self.embed = tf.function(self._embed)
        if index == "scann" and searcher is None:
            from tf_triplet.servable import scann_index

            fetched = self.catalog.fetched
            tuning = scann_index.tune(
                len(embeddings), fetched, leaves, leaves_to_search, reorder
            )
            searcher = scann_index.ScannIndex(embeddings, fetched, tuning)
        if index == "scann":
            self.catalog.scann = searcher

    def save(self, directory: str | Path) -> dict[str, list[str]]:
        """Writes the SavedModel with all signatures.

        Returns:
            Each signature's inputs, by name.
        """
        images = [tf.TensorSpec([None], tf.string, name="image_bytes")]
        if self._branches is not None:
            by = self._branches.by
            images.append(tf.TensorSpec([None], tf.string, name=by))
        dim = self.catalog.embeddings.shape[1]
        vectors = [tf.TensorSpec([None, dim], tf.float32, name="embedding")]
        functions = {
            "serving_default": (self.encode_and_search, images),
            "encode": (self.encode, images),
            "search": (self.catalog.search, vectors),
            "search_exact": (self.catalog.search_exact, vectors),
            "encode_and_search_exact": (self.encode_and_search_exact, images),
        }
        if self._filtered:
            # After the names of branches, which may be domains too.
            named = [
                tf.TensorSpec([None], tf.string, name=f"{name}_filter")
                for name in catalog_search.FILTERS
            ]
            functions.update(
                {
                    "search_filtered": (
                        self.catalog.search_filtered,
                        vectors + named,
                    ),
                    "encode_and_search_filtered": (
                        self.encode_and_search_filtered,
                        images + named,
                    ),
                }
            )
        signatures = {
            name: tf.function(function).get_concrete_function(*specs)
            for name, (function, specs) in functions.items()
        }
        if self.catalog.scann is not None:
            self.release = tf.function(self._release, input_signature=[])
        tf.saved_model.save(
            self,
            str(directory),
            signatures=signatures,
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
        )
        return {
            name: [spec.name for spec in specs]
            for name, (_, specs) in functions.items()
        }

    def _release(self):
        self.catalog.scann.release()
        return tf.constant(True)

    def _embed(self, image_bytes, names):
        pixels = preprocessing.load_images(
            image_bytes, self._image_size, self._resize
        )
        images = tf.shape(image_bytes)[0]
        # Convolutions that oneDNN fuses fail on no image at all, so that an
        # empty request has one, whose embedding is left out. Not by tf.pad,
        # which oneDNN takes for the convolution's own.
        missing = tf.cast(images == 0, tf.int32)
        size = self._image_size
        gray = tf.zeros([missing, size, size, 3], pixels.dtype)
        inputs = tf.concat([pixels, gray], 0)
        if self._branches is not None:
            branch = self._branch(names, images)
            branch = tf.concat([branch, tf.zeros([missing], branch.dtype)], 0)
            inputs = {"pixels": inputs, "branch": branch}
        return self.encoder(inputs, training=False)[:images]

    def _branch(self, names, images):
        """`[n]` names to the numbers of their branches."""
        by, known = self._branches.by, list(self._branches.names)
        # One name for several images would be broadcast silently.
        one_each = tf.debugging.Assert(
            tf.shape(names)[0] == images,
            [f"`{by}` must hold a name an image. Received:", tf.shape(names)]
            + ["names and images:", images],
        )
        if self._branches.default:
            names = tf.where(names == "", self._branches.default, names)
        found = names[:, None] == tf.constant(known)[None, :]
        is_known = tf.reduce_any(found, -1)
        wrong = tf.strings.reduce_join(
            tf.boolean_mask(names, ~is_known), separator=", "
        )
        message = f"`{by}` must be one of {', '.join(known)}. Received: ["
        all_known = tf.debugging.Assert(
            tf.reduce_all(is_known), [tf.strings.join([message, wrong, "]"])]
        )
        with tf.control_dependencies([one_each, all_known]):
            return tf.argmax(found, -1, output_type=tf.int32)

    def encode(self, image_bytes, names=None):
        """Image files (and their domains or categories) to embeddings."""
        return {"embedding": self.embed(image_bytes, names)}

    def encode_and_search(self, image_bytes, names=None):
        """Image files to neighbors."""
        return self.catalog.search(self.embed(image_bytes, names))

    def encode_and_search_exact(self, image_bytes, names=None):
        """Image files to neighbors, by all dot products."""
        return self.catalog.search_exact(self.embed(image_bytes, names))

    def encode_and_search_filtered(self, image_bytes, *inputs):
        """Image files to neighbors among those that match."""
        *names, category_filter, domain_filter = inputs
        embedding = self.embed(image_bytes, *(names or [None]))
        return self.catalog.search_filtered(
            embedding, category_filter, domain_filter
        )
