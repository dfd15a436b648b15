"""The pixels of PIXEL_VERSION, as hashes that were recorded once.

An index and its cache identify their pixels by that number alone, so it must
change whenever a pixel does. If a test here fails and other pixels are meant,
raise `preprocessing.PIXEL_VERSION` and record the hashes again:

    python tests/data/golden_pixels_test.py

The images are encoded here, so the hashes also depend on Pillow's encoders.
golden_pixels.json therefore holds one set for each stack of TensorFlow and
Pillow. Pixels are rounded to 8 bits, because the last bits of a float differ
between processors. No pixel lies near a tie, so rounding removes that
difference.
"""

import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.data import decoding, orientation, preprocessing, transcode

FILE = Path(__file__).with_name("golden_pixels.json")
STACK = f"tensorflow {version('tensorflow')}, pillow {version('pillow')}"
WIDTH, HEIGHT = 23, 17
BOX = (2.0, 3.5, 20.25, 16.0)
OUTSIDE = (30.0, 2.0, 40.0, 9.0)


def draw(mode="RGB"):
    """Blocks of random colors under a ramp, so that every row differs."""
    random = np.random.default_rng(8)
    blocks = random.integers(0, 200, [6, 8, 4]).repeat(3, 0).repeat(3, 1)
    ramp = np.arange(HEIGHT)[:, None, None] + 2 * np.arange(WIDTH)[:, None]
    pixels = blocks[:HEIGHT, :WIDTH] + ramp % 50
    image = Image.fromarray(pixels.astype(np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "P":
        return image.convert("RGB").quantize(32)
    return image.convert(mode)


def encode(mode, kind, scale=1, **options):
    file = io.BytesIO()
    image = draw(mode)
    image = image.resize((scale * WIDTH, scale * HEIGHT))
    image.save(file, kind, **options)
    return file.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


KEY = draw().getpixel((4, 4))
FILES = {
    "jpeg": encode("RGB", "JPEG"),
    "jpeg, progressive": encode("RGB", "JPEG", progressive=True),
    "jpeg, gray": encode("L", "JPEG"),
    "jpeg, CMYK": encode("CMYK", "JPEG"),
    "jpeg, turned": encode("RGB", "JPEG", exif=turned(6)),
    "jpeg, large": encode("RGB", "JPEG", scale=8),
    "jpeg, mirrored": encode("RGB", "JPEG", exif=turned(7)),
    "png": encode("RGB", "PNG"),
    "png, transparent": encode("RGBA", "PNG"),
    "png, gray and transparent": encode("LA", "PNG"),
    "png, palette": encode("P", "PNG", transparency=3),
    "png, color key": encode("RGB", "PNG", transparency=KEY),
    "png, turned": encode("RGB", "PNG", exif=turned(6)),
    "png, 16 bits": encode("I;16", "PNG"),
    "png, 1 bit": encode("1", "PNG"),
    "gif": encode("P", "GIF"),
    "gif, transparent": encode("P", "GIF", transparency=3),
    "bmp": encode("RGB", "BMP"),
    "bmp, palette": encode("P", "BMP"),
    "webp": encode("RGB", "WEBP"),
    "webp, transparent": encode("RGBA", "WEBP", lossless=True),
    "webp, turned": encode("RGB", "WEBP", exif=turned(6)),
    "avif": encode("RGB", "AVIF", exif=turned(6)),
    "tiff": encode("RGB", "TIFF"),
    "tiff, CMYK": encode("CMYK", "TIFF"),
    "tiff, turned": encode("RGB", "TIFF", exif=turned(6)),
}
SMALL_JPEGS = [data for name, data in FILES.items() if name.startswith("jpeg")]
SMALL_JPEGS.remove(FILES["jpeg, large"])
# Each kind of file as it is, and one of them in every other way. All sides are
# odd, because means of an even number of pixels are often ties.
# A small JPEG is decoded at half its scale for 7 pixels, but not for 9.
CASES = {
    name: (data, 9 if data in SMALL_JPEGS else 7, None, "area")
    for name, data in FILES.items()
} | {
    f"png, {size} pixels, box {box}, {resize}": (
        FILES["png"],
        *(size, box, resize),
    )
    for size in (7, 41)
    for box in (None, BOX, OUTSIDE)
    for resize in preprocessing.RESIZE_METHODS
}
each_case = pytest.mark.parametrize("case", CASES)


def pixels_of(case):
    """`[size, size, 3]` floats, from 0 to 255."""
    data, size, box, resize = CASES[case]
    box = None if box is None else tf.constant(box)
    data = tf.constant(transcode.servable(data))
    return preprocessing.load_image(data, size, box, resize).numpy() * 255


def hash_of(case):
    rounded = np.rint(pixels_of(case)).astype(np.uint8)
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:16]


def recorded(case):
    golden = json.loads(FILE.read_text())
    if STACK not in golden["stacks"]:
        pytest.skip(f"No pixels were recorded for {STACK}: run this file.")
    return golden["stacks"][STACK][case]


def test_the_recorded_pixels_are_of_this_version():
    golden = json.loads(FILE.read_text())
    assert golden["pixel_version"] == preprocessing.PIXEL_VERSION
    for hashes in golden["stacks"].values():
        assert set(hashes) == set(CASES)


@each_case
def test_pixels_are_those_that_were_recorded(case):
    assert hash_of(case) == recorded(case)


@each_case
def test_no_pixel_is_near_a_tie(case):
    parts = pixels_of(case) % 1
    assert np.abs(parts - 0.5).min() > 2e-4


@pytest.mark.parametrize(
    "case,module,name,other",
    [
        (
            "jpeg, large",
            decoding,
            "_decode_part",
            lambda data, *_: tf.io.decode_jpeg(data, 3),
        ),
        (
            "jpeg, turned",
            orientation,
            "jpeg_orientation",
            lambda data: tf.constant(1),
        ),
        (
            "png, transparent",
            decoding,
            "_on_white",
            lambda pixels: pixels[..., :3],
        ),
        (
            f"png, 7 pixels, box {BOX}, area",
            preprocessing,
            "box_window",
            lambda size, box: decoding.whole(size),
        ),
        (
            "tiff, CMYK",
            transcode,
            "_on_white",
            lambda image: image.convert("L").convert("RGB"),
        ),
    ],
)
def test_other_code_gives_another_hash(case, module, name, other, monkeypatch):
    before = hash_of(case)
    # Otherwise the graphs that were traced before would run.
    tf.config.run_functions_eagerly(True)
    monkeypatch.setattr(module, name, other)
    try:
        assert hash_of(case) != before
    finally:
        tf.config.run_functions_eagerly(False)


def record():
    golden = {"pixel_version": preprocessing.PIXEL_VERSION, "stacks": {}}
    if FILE.exists():
        found = json.loads(FILE.read_text())
        if found["pixel_version"] == preprocessing.PIXEL_VERSION:
            golden = found
    golden["stacks"][STACK] = {case: hash_of(case) for case in CASES}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    record()
