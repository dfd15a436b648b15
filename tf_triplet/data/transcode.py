"""Any image file's bytes, as bytes that TensorFlow can decode."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

# How the files begin that TensorFlow surely decodes as Pillow does.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
# What Pillow raises on bytes that are not, or not wholly, an image.
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
    """Returns the image in a format that TensorFlow decodes.

    JPEG, PNG, GIF and plain (24-bit) BMP come back untouched and unchecked.
    Whatever else Pillow opens (WebP, TIFF, a BMP with a palette, ...) comes
    back as a lossless PNG of its first frame, upright.

    Args:
        data: The bytes of an image file.

    Raises:
        ValueError: the bytes are no image.
    """
    if data.startswith(MAGIC) or _is_plain_bmp(data):
        return data
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.seek(0)
            upright = _eight_bit(ImageOps.exif_transpose(image))
            output = io.BytesIO()
            # Fast rather than small: these bytes are decoded at once.
            upright.save(output, "PNG", compress_level=1, exif=b"")
    except DECODE_ERRORS as error:
        raise ValueError(
            f"Not an image that can be read: {error or type(error).__name__}."
            f" Received: {len(data)} bytes that begin with {data[:12]!r}"
        ) from error
    return output.getvalue()


def _is_plain_bmp(data: bytes) -> bool:
    """TensorFlow reads past palettes and takes padding bytes for alpha."""
    return (
        data.startswith(b"BM")
        and int.from_bytes(data[28:30], "little") == 24
        and int.from_bytes(data[30:34], "little") == 0
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    """Returns the image as L, RGB or RGBA, whichever holds all of it."""
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    if image.mode.startswith("I;16"):
        # The high byte, as TensorFlow reads a 16-bit PNG.
        pixels = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(pixels.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    if image.mode in ("LA", "La", "PA", "RGBa"):
        return image.convert("RGBA")
    if image.mode == "P":
        transparent = "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
