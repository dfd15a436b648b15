"""The part of an image that a box marks, as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_triplet.data import preprocessing


def crop_image_bytes(image_bytes: bytes, box: Sequence[float]) -> bytes:
    """Returns what `preprocessing.crop` keeps of an image, as a PNG's bytes.

    Lossless: a model that is sent it sees the pixels that it sees of the
    file and its box.

    Args:
        image_bytes: a file that `preprocessing.decode_image` reads.
        box: `[4]` floats, see `preprocessing.crop`.
    """
    pixels = preprocessing.decode_image(tf.constant(image_bytes))
    pixels = preprocessing.crop(pixels, tf.constant(box, tf.float32))
    return tf.io.encode_png(pixels).numpy()


def ask_for(image_bytes: bytes, box: Sequence[float]) -> bytes:
    """Checks a box that a person typed, then crops to it.

    Raises:
        ValueError: no box, or one that lies outside of the image.
    """
    told = ",".join(f"{side:g}" for side in box)
    if len(box) != 4 or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        raise ValueError(
            "A box is x1,y1,x2,y2 in pixels, with 0 <= x1 < x2 and 0 <= y1 < "
            f"y2. Received: {told}"
        )
    pixels = preprocessing.decode_image(tf.constant(image_bytes))
    height, width = pixels.shape[:2]
    if box[0] >= width or box[1] >= height:
        raise ValueError(
            f"The box lies outside of the image, which is {width} pixels "
            f"wide and {height} high. Received: {told}"
        )
    return crop_image_bytes(image_bytes, box)
