"""The catalog of the quick start: emoji, as drawn by four vendors.

One emoji is one product, and its drawings are the photos of that product in
four shops. The images are downloaded from the npm registry, prepared once and
kept in the user's cache. None of them is part of this project.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator

import pandas as pd
from PIL import Image
from rich import console as rich_console

from tf_triplet import progress
from tf_triplet.data import fetch
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import splits

# Increase this number if the prepared images change. Old folders are then
# no longer used.
VERSION = 1
# Side, in pixels, of the images that are not already PNG files of 64 pixels.
PREPARED_SIZE = 96
_TABLE = "catalog.csv"


@dataclasses.dataclass(frozen=True)
class Vendor:
    """The drawings of one vendor in the npm registry.

    Attributes:
        domain: The name of the vendor in the catalog.
        package: The npm package.
        version: The version of the package.
        sha256: The SHA-256 of the archive of the package.
        size: The size of the archive in bytes.
        members: The beginning and end of the image names in the archive. The
            code point stands between them.
        license: The name, owner and license of the drawings.
    """

    domain: str
    package: str
    version: str
    sha256: str
    size: int
    members: tuple[str, str]
    license: str


GOOGLE = Vendor(
    "google",
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    74_344_091,
    ("package/img/google/64/", ".png"),
    "Noto Emoji, Google, Apache-2.0",
)
TWITTER = Vendor(
    "twitter",
    "emoji-datasource-twitter",
    "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    61_683_754,
    ("package/img/twitter/64/", ".png"),
    "Twemoji, Twitter, Inc. and contributors, CC-BY 4.0",
)
FLUENT = Vendor(
    "fluent",
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    15_792_027,
    ("package/assets/", ".webp"),
    "Fluent Emoji, Microsoft, MIT",
)
OPENMOJI = Vendor(
    "openmoji",
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    4_339_458,
    ("package/color/svg/", ".svg"),
    "OpenMoji, the open-source emoji and icon project, CC-BY-SA 4.0",
)
VENDORS = (GOOGLE, TWITTER, FLUENT, OPENMOJI)
LICENSES = {vendor.domain: vendor.license for vendor in VENDORS}


def read_emoji(
    seed: int = 0,
    test_fraction: float = 0.5,
    cache_dir: str | pathlib.Path | None = None,
    show_progress: bool = True,
    draw: str = "hash",
) -> Catalog:
    """Reads the emoji catalog, which is downloaded at the first call.

    A product is an emoji without skin tones. Its id is the short name of the
    emoji. A domain is a vendor. A product that only one vendor has drawn is
    kept and has a single image.

    Args:
        seed: The seed of the split.
        test_fraction: The share of products that is held out.
        cache_dir: The folder of archives and images. By default, it is in the
            user's cache.
        show_progress: Whether to show the progress of preparing the images.
        draw: How products are held out: "hash", or "permutation" as in earlier
            versions. See `tf_triplet.data.sources.splits`.

    Returns:
        7,585 images of 1,911 products, with splits "train" and "test".

    Raises:
        FetchError: If the archives cannot be downloaded.

    Example:

    >>> from tf_triplet.data import read_emoji
    >>> catalog = read_emoji()  # doctest: +SKIP
    >>> catalog.domain_names.tolist()  # doctest: +SKIP
    ['fluent', 'google', 'openmoji', 'twitter']
    """
    cache = pathlib.Path(cache_dir or fetch.cache_dir())
    folder = cache / f"emoji-v{VERSION}-{PREPARED_SIZE}px"
    if not folder.is_dir():
        archives = {
            vendor.domain: fetch.fetch_npm(
                vendor.package,
                vendor.version,
                vendor.sha256,
                size=vendor.size,
                cache=cache,
            )
            for vendor in VENDORS
        }
        with fetch.published_folder(folder) as partial:
            _prepare(archives, partial, show_progress)
        _print_licenses()
    table = pd.read_csv(folder / _TABLE, dtype=str, keep_default_na=False)
    table["path"] = str(folder) + "/" + table["path"]
    catalog = Catalog.from_frame(table, "emoji")
    return splits.with_split(catalog, test_fraction, seed, draw)


def code_key(code: str) -> str:
    """Writes a sequence of code points in the same way for every vendor.

    Vendors differ in case, in leading zeros, and in whether they write
    U+FE0F, which only requests the colored variant of an emoji.

    Args:
        code: Hexadecimal code points, separated by hyphens.
    """
    parts = [part.lstrip("0") for part in code.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def _print_licenses() -> None:
    console = rich_console.Console(stderr=True)
    console.print("The emoji images were drawn by others. Their licenses are:")
    for domain, license in LICENSES.items():
        console.print(f"  {domain}: {license}")


def _prepare(
    archives: dict[str, pathlib.Path],
    folder: pathlib.Path,
    show_progress: bool,
) -> None:
    """Writes the images and their table into `folder`."""
    products = _products(archives[GOOGLE.domain])
    rows = []
    for vendor in VENDORS:
        (folder / vendor.domain).mkdir()
        bar = progress.show_progress(
            f"Preparing emoji of {vendor.domain}",
            total=len(products),
            show=show_progress,
        )
        with bar as advance:
            done = 0
            for key, data in _drawings(vendor, archives[vendor.domain]):
                if key not in products:
                    continue
                path = f"{vendor.domain}/{key}.png"
                (folder / path).write_bytes(_as_png(data))
                rows.append({"path": path, **products[key]})
                rows[-1]["domain"] = vendor.domain
                done += 1
                advance(done)
    # The order of the archives must not determine the order of the table.
    table = pd.DataFrame(rows).sort_values("path")
    table.to_csv(folder / _TABLE, index=False)
    (folder / "LICENSES.txt").write_text(
        "".join(f"{domain}: {text}\n" for domain, text in LICENSES.items())
    )


def _products(archive: pathlib.Path) -> dict[str, dict[str, str]]:
    """Reads the id and category of each emoji, by the key of its code point.

    `emoji.json` lists skin tones below their emoji, not as separate emoji.
    """
    ((_, data),) = fetch.read_members(archive, ["package/emoji.json"])
    return {
        code_key(emoji["unified"]): {
            "product_id": emoji["short_name"],
            "category": emoji["category"],
        }
        for emoji in json.loads(data)
    }


def _drawings(
    vendor: Vendor, archive: pathlib.Path
) -> Iterator[tuple[str, bytes]]:
    """Yields the key of the code point and the image file of each drawing."""
    prefix, suffix = vendor.members
    seen = set()
    for name, data in fetch.scan_members(archive, prefix, suffix):
        key = code_key(name[len(prefix) : -len(suffix)])
        # A code point may be written in two ways. It is one drawing.
        if key not in seen:
            seen.add(key)
            yield key, data


def _as_png(data: bytes) -> bytes:
    """Returns a PNG with alpha. WebP and SVG are converted."""
    if data.startswith(b"\x89PNG"):
        return data
    if not data.startswith(b"RIFF"):
        return _rasterize(data.decode("utf-8"))
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGBA").resize(
            (PREPARED_SIZE, PREPARED_SIZE), Image.Resampling.LANCZOS
        )
    output = io.BytesIO()
    small.save(output, "PNG")
    return output.getvalue()


def _rasterize(svg: str) -> bytes:
    # Nothing else needs this package.
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, width=PREPARED_SIZE, height=PREPARED_SIZE
        )
    )
