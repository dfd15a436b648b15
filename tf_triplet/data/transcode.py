"""Converts image files to formats that TensorFlow can decode."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import struct
import threading
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from tf_triplet.data import image_formats
from tf_triplet.data.decoding import MAX_MEGAPIXELS

# What Pillow raises if bytes are not an image, or only a part of one. It does
# not say which errors these are, and its decoders add their own.
DECODE_ERRORS = (Exception,)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose files name themselves by their first bytes, and that Pillow
# reads by itself. It would hand EPS to another program, and take text for TGA.
_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000"),
    *("MPO", "PNG", "PPM", "PSD", "QOI", "SGI", "TIFF", "WEBP"),
)
# Pillow's names of formats, where they differ from `image_formats`.
_PILLOW_NAMES = {
    "WebP": "WEBP",
    "JPEG 2000": "JPEG2000",
    "Photoshop (PSD)": "PSD",
}
_opening = threading.Lock()


def servable(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """Returns an image in a format that TensorFlow decodes.

    JPEG, PNG, GIF and plain BMP files are returned unchanged and unchecked.
    Any other file that Pillow opens, such as WebP, TIFF, AVIF or a compressed
    BMP, is converted to a lossless PNG of its first frame, upright and on
    white.

    Args:
        data: The bytes of an image file.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        The bytes of a JPEG, PNG, GIF or BMP file.

    Raises:
        ValueError: If the bytes are not an image, or have too many pixels.
    """
    if is_servable(data):
        return data
    output = io.BytesIO()
    image = _read(data, max_megapixels)
    image.save(output, "PNG", compress_level=1)
    return output.getvalue()


def to_bmp(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """Converts an image to a BMP, which takes next to no time to read again.

    The arguments and errors are those of `servable`, and so are the pixels.
    """
    image = _read(data, max_megapixels)
    stride = (3 * image.width + 3) // 4 * 4
    # Rows are stored from the bottom to the top.
    pixels = image.tobytes("raw", "BGR", stride, -1)
    sizes = (54 + len(pixels), 0, 0, 54, 40, image.width, image.height, 1, 24)
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", *sizes, *([0] * 6))
    return header + pixels


def is_servable(data: bytes) -> bool:
    """Tells whether TensorFlow decodes the format of a file.

    In BMP files of 1, 4 or 16 bits, and in those that are compressed,
    TensorFlow ignores the palette or takes padding for alpha.

    Args:
        data: The bytes of the file.
    """
    name = image_formats.detect(data)
    if name != "BMP":
        return name in image_formats.DECODED
    bits, compression = struct.unpack("<HI", data[28:34].ljust(6, b"\0"))
    header = int.from_bytes(data[14:15], "little")
    return bits in (8, 24, 32) and compression == 0 and header >= 40


def describe(data: bytes, error: str = "") -> str:
    """Says why bytes cannot be read as an image.

    Args:
        data: The bytes of a file that could not be read.
        error: The text of the error that was raised.
    """
    if not data:
        return "empty, 0 bytes"
    name = image_formats.detect(data) or _open_name(data)
    if not name:
        return f"not an image, it begins with {data[:12]!r}"
    if not _is_supported(name):
        return f"{name}, which is not read here. {image_formats.advise(name)}"
    error = _shorten(error).removeprefix("The bytes are not a readable image: ")
    if "million" in error or "cannot be converted" in error:
        return error
    if image_formats.looks_cut_short(data):
        return f"cut short or damaged: the {name} file has no end ({error})"
    return f"cut short or damaged: a {name} file ({error})"


def _shorten(error: str) -> str:
    """Returns the part of TensorFlow's error that names the cause."""
    asserted = error.partition("assertion failed: [")[2]
    if asserted:
        return asserted.split("]")[0]
    trace = ("Graph execution error", "Detected at node", "Node: ", "File ")
    for line in error.splitlines():
        text = re.sub(r"^\{\{[^}]*\}\}\s*", "", line.strip())
        if text and not text.startswith(trace) and "root error" not in text:
            return text.split(" [[")[0].split(" [Op:")[0][:300]
    return "unknown error"


