"""Pixels compared with those of Pillow, for every kind of image file."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tf_triplet.data import augmentation, preprocessing, transcode


def image(mode="RGB"):
    random = np.random.default_rng(0)
    blocks = np.kron(random.random((6, 8, 3)), np.ones((10, 10, 1)))
    image = Image.fromarray((blocks * 255).astype(np.uint8))
    if "A" in mode:
        image = image.convert("RGBA")
        alpha = (random.random((60, 80)) * 255).astype(np.uint8)
        image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


@pytest.mark.parametrize(
    "mode,kind",
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGB", "BMP"),
        ("L", "BMP"),
        ("RGB", "GIF"),
        ("RGB", "WEBP"),
        ("RGBA", "WEBP"),
        ("RGB", "TIFF"),
    ],
)
def test_decodes_as_pillow_does(mode, kind):
    data = encode(image(mode), kind)
    got = preprocessing.decode_image(tf.constant(transcode.servable(data)))
    np.testing.assert_allclose(
        got.numpy().astype(int), pillow(data).astype(int), atol=1
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image(), "JPEG", exif=exif)
    got = preprocessing.decode_image(tf.constant(data)).numpy()
    np.testing.assert_array_equal(got, pillow(data))


@pytest.mark.parametrize(
    "data", [b"", b"no image", encode(image(), "PNG")[:200]]
)
def test_other_bytes_are_an_error(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode_image(tf.constant(data))


def test_corrupt_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encode(image(), "JPEG", exif=exif))
    at = data.index(b"Exif\x00\x00") + 10
    data[at : at + 4] = b"\xff\xff\xff\x7f"  # The directory lies far outside.
    upright = preprocessing.decode_image(tf.constant(bytes(data)))
    assert upright.shape == (60, 80, 3)


def test_a_box_is_cropped_and_nan_keeps_the_whole_image():
    pixels = tf.constant(np.arange(60 * 80 * 3).reshape(60, 80, 3))
    cut = preprocessing.crop(pixels, tf.constant([10.0, 20.0, 30.0, 25.0]))
    np.testing.assert_array_equal(cut, pixels[20:25, 10:30])
    whole = preprocessing.crop(pixels, tf.fill([4], float("nan")))
    np.testing.assert_array_equal(whole, pixels)
    outside = preprocessing.crop(pixels, tf.constant([90.0, 70, 95, 75]))
    assert outside.shape == (1, 1, 3)


def test_area_resize_is_the_mean_of_blocks():
    data = encode(image(), "PNG")
    got = preprocessing.load_image(tf.constant(data), 20).numpy()
    exact = pillow(data).reshape(20, 3, 20, 4, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(got, exact, atol=1e-5)


def test_empty_batch():
    empty = tf.zeros([0], tf.string)
    assert preprocessing.load_images(empty, 32).shape == (0, 32, 32, 3)


def augmented(seed, box=None, **options):
    pixels = preprocessing.decode_image(tf.constant(encode(image(), "PNG")))
    box = tf.fill([4], float("nan")) if box is None else tf.constant(box)
    return augmentation.augment_image(
        pixels,
        box,
        32,
        tf.constant(seed, tf.int64),
        augmentation.Augmentation(**options),
    ).numpy()


def test_augmentation_is_a_function_of_its_seed():
    options = dict(rotation=20.0, cutout=0.3, blur=1.0, probability=1.0)
    first = augmented([1, 2], **options)
    np.testing.assert_array_equal(first, augmented([1, 2], **options))
    assert np.abs(first - augmented([1, 3], **options)).max() > 0.1
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("option", ["rotation", "cutout", "blur", "noise"])
def test_each_option_changes_pixels(option):
    still = dict(probability=1.0, min_crop=1.0, flip=False, noise=0.0)
    still["random_resize"] = False
    value = {"rotation": 30.0, "cutout": 0.5, "blur": 2.0, "noise": 0.1}
    changed = augmented([4, 4], **{**still, option: value[option]})
    assert np.abs(changed - augmented([4, 4], **still)).max() > 0.02


def test_probability_zero_gives_the_image_of_evaluation():
    data = tf.constant(encode(image(), "PNG"))
    got = augmented([1, 1], probability=0.0, random_resize=False)
    np.testing.assert_array_equal(got, preprocessing.load_image(data, 32))


def test_distorted_box_crop_keeps_to_the_box_share():
    got = augmented([1, 5], box=[10.0, 10, 50, 50], probability=1.0)
    assert got.shape == (32, 32, 3) and np.isfinite(got).all()
