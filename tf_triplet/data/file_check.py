"""Reads, hashes and decodes image files, and reports what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import warnings
from concurrent import futures

from PIL import Image, UnidentifiedImageError

from tf_triplet import progress
from tf_triplet.data.transcode import DECODE_ERRORS

# Files submitted to the pool at once. A million futures would fill memory.
_CHUNK = 2_000
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class CheckedFile:
    """The hash and size of an image file, or why it cannot be read.

    Attributes:
        reason: What is wrong with the file. Empty if it can be read.
        digest: SHA-256 of the bytes of a readable file.
        width: Width in pixels, with the EXIF orientation applied.
        height: Height in pixels, with the EXIF orientation applied.
    """

    reason: str = ""
    digest: bytes = b""
    width: int = 0
    height: int = 0


def check_files(
    paths: list[str], workers: int | None, show_progress: bool
) -> list[CheckedFile]:
    """Checks files in threads.

    Args:
        paths: The files.
        workers: The number of threads. None means one per processor.
        show_progress: Whether to show the progress.

    Returns:
        One result per path, in the same order.
    """
    checked: list[CheckedFile] = []
    pool = futures.ThreadPoolExecutor(workers or os.cpu_count())
    bar = progress.show_progress(
        "Checking images", total=len(paths), show=show_progress
    )
    with pool, warnings.catch_warnings(), bar as advance:
        # Pillow warns about odd metadata, which does no harm here.
        warnings.simplefilter("ignore")
        for start in range(0, len(paths), _CHUNK):
            for result in pool.map(check_file, paths[start : start + _CHUNK]):
                checked.append(result)
                advance(len(checked))
    return checked


def check_file(path: str) -> CheckedFile:
    """Reads and decodes one file.

    Args:
        path: The file.

    Returns:
        The result. A file that cannot be read is a result, not an error.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return CheckedFile("missing")
    except OSError as error:
        return CheckedFile(f"cannot be opened: {error.strerror or error}")
    if not data:
        return CheckedFile("empty, 0 bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        # Pillow cannot decode an image that it has verified.
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                size = size[::-1]
            # Damage to a JPEG also shows when it is decoded at low size.
            image.draft("RGB", (1, 1))
            image.load()
    except UnidentifiedImageError:
        return CheckedFile(f"not an image, it begins with {data[:12]!r}")
    except DECODE_ERRORS as error:
        return CheckedFile(f"cut short or damaged: {error}")
    return CheckedFile("", hashlib.sha256(data).digest(), *size)
