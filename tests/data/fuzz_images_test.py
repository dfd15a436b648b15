"""Files of images with whatever damage: none crashes, none is misread.

Each file takes the road of training. What Pillow decodes without an error must
have the same pixels, or be refused.
"""

import collections
import functools
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tf_triplet.data import file_check, preprocessing, transcode

# Pillow warns about damage, which is the point here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Damage to a header may claim any size. Both readers stop at this one.
_MEGAPIXELS = 0.25
# Both readers use libjpeg-turbo, and round the colors of CMYK differently.
_TOLERANCE = 1
# Entries of an orientation, as `_encode` writes them.
_ORIENTED = [b"\x01\x12\0\x03\0\0\0\x01\0" + bytes([turn]) for turn in (1, 6)]
_KINDS = [
    *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "RGB", {"quality": 20, "subsampling": 1, "optimize": True}),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(("PNG", mode, {"transparency": 3}) for mode in ("L", "P")),
    ("PNG", "RGB", {"transparency": (0, 0, 0)}),
    ("PNG", "P", {"bits": 2, "transparency": b"\0\x80"}),
    ("PNG", "I;16", {}),
    *(("GIF", mode, {}) for mode in ("L", "P", "RGBA")),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("WEBP", mode, {"lossless": True}) for mode in ("RGB", "RGBA")),
    ("WEBP", "RGBA", {"quality": 50}),
    *(("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "I;16", "CMYK")),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    *(("AVIF", mode, {}) for mode in ("RGB", "RGBA")),
]


def _draw(mode):
    random = np.random.default_rng(7)
    blocks = np.kron(random.random((6, 8, 4)), np.ones((3, 3, 1)))
    image = Image.fromarray((blocks * 255).astype(np.uint8), "RGBA")
    if mode == "I;16":
        gray = np.asarray(image.convert("L")).astype(np.uint16)
        return Image.fromarray(gray * 256 + 77)
    return (
        image.convert("RGB").quantize(4)
        if mode == "P"
        else (image.convert(mode))
    )


def _encode(kind, mode, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {} if kind in ("GIF", "BMP") else {"exif": exif}
    if kind == "GIF" and mode == "RGBA":
        more = {"save_all": True, "append_images": [_draw("L")]}
    file = io.BytesIO()
    _draw(mode).save(file, kind, **options, **more)
    return file.getvalue()


def _without_adobe(jpeg):
    """Removes the marker that says how the colors of a CMYK are stored."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4]) :]


@functools.cache
def sound_files():
    """Returns a file of each kind, as it is and turned."""
    Image.init()
    files = [
        _encode(kind, mode, options, orientation)
        for kind, mode, options in _KINDS
        if kind.lower() in {name.lower() for name in Image.SAVE}
        for orientation in (1, 6)
    ]
    cmyk = _encode("JPEG", "CMYK", {}, 1)
    return [*files, _without_adobe(cmyk)]


def repair_png(data):
    """Gives each chunk of a PNG its checksum, so that damage is decoded."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        crc = struct.pack(">I", zlib.crc32(body))
        parts.append(data[at : at + 4] + body + crc)
        at += 12 + length
    return b"".join(parts) + data[at:]


@st.composite
def damaged_files(draw):
    """Draws a sound file, and changes some of its bytes."""
    files = sound_files()
    data = bytearray(files[draw(st.integers(0, len(files) - 1))])
    is_png = data.startswith(b"\x89PNG")
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.integers(0, 9))
        # Most of what a file says of itself stands in its first bytes.
        last = draw(st.sampled_from([30, 120, len(data)]))
        at = draw(st.integers(0, max(0, min(last, len(data)) - 1)))
        if kind <= 5:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 6:
            data[at : at + 1] = bytes(
                [data[at] ^ (1 << (at * 7 % 8))] if data else b""
            )
        elif kind == 7:
            del data[len(data) - min(at, len(data)) :]
        elif kind == 8:
            del data[at : at + draw(st.integers(1, 8))]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    data = bytes(data)
    return repair_png(data) if is_png and draw(st.booleans()) else data


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _decode(image_bytes):
    return preprocessing.decode_image(image_bytes, _MEGAPIXELS)


def read(data):
    """Reads an image; None if it is refused as documented."""
    try:
        if not transcode.is_servable(data):
            data = transcode.to_bmp(data, _MEGAPIXELS)
        return _decode(data).numpy()
    except ValueError as error:
        assert "{{" not in str(error) and "<_io" not in str(error)
    except tf.errors.InvalidArgumentError:
        pass
    return None


def read_with_pillow(data):
    """Reads an image with Pillow; None if it is an error or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > _MEGAPIXELS * 1e6:
                return None
            covered = image.tile[0][1] if image.tile else None
            image.load()
            exif = image.getexif().get(0x0112, 1)
            if image.mode.startswith("I;16"):
                gray = np.asarray(image.convert("I")) >> 8
                image = Image.fromarray(gray.astype(np.uint8))
                image.getexif()[0x0112] = exif
            gif = image.format == "GIF"
            image = ImageOps.exif_transpose(image).convert("RGBA")
            if gif:
                # Around a small frame, browsers show what lies behind it.
                # Pillow shows the first color.
                frame = image.crop(covered)
                image = Image.new("RGBA", image.size, "white")
                image.paste(frame, covered[:2])
    except Exception:  # Pillow does not say what it raises.
        return None
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def check_image(data, seen):
    got, want = read(data), read_with_pillow(data)
    seen["read" if got is not None else "refused"] += 1
    if got is None or want is None:
        return
    seen["compared"] += 1
    turned = [want]
    if _ORIENTED[0] not in data and _ORIENTED[1] not in data:
        # Readers differ in what they make of damaged EXIF. They may differ
        # in nothing else.
        both = (want, want.transpose(1, 0, 2))
        turned = [
            image[::y, ::x] for image in both for x in (1, -1) for y in (1, -1)
        ]
    assert min(_gap(got, image) for image in turned) <= _TOLERANCE


def _gap(one, other):
    if one.shape != other.shape:
        return 256
    return np.abs(one.astype(int) - other.astype(int)).max(initial=0)


_SETTINGS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.parametrize("row", range(len(sound_files())))
def test_sound_files_have_the_pixels_of_pillow(row):
    seen = collections.Counter()
    check_image(sound_files()[row], seen)
    assert seen["compared"] == 1


def test_damaged_images_are_read_or_refused():
    seen = collections.Counter()

    @settings(max_examples=150, derandomize=True, **_SETTINGS)
    @given(data=damaged_files())
    def check(data):
        check_image(data, seen)

    check()
    # A generator of files that are all refused would show nothing.
    assert seen["compared"] > 25 and seen["refused"] > 20


@pytest.mark.slow
@settings(max_examples=30_000, **_SETTINGS)
@given(data=damaged_files())
def test_many_damaged_images_are_read_or_refused(data):
    check_image(data, collections.Counter())


@settings(max_examples=30, derandomize=True, **_SETTINGS)
@given(data=damaged_files())
def test_the_check_of_a_file_tells_what_training_does(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    reason = file_check.check_file(str(path), _MEGAPIXELS).reason
    assert (read(data) is None) == bool(reason)
    assert "{{" not in reason and "<_io" not in reason


@pytest.mark.parametrize(
    "fill", [b"\xff", b"\xff\xff\xff", b"\xff\xd0", b"\0garbage"]
)
def test_exif_is_found_behind_what_decoders_skip(fill):
    turned = _encode("JPEG", "RGB", {}, 6)
    at = turned.index(b"\xff\xe1")
    data = turned[:at] + fill + turned[at:]
    np.testing.assert_array_equal(read(data), read(turned))


def test_every_cmyk_is_inverted():
    marked = _encode("JPEG", "CMYK", {}, 1)
    np.testing.assert_array_equal(read(_without_adobe(marked)), read(marked))


def test_a_color_that_a_bmp_does_not_have_is_black():
    data = bytearray(_encode("BMP", "P", {}, 1))
    data[-24] = 200
    data[46:50] = (4).to_bytes(4, "little")
    got = read(bytes(data))
    assert got[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(got, read_with_pillow(bytes(data)))


@pytest.mark.parametrize("cut", [60, 120, 200])
def test_an_avif_that_is_cut_short_is_refused_by_its_name(cut):
    data = _encode("AVIF", "RGB", {}, 1)[:-cut]
    with pytest.raises(ValueError, match="not a readable image"):
        transcode.to_bmp(data)
