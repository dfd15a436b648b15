"""Pairs of images of different products that show one photo."""

import io

import numpy as np
import pytest
from PIL import Image

from tf_triplet.data import near_duplicates

SIDE = near_duplicates.SIDE


def _image(seed, size=64):
    """a smooth image of a few blobs."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.BICUBIC)


def _thumbnail(image):
    small = image.convert("RGB").resize((SIDE, SIDE), Image.BOX)
    return np.frombuffer(near_duplicates.shrink(np.asarray(small)), np.uint8)


def _saved(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: _saved(image, quality=50),
        lambda image: _saved(image, "WEBP", quality=60),
        lambda image: image.resize((40, 40), Image.BILINEAR),
        lambda image: image.resize((200, 200), Image.BICUBIC),
        lambda image: _saved(image, "GIF"),
    ],
)
def test_a_photo_that_was_saved_anew_is_found(change):
    images = [_image(seed) for seed in range(30)]
    images.append(change(images[7]))
    images.append(change(images[9]))
    thumbnails = np.stack([_thumbnail(p) for p in images])
    products = np.array([*range(30), 30, 9])  # The last is no suspect.
    assert near_duplicates.find_pairs(thumbnails, products).tolist() == [
        [7, 30]
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 5_000])
def test_other_images_are_not_found(count):
    thumbnails = np.random.default_rng(0).integers(
        0, 256, (count, near_duplicates.SIZE), np.uint8
    )
    assert not len(near_duplicates.find_pairs(thumbnails, np.arange(count)))


def test_a_photo_of_thousands_of_products_ends_the_search():
    thumbnails = np.full((3_000, near_duplicates.SIZE), 255, np.uint8)
    pairs = near_duplicates.find_pairs(thumbnails, np.arange(3_000), most=50)
    assert len(pairs) == 50 and (pairs[:, 0] < pairs[:, 1]).all()
