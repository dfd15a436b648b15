"""From the bytes of an image file to upright RGB pixels, inside a graph.

It is the one reader of training, evaluation, the check of a catalog and the
exported model. It decodes JPEG, PNG, BMP and GIF (the first frame).
`tf_triplet.data.transcode` converts other formats to one of these.

The size of an image is read from its header first. A JPEG of which only a
smaller image is needed is decoded at a half, a quarter or an eighth of its
scale, which takes much less time. Anything else of more pixels than allowed
is refused before it is decoded, because a file of a few hundred kilobytes can
hold gigabytes of pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_triplet.data import (
    gif_frames,
    graph_formats,
    image_formats,
    orientation,
)

MAX_MEGAPIXELS = 32.0
# What `tf.io.decode_jpeg` may divide the sides of a JPEG by.
_RATIOS = (1, 2, 4, 8)
# A crop of a JPEG is decoded with a margin, because the decoder interpolates
# color between neighbors, and its pixels must not depend on the crop.
_MARGIN = 32
# Larger transparent images are put on white row by row, to save memory.
_AT_ONCE = 1 << 20
_WHITE = 255
# The start of a JPEG, and the marker of Adobe. One in the file overrides it.
_ADOBE = b"\xff\xd8\xff\xee\0\x0eAdobe\0d\0\0\0\0\0"
_ALL_BYTES = 2**31 - 1
# Parts of the graph that are traced once, however many graphs use them.
_BYTES = tf.TensorSpec([], tf.string)
_COUNT = tf.TensorSpec([], tf.int64)
_SIZE = tf.TensorSpec([2], tf.int32)
_WINDOW = tf.TensorSpec([4], tf.int32)
_INDEX = tf.TensorSpec([], tf.int32)
_FLAG = tf.TensorSpec([], tf.bool)


def _traced_once(*signature: tf.TensorSpec):
    return functools.partial(
        tf.function, input_signature=signature, autograph=False
    )


# Takes the `[2]` int32 height and width of the upright image. Returns the
# `[4]` int32 window to keep (top, left, bottom, right) and a boolean, whether
# the pixels must be those of the full scale.
ChooseWindow = Callable[[tf.Tensor], "tuple[tf.Tensor, tf.Tensor | bool]"]


class Decoded(NamedTuple):
    """A part of an image.

    Attributes:
        pixels: `[height, width, 3]` uint8. They may be of a smaller scale
            than the window.
        window: `[4]` int32 top, left, bottom, right of the part, at full
            scale.
        size: `[2]` int32, height and width of the whole image, at full scale.
    """

    pixels: tf.Tensor
    window: tf.Tensor
    size: tf.Tensor


def whole(size: tf.Tensor) -> tf.Tensor:
    """Returns the window that keeps the whole of an image.

    Args:
        size: `[2]` int32, height and width.
    """
    return tf.stack([0, 0, size[0], size[1]])


def decode(
    image_bytes: tf.Tensor,
    choose: ChooseWindow,
    image_size: int,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Decoded:
    """Decodes the part of an image that is needed.

    Args:
        image_bytes: Scalar string, the bytes of a JPEG, PNG, GIF or BMP file.
        choose: Chooses the part, see `ChooseWindow`.
        image_size: The side, in pixels, that the part will be resized to. A
            JPEG is decoded at the smallest scale that has as many pixels.
        max_megapixels: Millions of pixels that are decoded at most. A JPEG
            that has more is decoded at a smaller scale where that may be.

    Returns:
        The part of the image, upright and on white.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not such an image, or
            it has too many pixels.
    """
    most = tf.constant(int(max_megapixels * 1e6), tf.int64)
    pixels, window, size = tf.cond(
        starts_with(image_bytes, b"\xff\xd8\xff"),
        lambda: _decode_jpeg(image_bytes, choose, image_size, most),
        lambda: _decode_other(image_bytes, choose, most),
    )
    pixels.set_shape([None, None, 3])
    return Decoded(
        pixels, tf.ensure_shape(window, [4]), tf.ensure_shape(size, [2])
    )


def starts_with(text: tf.Tensor, prefix: bytes, at: int = 0) -> tf.Tensor:
    """Returns whether a scalar string has some bytes at its start, or at `at`.

    Args:
        text: Scalar string.
        prefix: The bytes.
        at: Where they are expected.
    """
    # `substr` refuses a position behind the end.
    text = text if at == 0 else text + b"\0" * (at + len(prefix))
    return tf.strings.substr(text, at, len(prefix)) == prefix


def is_decoded(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns whether `decode` knows the format of a file.

    Args:
        image_bytes: Scalar string, the bytes of the file.
    """
    return _is_known(image_bytes)


