"""A small encoder, a catalog of plain colors, and exports of both."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.servable import saved_model, scann_index, versions


@dataclasses.dataclass
class Shop:
    encoder: tf.keras.Model
    paths: list
    product_ids: list
    embeddings: np.ndarray

    def export(self, folder, index="scann", k=3, **more):
        model = saved_model.ServedModel(
            self.encoder,
            more.pop("embeddings", self.embeddings),
            more.pop("product_ids", self.product_ids),
            more.pop("paths", self.paths),
            inputs=InputSpec(image_size=8),
            k=k,
            index=index,
            **more,
        )
        with versions.publish(folder) as partial:
            model.save(partial)
        return folder / str(versions.list_versions(folder)[-1])


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    inputs = tf.keras.Input([8, 8, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    unit = tf.keras.layers.UnitNormalization()(pooled)
    encoder = tf.keras.Model(inputs, unit)
    random = np.random.default_rng(0)
    colors = random.integers(20, 235, [12, 3], dtype=np.uint8)
    kinds = ["png", "bmp", "gif", "jpg"]
    paths = []
    for i, color in enumerate(colors):
        paths.append(str(folder / f"{i}.{kinds[i % 4]}"))
        Image.new("RGB", (10, 9), tuple(map(int, color))).save(
            paths[-1], **({"quality": 100} if i % 4 == 3 else {})
        )
    from tf_triplet.data import preprocessing

    pixels = preprocessing.load_images(
        tf.constant([tf.io.read_file(p).numpy() for p in paths]), 8
    )
    embeddings = encoder(pixels).numpy()
    ids = [f"p{i // 2}" for i in range(12)]
    return Shop(encoder, paths, ids, embeddings)


@pytest.fixture(scope="session")
def exported(shop, tmp_path_factory):
    """The folder of a version, for each kind of index."""
    folder = tmp_path_factory.mktemp("models")
    return {
        index: shop.export(folder / index, index)
        for index in saved_model.INDEXES
    }


def names_of_indexes(graph):
    """Returns the handles of indexes in a GraphDef.

    Each is a pair of the function that holds it ("" for the main graph) and
    its shared name.
    """
    places = [("", graph.node)]
    places += [(f.signature.name, f.node_def) for f in graph.library.function]
    return [
        (place, node.attr["shared_name"].s.decode())
        for place, nodes in places
        for node in nodes
        if node.op == "Scann>TensorsToScann"
    ]


@pytest.fixture(scope="session")
def index_names():
    return names_of_indexes


@pytest.fixture(scope="session")
def watch():
    """Watches the C++ index of a loaded model.

    `watch(loaded)` returns a function that tells whether the index is in
    memory. Calling it destroys the index.
    """

    def start(loaded):
        # Python's loader renames the index, unlike TensorFlow Serving.
        graph = loaded.release.get_concrete_function().graph.as_graph_def()
        (name,) = {name for _, name in names_of_indexes(graph)}
        vectors = np.eye(3, dtype=np.float32)
        other = scann_index.ScannIndex(vectors, 1, scann_index.tune(3, 1))
        other._shared_name = name
        # The handle makes an index under the name of the model's …
        handle = other.handle()

        def is_there():
            try:
                tf.raw_ops.DestroyResourceOp(
                    resource=handle, ignore_lookup_error=False
                )
            except tf.errors.NotFoundError:
                return False
            return True

        # … which is destroyed here, as it is not the model's.
        assert is_there()
        return is_there

    return start
