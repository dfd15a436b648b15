"""Reads, hashes and decodes image files, and says what is wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import warnings
from concurrent import futures

from PIL import Image, UnidentifiedImageError
from rich import progress

from tf_triplet.data.transcode import DECODE_ERRORS

# Files submitted to the pool at once: a million futures would fill memory.
_CHUNK = 2_000
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class CheckedFile:
    """One file: why it cannot be read, or its hash and upright size.

    Attributes:
        reason: What is wrong with the file; empty for a good one.
        digest: SHA-256 of a good file's bytes.
        width: Pixels, EXIF orientation applied.
        height: Pixels, EXIF orientation applied.
    """

    reason: str = ""
    digest: bytes = b""
    width: int = 0
    height: int = 0


def check_files(
    paths: list[str], workers: int | None, show_progress: bool
) -> list[CheckedFile]:
    """Checks files in threads, with a progress bar; the order is kept."""
    checked: list[CheckedFile] = []
    bar = progress.Progress(
        *progress.Progress.get_default_columns(),
        progress.MofNCompleteColumn(),
        disable=not show_progress,
        transient=True,
    )
    pool = futures.ThreadPoolExecutor(workers or os.cpu_count())
    with bar, pool, warnings.catch_warnings():
        # Odd metadata of an image that decodes is nobody's business here.
        warnings.simplefilter("ignore")
        task = bar.add_task("Checking images", total=len(paths))
        for start in range(0, len(paths), _CHUNK):
            for result in pool.map(check_file, paths[start : start + _CHUNK]):
                checked.append(result)
                bar.advance(task)
    return checked


def check_file(path: str) -> CheckedFile:
    """Reads and decodes one file; never raises on a bad one."""
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
        # An image that was verified cannot be decoded any more.
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                size = size[::-1]
            # A JPEG at an eighth of its size shows damage just as well.
            image.draft("RGB", (1, 1))
            image.load()
    except UnidentifiedImageError:
        return CheckedFile(f"not an image, it begins with {data[:12]!r}")
    except DECODE_ERRORS as error:
        return CheckedFile(f"cut short or damaged: {error}")
    return CheckedFile("", hashlib.sha256(data).digest(), *size)