@_traced_once(_BYTES)
def _is_known(image_bytes):
    return graph_formats.format_index(image_bytes) < len(image_formats.DECODED)


def _decode_jpeg(image_bytes, choose, image_size, most) -> Decoded:
    image_bytes, stored, turn, size = _read_jpeg_header(image_bytes)
    window, exact = choose(size)
    exact = tf.convert_to_tensor(exact)
    pixels = _decode_jpeg_part(
        image_bytes, image_size, most, stored, turn, size, window, exact
    )
    return Decoded(pixels, window, size)


@_traced_once(_BYTES)
def _read_jpeg_header(image_bytes):
    """Returns the file, its stored size, orientation and upright size."""
    shape = tf.image.extract_jpeg_shape(image_bytes)
    stored, turn = shape[:2], orientation.jpeg_orientation(image_bytes)
    # Browsers and Pillow take every CMYK for inverted, as Adobe stores it.
    # TensorFlow does so only if a marker says that Adobe stored it.
    marked = tf.cond(
        shape[2] == 4,
        lambda: _ADOBE + tf.strings.substr(image_bytes, 2, _ALL_BYTES),
        lambda: image_bytes,
    )
    return marked, stored, turn, orientation.upright_size(stored, turn)


@_traced_once(_BYTES, _INDEX, _COUNT, _SIZE, _INDEX, _SIZE, _WINDOW, _FLAG)
def _decode_jpeg_part(
    image_bytes, image_size, most, stored, turn, size, window, exact
):
    """Decodes a window of a JPEG, at the scale that is needed."""
    part = orientation.stored_window(window, size, turn)
    smallest = tf.reduce_min(part[2:] - part[:2]) // image_size
    ratio = tf.reduce_sum(tf.cast(smallest >= _RATIOS[1:], tf.int32))
    ratio = tf.where(exact, 0, ratio)
    ratio = tf.cond(
        _pixels(size) > most,
        lambda: _fit(image_bytes, ratio, exact, stored, part, most),
        lambda: ratio,
    )
    pixels = _decode_part(image_bytes, ratio, stored, part)
    return orientation.turn_upright(pixels, turn)


