"""Writes the part of an image inside a box as an image file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_triplet.data import decoding, preprocessing


def crop_image_bytes(
    image_bytes: bytes,
    box: Sequence[float],
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> bytes:
    """Crops an image and returns the crop as PNG bytes.

    PNG is lossless. A model that receives the crop sees the same pixels as
    one that receives the whole image and the box.

    Args:
        image_bytes: A file that `preprocessing.decode_image` reads.
        box: `[4]` floats x1, y1, x2, y2 in pixels, see `preprocessing.crop`.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        The bytes of a PNG file.
    """
    crop = _cropper(max_megapixels)
    return crop(tf.constant(image_bytes), tf.constant(box, tf.float32)).numpy()


@functools.lru_cache(maxsize=8)
def _cropper(max_megapixels: float) -> Callable[..., tf.Tensor]:
    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.string),
            tf.TensorSpec([4], tf.float32),
        ]
    )
    def crop(image_bytes, box):
        image = decoding.decode(
            image_bytes,
            lambda size: preprocessing.choose_box(size, box),
            image_size=1,
            max_megapixels=max_megapixels,
        )
        return tf.io.encode_png(image.pixels)

    return crop


def crop_checked(
    image_bytes: bytes,
    box: Sequence[float],
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> bytes:
    """Crops an image to a box that a person typed.

    Args:
        image_bytes: A file that `preprocessing.decode_image` reads.
        box: `[4]` floats x1, y1, x2, y2 in pixels of the upright image.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        The bytes of a PNG file.

    Raises:
        ValueError: If the box is not a valid rectangle, or lies outside of
            the image.
    """
    received = ",".join(f"{side:g}" for side in box)
    if len(box) != 4 or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise ValueError(
            "A box is x1,y1,x2,y2 in pixels, with 0 <= x1 < x2 and 0 <= y1 < "
            f"y2. Received: {received}"
        )
    read_size = _size_reader(max_megapixels)
    height, width = read_size(tf.constant(image_bytes)).numpy().tolist()
    if box[0] >= width or box[1] >= height:
        raise ValueError(
            f"The box lies outside of the image, which is {width} pixels "
            f"wide and {height} high. Received: {received}"
        )
    return crop_image_bytes(image_bytes, box, max_megapixels)


@functools.lru_cache(maxsize=8)
def _size_reader(max_megapixels: float) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(image_bytes):
        return decoding.decode(
            image_bytes,
            lambda size: (decoding.whole(size), False),
            image_size=1,
            max_megapixels=max_megapixels,
        ).size

    return read
