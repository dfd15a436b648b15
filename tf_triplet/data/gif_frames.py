"""Finds the first frame of a GIF inside a TensorFlow graph.

TensorFlow decodes every frame of a GIF, paints what is transparent black, and
believes the size that a file gives for each frame. The first frame is
therefore cut out as a GIF of its own, whose transparent color is white.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_HEADER = 13  # Signature, logical screen, and the place of its color table.
# Zeros behind a file: a block, two color tables and the headers.
_BEHIND = 2048
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9


class Frame(NamedTuple):
    """The first frame of a GIF.

    Attributes:
        size: `[2]` int32, height and width of the whole image.
        place: `[2]` int32, top and left of the frame in it.
        frame_size: `[2]` int32, height and width of the frame.
        encoded: Scalar string, a GIF of the frame alone, on white. It is
            empty if the file has no frame or is cut short.
    """

    size: tf.Tensor
    place: tf.Tensor
    frame_size: tf.Tensor
    encoded: tf.Tensor


def first_frame(image_bytes: tf.Tensor) -> Frame:
    """Cuts out the first frame of a GIF, without decoding it.

    Args:
        image_bytes: Scalar string, the bytes of a GIF.

    Returns:
        The frame, see `Frame`.

    References:
        Graphics Interchange Format, version 89a.
    """
    data = _Bytes(image_bytes)
    # `substr` refuses positions behind the end of a file that is cut short.
    image_bytes = tf.strings.join([image_bytes, bytes(_BEHIND)])
    screen = tf.stack([data.short(8), data.short(6)])
    start, transparent = _find_image(data)
    place = tf.stack([data.short(start + 3), data.short(start + 1)])
    frame_size = tf.stack([data.short(start + 7), data.short(start + 5)])
    # The whole image grows with a frame that leaves it, as in Pillow.
    size = tf.maximum(screen, place + frame_size)
    local = _table_bytes(data, start + 9)
    pixels = start + 10 + local
    # A byte says how many bits a pixel has.
    end = _skip_blocks(data, pixels + 1)
    sides = tf.strings.substr(image_bytes, start + 5, 4)
    encoded = tf.strings.join(
        [
            b"GIF89a",
            sides,
            tf.strings.substr(image_bytes, 10, 3),
            _table(image_bytes, _HEADER, _table_bytes(data, 10), transparent),
            b"\x2c\0\0\0\0",
            sides,
            tf.strings.substr(image_bytes, start + 9, 1),
            _table(image_bytes, start + 10, local, transparent),
            tf.strings.substr(image_bytes, pixels, end - pixels),
            b"\x3b",
        ]
    )
    whole = (data.byte(start) == _IMAGE) & (end <= data.size)
    return Frame(size, place, frame_size, tf.where(whole, encoded, b""))


class _Bytes:
    """The bytes of a file, with zeros behind its end."""

    def __init__(self, image_bytes: tf.Tensor):
        self._data = tf.io.decode_raw(image_bytes + b"\0", tf.uint8)
        self.size = tf.size(self._data) - 1

    def byte(self, at: tf.Tensor | int) -> tf.Tensor:
        # The last byte is the one that was added.
        return tf.cast(self._data[tf.minimum(at, self.size)], tf.int32)

    def short(self, at: tf.Tensor | int) -> tf.Tensor:
        return self.byte(at) + 256 * self.byte(at + 1)


def _find_image(data: _Bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where the first image begins, and its transparent color or -1."""

    def step(at, transparent):
        is_control = data.byte(at + 1) == _GRAPHIC_CONTROL
        told = tf.where(data.byte(at + 3) % 2 == 1, data.byte(at + 6), -1)
        return (
            _skip_blocks(data, at + 2),
            tf.where(is_control, told, transparent),
        )

    return tf.while_loop(
        lambda at, _: data.byte(at) == _EXTENSION,
        step,
        [_HEADER + _table_bytes(data, 10), tf.constant(-1)],
    )


def _skip_blocks(data: _Bytes, at: tf.Tensor) -> tf.Tensor:
    """Returns where a chain of blocks ends: behind the empty one.

    It is more than the size of a file whose end is missing.
    """
    end, _ = tf.while_loop(
        lambda at, _: (at < data.size) & (data.byte(at) > 0),
        # Outside of a graph, a loop over one value returns no list.
        lambda at, unused: (at + 1 + data.byte(at), unused),
        [at, tf.constant(0)],
    )
    return end + 1


def _table_bytes(data: _Bytes, flags_at: tf.Tensor | int) -> tf.Tensor:
    """Returns the size of a color table; 0 if there is none."""
    flags = data.byte(flags_at)
    size = 3 * tf.bitwise.left_shift(2, flags % 8)
    return tf.where(flags >= 128, size, 0)


def _table(
    image_bytes: tf.Tensor,
    start: tf.Tensor | int,
    size: tf.Tensor,
    transparent: tf.Tensor,
) -> tf.Tensor:
    """Returns a color table in which the transparent color is white."""
    table = tf.strings.substr(image_bytes, start, size)
    at = 3 * transparent
    changed = (transparent >= 0) & (at < size)
    at = tf.where(changed, at, 0)
    white = tf.strings.join(
        [
            tf.strings.substr(table, 0, at),
            b"\xff\xff\xff",
            tf.strings.substr(table, tf.minimum(at + 3, size), size),
        ]
    )
    return tf.where(changed, white, table)
