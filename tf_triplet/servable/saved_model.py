"""The exported SavedModel: from an image file's bytes to products.

Signatures, for n rows in a request and k neighbors in an answer:

| signature | input | output |
|---|---|---|
| serving_default | image_bytes [n] | products and status |
| encode | image_bytes [n] | embedding [n, dim] |
| search | embedding [n, dim] | products |
| search_exact | embedding [n, dim] | products, by brute force |
| encode_and_search_exact | image_bytes [n] | the same, and status |
| search_filtered | embedding, category_filter, domain_filter [n] | products |
| encode_and_search_filtered | image_bytes and both filters | the same, status |

Products are the outputs product_ids, scores and paths, `[n, k]` each.
Product ids are strings. If fewer than k neighbors are found, the answer is
padded with id "", path "" and score -2, which is below any cosine. Each extra
column of the catalog (`columns`) is an output with the column's name: `[n, k]`
strings, with "" in the padding.

One damaged image does not fail the others of a request, which on a batching
server may come from other clients. `status`, `[n, k]` strings, says why an
image could not be decoded, and is "" for all others. The answer to such an
image is all padding. `encode` has no status, because REST answers a signature
of one output in another form; there, the embedding of such an image is all 0.
If no image of the whole batch can be decoded, the request is an error.

The last two signatures exist only if `filters` is given. They search the
images whose category and domain are the given ones, by brute force, so the
answer is complete. "" matches any image, so images without a category cannot
be asked for. An unknown name matches no image. TensorFlow Serving requires
every input of a signature, which is why filters have separate signatures.

With `group_by_product`, every signature answers each product once, by its
nearest image: k products, nearest first. ScaNN then fetches as many images as
surely hold k products, one more than the k - 1 largest products have. This is
a property of the export, not of a request.

An encoder with branches adds an input to the signatures that take
image_bytes: `domain` or `category`, `[n]` strings, one name for each image.
For domains, "" means the domain of the queries. For categories, "" is an
error unless the encoder has a branch for images without a category.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_triplet.data import preprocessing
from tf_triplet.models import branches
from tf_triplet.servable import catalog_search, scann_index

INDEXES = ("scann", "exact")


class ServedModel(tf.Module):
    """An encoder and a catalog in one graph.

    Example:

    >>> from tf_triplet.data import InputSpec
    >>> pixels = tf.keras.Input([8, 8, 3])
    >>> color = tf.keras.layers.GlobalAveragePooling2D()(pixels)
    >>> unit = tf.keras.layers.UnitNormalization()(color)
    >>> model = ServedModel(
    ...     tf.keras.Model(pixels, unit),
    ...     np.eye(3, dtype=np.float32),
    ...     product_ids=["red", "green", "blue"],
    ...     paths=["r.png", "g.png", "b.png"],
    ...     inputs=InputSpec(image_size=8),
    ...     k=1,
    ...     index="exact",
    ... )
    >>> green = tf.io.encode_png(np.uint8([[[0, 200, 10]]]))
    >>> model.encode_and_search(green[None])["product_ids"].numpy()
    array([[b'green']], dtype=object)
    """

    def __init__(
        self,
        encoder: tf.keras.Model,
        embeddings: np.ndarray,
        product_ids: Sequence,
        paths: Sequence[str],
        *,
        inputs: preprocessing.InputSpec,
        k: int = 10,
        index: str = "scann",
        leaves: int = 0,
        leaves_to_search: int = 0,
        reorder: int = 0,
        searcher: scann_index.ScannIndex | None = None,
        columns: Mapping[str, Sequence] | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
        group_by_product: bool = False,
    ):
        """Builds the index.

        Args:
            encoder: Maps pixels to embeddings. It may have branches.
            embeddings: `[n, dim]` float32 embeddings of the catalog, of unit
                length.
            product_ids: `[n]` product ids.
            paths: `[n]` image paths, as they appear in the answer.
            inputs: How an image file becomes pixels. Boxes play no role, as
                clients send images that are already cropped.
            k: Number of neighbors in an answer. It is reduced to n if need
                be.
            index: "scann", or "exact" for a graph without ScaNN's op.
            leaves: Number of leaves of ScaNN's tree. 0 chooses one.
            leaves_to_search: Number of leaves that each query searches. 0
                chooses one.
            reorder: Number of candidates that are scored again. 0 chooses
                one.
            searcher: An index of the embeddings that is already tuned, and
                that finds `images_to_fetch` neighbors. It replaces the three
                arguments above.
            columns: Extra columns of the answer, `[n]` values each.
            filters: `{"category": [n] names, "domain": [n] names}`. They add
                the signatures that filter.
            group_by_product: Whether each product is answered once, by its
                nearest image.

        Raises:
            ValueError: `index` is unknown, the lengths differ, or a column's
                name is not allowed.
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
            # The graph does not read it. A server warms up with one of them.
            self.branch_names = tf.Variable(
                list(self._branches.names), trainable=False
            )
        self._inputs = inputs
        # Traced once for all signatures that take images.
        self.embed = tf.function(self._embed)
        if index == "scann" and searcher is None:
            fetched = self.catalog.fetched
            tuning = scann_index.tune(
                len(embeddings), fetched, leaves, leaves_to_search, reorder
            )
            searcher = scann_index.ScannIndex(embeddings, fetched, tuning)
        if index == "scann":
            self.catalog.scann = searcher

    def save(self, directory: str | Path) -> dict[str, list[str]]:
        """Writes the SavedModel with all its signatures.

        Args:
            directory: The folder to write to.

        Returns:
            The names of the inputs of each signature.
        """
        functions = self._signature_functions()
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

    def encode(
        self, image_bytes: tf.Tensor, names: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Embeds image files.

        Args:
            image_bytes: `[n]` strings, the bytes of image files.
            names: `[n]` strings, the domain or category of each image, for
                an encoder with branches.

        Returns:
            `{"embedding": [n, dim] floats}`. They are of unit length, or all 0
            for an image that cannot be decoded.
        """
        embedding, failures = self.embed(image_bytes, names)
        is_good = (failures == "")[:, tf.newaxis]
        return {"embedding": tf.where(is_good, embedding, 0.0)}

    def encode_and_search(
        self, image_bytes: tf.Tensor, names: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Finds the neighbors of image files (see `encode`)."""
        embedding, failures = self.embed(image_bytes, names)
        return catalog_search.with_status(
            self.catalog.search(embedding), failures
        )

    def encode_and_search_exact(
        self, image_bytes: tf.Tensor, names: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Finds the neighbors of image files by brute force."""
        embedding, failures = self.embed(image_bytes, names)
        return catalog_search.with_status(
            self.catalog.search_exact(embedding), failures
        )

    def encode_and_search_filtered(
        self, image_bytes: tf.Tensor, *names: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Finds the neighbors of image files among the images that match.

        Args:
            image_bytes: `[n]` strings, the bytes of image files.
            *names: `[n]` strings each: the domain or category of the images
                for an encoder with branches, then `category_filter`, then
                `domain_filter`.
        """
        *own, category_filter, domain_filter = names
        embedding, failures = self.embed(image_bytes, *(own or [None]))
        answer = self.catalog.search_filtered(
            embedding, category_filter, domain_filter
        )
        return catalog_search.with_status(answer, failures)

    def _signature_functions(self) -> dict[str, tuple[Callable, list]]:
        """Returns the function of each signature and the specs it takes."""
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
        if not self._filtered:
            return functions
        # The suffix keeps the filters apart from the input of branches, which
        # may be called domain or category too.
        filters = [
            tf.TensorSpec([None], tf.string, name=f"{name}_filter")
            for name in catalog_search.FILTERS
        ]
        return {
            **functions,
            "search_filtered": (
                self.catalog.search_filtered,
                vectors + filters,
            ),
            "encode_and_search_filtered": (
                self.encode_and_search_filtered,
                images + filters,
            ),
        }

    def _release(self):
        self.catalog.scann.release()
        return tf.constant(True)

    def _embed(self, image_bytes, names):
        """Returns `[n, dim]` embeddings, and `[n]` why an image has none."""
        size = self._inputs.image_size
        pixels, failures = preprocessing.load_readable_images(
            image_bytes,
            size,
            self._inputs.resize,
            self._inputs.max_megapixels,
        )
        images = tf.shape(image_bytes)[0]
        # Convolutions that oneDNN fuses fail on an empty batch. An empty
        # request therefore gets a blank image, whose embedding is dropped.
        # tf.pad would not help: oneDNN fuses it into the convolution.
        missing = tf.cast(images == 0, tf.int32)
        blank = tf.zeros([missing, size, size, 3], pixels.dtype)
        inputs = tf.concat([pixels, blank], 0)
        if self._branches is not None:
            branch = self._find_branch(names, images)
            branch = tf.concat([branch, tf.zeros([missing], branch.dtype)], 0)
            inputs = {"pixels": inputs, "branch": branch}
        return self.encoder(inputs, training=False)[:images], failures

    def _find_branch(self, names, images):
        """Converts `[n]` names to the numbers of their branches."""
        by, known = self._branches.by, list(self._branches.names)
        # One name for several images would be broadcast silently.
        is_one_each = tf.debugging.Assert(
            tf.shape(names)[0] == images,
            [f"`{by}` must hold one name for each image. Received names and"]
            + ["images:", tf.shape(names), images],
        )
        if self._branches.default:
            names = tf.where(names == "", self._branches.default, names)
        found = names[:, None] == tf.constant(known)[None, :]
        is_known = tf.reduce_any(found, -1)
        unknown = tf.strings.reduce_join(
            tf.boolean_mask(names, ~is_known), separator=", "
        )
        message = f"`{by}` must be one of {', '.join(known)}. Received: ["
        are_known = tf.debugging.Assert(
            tf.reduce_all(is_known), [tf.strings.join([message, unknown, "]"])]
        )
        with tf.control_dependencies([is_one_each, are_known]):
            return tf.argmax(found, -1, output_type=tf.int32)
