"""From an image file's bytes to the pixels that the encoder sees.

The one place that decodes, crops, resizes and augments: training, evaluation
and the exported SavedModel call the same functions, so an embedding computed
from the same bytes is the same everywhere. Everything is TensorFlow, and
runs inside a graph.

JPEG (gray, RGB, CMYK; turned upright by its EXIF orientation), PNG, BMP and
GIF (first frame) are decoded here; an alpha channel is laid on white. What
TensorFlow cannot read (WebP, TIFF, …) becomes a PNG first, see
`tf_triplet.data.transcode`.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

RESIZE_METHODS = ("area", "bilinear")
# EXIF sits in the first segments of a JPEG, each at most 64 KiB.
_HEAD_BYTES = 1 << 18
_ORIENTATION_TAG = 0x0112


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """How an image file becomes the pixels that an encoder takes.

    Evaluation and the exported model must agree on it, so that both compute
    the same embedding.

    Attributes:
        image_size: Side of the square result, in pixels. The aspect ratio
            is not kept.
        resize: Resize method, "area" (the paper's) or "bilinear"
            (antialiased).
        use_boxes: Whether an image is cropped to its box, where it has one.

    Raises:
        ValueError: If `resize` is not a known method.

    Example:

    >>> InputSpec(image_size=224)
    InputSpec(image_size=224, resize='area', use_boxes=True)
    """

    image_size: int
    resize: str = "area"
    use_boxes: bool = True

    def __post_init__(self) -> None:
        _check_resize(self.resize)


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one image, upright, on white.

    Args:
        image_bytes: scalar string, a JPEG, PNG, GIF or BMP file.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image.
    """
    is_jpeg = _starts_with(image_bytes, b"\xff\xd8\xff")
    pixels = tf.cond(
        is_jpeg,
        lambda: _decode_jpeg(image_bytes),
        lambda: _decode_other(image_bytes),
    )
    pixels.set_shape([None, None, 3])
    return pixels


def load_image(
    image_bytes: tf.Tensor,
    image_size: int,
    box: tf.Tensor | None = None,
    resize: str = "area",
) -> tf.Tensor:
    """Decodes, crops and resizes one image, as at test time.

    Args:
        image_bytes: scalar string.
        image_size: pixels a side of the result; the aspect is not kept.
        box: `[4]` floats x1, y1, x2, y2 in pixels of the upright image, or
            NaN for the whole image.
        resize: "area" (the paper's) or "bilinear" (antialiased).

    Returns:
        `[image_size, image_size, 3]` float32 in [0, 1].
    """
    pixels = decode_image(image_bytes)
    if box is not None:
        pixels = crop(pixels, box)
    return resize_image(pixels, image_size, resize)


def load_images(
    image_bytes: tf.Tensor, image_size: int, resize: str = "area"
) -> tf.Tensor:
    """`load_image` for `[n]` strings; n may be 0. For serving."""
    return tf.map_fn(
        lambda one: load_image(one, image_size, resize=resize),
        image_bytes,
        fn_output_signature=tf.TensorSpec(
            [image_size, image_size, 3], tf.float32
        ),
    )


def resize_image(
    pixels: tf.Tensor, image_size: int, resize: str = "area"
) -> tf.Tensor:
    """`[h, w, 3]` uint8 to `[image_size, image_size, 3]` in [0, 1]."""
    _check_resize(resize)
    resized = tf.image.resize(
        tf.cast(pixels, tf.float32) / 255.0,
        [image_size, image_size],
        method=resize,
        antialias=resize == "bilinear",
    )
    resized.set_shape([image_size, image_size, 3])
    return tf.clip_by_value(resized, 0.0, 1.0)


def _check_resize(resize: str) -> None:
    if resize not in RESIZE_METHODS:
        raise ValueError(
            f"`resize` must be area or bilinear. Received: {resize!r}"
        )


def crop(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Cuts `box` out of `pixels`; a NaN box keeps the whole image.

    The box is rounded outwards and cut to the image. One that lies wholly
    outside would leave nothing, so it keeps the nearest row and column.
    """
    return cut(pixels, box_window(tf.shape(pixels)[:2], box))


def box_window(size: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The window that `crop` keeps.

    Args:
        size: `[2]` integers, height and width of the image.
        box: `[4]` floats, see `crop`.

    Returns:
        `[4]` int32 top, left, bottom, right.
    """
    whole = tf.reduce_any(tf.math.is_nan(box))
    width, height = tf.cast(size[1], tf.float32), tf.cast(size[0], tf.float32)
    box = tf.where(whole, tf.stack([0.0, 0.0, width, height]), box)
    left = tf.clip_by_value(tf.floor(box[0]), 0.0, width - 1.0)
    top = tf.clip_by_value(tf.floor(box[1]), 0.0, height - 1.0)
    right = tf.clip_by_value(tf.math.ceil(box[2]), left + 1.0, width)
    bottom = tf.clip_by_value(tf.math.ceil(box[3]), top + 1.0, height)
    return tf.cast(tf.stack([top, left, bottom, right]), tf.int32)


def cut(pixels: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The part of `[h, w, 3]` pixels in a `box_window`."""
    top, left, bottom, right = tf.unstack(window)
    return pixels[top:bottom, left:right]


def jpeg_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns a JPEG's EXIF orientation, 1 to 8; 1 where it has none.

    Walks the segments up to the first APP1 that holds EXIF and reads tag
    0x0112 of its first directory (CIPA DC-008, TIFF 6.0).
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
            # The compressed image begins: no segment of headers follows.
            & (marker != 0xDA)
        )

    def step(at, found):
        is_exif = (byte(at + 1) == 0xE1) & _starts_with(
            tf.strings.substr(head, at + 4, 6), b"Exif\x00\x00"
        )
        length = byte(at + 2) * 256 + byte(at + 3)
        return (
            # A length below 2 is corrupt; it must not stop the walk's end.
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
    """Reads tag 0x0112 of the TIFF directory at `start`; 1 if absent."""
    little = tf.gather(data, start) == ord("I")
    size = tf.size(data)

    def number(at, count):
        # `at` may be any shape; adds a last axis of `count` bytes.
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
    """Undoes an EXIF orientation (1 to 8) of `[h, w, 3]` pixels."""
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


def _starts_with(text: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.strings.substr(text, 0, len(prefix)) == prefix


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    # The accurate DCT: the fast one differs between CPUs by a few levels.
    pixels = tf.io.decode_jpeg(
        image_bytes, channels=3, dct_method="INTEGER_ACCURATE"
    )
    return turn_upright(pixels, jpeg_orientation(image_bytes))


def _decode_other(image_bytes: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_image(image_bytes, expand_animations=False)
    channels = tf.shape(pixels)[-1]
    # A BMP's fourth byte is padding far more often than it is alpha.
    is_bmp = _starts_with(image_bytes, b"BM")
    has_alpha = ((channels == 2) | (channels == 4)) & ~is_bmp
    color = tf.cond(
        channels < 3,
        lambda: tf.repeat(pixels[..., :1], 3, -1),
        lambda: pixels[..., :3],
    )
    return tf.cond(
        has_alpha,
        lambda: _on_white(color, pixels[..., -1:]),
        lambda: color,
    )


def _on_white(color: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Composites uint8 `[h, w, 3]` by `[h, w, 1]` alpha on white."""
    color, alpha = tf.cast(color, tf.int32), tf.cast(alpha, tf.int32)
    mixed = (color * alpha + 255 * (255 - alpha) + 127) // 255
    return tf.cast(mixed, tf.uint8)
