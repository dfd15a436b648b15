"""A folder of training images that are already decoded and shrunk.

Decoding a large photo takes longer than anything else that is done to it. The
first epoch stores each image at a size that still serves the smallest random
crop, and later epochs read that.

A file of the folder is named by a hash of the bytes of the image and of all
that its pixels depend on. An image that has changed is therefore decoded anew,
and several runs may share a folder. Nothing is ever removed from it.

An image that is stored has slightly other pixels than one that is decoded for
each crop, because a crop is then taken of the smaller image. The first epoch
sees the same pixels as all others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.data import decoding, preprocessing, transcode

# Raise it whenever what a file of the folder holds changes.
_FORMAT = 1
# The heights and widths of the image and of what is stored, as int32.
_HEADER_BYTES = 16


def decodable(
    data: tf.Tensor, max_megapixels: float = decoding.MAX_MEGAPIXELS
) -> tf.Tensor:
    """Converts a file that TensorFlow cannot decode to BMP, in a graph.

    Args:
        data: Scalar string, the bytes of an image file.
        max_megapixels: Millions of pixels of an image that is converted.

    Returns:
        Scalar string, the same bytes or those of a BMP.
    """

    def convert(raw):
        # Outside of a graph, the bytes come as an array without dimensions.
        raw = raw.item() if isinstance(raw, np.ndarray) else raw
        return transcode.to_bmp(raw, max_megapixels)

    converted = tf.cond(
        decoding.is_decoded(data),
        lambda: data,
        lambda: tf.numpy_function(convert, [data], tf.string, stateful=False),
    )
    return tf.ensure_shape(converted, [])


def check_boxes(folder: str, with_boxes: bool) -> None:
    """Refuses to store images that are cropped to a box.

    Args:
        folder: The folder, for the message.
        with_boxes: Whether any image is cropped.

    Raises:
        ValueError: If so. What is stored has too few pixels for a small box.
    """
    if with_boxes:
        raise ValueError(
            "`data.cache_dir` stores whole images, shrunk, and the crop to a "
            "box needs the image as it is. Leave it empty, or pass "
            f"--config.data.use_boxes=False. Received: {folder!r}"
        )


@dataclasses.dataclass(frozen=True)
class ShrunkenImages:
    """Reads images, and stores them shrunk.

    Attributes:
        folder: Where they are stored. It is made if need be.
        side: The shorter side that is kept at least, in pixels.
        max_megapixels: Millions of pixels that are decoded at most.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     png = tf.io.encode_png(tf.zeros([40, 60, 3], tf.uint8))
    ...     tf.io.write_file(f"{folder}/a.png", png)
    ...     images = ShrunkenImages(f"{folder}/cache", side=10)
    ...     image = images.read(
    ...         tf.constant(f"{folder}/a.png"),
    ...         lambda size: (decoding.whole(size), False),
    ...     )
    >>> image.pixels.shape.as_list(), image.size.numpy().tolist()
    ([10, 15, 3], [40, 60])
    """

    folder: str | Path
    side: int
    max_megapixels: float = decoding.MAX_MEGAPIXELS

    @classmethod
    def for_crops(
        cls,
        folder: str | Path,
        image_size: int,
        min_crop: float,
        max_megapixels: float,
    ) -> ShrunkenImages:
        """Keeps as many pixels as the smallest crop needs.

        Args:
            folder: Where the images are stored.
            image_size: The side that crops are resized to, in pixels.
            min_crop: The smallest share of the height and width in a crop.
            max_megapixels: Millions of pixels that are decoded at most.
        """
        return cls(folder, math.ceil(image_size / min_crop), max_megapixels)

    def read(
        self, path: tf.Tensor, choose: decoding.ChooseWindow
    ) -> decoding.Decoded:
        """Reads a part of an image, in a graph.

        Args:
            path: Scalar string, the image file.
            choose: Chooses the part, see `decoding.ChooseWindow`.

        Raises:
            tf.errors.InvalidArgumentError: If the file is not an image.
        """
        data = tf.io.read_file(path)
        stored, name = tf.numpy_function(
            self._find, [data], [tf.string, tf.string], stateful=False
        )
        stored, name = tf.ensure_shape(stored, []), tf.ensure_shape(name, [])
        whole, size = tf.cond(
            stored == b"",
            lambda: self._make(data, name),
            lambda: _parse(stored),
        )
        whole.set_shape([None, None, 3])
        window, _ = choose(size)
        ends = tf.cast(window, tf.int64) * tf.cast(
            tf.tile(tf.shape(whole)[:2], [2]), tf.int64
        )
        sides = tf.cast(tf.tile(size, [2]), tf.int64)
        # Rounded outwards, so that at least one pixel is left.
        ends = tf.concat([ends[:2] // sides[:2], -(-ends[2:] // sides[2:])], 0)
        part = preprocessing.cut(whole, tf.cast(ends, tf.int32))
        return decoding.Decoded(part, window, size)

    def _make(self, data, name):
        """Decodes, shrinks and stores an image."""
        image = decoding.decode(
            decodable(data, self.max_megapixels),
            lambda size: (decoding.whole(size), False),
            self.side,
            self.max_megapixels,
        )
        pixels = _shrink(image.pixels, self.side)
        is_done = tf.numpy_function(
            _store, [name, image.size, pixels], tf.bool, stateful=True
        )
        with tf.control_dependencies([is_done]):
            return tf.identity(pixels), image.size

    def _find(self, data):
        """Returns what is stored for the bytes of an image, and its name."""
        data = data.item() if isinstance(data, np.ndarray) else data
        made = f"{_FORMAT} {preprocessing.PIXEL_VERSION} {self.side} "
        digest = hashlib.sha256(made.encode())
        # A larger image than allowed is an error, whatever is stored.
        digest.update(f"{self.max_megapixels} ".encode())
        digest.update(data)
        name = digest.hexdigest()
        path = os.path.join(self.folder, name[:2], name[2:])
        try:
            with open(path, "rb") as file:
                stored = file.read()
        except OSError:
            stored = b""
        return (stored if _is_whole(stored) else b""), path.encode()


def _is_whole(stored: bytes) -> bool:
    if len(stored) < _HEADER_BYTES:
        return False
    *_, height, width = np.frombuffer(stored[:_HEADER_BYTES], "<i4").tolist()
    return len(stored) == _HEADER_BYTES + 3 * height * width


def _parse(stored: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixels that are stored, and the size of the image."""
    header = tf.io.decode_raw(
        tf.strings.substr(stored, 0, _HEADER_BYTES), tf.int32
    )
    pixels = tf.io.decode_raw(stored, tf.uint8)[_HEADER_BYTES:]
    shape = tf.concat([header[2:4], [3]], 0)
    return tf.reshape(pixels, shape), header[:2]


