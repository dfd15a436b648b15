"""Converts image files to formats that TensorFlow can decode."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# First bytes of the formats that TensorFlow decodes as Pillow does.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
# What Pillow raises if bytes are not an image, or only a part of one.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    TypeError,
    EOFError,
    Image.DecompressionBombError,
)


def servable(data: bytes) -> bytes:
    """Returns an image in a format that TensorFlow decodes.

    JPEG, PNG, GIF and plain 24-bit BMP files are returned unchanged and
    unchecked. Any other file that Pillow opens, such as WebP, TIFF or a BMP
    with a palette, is converted to a lossless PNG of its first frame, turned
    upright.

    Args:
        data: The bytes of an image file.

    Returns:
        The bytes of a JPEG, PNG, GIF or BMP file.

    Raises:
        ValueError: If the bytes are not an image.
    """
    if data.startswith(MAGIC) or _is_plain_bmp(data):
        return data
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.seek(0)
            upright = _eight_bit(ImageOps.exif_transpose(image))
            output = io.BytesIO()
            # Speed matters here, not size: the bytes are decoded at once.
            upright.save(output, "PNG", compress_level=1, exif=b"")
    except DECODE_ERRORS as error:
        why = error or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "the format is unknown"
        raise ValueError(
            f"The bytes are not a readable image: {why}. "
            f"Received: {len(data)} bytes that begin with {data[:12]!r}"
        ) from error
    return output.getvalue()


def _is_plain_bmp(data: bytes) -> bool:
    """Whether a file is a 24-bit BMP without compression.

    In other BMP files, TensorFlow ignores the palette and takes padding for
    alpha.
    """
    return (
        data.startswith(b"BM")
        and int.from_bytes(data[28:30], "little") == 24
        and int.from_bytes(data[30:34], "little") == 0
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts an image to L, RGB or RGBA without losing color or alpha."""
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16"):
        # TensorFlow also keeps the high byte of a 16-bit PNG.
        pixels = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(pixels.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"the range of pixels of mode {image.mode!r} is not known"
        )
    if image.mode in ("LA", "La", "PA", "RGBa"):
        return image.convert("RGBA")
    if image.mode == "P":
        transparent = "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
