"""The quick-start catalog: emoji as drawn by four vendors.

One emoji is one product; its drawings are that product's photos in four
shops. The images come from the npm registry, are prepared once and stay in
the user's cache; none is part of this project.
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
from rich import progress

from tf_triplet.data import fetch
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import splits

# Raise it when the prepared images change: old folders are then redone.
VERSION = 1
# Pixels a side of the images that are not 64 px PNG already.
PREPARED_SIZE = 96
_TABLE = "catalog.csv"


@dataclasses.dataclass(frozen=True)
class Vendor:
    """One vendor's drawings in the npm registry.

    Attributes:
        domain: What the catalog calls the vendor.
        package: The npm package.
        version: Its version.
        sha256: Of the package's archive.
        size: Bytes of the archive.
        members: Prefix and suffix of the images' names in the archive;
            between them lies the code point.
        license: Whose art it is and on what terms.
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
    """Fetches and prepares the images once, and lists them.

    A product is an emoji without skin tones, called by its short name; its
    category is the emoji's; a domain is a vendor. A product that one vendor
    alone draws is kept: it has a single image.

    Args:
        seed: The seed of the split.
        test_fraction: The share of products that is held out.
        cache_dir: Where archives and images are kept; the user's cache
            folder unless given.
        show_progress: Show a progress bar while preparing.
        draw: "hash", or "permutation" for runs of earlier versions; see
            `splits`.

    Raises:
        FetchError: the archives could not be fetched.
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
    """Returns a code point sequence as every vendor's is compared.

    Vendors differ in case, in leading zeros and in where they keep U+FE0F,
    which asks for the colored drawing and says nothing about what is drawn.
    """
    parts = [part.lstrip("0") for part in code.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def _print_licenses() -> None:
    console = rich_console.Console(stderr=True)
    console.print("The emoji images are other people's art:")
    for domain, license in LICENSES.items():
        console.print(f"  {domain}: {license}")


def _prepare(
    archives: dict[str, pathlib.Path],
    folder: pathlib.Path,
    show_progress: bool,
) -> None:
    """Writes the images and the table of them into `folder`."""
    products = _products(archives[GOOGLE.domain])
    bar = progress.Progress(
        *progress.Progress.get_default_columns(),
        progress.MofNCompleteColumn(),
        disable=not show_progress,
        transient=True,
    )
    rows = []
    with bar:
        for vendor in VENDORS:
            task = bar.add_task(
                f"Preparing {vendor.domain}", total=len(products)
            )
            (folder / vendor.domain).mkdir()
            for key, data in _drawings(vendor, archives[vendor.domain]):
                if key not in products:
                    continue
                path = f"{vendor.domain}/{key}.png"
                (folder / path).write_bytes(_as_png(data))
                rows.append({"path": path, **products[key]})
                rows[-1]["domain"] = vendor.domain
                bar.advance(task)
            bar.update(task, completed=len(products))
    # The archives' order is an accident; the table's is not.
    table = pd.DataFrame(rows).sort_values("path")
    table.to_csv(folder / _TABLE, index=False)
    (folder / "LICENSES.txt").write_text(
        "".join(f"{domain}: {text}\n" for domain, text in LICENSES.items())
    )


def _products(archive: pathlib.Path) -> dict[str, dict[str, str]]:
    """Returns id and category of each emoji by its code point key.

    `emoji.json` lists skin tones below their emoji, not as emoji.
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
    """Yields (code point key, bytes of the image file)."""
    prefix, suffix = vendor.members
    seen = set()
    for name, data in fetch.scan_members(archive, prefix, suffix):
        key = code_key(name[len(prefix) : -len(suffix)])
        # Two spellings of one code point are one drawing.
        if key not in seen:
            seen.add(key)
            yield key, data


def _as_png(data: bytes) -> bytes:
    """Returns a PNG with alpha: as it came, or made from WebP or SVG."""
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
    # Only the quick start needs it, and only once.
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, width=PREPARED_SIZE, height=PREPARED_SIZE
        )
    )
