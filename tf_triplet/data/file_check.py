"""Reads, hashes and decodes image files, and reports what is wrong."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from concurrent import futures

import tensorflow as tf

from tf_triplet import progress
from tf_triplet.data import decoding, near_duplicates, transcode

# Files submitted to the pool at once. A million futures would fill memory.
_CHUNK = 2_000


@dataclasses.dataclass(frozen=True)
class CheckedFile:
    """The hash and size of an image file, or why it cannot be read.

    Attributes:
        reason: What is wrong with the file. Empty if it can be read.
        digest: SHA-256 of the bytes of a readable file.
        width: Width in pixels, with the EXIF orientation applied.
        height: Height in pixels, with the EXIF orientation applied.
        thumbnail: The result of `near_duplicates.shrink` for a readable
            image.
    """

    reason: str = ""
    digest: bytes = b""
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""


def check_files(
    paths: list[str],
    workers: int | None,
    show_progress: bool,
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> list[CheckedFile]:
    """Checks files in threads.

    Args:
        paths: The files.
        workers: The number of threads. None means one per processor.
        show_progress: Whether to show the progress.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        One result per path, in the same order.
    """
    checked: list[CheckedFile] = []
    pool = futures.ThreadPoolExecutor(workers or os.cpu_count())
    bar = progress.show_progress(
        "Checking images", total=len(paths), show=show_progress
    )

    def check(path):
        return check_file(path, max_megapixels)

    with pool, warnings.catch_warnings(), bar as advance:
        # Pillow warns about odd metadata, which does no harm here.
        warnings.simplefilter("ignore")
        for start in range(0, len(paths), _CHUNK):
            for result in pool.map(check, paths[start : start + _CHUNK]):
                checked.append(result)
                advance(len(checked))
    return checked


def check_file(
    path: str, max_megapixels: float = decoding.MAX_MEGAPIXELS
) -> CheckedFile:
    """Reads and decodes one file with the reader of training.

    Args:
        path: The file.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        The result. A file that cannot be read is a result, not an error.
    """
    try:
        # Opening a pipe would wait for ever.
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return CheckedFile("not a file, but a pipe or a device")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return CheckedFile("missing")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return CheckedFile(f"cannot be opened: {why}")
    if not data:
        return CheckedFile(transcode.describe(data))
    try:
        decoded = data
        if not transcode.is_servable(data):
            decoded = transcode.to_bmp(data, max_megapixels)
        size, thumbnail = _decode(max_megapixels)(decoded)
        height, width = size.numpy().tolist()
    except (ValueError, tf.errors.OpError) as error:
        return CheckedFile(transcode.describe(data, str(error)))
    digest = hashlib.sha256(data).digest()
    thumbnail = near_duplicates.shrink(thumbnail.numpy())
    return CheckedFile("", digest, width, height, thumbnail)


@functools.lru_cache(maxsize=8)
def _decode(
    max_megapixels: float,
) -> Callable[[bytes], tuple[tf.Tensor, tf.Tensor]]:
    """Returns what decodes an image into its height and width, and a copy."""
    side = near_duplicates.SIDE

    # Damage to a JPEG shows at any scale, and a small copy is decoded at the
    # smallest.
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(image_bytes):
        image = decoding.decode(
            image_bytes,
            lambda size: (decoding.whole(size), False),
            image_size=side,
            max_megapixels=max_megapixels,
        )
        small = tf.image.resize(image.pixels, [side, side], "area")
        return image.size, tf.cast(tf.round(small), tf.uint8)

    return decode
