"""The answers of all signatures of the SavedModel."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.saved_model import loader_impl

from tf_triplet.data import preprocessing
from tf_triplet.servable import saved_model

ANSWER = {"product_ids", "scores", "paths"}


@pytest.fixture(scope="module", params=saved_model.INDEXES)
def signatures(exported, request):
    loaded = tf.saved_model.load(str(exported[request.param]))
    yield loaded.signatures
    if request.param == "scann":
        loaded.release()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_names_and_types(signatures):
    assert set(signatures) == {
        "serving_default",
        "encode",
        "search",
        "search_exact",
        "encode_and_search_exact",
    }
    images = {"image_bytes": tf.TensorSpec([None], tf.string, "image_bytes")}
    vectors = {"embedding": tf.TensorSpec([None, 3], tf.float32, "embedding")}
    for name, signature in signatures.items():
        wanted = vectors if name.startswith("search") else images
        assert signature.structured_input_signature == ((), wanted)
        outputs = signature.structured_outputs
        if name == "encode":
            assert set(outputs) == {"embedding"}
            assert outputs["embedding"].shape.as_list() == [None, 3]
            assert outputs["embedding"].dtype == tf.float32
            continue
        more = set() if name.startswith("search") else {"status"}
        assert set(outputs) == ANSWER | more
        for key, value in outputs.items():
            assert value.shape.as_list() == [None, 3]
            assert value.dtype == (tf.float32 if key == "scores" else tf.string)


@pytest.mark.parametrize("count", [1, 12])
def test_images_find_themselves(signatures, shop, count):
    files = tf.constant([read(path) for path in shop.paths[:count]])
    embeddings = signatures["encode"](image_bytes=files)["embedding"]
    np.testing.assert_allclose(embeddings, shop.embeddings[:count], atol=1e-6)
    want = -np.sort(-shop.embeddings[:count] @ shop.embeddings.T)[:, :3]
    for name in ("serving_default", "encode_and_search_exact"):
        answer = signatures[name](image_bytes=files)
        np.testing.assert_allclose(answer["scores"], want, atol=1e-5)
        first = [p.decode() for p in answer["paths"].numpy()[:, 0]]
        assert first == shop.paths[:count]
    for name in ("search", "search_exact"):
        answer = signatures[name](embedding=embeddings)
        ids = [p.decode() for p in answer["product_ids"].numpy()[:, 0]]
        assert ids == shop.product_ids[:count]


@pytest.mark.parametrize("name", ["search", "search_exact"])
def test_every_answer_equals_a_full_sort(signatures, shop, name):
    queries = np.random.default_rng(1).normal(size=[64, 3]).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    answer = signatures[name](embedding=tf.constant(queries))
    scores = queries @ shop.embeddings.T
    rows = np.argsort(-scores, axis=1)[:, :3]
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(scores, rows, 1), atol=1e-5
    )
    for key, texts in (
        ("paths", shop.paths),
        ("product_ids", shop.product_ids),
    ):
        want = np.array(texts, object)[rows].astype("S")
        np.testing.assert_array_equal(answer[key].numpy().astype("S"), want)


@pytest.mark.parametrize(
    "name,arguments,outputs",
    [
        ("encode", {"image_bytes": tf.constant([], tf.string)}, {"embedding"}),
        (
            "serving_default",
            {"image_bytes": tf.constant([], tf.string)},
            ANSWER | {"status"},
        ),
        (
            "encode_and_search_exact",
            {"image_bytes": tf.constant([], tf.string)},
            ANSWER | {"status"},
        ),
        ("search", {"embedding": tf.zeros([0, 3])}, ANSWER),
        ("search_exact", {"embedding": tf.zeros([0, 3])}, ANSWER),
    ],
)
def test_an_empty_batch_has_an_empty_answer(
    signatures, name, arguments, outputs
):
    answer = signatures[name](**arguments)
    assert set(answer) == outputs
    assert all(value.shape == (0, 3) for value in answer.values())


def noise(kind, mode, size):
    pixels = np.random.default_rng(2).integers(0, 256, [*size, 4], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(file, kind)
    return file.getvalue()


def test_encode_uses_the_pixels_of_evaluation(shop, tmp_path):
    # Unlike the mean color, this encoder depends on every pixel.
    layers = tf.keras.layers
    encoder = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 3]),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.UnitNormalization(),
        ]
    )
    files = [
        noise(kind, mode, size)
        for kind, mode, size in [
            ("JPEG", "RGB", (31, 17)),
            ("JPEG", "L", (9, 9)),
            ("PNG", "RGB", (8, 8)),
            ("PNG", "RGBA", (20, 30)),
            ("PNG", "LA", (5, 3)),
            ("GIF", "RGB", (16, 11)),
            ("BMP", "RGB", (13, 12)),
        ]
    ]
    pixels = preprocessing.load_images(tf.constant(files), 8)
    want = encoder(pixels).numpy()
    shop = dataclasses.replace(shop, encoder=encoder)
    folder = shop.export(
        tmp_path,
        "exact",
        embeddings=want,
        product_ids=range(7),
        paths=[f"{i}" for i in range(7)],
    )
    signatures = tf.saved_model.load(str(folder)).signatures
    got = signatures["encode"](image_bytes=tf.constant(files))["embedding"]
    np.testing.assert_allclose(got, want, atol=1e-6)
    # An image has the same embedding alone and among others.
    for row in range(7):
        one = signatures["encode"](
            image_bytes=tf.constant(files[row : row + 1])
        )
        np.testing.assert_allclose(one["embedding"][0], want[row], atol=1e-6)
    answer = signatures["serving_default"](image_bytes=tf.constant(files))
    ids = answer["product_ids"].numpy()[:, 0].astype(int)
    np.testing.assert_array_equal(ids, np.arange(7))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_gray_alpha_palette_and_cmyk(signatures, mode):
    file = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new("RGB", (9, 9), (60, 60, 60)).convert(mode).save(file, kind)
    vector = signatures["encode"](image_bytes=tf.constant([file.getvalue()]))
    np.testing.assert_allclose(vector["embedding"], 3**-0.5, atol=0.02)


def test_bytes_that_are_not_an_image_are_an_error(signatures):
    for data in (b"", b"no image", b"\xff\xd8\xff cut short"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["encode"](image_bytes=tf.constant([data]))


def test_one_bad_image_leaves_the_others_alone(signatures, shop):
    good = [read(path) for path in shop.paths[:3]]
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    bad = {1: (heic, b"HEIC is not decoded"), 3: (b"", b"0 bytes")}
    bad[4] = (good[0][:40], b" cannot be decoded: it is damaged or cut short")
    files = [good[0], heic, good[1], b"", bad[4][0], good[2]]
    want = signatures["serving_default"](image_bytes=tf.constant(good))
    places = [row for row in range(6) if row not in bad]
    for name in ("serving_default", "encode_and_search_exact"):
        answer = signatures[name](image_bytes=tf.constant(files))
        answer = {key: value.numpy() for key, value in answer.items()}
        assert (answer["status"][places] == b"").all()
        for row, (_, text) in bad.items():
            assert all(text in told for told in answer["status"][row])
            assert (answer["product_ids"][row] == b"").all()
            assert (answer["paths"][row] == b"").all()
            assert (answer["scores"][row] == -2).all()
        np.testing.assert_allclose(
            answer["scores"][places], want["scores"], atol=1e-6
        )
        assert (answer["paths"][places] == want["paths"].numpy()).all()
    vectors = signatures["encode"](image_bytes=tf.constant(files))["embedding"]
    assert not vectors.numpy()[list(bad)].any()
    np.testing.assert_allclose(
        vectors.numpy()[places], shop.embeddings[:3], atol=1e-6
    )


def test_a_batch_of_bad_images_alone_is_an_error(signatures):
    files = [b"RIFF\0\0\0\0WEBPVP8 ", b"no image"]
    for name in ("serving_default", "encode", "encode_and_search_exact"):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="WebP is not decoded here"
        ):
            signatures[name](image_bytes=tf.constant(files))


def test_a_catalog_smaller_than_k(shop, tmp_path):
    folder = shop.export(
        tmp_path,
        "scann",
        k=10,
        embeddings=shop.embeddings[:2],
        product_ids=np.array([7, 10**17]),
        paths=shop.paths[:2],
    )
    answer = tf.saved_model.load(str(folder)).signatures["search"](
        embedding=tf.constant(shop.embeddings[1:2])
    )
    assert answer["product_ids"].numpy().tolist() == [
        [str(10**17).encode(), b"7"]
    ]


@pytest.mark.parametrize("index", saved_model.INDEXES)
def test_only_a_scann_model_holds_its_ops(exported, index):
    graph = loader_impl.parse_saved_model(str(exported[index])).meta_graphs[0]
    ops = {op.name for op in graph.meta_info_def.stripped_op_list.op}
    assert any("Scann" in op for op in ops) == (index == "scann")


def test_two_versions_never_share_an_index(exported, shop, tmp_path):
    turned = np.ascontiguousarray(shop.embeddings[::-1])
    folders = [exported["scann"], shop.export(tmp_path, embeddings=turned)]
    a, b = [tf.saved_model.load(str(folder)) for folder in folders]

    def first(model):
        answer = model.signatures["search"](tf.constant(shop.embeddings))
        return [path.decode() for path in answer["paths"].numpy()[:, 0]]

    for _ in range(2):
        assert first(a) == shop.paths and first(b) == shop.paths[::-1]
    assert a.release() and a.release()  # Twice does no harm.
    assert first(b) == shop.paths[::-1]
    b.release()


def test_release_frees_a_loaded_models_index(exported, shop, watch):
    loaded = tf.saved_model.load(str(exported["scann"]))
    is_there = watch(loaded)
    queries = tf.constant(shop.embeddings)
    loaded.signatures["search"](queries)
    assert is_there()
    # All signatures share the one index.
    loaded.signatures["search"](queries)
    loaded.signatures["serving_default"](
        image_bytes=tf.constant([read(shop.paths[0])])
    )
    assert loaded.release()
    assert not is_there()


def test_every_export_gives_its_index_another_name(
    exported, shop, tmp_path, index_names
):
    # Python's loader renames the index; TensorFlow Serving does not.
    written = []
    for folder in (exported["scann"], shop.export(tmp_path)):
        proto = loader_impl.parse_saved_model(str(folder))
        found = index_names(proto.meta_graphs[0].graph_def)
        # ScaNN's module has another such function, which no signature calls.
        names = [n for place, n in found if "recreate_handle" not in place]
        assert len(names) == 3  # search, encode_and_search, release
        (name,) = set(names)
        written.append(name)
    assert written[0] != written[1]
    assert all(name.startswith("tf_triplet_") for name in written)


def test_the_exact_index_needs_no_scann(exported):
    code = (
        "import sys, tensorflow as tf; "
        f"m = tf.saved_model.load({str(exported['exact'])!r}); "
        "m.signatures['search'](embedding=tf.zeros([1, 3])); "
        "assert not [n for n in sys.modules if n.startswith(('scann', "
        "'tf_triplet'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"index": "faiss"}, "Received: 'faiss'"),
        ({"product_ids": ["a"]}, "Received: 12, 1, 12"),
        ({"paths": ["a", "b"]}, "Received: 12, 12, 2"),
        ({"embeddings": np.zeros([0, 3])}, "no image to index"),
    ],
)
def test_bad_arguments(shop, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        shop.export(tmp_path, **{"index": "exact", **change})
    assert not list(tmp_path.iterdir())