def _is_supported(name: str) -> bool:
    if name in image_formats.DECODED:
        return True
    if name == "HEIC":
        return reads_heif()
    return _PILLOW_NAMES.get(name, name) in _readable_formats()


def _open_name(data: bytes) -> str:
    """Returns Pillow's name for a format; empty if it cannot open it."""
    try:
        with _quiet(), _open(data) as image:
            return image.format or ""
    except DECODE_ERRORS:
        return ""


@functools.lru_cache(maxsize=1)
def _register_heif() -> bool:
    """Lets Pillow read HEIC, if the extra `heif` is installed."""
    try:
        pi_heif = importlib.import_module("pi_heif")
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


def reads_heif() -> bool:
    """Tells whether HEIC files can be read: the extra `heif` is installed."""
    with _opening:
        return _register_heif()


def _open(data: bytes) -> Image.Image:
    if image_formats.detect(data) == "HEIC":
        reads_heif()
    return Image.open(io.BytesIO(data), formats=_readable_formats())


def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def _quiet():
    """Hides Pillow's warnings about odd metadata, which does no harm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(data: bytes, max_megapixels: float) -> Image.Image:
    """Reads the first frame of an image as RGB, upright and on white."""
    try:
        with _open(data) as image:
            _check_pixels(image, max_megapixels)
            image.seek(0)
            image.load()
            return _turn(_on_white(image), _orientation(image))
    except _ConversionError as error:
        raise ValueError(str(error)) from error
    except DECODE_ERRORS as error:
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "the format is unknown"
            name = image_formats.detect(data)
            if name and _is_supported(name):
                why = f"it is {name}, but damaged"
            elif name:
                why = f"it is {name}. {image_formats.advise(name)}"
        raise ValueError(
            f"The bytes are not a readable image: {why.rstrip('.')}. "
            f"Received: {len(data)} bytes that begin with {data[:12]!r}"
        ) from error


class _ConversionError(ValueError):
    """An image is whole, but is not converted."""


def _check_pixels(image: Image.Image, max_megapixels: float) -> None:
    if image.width * image.height > int(max_megapixels * 1e6):
        raise _ConversionError(
            f"The {image.format} of {image.width} x {image.height} pixels has "
            f"more than the {max_megapixels:g} million that are decoded. Make "
            "it smaller, or raise data.max_megapixels."
        )


def _orientation(image: Image.Image) -> int:
    """Returns the orientation that EXIF tells of an image that is loaded."""
    # Loading has turned a TIFF and has removed the tag.
    exif = image.getexif()
    # Pillow also looks in XMP, which other readers do not.
    stored = Image.Exif()
    if image.format != "TIFF" and image.info.get("exif"):
        stored.load(image.info["exif"])
        exif = stored
    elif image.format != "TIFF":
        return 1
    return exif.get(_ORIENTATION, 1)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    """Converts an image to RGB and composites it on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        # TensorFlow also keeps the high byte of a 16-bit PNG.
        pixels = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        low, high = image.getextrema()
        raise _ConversionError(
            f"A {image.format} of {kind} pixels cannot be converted, because "
            "their range is not known. Save it with 8 or 16 bits. Received: "
            f"values from {low:g} to {high:g}"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA"))
    return Image.fromarray(_blend(rgba))


def _blend(rgba: np.ndarray) -> np.ndarray:
    """Composites `[h, w, 4]` uint8 on white as `decoding` does."""
    color, alpha = rgba[..., :3], rgba[..., 3:]
    mixed = color * alpha.astype(np.uint16)
    mixed += 255 * (255 - alpha.astype(np.uint16)) + 127
    mixed += 1 + (mixed >> 8)
    return (mixed >> 8).astype(np.uint8)
