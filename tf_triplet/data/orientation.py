"""The EXIF orientation of a JPEG or PNG, read and undone inside a graph.

TensorFlow decodes an image as it is stored. Cameras store photos sideways and
note in the EXIF header how to turn them.
"""

from __future__ import annotations

import tensorflow as tf

# EXIF lies in the first segments of a JPEG, each of at most 64 KiB.
_HEAD_BYTES = 1 << 18
# A TIFF header is read up to here. Its first directory lies near its start.
_TIFF_BYTES = 1 << 16
_ORIENTATION_TAG = 0x0112
# Bytes between two segments of a JPEG after which no EXIF is looked for.
_MOST_SKIPPED = 1 << 12
# The length of a segment that holds a header and one tag.
_LEAST_EXIF = 30
_TIFF_STARTS = (b"II*\0", b"MM\0*")


def contains(data: tf.Tensor, part: bytes) -> tf.Tensor:
    """Returns whether a scalar string contains some bytes."""
    # Splitting is several times as fast as a regular expression.
    pieces = tf.raw_ops.StringSplitV2(
        input=tf.expand_dims(data, 0), sep=part, maxsplit=1
    )
    return pieces.shape[1] > 1


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
    return tf.cond(
        # Most images have none, and the walk over the segments is costly.
        contains(head, b"Exif\x00\x00"),
        lambda: _tiff_orientation(head, _find_in_jpeg(head)),
        lambda: tf.constant(1),
    )


def png_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads the orientation of the eXIf chunk of a PNG.

    Args:
        image_bytes: Scalar string, the bytes of a PNG.

    Returns:
        Scalar int32, 1 to 8. It is 1 (upright) if the file does not say.

    References:
        Portable Network Graphics (third edition), chunk eXIf.
    """
    return tf.cond(
        contains(image_bytes, b"eXIf"),
        lambda: _tiff_orientation(image_bytes, _find_in_png(image_bytes)),
        lambda: tf.constant(1),
    )


def _find_in_jpeg(head: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF header of the EXIF begins; -1 if nowhere."""
    data = tf.io.decode_raw(head, tf.uint8)
    size = tf.size(data)

    def byte(at):
        return _number(data, at, 1, False)

    def more(at, found, skipped):
        # The compressed image begins; no further header follows.
        is_scan = (byte(at) == 0xFF) & (byte(at + 1) == 0xDA)
        is_lost = skipped > _MOST_SKIPPED
        return (found < 0) & (at + 4 <= size) & ~is_scan & ~is_lost

    def step(at, found, skipped):
        marker = byte(at + 1)
        # Any number of 0xFF may stand before a marker. Decoders also skip
        # what else stands there.
        is_marker = (byte(at) == 0xFF) & (marker != 0xFF) & (marker != 0)
        # These stand alone, and have no length.
        is_marker &= (marker != 1) & ((marker < 0xD0) | (marker > 0xD7))
        # A length counts its own two bytes. A smaller one is corrupt.
        length = tf.maximum(_number(data, at + 2, 2, False), 2)
        is_exif = (
            (marker == 0xE1)
            & (length >= _LEAST_EXIF)
            & (tf.strings.substr(head, at + 4, 6) == b"Exif\x00\x00")
        )
        return (
            tf.where(is_marker, at + 2 + length, at + 1),
            tf.where(is_marker & is_exif, at + 10, found),
            tf.where(is_marker, skipped, skipped + 1),
        )

    start = [tf.constant(2), tf.constant(-1), tf.constant(0)]
    return tf.while_loop(more, step, start)[1]


