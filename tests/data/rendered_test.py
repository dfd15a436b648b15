import io

import numpy as np
import pytest
from PIL import Image

from tf_triplet.data.sources import rendered, shapes, splits


def _pixels(*args):
    with Image.open(io.BytesIO(rendered.render(*args))) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


def test_the_catalog_is_listed_as_drawn(tmp_path):
    catalog = rendered.read_rendered(tmp_path, 12, 4, 0, 0.5, 16)

    assert len(catalog) == 48
    assert list(np.bincount(catalog.products)) == [4] * 12
    assert list(catalog.domain_names) == ["street", "studio"]
    assert list(catalog.category_names) == list(shapes.CATEGORIES)
    tested = splits.draw_by_hash(catalog.product_ids, 0.5, seed=0)
    assert (
        catalog.split("test").product_ids.tolist()
        == catalog.product_ids[tested].tolist()
    )
    former = rendered.read_rendered(
        tmp_path, 12, 4, 0, 0.5, 16, draw="permutation"
    )
    assert len(former.split("test").product_ids) == 6
    for path in catalog.paths:
        with Image.open(path) as image:
            assert image.size == (16, 16)
            assert image.format == ("JPEG" if "street" in path else "PNG")


def test_the_same_arguments_give_the_same_bytes():
    assert rendered.render(1, 2, 3, 24) == rendered.render(1, 2, 3, 24)


@pytest.mark.parametrize("other", [(2, 2, 3, 24), (1, 8, 3, 24), (1, 2, 5, 24)])
def test_seed_product_and_image_each_matter(other):
    assert rendered.render(1, 2, 3, 24) != rendered.render(*other)


def test_a_whole_folder_is_reused(tmp_path):
    first = rendered.read_rendered(tmp_path, 6, 2, 0, 0.5, 16)
    with open(first.paths[0], "wb") as file:
        file.write(b"mark")

    again = rendered.read_rendered(tmp_path, 6, 2, 0, 0.5, 16)

    assert list(again.paths) == list(first.paths)
    with open(first.paths[0], "rb") as file:
        assert file.read() == b"mark"


@pytest.mark.parametrize(
    "other", [(7, 2, 0, 16), (6, 3, 0, 16), (6, 2, 1, 16), (6, 2, 0, 20)]
)
def test_other_parameters_are_another_folder(tmp_path, other):
    first = rendered.read_rendered(tmp_path, 6, 2, 0, 0.5, 16)
    products, images, seed, size = other
    second = rendered.read_rendered(tmp_path, products, images, seed, 0.5, size)
    assert not set(first.paths) & set(second.paths)


def test_an_interrupted_drawing_is_redone(tmp_path, monkeypatch):
    drawn = []

    def interrupt(*args):
        drawn.append(args)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return b"half"

    with monkeypatch.context() as patch:
        patch.setattr(rendered, "render", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rendered.read_rendered(tmp_path, 6, 2, 0, 0.5, 16)
    assert not list(tmp_path.iterdir())

    catalog = rendered.read_rendered(tmp_path, 6, 2, 0, 0.5, 16)
    with open(catalog.paths[0], "rb") as file:
        assert file.read() != b"half"


@pytest.mark.parametrize("product", range(12))
def test_studio_is_a_product_on_white_and_street_is_not(product):
    studio = _pixels(0, product, 0, 48)
    street = _pixels(0, product, 1, 48)

    white = (studio > 0.99).all(axis=-1)
    assert 0.15 < white.mean() < 0.95
    assert (street > 0.99).all(axis=-1).mean() < 0.25


def test_a_product_resembles_itself_more_but_not_always():
    """Learnable, and not solved by comparing thumbnails."""
    vectors = np.stack(
        [
            _pixels(0, product, image, 24).ravel()
            for product in range(30)
            for image in range(4)
        ]
    )
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    labels = np.repeat(np.arange(30), 4)
    recall = (labels[scores.argmax(axis=1)] == labels).mean()

    chance = 3 / 119
    assert 3 * chance < recall < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"products": 0}, "`products`.*Received: 0"),
        ({"images_per_product": 0}, "`images_per_product`.*Received: 0"),
        ({"image_size": 4}, "`image_size`.*Received: 4"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        rendered.read_rendered(tmp_path, **arguments)
