"""Exports of encoders with branches, from their signatures to a client."""

import dataclasses
import importlib.util
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tf_triplet import client
from tf_triplet.models import branches, build_branched_encoder
from tf_triplet.servable import parity
from tf_triplet.serving import server

# The shop's encoder returns the mean color. Here each branch weights it.
ROOTS = np.float32([[1, 1, 0.2], [0.3, 1, 1]])
NAMES = ("street", "shop")


def export(shop, folder, by="domain", default="street", index="exact", **more):
    """Exports the shop with branches.

    Returns:
        The folder of the version, the name of each image's branch, and the
        embeddings.
    """
    features = tf.keras.Model(
        shop.encoder.input, shop.encoder.layers[-1].input, name="features"
    )
    encoder = build_branched_encoder(
        features, 0, branches.Branches(by, NAMES, default), "weights"
    )
    encoder.get_layer("weight_roots").set_weights([ROOTS])
    names = np.array([NAMES[i % 2] for i in range(12)])
    embeddings = shop.embeddings * ROOTS[np.arange(12) % 2] ** 2
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    branched = dataclasses.replace(shop, encoder=encoder, embeddings=embeddings)
    return branched.export(folder, index, **more), names, embeddings


@pytest.fixture(scope="module")
def domains(shop, tmp_path_factory):
    return export(shop, tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def categories(shop, tmp_path_factory):
    return export(shop, tmp_path_factory.mktemp("categories"), "category", "")


@pytest.fixture(scope="module")
def by_domain(domains):
    return tf.saved_model.load(str(domains[0])).signatures


@pytest.fixture(scope="module")
def by_category(categories):
    return tf.saved_model.load(str(categories[0])).signatures


def files(shop):
    return tf.constant([tf.io.read_file(path).numpy() for path in shop.paths])


def test_only_signatures_that_take_images_take_a_name(by_domain, by_category):
    for signatures, by in ((by_domain, "domain"), (by_category, "category")):
        for name, signature in signatures.items():
            taken = set(signature.structured_input_signature[1])
            if name.startswith("search"):
                assert taken == {"embedding"}
            else:
                assert taken == {"image_bytes", by}


def test_each_image_goes_through_its_own_branch(shop, domains, by_domain):
    _, names, embeddings = domains
    inputs = {"image_bytes": files(shop), "domain": tf.constant(names)}
    got = by_domain["encode"](**inputs)["embedding"]
    np.testing.assert_allclose(got, embeddings, atol=1e-5)
    for name in ("serving_default", "encode_and_search_exact"):
        answer = by_domain[name](**inputs)
        first = [path.decode() for path in answer["paths"].numpy()[:, 0]]
        assert first == shop.paths
    # In the other domain, the same images have other embeddings.
    swapped = tf.constant(names[1::-1].repeat(6))
    other = by_domain["encode"](image_bytes=files(shop), domain=swapped)
    assert np.abs(other["embedding"] - embeddings).max() > 0.1


def test_an_empty_name_is_the_query_domain(shop, by_domain):
    got, want = (
        by_domain["encode"](
            image_bytes=files(shop)[:3], domain=tf.constant([name] * 3)
        )
        for name in ("", "street")
    )
    np.testing.assert_array_equal(got["embedding"], want["embedding"])


def test_a_filter_is_not_a_branch(shop, tmp_path):
    """The image's domain chooses the branch, the filter the answers."""
    kinds = ["hats"] * 6 + ["bags"] * 6
    names = np.array([NAMES[i % 2] for i in range(12)])
    filters = {"category": kinds, "domain": names}
    folder, _, embeddings = export(shop, tmp_path, filters=filters)
    signatures = tf.saved_model.load(str(folder)).signatures
    answer = signatures["encode_and_search_filtered"](
        image_bytes=files(shop),
        domain=tf.constant(names),
        domain_filter=tf.constant(["street"] * 12),
        category_filter=tf.constant(["", "bags"] * 6),
    )
    for row, (scores, paths) in enumerate(
        zip(answer["scores"].numpy(), answer["paths"].numpy().astype(str))
    ):
        rows = [
            i for i in range(0, 12, 2) if row % 2 == 0 or kinds[i] == "bags"
        ]
        want = np.sort(embeddings[rows] @ embeddings[row])[::-1][:3]
        np.testing.assert_allclose(scores, want, atol=1e-5)
        assert set(paths) <= {shop.paths[i] for i in rows}


@pytest.mark.parametrize("name", ["", "hall"])
def test_the_error_of_an_unknown_category_lists_the_known_ones(
    shop, by_category, name
):
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"`category` must be one of street, shop. Received: \[{name}\]",
    ):
        names = tf.constant(["shop", name])
        by_category["encode"](image_bytes=files(shop)[:2], category=names)