def _find_in_png(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF header of the eXIf begins; -1 if nowhere."""
    data = tf.io.decode_raw(image_bytes, tf.uint8)
    size = tf.size(data)

    def more(at, found):
        return (found < 0) & (at >= 0) & (at + 8 <= size)

    def step(at, found):
        is_exif = tf.strings.substr(image_bytes, at + 4, 4) == b"eXIf"
        length = _number(data, at, 4, False)
        # A length of 2 GiB and more is negative here, and corrupt.
        after = tf.where((length < 0) | (length > size), size, at + 12 + length)
        return after, tf.where(is_exif, at + 8, found)

    return tf.while_loop(more, step, [tf.constant(8), tf.constant(-1)])[1]


def _number(
    data: tf.Tensor, at: tf.Tensor, count: int, little: tf.Tensor | bool
) -> tf.Tensor:
    """Reads int32 numbers of `count` bytes. Outside of the data lie zeros.

    Args:
        data: `[size]` uint8.
        at: Where they begin, of any shape.
        count: The number of bytes.
        little: Whether the first byte is the least.
    """
    # The bytes are added as a last axis.
    at = tf.expand_dims(at, -1) + tf.range(count)
    inside = (at >= 0) & (at < tf.size(data))
    values = tf.gather(data, tf.clip_by_value(at, 0, tf.size(data) - 1))
    values = tf.where(inside, tf.cast(values, tf.int32), 0)
    scale = tf.constant([1 << (8 * i) for i in range(count)], tf.int32)
    scale = tf.where(little, scale, scale[::-1])
    return tf.reduce_sum(values * scale, -1)


def _tiff_orientation(image_bytes: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Reads tag 0x0112 of the TIFF header at `start`; 1 if it is absent."""
    start = tf.where(start < 0, tf.strings.length(image_bytes), start)
    # A byte is added, because an empty tensor cannot be gathered from.
    tiff = tf.strings.substr(image_bytes, start, _TIFF_BYTES) + b"\0"
    data = tf.io.decode_raw(tiff, tf.uint8)
    little = data[0] == ord("I")
    is_tiff = tf.reduce_any(
        [tf.strings.substr(tiff, 0, 4) == start for start in _TIFF_STARTS]
    )
    directory = _number(data, 4, 4, little)
    count = _number(data, directory, 2, little)
    entries = directory + 2 + 12 * tf.range(tf.clip_by_value(count, 0, 512))
    tags = _number(data, entries, 2, little)
    kinds = _number(data, entries + 2, 2, little)
    counts = _number(data, entries + 4, 4, little)
    is_short = (kinds == 3) & ((counts == 1) | (counts == 2))
    is_long = (kinds == 4) & (counts == 1)
    values = tf.where(
        is_long,
        _number(data, entries + 8, 4, little),
        _number(data, entries + 8, 2, little),
    )
    # Only the first entry of the tag counts, if it is a whole number.
    is_found = is_tiff & (tags == _ORIENTATION_TAG) & (is_short | is_long)
    found = tf.concat([tf.boolean_mask(values, is_found), [1]], 0)[0]
    return tf.where((found >= 1) & (found <= 8), found, 1)


def turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns `[h, w, 3]` pixels upright, given the EXIF orientation 1 to 8."""
    return tf.cond(
        orientation > 1,
        lambda: _turn(pixels, orientation),
        lambda: pixels,
    )


def _turn(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    mirrored, flipped, transposed = _steps(orientation)
    pixels = tf.cond(
        transposed, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
    )
    return tf.reverse(pixels, tf.boolean_mask([0, 1], [flipped, mirrored]))


def _steps(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Says what turns an image upright.

    Returns:
        Three booleans: whether it is mirrored left to right and flipped top
        to bottom, after it was transposed.
    """
    mirrored = tf.reduce_any(orientation == tf.constant([2, 3, 6, 7]))
    flipped = tf.reduce_any(orientation == tf.constant([3, 4, 7, 8]))
    return mirrored, flipped, orientation >= 5


def upright_size(stored: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns `[2]` height and width after turning, from those stored."""
    return tf.where(orientation >= 5, stored[::-1], stored)


def stored_window(
    window: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor
) -> tf.Tensor:
    """Finds the part of a stored image that a window of the upright one is.

    Args:
        window: `[4]` int32 top, left, bottom, right in the upright image.
        size: `[2]` int32, height and width of the upright image.
        orientation: The EXIF orientation, 1 to 8.

    Returns:
        `[4]` int32 top, left, bottom, right in the image as it is stored.
    """
    mirrored, flipped, transposed = _steps(orientation)
    top, left, bottom, right = tf.unstack(window)
    height, width = size[0], size[1]
    top, bottom = (
        tf.where(flipped, height - bottom, top),
        tf.where(flipped, height - top, bottom),
    )
    left, right = (
        tf.where(mirrored, width - right, left),
        tf.where(mirrored, width - left, right),
    )
    return tf.where(
        transposed,
        tf.stack([left, top, right, bottom]),
        tf.stack([top, left, bottom, right]),
    )
