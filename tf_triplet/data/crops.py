"""Writes the part of an image inside a box as an image file."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_triplet.data import decoding, preprocessing


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
    return _crop(tf.constant(image_bytes), tf.constant(box, tf.float32)).numpy()


@tf.function(
    input_signature=[
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([4], tf.float32),
    ]
)
def _crop(image_bytes: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    image = decoding.decode(
        image_bytes,
        lambda size: preprocessing.choose_box(size, box),
        image_size=1,
    )
    return tf.io.encode_png(image.pixels)


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
    height, width = _read_size(tf.constant(image_bytes)).numpy().tolist()
    if box[0] >= width or box[1] >= height:
        raise ValueError(
            f"The box lies outside of the image, which is {width} pixels "
            f"wide and {height} high. Received: {received}"
        )
    return crop_image_bytes(image_bytes, box)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _read_size(image_bytes: tf.Tensor) -> tf.Tensor:
    return decoding.decode(
        image_bytes,
        lambda size: (decoding.whole(size), False),
        image_size=1,
    ).size
