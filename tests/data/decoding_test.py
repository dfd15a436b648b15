"""Every kind of image file, compared with Pillow, and files that are too large.

Each file takes the road of training: it is converted if TensorFlow cannot read
it, and then decoded in a graph.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tf_triplet.data import (
    decoding,
    file_check,
    image_formats,
    preprocessing,
    transcode,
)

_RANDOM = np.random.default_rng(0)
_SIZE = (40, 30)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def decode(image_bytes):
    return preprocessing.decode_image(image_bytes)


def draw(mode="RGB"):
    blocks = np.kron(_RANDOM.random((6, 8, 4)), np.ones((5, 5, 1)))
    image = Image.fromarray((blocks * 255).astype(np.uint8), "RGBA")
    if mode == "I;16":
        gray = np.asarray(image.convert("L")).astype(np.uint16)
        return Image.fromarray(gray * 256 + 77)
    return image.convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def pillow(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    exif = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I;16"):
        gray = np.asarray(image.convert("I")) >> 8
        image = Image.fromarray(gray.astype(np.uint8))
        image.getexif()[0x0112] = exif
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def same_as_pillow(data):
    for convert in (transcode.servable, transcode.to_bmp):
        sent = data if transcode.is_servable(data) else convert(data)
        got, want = decode(sent).numpy(), pillow(data)
        np.testing.assert_allclose(got.astype(int), want.astype(int), atol=1)


def add_chunk(png, name, body, before=b"IDAT"):
    at = png.index(before) - 4
    crc = struct.pack(">I", zlib.crc32(name + body))
    chunk = struct.pack(">I", len(body)) + name + body + crc
    return png[:at] + chunk + png[at:]


KINDS = [
    *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
    *(("PNG", mode, {}) for mode in ("RGB", "L", "RGBA", "LA", "P", "1")),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    *(("TIFF", mode, {}) for mode in ("RGB", "L", "1", "P", "I;16", "CMYK")),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("AVIF", "RGB", {}),
    ("AVIF", "RGBA", {}),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind,mode,options", KINDS)
def test_an_image_is_turned_once(kind, mode, options, orientation):
    data = encode(draw(mode), kind, exif=turned(orientation), **options)
    same_as_pillow(data)


def test_exif_may_follow_the_pixels_of_a_png():
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    data = add_chunk(encode(draw(), "PNG"), b"eXIf", exif, before=b"IEND")
    same_as_pillow(data)
    assert decode(data).shape == (40, 30, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_the_color_key_of_a_png_is_white(mode):
    image = draw(mode)
    key = image.getpixel((7, 7))
    same_as_pillow(encode(image, "PNG", transparency=key))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_with_alpha(bits):
    image = draw().quantize(2**bits)
    alpha = bytes(np.linspace(0, 255, 2**bits).astype(np.uint8))
    same_as_pillow(encode(image, "PNG", bits=bits, transparency=alpha))


def test_a_color_key_of_16_bits():
    pixels = _RANDOM.integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    data = tf.io.encode_png(pixels).numpy()
    same_as_pillow(data)
    key = pixels[3, 4].astype(">u2").tobytes()
    got = decode(add_chunk(data, b"tRNS", key)).numpy()
    want = pillow(data).copy()
    want[3, 4] = 255
    np.testing.assert_array_equal(got, want)


def test_ycck_with_adobe_inversion():
    data = encode(draw("CMYK"), "JPEG")
    transform = data.index(b"Adobe") + 11
    same_as_pillow(data[:transform] + b"\2" + data[transform + 1 :])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_bmp(mode):
    same_as_pillow(encode(draw(mode), "BMP"))


@pytest.mark.parametrize("options", [{}, {"interlace": 1}])
def test_the_first_frame_of_a_gif_is_on_white(options):
    frames = [draw().quantize(16) for _ in range(3)]
    same_as_pillow(encode(frames[0], "GIF", **options))
    key = frames[0].getpixel((7, 7))
    same_as_pillow(
        encode(
            frames[0],
            "GIF",
            save_all=True,
            append_images=frames[1:],
            transparency=key,
            **options,
        )
    )


def test_a_frame_that_leaves_a_margin_is_placed_on_white():
    data = bytearray(encode(draw().quantize(16), "GIF"))
    data[6:10] = struct.pack("<HH", 60, 50)  # A larger screen.
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 5, 8)
    got = decode(bytes(data)).numpy()
    assert got.shape == (50, 60, 3)
    assert (got[:8] == 255).all() and (got[38:] == 255).all()
    assert not (got[8:38, 5:45] == 255).all()


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames(kind):
    options = {} if kind != "WEBP" else {"lossless": True}
    first, second = draw(), draw()
    same_as_pillow(
        encode(first, kind, save_all=True, append_images=[second], **options)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_half_a_file_is_named_as_such(kind, tmp_path):
    path = tmp_path / "photo"
    data = encode(draw(), kind)
    path.write_bytes(data[: len(data) // 2])
    assert "cut short or damaged" in file_check.check_file(str(path)).reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_no_beginning_of_a_file_is_an_image(kind):
    image = Image.new("P", (9, 7)) if kind == "GIF" else draw()
    data = encode(image, kind)
    for size in {*range(0, min(len(data) - 16, 120), 7), len(data) // 2}:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(data[:size])


def header_of(kind, side):
    """A file whose header tells a size that its data does not hold."""
    if kind == "JPEG":
        data = bytearray(encode(draw(), "JPEG", progressive=True))
        at = data.index(b"\xff\xc2") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "PNG":
        data = bytearray(encode(draw(), "PNG"))
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "BMP":
        data = bytearray(encode(draw(), "BMP"))
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "GIF":
        data = bytearray(encode(draw().quantize(4), "GIF"))
        at = data.index(b"\x2c\0\0\0\0")
        data[at + 5 : at + 9] = struct.pack("<HH", side, side)
    else:
        return encode(Image.new("L", (side, side)), kind)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_too_many_pixels_are_refused_by_the_header(kind, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(header_of(kind, 6000))
    reason = file_check.check_file(str(path)).reason
    assert f"The {kind} of 6000 x 6000 pixels".lower() in reason.lower()
    assert "32 million" in reason and "[[" not in reason


def test_the_limit_can_be_raised():
    data = encode(Image.new("L", (1200, 1000), 9), "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="1200 x 1000"):
        preprocessing.decode_image(tf.constant(data), max_megapixels=1.0)
    pixels = preprocessing.decode_image(tf.constant(data), max_megapixels=1.2)
    assert pixels.shape == (1000, 1200, 3)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale():
    data = tf.constant(encode(Image.new("RGB", (1200, 1000), "red"), "JPEG"))
    small = preprocessing.load_image(data, 999, max_megapixels=0.1)
    assert small.shape == (999, 999, 3)
    assert small[500, 500].numpy().round(1).tolist() == [1, 0, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="1200 x 1000"):
        preprocessing.decode_image(data, max_megapixels=0.1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="1200 x 1000"):
        preprocessing.load_image(data, 9, max_megapixels=0.01)


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_the_scale_of_a_jpeg_follows_the_size(ratio):
    image = draw().resize((160 * ratio, 144 * ratio), Image.BICUBIC)
    data = tf.constant(encode(image, "JPEG"))
    got = decoding.decode(
        data, lambda size: (decoding.whole(size), False), image_size=90
    )
    assert got.pixels.shape == (144, 160, 3)
    assert got.size.numpy().tolist() == [144 * ratio, 160 * ratio]


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_crop_is_a_part_of_the_whole(orientation, subsampling):
    """The decoder interpolates color, so a crop needs its neighborhood."""
    image = draw().resize((333, 250), Image.BICUBIC)
    data = tf.constant(
        encode(image, "JPEG", subsampling=subsampling, exif=turned(orientation))
    )
    whole = decode(data).numpy()
    for window in ([0, 0, 9, 250], [101, 17, 208, 203], [60, 77, 61, 78]):
        got = decoding.decode(
            data,
            lambda size, window=window: (tf.constant(window), True),
            image_size=1,
        )
        top, left, bottom, right = window
        np.testing.assert_array_equal(got.pixels, whole[top:bottom, left:right])


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)


@pytest.mark.parametrize(
    "data,name",
    [
        (HEIC, "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + bytes(99), "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1" + bytes(99), "AVIF"),
        (encode(draw(), "WEBP"), "WebP"),
        (encode(draw(), "TIFF"), "TIFF"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"%PDF-1.4", "PDF"),
        (b"<!DOCTYPE html><html>", "HTML"),
    ],
)
def test_the_graph_names_a_format_that_it_does_not_decode(data, name):
    assert image_formats.detect(data) == name
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"Unknown image file format: {name} is not decoded",
    ):
        decode(data)


def test_a_format_that_is_not_read_is_named_with_its_fix(tmp_path):
    path = tmp_path / "photo.jpg"
    for data, name, fix in (
        (HEIC, "HEIC", "heif"),
        (b"\xff\x0a" + bytes(99), "JPEG XL", "djxl"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS", "pull"),
    ):
        path.write_bytes(data)
        reason = file_check.check_file(str(path)).reason
        assert name in reason
        assert fix in reason or transcode.reads_heif()
