"""What every signature of the SavedModel answers."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.serving import saved_model

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
    for name, signature in signatures.items():
        outputs = signature.structured_outputs
        if name == "encode":
            assert outputs["embedding"].shape.as_list() == [None, 3]
            continue
        assert set(outputs) == ANSWER
        assert outputs["scores"].dtype == tf.float32
        assert outputs["product_ids"].dtype == tf.string


@pytest.mark.parametrize("count", [1, 12])
def test_pictures_find_themselves(signatures, shop, count):
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


def test_an_empty_batch_is_answered_empty(signatures):
    answer = signatures["search_exact"](embedding=tf.zeros([0, 3]))
    assert answer["scores"].shape == (0, 3)
    encoded = signatures["encode"](image_bytes=tf.constant([], tf.string))
    assert encoded["embedding"].shape == (0, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_grey_alpha_palette_and_cmyk(signatures, mode):
    file = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new("RGB", (9, 9), (60, 60, 60)).convert(mode).save(file, kind)
    vector = signatures["encode"](image_bytes=tf.constant([file.getvalue()]))
    np.testing.assert_allclose(vector["embedding"], 3**-0.5, atol=0.02)


def test_bytes_that_are_no_picture_are_refused(signatures):
    for data in (b"", b"no picture", b"\xff\xd8\xff cut short"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["encode"](image_bytes=tf.constant([data]))


def test_a_catalogue_smaller_than_k(shop, tmp_path):
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
        ({"embeddings": np.zeros([0, 3])}, "no picture to index"),
    ],
)
def test_bad_arguments(shop, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        shop.export(tmp_path, **{"index": "exact", **change})
    assert not list(tmp_path.iterdir())
