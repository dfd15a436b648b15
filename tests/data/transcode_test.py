import io

import numpy as np
import pytest
from PIL import Image

from tf_triplet.data import transcode

_RNG = np.random.default_rng(0)
_COLOR = _RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def _encode(image, kind, **options):
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def _decode(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_formats_that_tensorflow_reads_are_unchanged(kind):
    data = _encode(Image.fromarray(_COLOR), kind)
    assert transcode.servable(data) is data


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("L", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "PPM", {}),
    ],
)
def test_other_formats_are_converted_without_loss(mode, kind, options):
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.squeeze(_RNG.integers(0, 256, (5, 7, channels), dtype=np.uint8))
    data = _encode(Image.fromarray(pixels), kind, **options)
    image = Image.fromarray(pixels).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    on_white = Image.alpha_composite(white, image).convert("RGB")

    png, bmp = _decode(transcode.servable(data)), _read_bmp(data)
    np.testing.assert_allclose(
        np.asarray(png, int), np.asarray(on_white, int), atol=1
    )
    np.testing.assert_array_equal(bmp, png)


def _read_bmp(data):
    image = Image.open(io.BytesIO(transcode.to_bmp(data)))
    assert image.format == "BMP"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **options
    )
    png = _decode(transcode.servable(data))
    assert np.asarray(png)[0, 0, :3].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_dropped(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encode(Image.fromarray(_COLOR), "WEBP", lossless=True, exif=exif)
    png = _decode(transcode.servable(data))

    upright = {
        1: _COLOR,
        2: _COLOR[:, ::-1],
        3: _COLOR[::-1, ::-1],
        4: _COLOR[::-1],
        5: _COLOR.transpose(1, 0, 2),
        6: np.rot90(_COLOR, -1),
        7: _COLOR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(_COLOR),
    }[orientation]
    np.testing.assert_array_equal(np.asarray(png), upright)
    assert png.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("mode", ["1", "RLE"])
def test_a_bmp_that_tensorflow_misreads_is_converted(mode):
    image = Image.new("1", (4, 4), 1)
    data = _encode(image, "BMP")
    if mode == "RLE":
        # Four pixels of color 1 in a row, four times, then the end.
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 10, 200, 30])
        data = bytearray(_encode(image, "BMP"))
        data[30] = 1
        start = int.from_bytes(data[10:14], "little")
        data = bytes(data[:start]) + b"\4\1\0\0" * 4 + b"\0\1"
    png = _decode(transcode.servable(data))
    color = [10, 200, 30] if mode == "RLE" else [255] * 3
    assert np.asarray(png)[0, 0].tolist() == color


def test_sixteen_bits_keep_the_high_byte():
    pixels = np.array([[0x1234, 0xFF00]], np.uint16)
    data = _encode(Image.fromarray(pixels), "TIFF")
    png = _decode(transcode.servable(data))
    assert np.asarray(png)[..., 0].tolist() == [[0x12, 0xFF]]


def test_cmyk_becomes_rgb():
    data = _encode(Image.new("CMYK", (3, 3), (0, 255, 255, 0)), "TIFF")
    png = _decode(transcode.servable(data))
    assert np.asarray(png)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is not an image",
        _encode(Image.fromarray(_COLOR), "WEBP")[:30],
    ],
    ids=["empty", "text", "cut short"],
)
def test_other_bytes_are_an_error(data):
    message = f"Received: {len(data)} bytes"
    with pytest.raises(ValueError, match=message):
        transcode.servable(data)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_an_unknown_range_are_an_error(mode):
    data = _encode(Image.new(mode, (2, 2), 7), "TIFF")
    with pytest.raises(ValueError, match="Received: values from 7 to 7"):
        transcode.servable(data)
