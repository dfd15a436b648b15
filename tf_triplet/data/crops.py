"""Writes the part of an image inside a box as an image file."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_triplet.data import preprocessing


def crop_image_bytes(image_bytes: bytes, box: Sequence[float]) -> bytes:
    """Crops an image and returns the crop as PNG bytes.

    PNG is lossless. A model that receives the crop sees the same pixels as
    one that receives the whole image and the box.

    Args:
        image_bytes: A file that `preprocessing.decode_image` reads.
        box: `[4]` floats x1, y1, x2, y2 in pixels, see `preprocessing.crop`.

    Returns:
        The bytes of a PNG file.
    """
    pixels = preprocessing.decode_image(tf.constant(image_bytes))
    pixels = preprocessing.crop(pixels, tf.constant(box, tf.float32))
    return tf.io.encode_png(pixels).numpy()


def crop_checked(image_bytes: bytes, box: Sequence[float]) -> bytes:
    """Crops an image to a box that a person typed.

    Args:
        image_bytes: A file that `preprocessing.decode_image` reads.
        box: `[4]` floats x1, y1, x2, y2 in pixels of the upright image.

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
    pixels = preprocessing.decode_image(tf.constant(image_bytes))
    height, width = pixels.shape[:2]
    if box[0] >= width or box[1] >= height:
        raise ValueError(
            f"The box lies outside of the image, which is {width} pixels "
            f"wide and {height} high. Received: {received}"
        )
    return crop_image_bytes(image_bytes, box)
