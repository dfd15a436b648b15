"""A crop has the pixels that a model sees of an image and its box."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.data import crops, preprocessing

# Rounded outwards; past the right and lower edges.
BOX = [10.2, 5.0, 41.0, 99.0]


def encode(kind, mode="RGB"):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, [60, 80, len(mode)], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind,mode", [("JPEG", "RGB"), ("PNG", "RGBA")])
def test_a_crop_has_the_pixels_inside_the_box(kind, mode):
    data = encode(kind, mode)
    sent = crops.crop_image_bytes(data, BOX)
    got = np.asarray(Image.open(io.BytesIO(sent)))
    whole = preprocessing.decode_image(tf.constant(data)).numpy()
    np.testing.assert_array_equal(got, whole[5:60, 10:41])
    np.testing.assert_array_equal(
        preprocessing.load_image(tf.constant(sent), 16),
        preprocessing.load_image(tf.constant(data), 16, tf.constant(BOX)),
    )


def test_boxes_that_a_person_typed_are_checked():
    data = encode("PNG")
    assert crops.crop_checked(data, BOX) == crops.crop_image_bytes(data, BOX)
    for box in ([1, 2, 3], [3, 1, 2, 5], [-1, 0, 2, 2], [0, 0, np.nan, 2]):
        with pytest.raises(ValueError, match="x1,y1,x2,y2 in pixels.*Rec"):
            crops.crop_checked(data, box)
    for box in ([80, 0, 90, 5], [0, 60, 5, 70]):
        with pytest.raises(ValueError, match="80 pixels wide and 60 high. R"):
            crops.crop_checked(data, box)


def test_a_crop_keeps_to_the_pixels_that_are_allowed():
    data = encode("PNG")
    for crop in (crops.crop_image_bytes, crops.crop_checked):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="more than the 0.004 million"
        ):
            crop(data, BOX, max_megapixels=0.004)
        assert crop(data, BOX, max_megapixels=0.005) == crop(data, BOX)
