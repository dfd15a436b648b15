"""Names the format of an image file, and says how to convert it.

A file is recognized by its first bytes, never by its name, because phones and
shops save HEIC and WebP files under the name `photo.jpg`.
"""

from __future__ import annotations

# The formats that the graph of an exported model decodes.
DECODED = ("JPEG", "PNG", "GIF", "BMP")
_HEIF_BRANDS = (
    *("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"),
    *("mif1", "msf1"),
)
# Names, and what their files hold at which offset. The first that fits is the
# format. The graph compares the same bytes, see `decoding`.
SIGNATURES: tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...] = (
    ("JPEG", ((0, b"\xff\xd8\xff"),)),
    ("PNG", ((0, b"\x89PNG\r\n\x1a\n"),)),
    ("GIF", ((0, b"GIF87a"),)),
    ("GIF", ((0, b"GIF89a"),)),
    ("BMP", ((0, b"BM"),)),
    ("WebP", ((0, b"RIFF"), (8, b"WEBP"))),
    ("AVIF", ((4, b"ftypavif"),)),
    ("AVIF", ((4, b"ftypavis"),)),
    # A general brand, followed by the one that names the format.
    ("AVIF", ((4, b"ftypmif1"), (16, b"avif"))),
    ("AVIF", ((4, b"ftypmif1"), (20, b"avif"))),
    *(("HEIC", ((4, b"ftyp" + b.encode()),)) for b in _HEIF_BRANDS),
    ("JPEG XL", ((0, b"\xff\x0a"),)),
    ("JPEG XL", ((0, b"\0\0\0\x0cJXL \r\n\x87\n"),)),
    ("JPEG 2000", ((0, b"\0\0\0\x0cjP  \r\n\x87\n"),)),
    ("JPEG 2000", ((0, b"\xff\x4f\xff\x51"),)),
    *(
        ("TIFF", ((0, start),))
        for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    ),
    ("Photoshop (PSD)", ((0, b"8BPS"),)),
    ("PDF", ((0, b"%PDF"),)),
    ("SVG", ((0, b"<svg"),)),
    ("XML", ((0, b"<?xml"),)),
    ("HTML", ((0, b"<!DOCTYPE"),)),
    ("HTML", ((0, b"<!doctype"),)),
    ("HTML", ((0, b"<html"),)),
    ("Git LFS pointer", ((0, b"version https://git-lfs"),)),
    ("ZIP", ((0, b"PK\x03\x04"),)),
    ("MP4 video", ((4, b"ftyp"),)),
    ("ICO", ((0, b"\0\0\x01\0"),)),
)
_ADVICE = {
    "HEIC": (
        "Install the extra `heif` (pip install 'tf-triplet[heif]'), or convert "
        "it to JPEG, for example with `heif-convert photo.heic photo.jpg`"
    ),
    "AVIF": (
        "Install a Pillow that reads AVIF (11.3 or later), or convert it, for "
        "example with `avifdec photo.avif photo.png`"
    ),
    "JPEG XL": "Convert it, for example with `djxl photo.jxl photo.png`",
    "SVG": "It holds shapes and no pixels. Render it to PNG",
    "PDF": "Render its page to PNG, for example with `pdftoppm -png`",
    "HTML": "It is a web page: the download of the image has failed",
    "Git LFS pointer": "Fetch the file itself with `git lfs pull`",
}


def detect(data: bytes) -> str:
    """Returns the name of a file's format; empty if it is not known.

    Args:
        data: The bytes of the file, or at least its first 64.

    Example:

    >>> detect(b"\\xff\\xd8\\xff\\xe0")
    'JPEG'
    """
    for name, parts in SIGNATURES:
        if all(data[at : at + len(part)] == part for at, part in parts):
            return name
    return ""


def advise(name: str) -> str:
    """Says how to convert a format that is not read, as one sentence.

    Args:
        name: The name of the format, from `detect`.
    """
    return f"{_ADVICE.get(name, 'Convert it to JPEG or PNG')}."


def looks_cut_short(data: bytes) -> bool:
    """Tells whether a file has lost its end.

    Args:
        data: The bytes of the file. Only the ends of JPEG, PNG and GIF files
            are known.
    """
    name = detect(data)
    if name == "JPEG":
        return b"\xff\xd9" not in data[2:]
    if name == "PNG":
        return b"IEND" not in data[8:]
    return name == "GIF" and not data.rstrip(b"\0").endswith(b";")