def test_one_name_for_two_images_is_an_error(shop, by_domain):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="one name for each image.*1.*2"
    ):
        one = tf.constant(["shop"])
        by_domain["encode"](image_bytes=files(shop)[:2], domain=one)


def test_parity_feeds_the_right_branch(shop, domains):
    version, names, embeddings = domains

    def check(names):
        return parity.check(
            version,
            shop.paths,
            embeddings,
            np.arange(1, 12),
            index="exact",
            min_recall=1.0,
            more_inputs={"domain": names},
        )

    assert check(names).largest_difference < 1e-5
    with pytest.raises(parity.ParityError, match="differs"):
        check(names[::-1])


@pytest.fixture
def address(request):
    """The address of a server for the export that the test names."""
    version, _, _ = request.getfixturevalue(request.param)
    running, port, model = server.start(version.parent, port=0)
    yield f"localhost:{port}"
    running.stop(0).wait()
    model.release()


@pytest.mark.parametrize("address", ["domains"], indirect=True)
def test_a_client_names_the_domain(shop, address, domains):
    images = [client.read_image(path) for path in shop.paths]
    for domain in NAMES:
        # Every second image is of the domain "shop", and was indexed so.
        start = NAMES.index(domain)
        own = images[start::2]
        answers = client.query(own, address, domain=domain)
        assert [a[0].path for a in answers] == shop.paths[start::2]
    empty = client.query(images[:1], address, domain="")
    assert empty == client.query(images[:1], address, domain="street")
    with pytest.raises(
        client.QueryError,
        match=r"INVALID_ARGUMENT.*one of street, shop. Received: \[web\]",
    ):
        client.query(images[:1], address, domain="web")
    for wrong in ({}, {"category": "hats"}, {"domain": "", "category": ""}):
        with pytest.raises(
            client.QueryError, match="INVALID_ARGUMENT.*needs --domain"
        ):
            client.query(images[:1], address, **wrong)


@pytest.mark.parametrize("address", ["domains"], indirect=True)
def test_the_client_in_export_names_the_domain(shop, address, domains):
    path = Path(__file__).parents[2] / "export" / "client.py"
    spec = importlib.util.spec_from_file_location("kit", path)
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    image = client.read_image(shop.paths[3])
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        own, other = (
            kit.search(stub, [image], timeout_s=30, domain=domain)[0][0]
            for domain in ("shop", "street")
        )
    assert own["path"] == shop.paths[3]
    assert own["score"] == pytest.approx(1, abs=1e-4)
    assert other["score"] < 0.9999


@pytest.mark.parametrize("address", ["categories"], indirect=True)
def test_a_client_names_the_category(shop, address, categories):
    images = [client.read_image(path) for path in shop.paths]
    (answer,) = client.query(images[3:4], address, category="shop")
    assert answer[0].path == shop.paths[3]
    with pytest.raises(client.QueryError, match="one of street, shop"):
        client.query(images[:1], address, category="")


def test_a_model_without_branches_takes_no_name(shop, exported):
    running, port, model = server.start(exported["exact"].parent, port=0)
    image = client.read_image(shop.paths[0])
    with pytest.raises(
        client.QueryError, match="A model without branches takes neither"
    ):
        client.query([image], f"localhost:{port}", domain="street")
    running.stop(0).wait()
    model.release()