def _shrink(pixels: tf.Tensor, side: int) -> tf.Tensor:
    """Divides the sides by a whole number, if enough pixels are left."""
    size = tf.shape(pixels)[:2]
    ratio = tf.reduce_min(size) // side

    def divide():
        small = tf.raw_ops.ResizeArea(
            images=pixels[tf.newaxis], size=size // ratio
        )[0]
        return tf.cast(tf.round(small), tf.uint8)

    return tf.cond(ratio > 1, divide, lambda: pixels)


def _store(name, size, pixels) -> np.bool_:
    """Writes an image under its name, as a whole or not at all."""
    path = (name.item() if isinstance(name, np.ndarray) else name).decode()
    header = np.int32([*size, *pixels.shape[:2]]).astype("<i4")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=os.path.dirname(path), delete=False
        ) as file:
            file.write(header.tobytes() + pixels.tobytes())
        os.replace(file.name, path)
    except OSError as error:
        _warn(f"{os.path.dirname(os.path.dirname(path))}: {error.strerror}")
        return np.bool_(False)
    return np.bool_(True)


@functools.lru_cache(maxsize=64)
def _warn(why: str) -> None:
    """Warns once. The training goes on without what is not stored."""
    logging.warning("A shrunken image cannot be stored in %s.", why)
