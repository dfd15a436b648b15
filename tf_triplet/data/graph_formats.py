"""Recognizes the format of an image file inside a TensorFlow graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_triplet.data import image_formats

# Bytes of a file that name its format, and the layout of a BMP.
_HEAD_BYTES = 36
_UNKNOWN = "Unknown image file format"
_WANTED = "One of JPEG, PNG, GIF, BMP required."


def format_index(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the place of a file's format in `DECODED`, or one beyond."""
    decoded = image_formats.DECODED
    beyond = len(decoded)
    numbers = [
        decoded.index(name) if name in decoded else beyond
        for name, _ in image_formats.SIGNATURES
    ]
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=_HEAD_BYTES)
    index = tf.constant([*numbers, beyond])[_find_signature(head)]
    is_bmp = index == decoded.index("BMP")
    return tf.where(is_bmp & ~_is_plain_bmp(head), beyond, index)


def _find_signature(head: tf.Tensor) -> tf.Tensor:
    """Returns the place of the first that fits in `SIGNATURES`, or beyond."""
    signatures = image_formats.SIGNATURES
    wanted = np.zeros([len(signatures) + 1, _HEAD_BYTES], np.uint8)
    matters = np.zeros(wanted.shape, np.bool_)
    for row, (_, parts) in enumerate(signatures):
        for at, part in parts:
            wanted[row, at : at + len(part)] = np.frombuffer(part, np.uint8)
            matters[row, at : at + len(part)] = True
    fits = tf.reduce_all((head == wanted) | ~matters, -1)
    return tf.argmax(fits, output_type=tf.int32)


def _is_plain_bmp(head: tf.Tensor) -> tf.Tensor:
    """Whether a BMP has 8, 24 or 32 bits without compression.

    TensorFlow reads others wrongly.
    """
    head = tf.cast(head, tf.int32)
    bits = head[28] + 256 * head[29]
    return (
        ((bits == 8) | (bits == 24) | (bits == 32))
        & tf.reduce_all(head[30:34] == 0)
        # Older headers are shorter and hold these fields elsewhere.
        & (head[14] >= 40)
    )


def refuse(image_bytes: tf.Tensor) -> tf.Tensor:
    """Raises an error that names the format of a file."""
    text = _refusal(image_bytes)
    with tf.control_dependencies([tf.debugging.Assert(False, [text])]):
        return tf.zeros([1, 1, 3], tf.uint8)


def failure(image_bytes: tf.Tensor, max_megapixels: float) -> tf.Tensor:
    """Says why a file could not be decoded.

    Args:
        image_bytes: Scalar string, the bytes of the file.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        Scalar string, a sentence that names the format.
    """
    index = format_index(image_bytes)
    names = tf.constant([*image_formats.DECODED, ""])
    damaged = tf.strings.join(
        [
            "The ",
            names[index],
            " image cannot be decoded: it is damaged or cut short, or has "
            f"more than {max_megapixels:g} million pixels.",
        ]
    )
    is_known = index < len(image_formats.DECODED)
    return tf.where(is_known, damaged, _refusal(image_bytes))


def _refusal(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the text for a file whose format is not decoded."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=_HEAD_BYTES)
    return tf.where(
        tf.strings.length(image_bytes) == 0,
        f"{_UNKNOWN}: the image has 0 bytes. {_WANTED}",
        tf.constant(_refusals())[_find_signature(head)],
    )


def _refusals() -> list[str]:
    """Returns the text for each of `SIGNATURES`, and for unknown bytes."""
    texts = []
    for name, _ in image_formats.SIGNATURES:
        shown = "a BMP of this layout" if name == "BMP" else name
        texts.append(
            f"{_UNKNOWN}: {shown} is not decoded here. {_WANTED} Convert the "
            "image before it is sent."
        )
    return [*texts, f"{_UNKNOWN}. {_WANTED}"]
