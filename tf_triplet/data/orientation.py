"""The EXIF orientation of a JPEG, read and undone inside a TensorFlow graph.

TensorFlow decodes a JPEG as it is stored. Cameras store photos sideways and
note in the EXIF header how to turn them.
"""

from __future__ import annotations

import tensorflow as tf

# EXIF lies in the first segments of a JPEG, each of at most 64 KiB.
_HEAD_BYTES = 1 << 18
_ORIENTATION_TAG = 0x0112


def jpeg_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG.

    It lies in tag 0x0112 of the first TIFF directory of the first APP1
    segment that holds EXIF.

    Args:
        image_bytes: Scalar string, the bytes of a JPEG.

    Returns:
        Scalar int32, 1 to 8. It is 1 (upright) if the file does not say.

    References:
        CIPA DC-008 (EXIF 2.32) and TIFF 6.0.
    """
    head = tf.strings.substr(image_bytes, 0, _HEAD_BYTES)
    data = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    size = tf.size(data)

    def byte(at):
        inside = (at >= 0) & (at < size)
        return tf.where(inside, data[tf.clip_by_value(at, 0, size - 1)], 0)

    def more(at, found):
        marker = byte(at + 1)
        return (
            (found < 0)
            & (at + 4 <= size)
            & (byte(at) == 0xFF)
            # The compressed image begins; no further header follows.
            & (marker != 0xDA)
        )

    def step(at, found):
        is_exif = (byte(at + 1) == 0xE1) & (
            tf.strings.substr(head, at + 4, 6) == b"Exif\x00\x00"
        )
        length = byte(at + 2) * 256 + byte(at + 3)
        return (
            # A length counts its own two bytes. A smaller one is corrupt.
            at + 2 + tf.maximum(length, 2),
            tf.where(is_exif, at + 10, found),
        )

    _, tiff = tf.while_loop(more, step, [tf.constant(2), tf.constant(-1)])
    orientation = tf.cond(
        tiff >= 0,
        lambda: _tiff_orientation(data, tiff),
        lambda: tf.constant(1),
    )
    known = (orientation >= 1) & (orientation <= 8)
    return tf.where(known, orientation, 1)


def _tiff_orientation(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Reads tag 0x0112 of the TIFF header at `start`; 1 if it is absent."""
    little = tf.gather(data, start) == ord("I")
    size = tf.size(data)

    def number(at, count):
        # `at` may have any shape. The bytes are added as a last axis.
        at = tf.expand_dims(at, -1) + tf.range(count)
        inside = (at >= 0) & (at < size)
        values = tf.where(
            inside, tf.gather(data, tf.clip_by_value(at, 0, size - 1)), 0
        )
        scale = tf.constant([1 << (8 * i) for i in range(count)], tf.int32)
        values = tf.where(little, values, tf.reverse(values, [-1]))
        return tf.reduce_sum(values * scale, -1)

    directory = start + number(start + 4, 4)
    count = number(directory, 2)
    entries = directory + 2 + 12 * tf.range(tf.clip_by_value(count, 0, 512))
    is_orientation = number(entries, 2) == _ORIENTATION_TAG
    values = tf.boolean_mask(number(entries + 8, 2), is_orientation)
    return tf.concat([values, [1]], 0)[0]


def turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns `[h, w, 3]` pixels upright, given the EXIF orientation 1 to 8."""
    transposed = tf.transpose(pixels, [1, 0, 2])
    return tf.switch_case(
        orientation - 1,
        [
            lambda: pixels,
            lambda: pixels[:, ::-1],
            lambda: pixels[::-1, ::-1],
            lambda: pixels[::-1],
            lambda: transposed,
            lambda: transposed[:, ::-1],
            lambda: transposed[::-1, ::-1],
            lambda: transposed[::-1],
        ],
    )
