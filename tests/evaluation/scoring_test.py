"""Embedding and scoring a catalog, and the file between the two."""

import fcntl
import json

import numpy as np
import pytest
import reference
import tensorflow as tf
from PIL import Image

from tf_triplet import evaluation
from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.models import Branches, build_branched_encoder
from tf_triplet.retrieval import ProtocolSpec

INPUTS = InputSpec(image_size=4)
STREET_TO_SHOP = ProtocolSpec("auto", "street", "shop")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Four products, two images each, in two domains; one singleton."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for i, gray in enumerate([10, 12, 90, 95, 160, 140, 230, 250, 60]):
        paths.append(str(folder / f"{i}.png"))
        Image.new("RGB", (6, 6), (gray, 255 - gray, 100)).save(paths[-1])
    return reference.catalog(
        paths,
        ["a", "a", "b", "b", "c", "c", "d", "d", "e"],
        category=["x"] * 4 + ["y"] * 5,
        domain=["street", "shop"] * 4 + ["shop"],
    )


@pytest.fixture(scope="module")
def encoder():
    inputs = tf.keras.Input([4, 4, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    return tf.keras.Model(inputs, tf.keras.layers.UnitNormalization()(pooled))


@pytest.fixture(scope="module")
def embeddings(encoder, catalog):
    return evaluation.compute_embeddings(encoder, catalog, INPUTS, 4)


def test_embeddings_are_of_their_rows(embeddings, catalog):
    assert embeddings.rows.tolist() == list(range(9))
    pixels = np.float32([np.asarray(Image.open(p)) for p in catalog.paths])
    means = pixels.mean((1, 2)) / 255
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings.vectors, means, atol=1e-5)


def test_an_encoder_is_traced_once_for_all_evaluations(catalog):
    traced = []

    def encoder(images, training):
        traced.append(images.shape.as_list())
        return tf.reduce_mean(images, [1, 2])

    for batch_size in (4, 9, 2):  # The last batch of 4 has one image.
        evaluation.compute_embeddings(encoder, catalog, INPUTS, batch_size)
    assert traced == [[None, 4, 4, 3]]
    evaluation.compute_embeddings(encoder, catalog, InputSpec(5), 4)
    assert traced[1:] == [[None, 5, 5, 3]]


def test_what_is_compiled_is_not_saved_with_an_encoder(
    encoder, catalog, tmp_path
):
    for path in (tmp_path / "a.keras", tmp_path / "saved"):
        evaluation.compute_embeddings(encoder, catalog, INPUTS, 4)
        encoder.save(path)
        loaded = tf.keras.models.load_model(path, compile=False)
        assert not hasattr(loaded, "_compiled")
        got = evaluation.compute_embeddings(loaded, catalog, INPUTS, 4)
        assert len(got.rows) == len(catalog)


def test_scores(embeddings, catalog):
    result = evaluation.evaluate(embeddings, catalog, (1, 2))
    assert result.queries == 8 and result.left_out == 1
    assert result.gallery == 9
    assert result.overall.recall[1] == pytest.approx(1.0)
    assert set(result.by_category) == {"x", "y"}
    json.dumps(result.to_dict(), allow_nan=False)


def test_one_domain_queries_another(embeddings, catalog):
    result = evaluation.evaluate(embeddings, catalog, (1,), STREET_TO_SHOP)
    assert result.queries == 4 and result.gallery == 5
    attic = ProtocolSpec("auto", "attic", "shop")
    for check in (
        lambda: evaluation.check_protocol(catalog, attic),
        lambda: evaluation.evaluate(embeddings, catalog, (1,), attic),
    ):
        with pytest.raises(ValueError, match="attic"):
            check()


def test_each_image_goes_through_the_branch_of_its_name(encoder, catalog):
    own = Branches("domain", ("street", "shop"))
    features = tf.keras.Model(encoder.input, encoder.layers[-2].output)
    branched = build_branched_encoder(features, 0, own, "weights")
    roots = np.float32([[1, 0, 1], [0, 1, 1]])
    branched.get_layer("weight_roots").set_weights([roots])
    # A selection has other integer labels for the same names.
    chosen = catalog.select(np.arange(8, 0, -1))
    got = evaluation.compute_embeddings(branched, chosen, INPUTS, 3)
    pixels = np.float32([np.asarray(Image.open(p)) for p in chosen.paths])
    names = chosen.domain_names[chosen.domains]
    want = pixels.mean((1, 2)) * roots[(names == "shop").astype(int)]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(got.vectors, want, atol=1e-5)
    other = build_branched_encoder(
        features, 0, Branches("category", ("x", "z")), "weights"
    )
    with pytest.raises(
        ValueError, match=r"category 'y' \(of 5 images\); it has 'x', 'z'"
    ):
        evaluation.compute_embeddings(other, catalog, INPUTS, 4)


def test_nothing_to_find_is_an_error(embeddings, catalog):
    alone = catalog.select(np.array([0, 2, 4]))
    some = evaluation.Embeddings(embeddings.vectors[[0, 2, 4]], np.arange(3))
    with pytest.raises(ValueError, match="two images or more"):
        evaluation.evaluate(some, alone, (1,))


def test_diverged_weights_are_an_error(catalog):
    with pytest.raises(ValueError, match="9 of 9 embeddings hold NaN"):
        evaluation.compute_embeddings(
            lambda x, training: x[:, 0, 0] * np.nan, catalog, INPUTS, 4
        )


def test_unreadable_images(encoder, catalog, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    paths = [str(tmp_path / "bad.png"), *catalog.paths[1:]]
    spoiled = reference.catalog(paths, catalog.row_product_ids)
    with pytest.raises(ValueError, match="bad.png.*on_bad_image=skip"):
        evaluation.compute_embeddings(encoder, spoiled, INPUTS, 4)
    got = evaluation.compute_embeddings(
        encoder, spoiled, INPUTS, 4, on_bad_image="skip"
    )
    assert got.skipped == (paths[0],)
    assert got.rows.tolist() == list(range(1, 9))
    nothing = spoiled.select(np.array([0]))
    with pytest.raises(ValueError, match="1 unreadable"):
        evaluation.compute_embeddings(
            encoder, nothing, INPUTS, 4, on_bad_image="skip"
        )


@pytest.mark.parametrize("ids", ["strings", "int64"])
def test_the_file_gives_back_what_was_saved(embeddings, catalog, tmp_path, ids):
    if ids == "int64":
        codes = np.array([7, 7, 8, 8, 9, 9, 10**17, 10**17, 3])
        catalog = reference.catalog(list(catalog.paths), codes)
    path = tmp_path / "deep" / "e.npz"
    evaluation.save_embeddings(path, embeddings, catalog, "sha256:abc")
    saved = evaluation.load_embeddings(path)
    np.testing.assert_array_equal(saved.vectors, embeddings.vectors)
    assert saved.product_ids.tolist() == catalog.row_product_ids.tolist()
    assert saved.paths.tolist() == catalog.paths.tolist()
    assert saved.source == "sha256:abc"
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="not an embeddings file: it lacks"):
        evaluation.load_embeddings(tmp_path / "other.npz")


def test_saving_embeddings_removes_what_a_killed_program_left(tmp_path):
    catalog = reference.catalog(["a.png"], ["a"])
    embeddings = evaluation.Embeddings(np.float32([[1, 0]]), np.array([0]))
    (tmp_path / ".e.npz.1").write_bytes(b"incomplete")
    others = {".e.npz.2", ".other.npz.1"}
    for name in others:
        (tmp_path / name).write_bytes(b"of another program")
    with open(tmp_path / ".e.npz.2") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # As a program that still writes.
        evaluation.save_embeddings(tmp_path / "e.npz", embeddings, catalog)
    assert {path.name for path in tmp_path.iterdir()} == {"e.npz", *others}


def street_and_shop():
    """Angles on a circle, for which the ranks are easy to work out by hand.

    Category x: the street image of a is nearest to b's shop image, then
    a's two. Category y: the street image of c is nearest to a's shop
    image, of another category, then to its own.
    """
    angles = [0, 10, 20, 25, 40, 31, 33, 90]
    ids = ["a", "b", "a", "a", "c", "a", "c", "b"]
    domain = ["street", *["shop"] * 3, "street", "shop", "shop", "street"]
    category = [*"xxxxy", "x", "y", "x"]
    catalog = reference.catalog(
        [f"{i}.png" for i in range(8)],
        ids,
        category=category,
        domain=domain,
    )
    radians = np.deg2rad(angles)
    vectors = np.stack([np.cos(radians), np.sin(radians)], 1)
    return catalog, evaluation.Embeddings(np.float32(vectors), np.arange(8))


def test_protocols_against_hand_computed_ranks():
    catalog, embeddings = street_and_shop()

    def recall(protocol, ks=(1, 2, 3)):
        result = evaluation.evaluate(
            embeddings, catalog, ks, ProtocolSpec(protocol, "street", "shop")
        )
        return result, [result.overall.recall[k] for k in ks]

    # Ranks of the first positive: a 2nd, c 1st, b 5th of five.
    result, values = recall("query_gallery")
    assert values == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert result.queries == 3 and result.gallery == 5
    # a stands in three pairs, b and c in one each.
    result, values = recall("per_pair")
    assert values == pytest.approx([1 / 5, 4 / 5, 4 / 5])
    assert result.queries == 5
    assert result.by_category["x"].queries == 4
    assert result.protocol.endswith("once for each pair")
    # Within x, b's image is 4th of four.
    result, values = recall("within_category", (1, 2, 4))
    assert values == pytest.approx([1 / 3, 2 / 3, 1])
    assert result.gallery == 4
    assert result.by_category["y"].recall[1] == 1


def test_the_lines_of_a_list_weigh_its_queries():
    catalog, embeddings = street_and_shop()
    pairs = [2, 1, 1, 1, 7, 1, 1, 1]
    frame = catalog.to_frame().assign(pairs=pairs, split="test")
    catalog = type(catalog).from_frame(frame, "lines", extras=("pairs",))
    result = evaluation.evaluate(
        embeddings, catalog, (1,), ProtocolSpec("per_pair", "street", "shop")
    )
    assert result.queries == 10
    assert result.overall.recall[1] == pytest.approx(0.7)


def test_clustering_comes_along_when_asked(embeddings, catalog):
    result = evaluation.evaluate(embeddings, catalog, (1,))
    assert result.clustering == {}
    result = evaluation.evaluate(embeddings, catalog, (1,), clustering=True)
    assert 0.5 < result.clustering["nmi"] <= 1
    assert result.to_dict()["overall"]["f1"] == result.clustering["f1"]
