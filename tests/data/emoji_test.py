import dataclasses
import hashlib
import io
import json

import archives
import numpy as np
import pytest
from PIL import Image

from tf_triplet.data import fetch
from tf_triplet.data.sources import emoji

_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
    '<rect x="18" y="18" width="36" height="36" fill="#0000ff"/></svg>'
)
_EMOJI = [
    {"unified": "0023-FE0F-20E3", "short_name": "hash", "category": "Symbols"},
    {"unified": "1F600", "short_name": "grinning", "category": "Smileys"},
    {"unified": "2764-FE0F", "short_name": "heart", "category": "Smileys"},
    {"unified": "1F984", "short_name": "unicorn", "category": "Animals"},
]


def _image(kind, size, color):
    output = io.BytesIO()
    Image.new("RGBA", (size, size), color).save(output, kind)
    return output.getvalue()


def _archives():
    """Tiny archives with the layout of the vendors' archives."""
    png = _image("PNG", 64, (255, 0, 0, 255))
    webp = _image("WEBP", 256, (0, 255, 0, 128))
    names = {
        "google": ["0023-fe0f-20e3", "1f600", "2764-fe0f", "1f984"],
        "twitter": ["0023-fe0f-20e3", "1f600", "2764-fe0f"],
        # Other habits: no U+FE0F, no leading zeros; a skin tone, a stranger.
        "fluent": ["23-fe0f-20e3", "1f600", "1f44d-1f3fb", "ffff"],
        "openmoji": ["0023-FE0F-20E3", "1F600", "2764"],
    }
    data = {"google": png, "twitter": png, "fluent": webp}
    members = {
        vendor.domain: {
            code.join(vendor.members): data.get(vendor.domain, _SVG.encode())
            for code in names[vendor.domain]
        }
        for vendor in emoji.VENDORS
    }
    members["google"]["package/emoji.json"] = json.dumps(_EMOJI).encode()
    members["google"]["package/img/google/sheets/64.png"] = b"not read"
    return members


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with the tiny archives, without npm on the PATH."""
    (tmp_path / "npm").mkdir()
    vendors = []
    for vendor in emoji.VENDORS:
        path = (
            tmp_path
            / "npm"
            / fetch.archive_name(vendor.package, vendor.version)
        )
        archives.write_tgz(path, _archives()[vendor.domain])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        vendors.append(dataclasses.replace(vendor, sha256=digest))
    monkeypatch.setattr(emoji, "VENDORS", tuple(vendors))
    monkeypatch.setenv("PATH", "")
    return tmp_path


def test_vendors_are_joined_by_code_point(cache):
    frame = emoji.read_emoji(cache_dir=cache).to_frame()

    assert sorted(zip(frame["product_id"], frame["domain"])) == [
        ("grinning", "fluent"),
        ("grinning", "google"),
        ("grinning", "openmoji"),
        ("grinning", "twitter"),
        ("hash", "fluent"),
        ("hash", "google"),
        ("hash", "openmoji"),
        ("hash", "twitter"),
        ("heart", "google"),
        ("heart", "openmoji"),
        ("heart", "twitter"),
        ("unicorn", "google"),
    ]
    categories = dict(zip(frame["product_id"], frame["category"]))
    assert categories == {
        "grinning": "Smileys",
        "hash": "Symbols",
        "heart": "Smileys",
        "unicorn": "Animals",
    }


@pytest.mark.parametrize(
    ("domain", "size", "center"),
    [
        ("google", 64, (255, 0, 0, 255)),
        ("fluent", 96, (0, 255, 0, 128)),
        ("openmoji", 96, (0, 0, 255, 255)),
    ],
)
def test_images_are_prepared_as_png_with_alpha(cache, domain, size, center):
    catalog = emoji.read_emoji(cache_dir=cache).domain(domain)
    with Image.open(catalog.paths[0]) as image:
        assert (image.format, image.size) == ("PNG", (size, size))
        pixels = np.asarray(image)
    # WebP is lossy.
    np.testing.assert_allclose(pixels[size // 2, size // 2], center, atol=6)
    if domain == "openmoji":
        assert pixels[2, 2, 3] == 0


def test_preparation_happens_once_and_names_the_licenses(cache, capsys):
    first = emoji.read_emoji(cache_dir=cache)
    shown = capsys.readouterr().err
    for domain, license in emoji.LICENSES.items():
        assert domain in shown
        assert license.split(",")[0] in shown

    for path in (cache / "npm").iterdir():
        path.unlink()
    again = emoji.read_emoji(cache_dir=cache)

    assert "Noto" not in capsys.readouterr().err
    assert list(again.paths) == list(first.paths)


def test_an_interrupted_preparation_is_redone(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(emoji, "_rasterize", lambda svg: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            emoji.read_emoji(cache_dir=cache)
    assert [path.name for path in cache.iterdir()] == ["npm"]

    assert len(emoji.read_emoji(cache_dir=cache)) == 12


def test_products_are_split_by_the_seed(cache):
    splits = [
        tuple(emoji.read_emoji(seed=seed, cache_dir=cache).splits)
        for seed in (0, 0, 1, 2, 3)
    ]
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1
    former = emoji.read_emoji(cache_dir=cache, draw="permutation")
    assert len(former.split("test").product_ids) == 2


def test_without_network_the_error_is_a_fetch_error(cache):
    for path in (cache / "npm").iterdir():
        path.unlink()
    with pytest.raises(fetch.FetchError, match="emoji-datasource-google"):
        emoji.read_emoji(cache_dir=cache)


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("0023-FE0F-20E3", "23-20e3"),
        ("1F600", "1f600"),
        ("1F468-200D-2764-FE0F-200D-1F468", "1f468-200d-2764-200d-1f468"),
    ],
)
def test_code_points_are_compared_without_spelling(code, key):
    assert emoji.code_key(code) == key


def test_the_vendors_and_their_licenses():
    assert list(emoji.LICENSES) == ["google", "twitter", "fluent", "openmoji"]
    assert all(len(vendor.sha256) == 64 for vendor in emoji.VENDORS)
