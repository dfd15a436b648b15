"""The SavedModel: a picture file's bytes in, products out.

Signatures, for n requests and k neighbours:

| signature | input | output |
|---|---|---|
| serving_default | image_bytes [n] | product_ids, scores, paths [n, k] |
| encode | image_bytes [n] | embedding [n, dim] |
| search | embedding [n, dim] | product_ids, scores, paths [n, k] |
| search_exact | embedding [n, dim] | the same, by brute force |
| encode_and_search_exact | image_bytes [n] | the same, by brute force |

Product ids are strings. Where fewer than k are found, the rest have id and
path "" and score -2, below any cosine.

An encoder with branches adds an input to the signatures that take image_bytes:
`domain` or `category`, `[n]` strings, a name a picture. "" stands for the
domain that queries; no category stands for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_triplet.data import preprocessing
from tf_triplet.models import branches

INDEXES = ("scann", "exact")


class ServedModel(tf.Module):
    """Encoder and catalogue in one graph."""

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
    ):
        """Builds the index.

        Args:
            encoder: pixels to embeddings, with branches or without.
            embeddings: `[n, dim]` float32 of the catalogue, unit length.
            product_ids: `[n]` ids.
            paths: `[n]` picture paths, as the answer shows them.
            image_size: pixels a side that the encoder takes.
            resize: as in evaluation.
            k: neighbours an answer holds; at most n.
            index: "scann" or "exact" (no custom op in the graph).
            leaves: of ScaNN's tree; 0 chooses.
            leaves_to_search: of them; 0 chooses.
            reorder: candidates scored exactly; 0 chooses.
        """
        super().__init__()
        if index not in INDEXES:
            raise ValueError(
                f"`index` must be scann or exact. Received: {index!r}"
            )
        if not len(embeddings):
            raise ValueError("There is no picture to index.")
        if not len(embeddings) == len(product_ids) == len(paths):
            raise ValueError(
                "`embeddings`, `product_ids` and `paths` must be of one "
                f"length. Received: {len(embeddings)}, {len(product_ids)}, "
                f"{len(paths)}"
            )
        self.encoder = encoder
        self._branches = branches.find(encoder)
        if self._branches is not None:
            # Not for the graph: a server warms up with one of them.
            self.branch_names = tf.Variable(
                list(self._branches.names), trainable=False
            )
        self.k = min(k, len(embeddings))
        self._image_size, self._resize = image_size, resize
        # Variables, not constants: a graph must stay below 2 GB.
        self.embeddings = tf.Variable(
            np.float32(embeddings), trainable=False, name="embeddings"
        )
        # A last, empty row answers index -1.
        texts = [[str(v) for v in values] for values in (product_ids, paths)]
        self.product_ids = tf.Variable([*texts[0], ""], trainable=False)
        self.paths = tf.Variable([*texts[1], ""], trainable=False)
        self.scann = None
        if index == "scann":
            from tf_triplet.serving import scann_index

            tuning = scann_index.tune(
                len(embeddings), self.k, leaves, leaves_to_search, reorder
            )
            self.scann = scann_index.ScannIndex(embeddings, self.k, tuning)

    def save(self, directory: str | Path) -> None:
        """Writes the SavedModel with all signatures."""
        images = [tf.TensorSpec([None], tf.string, name="image_bytes")]
        if self._branches is not None:
            by = self._branches.by
            images.append(tf.TensorSpec([None], tf.string, name=by))
        vectors = [
            tf.TensorSpec(
                [None, self.embeddings.shape[1]], tf.float32, name="embedding"
            )
        ]
        functions = {
            "serving_default": (self.encode_and_search, images),
            "encode": (self.encode, images),
            "search": (self.search, vectors),
            "search_exact": (self.search_exact, vectors),
            "encode_and_search_exact": (self.encode_and_search_exact, images),
        }
        signatures = {
            name: tf.function(function).get_concrete_function(*specs)
            for name, (function, specs) in functions.items()
        }
        if self.scann is not None:
            self.release = tf.function(self._release, input_signature=[])
        tf.saved_model.save(
            self,
            str(directory),
            signatures=signatures,
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
        )

    def _release(self):
        self.scann.release()
        return tf.constant(True)

    def _embed(self, image_bytes, names):
        pixels = preprocessing.load_images(
            image_bytes, self._image_size, self._resize
        )
        if self._branches is None:
            return self.encoder(pixels, training=False)
        branch = self._branch(names, tf.shape(image_bytes)[0])
        inputs = {"pixels": pixels, "branch": branch}
        return self.encoder(inputs, training=False)

    def _branch(self, names, pictures):
        """`[n]` names to the numbers of their branches."""
        by, known = self._branches.by, list(self._branches.names)
        # One name for several pictures would be broadcast silently.
        one_each = tf.debugging.Assert(
            tf.shape(names)[0] == pictures,
            [f"`{by}` must hold a name a picture. Received:", tf.shape(names)]
            + ["names and pictures:", pictures],
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
        """Picture files (and their domains or categories) to embeddings."""
        return {"embedding": self._embed(image_bytes, names)}

    def search(self, embedding):
        """Embeddings to neighbours, by ScaNN where there is one."""
        if self.scann is None:
            return self.search_exact(embedding)
        return self._answer(*self.scann.search(embedding, self.k))

    def search_exact(self, embedding):
        """Embeddings to neighbours, by all dot products."""
        scores = tf.matmul(embedding, self.embeddings, transpose_b=True)
        scores, indices = tf.math.top_k(scores, self.k)
        return self._answer(indices, scores)

    def encode_and_search(self, image_bytes, names=None):
        """Picture files to neighbours."""
        return self.search(self._embed(image_bytes, names))

    def encode_and_search_exact(self, image_bytes, names=None):
        """Picture files to neighbours, by all dot products."""
        return self.search_exact(self._embed(image_bytes, names))

    def _answer(self, indices, scores):
        last = tf.shape(self.paths)[0] - 1
        at = tf.where(indices < 0, last, indices)
        return {
            "product_ids": tf.gather(self.product_ids, at),
            "scores": tf.identity(scores),
            "paths": tf.gather(self.paths, at),
        }