def _pixels(size: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(tf.cast(size, tf.int64), -1)


def _fit(image_bytes, ratio, exact, stored, part, most) -> tf.Tensor:
    """Returns the ratio at which a large JPEG has few enough pixels."""
    ratios = tf.constant(_RATIOS)[:, tf.newaxis]
    counts = _pixels((part[2:] - part[:2] + ratios - 1) // ratios)
    needed = tf.reduce_sum(tf.cast(counts > most, tf.int32))
    allowed = tf.where(exact, 0, len(_RATIOS) - 1)
    # The decoder holds all of a progressive image in memory at any scale.
    fits = (needed <= allowed) & _is_decoded_by_rows(image_bytes)
    with tf.control_dependencies([_check_pixels(fits, "JPEG", stored, most)]):
        return tf.maximum(ratio, tf.minimum(needed, len(_RATIOS) - 1))


def _is_decoded_by_rows(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a JPEG is decoded row by row, not only as a whole.

    Those that are not are progressive, or hold each color in a scan of its
    own.
    """
    head = tf.strings.substr(image_bytes, 0, 1 << 20) + b"\0" * 8
    data = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    last = tf.size(data) - 8

    def more(at, colors, sequential):
        del colors, sequential
        return (at < last) & (data[at] == 0xFF) & (data[at + 1] != 0xDA)

    def step(at, colors, sequential):
        marker = data[at + 1]
        # C4, C8 and CC are no frames.
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker % 4 != 0)
        is_frame |= marker == 0xC0
        is_sequential = (marker == 0xC0) | (marker == 0xC1) | (marker == 0xC9)
        length = data[at + 2] * 256 + data[at + 3]
        found = data[tf.minimum(at + 9, last)]
        # Any number of fill bytes may stand before a marker.
        after = tf.where(marker == 0xFF, at + 1, at + 2 + length)
        return (
            tf.minimum(after, last),
            tf.where(is_frame, found, colors),
            tf.where(is_frame, is_sequential, sequential),
        )

    at, colors, sequential = tf.while_loop(
        more, step, [tf.constant(2), tf.constant(-1), tf.constant(False)]
    )
    in_scan = data[tf.minimum(at + 4, last)]
    return sequential & (in_scan == colors)


def _decode_part(image_bytes, ratio, stored, part) -> tf.Tensor:
    """Decodes a window of a JPEG that is stored, at 1, 1/2, 1/4 or 1/8."""
    scale = tf.constant(_RATIOS)[ratio]
    extent = (stored + scale - 1) // scale
    start, end = part[:2] // scale, (part[2:] + scale - 1) // scale
    first = tf.maximum(start - _MARGIN, 0)
    last = tf.minimum(end + _MARGIN, extent)
    # The fast DCT differs between CPUs by a few levels.
    options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def decode_all(ratio):
        return tf.io.decode_jpeg(image_bytes, ratio=ratio, **options)

    def decode_some(ratio):
        window = tf.concat([first, last - first], 0)
        found = tf.image.decode_and_crop_jpeg(
            image_bytes, window, ratio=ratio, **options
        )
        start_here, end_here = start - first, end - first
        return found[start_here[0] : end_here[0], start_here[1] : end_here[1]]

    is_part = tf.reduce_any(end - start < extent)
    return tf.switch_case(
        ratio + len(_RATIOS) * tf.cast(is_part, tf.int32),
        [lambda r=r: decode_all(r) for r in _RATIOS]
        + [lambda r=r: decode_some(r) for r in _RATIOS],
    )


def _decode_other(image_bytes, choose, most) -> Decoded:
    pixels = _decode_whole(image_bytes, most)
    size = tf.shape(pixels)[:2]
    window, _ = choose(size)
    top, left, bottom, right = tf.unstack(window)
    return Decoded(pixels[top:bottom, left:right], window, size)


@_traced_once(_BYTES, _COUNT)
def _decode_whole(image_bytes, most):
    """Decodes a PNG, GIF or BMP."""
    pixels = tf.switch_case(
        graph_formats.format_index(image_bytes) - 1,
        [
            lambda: _decode_png(image_bytes, most),
            lambda: _decode_gif(image_bytes, most),
            lambda: _decode_bmp(image_bytes, most),
            lambda: graph_formats.refuse(image_bytes),
        ],
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def _decode_png(image_bytes, most) -> tf.Tensor:
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=28)
    head = tf.cast(head, tf.int64)
    places = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    width = tf.reduce_sum(head[16:20] * places)
    height = tf.reduce_sum(head[20:24] * places)
    size = tf.stack([height, width])
    fits = _pixels(size) <= most
    with tf.control_dependencies([_check_pixels(fits, "PNG", size, most)]):
        image_bytes = tf.identity(image_bytes)
    has_alpha = (head[25] >= 4) | orientation.contains(image_bytes, b"tRNS")
    pixels = tf.cond(
        has_alpha,
        lambda: _on_white(tf.io.decode_png(image_bytes, channels=4)),
        lambda: tf.io.decode_png(image_bytes, channels=3),
    )
    return orientation.turn_upright(
        pixels, orientation.png_orientation(image_bytes)
    )


def _decode_gif(image_bytes, most) -> tf.Tensor:
    frame = gif_frames.first_frame(image_bytes)
    fits = (_pixels(frame.size) <= most) & (_pixels(frame.frame_size) <= most)
    is_whole = tf.debugging.Assert(
        frame.encoded != b"", ["The GIF has no frame, or is cut short."]
    )
    fits = _check_pixels(fits, "GIF", frame.size, most)
    with tf.control_dependencies([fits, is_whole]):
        pixels = tf.io.decode_gif(tf.identity(frame.encoded))[0]
    after = frame.size - frame.place - frame.frame_size
    margins = tf.stack([frame.place, after], -1)
    margins = tf.concat([margins, [[0, 0]]], 0)
    return tf.pad(pixels, margins, constant_values=_WHITE)


def _decode_bmp(image_bytes, most) -> tf.Tensor:
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=54)
    sides = tf.bitcast(tf.reshape(head[18:26], [2, 4]), tf.int32)
    size = tf.abs(tf.cast(sides[::-1], tf.int64))
    fits = _check_pixels(_pixels(size) <= most, "BMP", size, most)
    with tf.control_dependencies([fits]):
        pixels = tf.io.decode_bmp(image_bytes)

    def color():
        start = 14 + tf.bitcast(head[14:18], tf.int32)
        count = tf.bitcast(head[46:50], tf.int32)
        count = tf.where((count > 0) & (count < 256), count, 256)
        # Behind the last color stand pixels. Those that are no color of the
        # table are black.
        table = tf.strings.substr(image_bytes, start, 4 * count)
        table = tf.io.decode_raw(table, tf.uint8, fixed_length=4 * 256)
        table = tf.reshape(table, [256, 4])[:, 2::-1]
        return tf.gather(table, tf.cast(pixels[..., 0], tf.int32))

    # The fourth byte of a pixel is padding, not alpha.
    return tf.cond(tf.shape(pixels)[-1] == 1, color, lambda: pixels[..., :3])


def _check_pixels(fits, name, size, most) -> tf.Operation:
    height, width = tf.unstack(tf.strings.as_string(size))
    limit = tf.strings.as_string(tf.cast(most, tf.float32) / 1e6, shortest=True)
    text = tf.strings.join(
        [
            f"The {name} of ",
            *(width, " x ", height, " pixels has more than the ", limit),
            " million that are decoded. Make it smaller, or raise "
            "data.max_megapixels.",
        ]
    )
    return tf.debugging.Assert(fits, [text])


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Composites `[h, w, 4]` uint8 RGBA on white."""
    return tf.cond(
        tf.reduce_prod(tf.shape(pixels)[:2]) <= _AT_ONCE,
        lambda: _blend(pixels),
        lambda: tf.map_fn(
            _blend,
            pixels,
            fn_output_signature=tf.TensorSpec([None, 3], tf.uint8),
        ),
    )


def _blend(pixels: tf.Tensor) -> tf.Tensor:
    color = tf.cast(pixels[..., :3], tf.uint16)
    alpha = tf.cast(pixels[..., 3:], tf.uint16)
    # The largest sum is 255 * 255 + 127 and fits. What follows divides it by
    # 255 exactly.
    mixed = color * alpha + _WHITE * (_WHITE - alpha) + 127
    shift = tf.bitwise.right_shift
    eight = tf.constant(8, tf.uint16)
    mixed = shift(mixed + 1 + shift(mixed, eight), eight)
    return tf.cast(mixed, tf.uint8)
