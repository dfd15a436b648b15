"""Exact Street2Shop (Kiapour et al., 2015, "Where to Buy It")."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pandas as pd
from absl import logging

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import tables

# https://openaccess.thecvf.com/content_iccv_2015/html/
# Kiapour_Where_to_Buy_ICCV_2015_paper.html, abstract.
PUBLISHED = {
    "street": (20_357, None),
    "shop": (404_683, None),
    "pairs": (39_479, None),
}
_LISTS = ("train_pairs", "test_pairs", "retrieval")
_IMAGES = ("images", "photos", ".")


def read_street2shop(path: str | pathlib.Path) -> Catalog:
    """Reads `meta/json/{train_pairs,test_pairs,retrieval}_<category>.json`.

    The benchmark is a list of addresses, many of which no longer exist.
    Images that were not downloaded are left out. The log says how many.

    Args:
        path: The folder that contains `meta/json`. The images are in its
            folder `images` or `photos`, or directly in it. Their names are
            their ids, in 9 digits.

    Returns:
        The catalog, with one row for each (image, product, split), because an
        image may show several products, each in its own box.

        - Product ids are `<category>/<product>`.
        - Domains are street and shop.
        - Street images belong to split train or test. All shop images belong
          to split test, whose gallery is the whole shop. The shop images of
          training products belong to split train as well.
        - `extras["pairs"]` is the number of lines with a street image and
          its product.

    Raises:
        FileNotFoundError: If a list is missing, or if all images are.
        ValueError: If an entry does not have the expected format.
    """
    root = pathlib.Path(path)
    folder = root / "meta" / "json"
    if not folder.is_dir():
        folder = root / "json" if (root / "json").is_dir() else root
    categories = sorted(
        file.stem.removeprefix("retrieval_")
        for file in folder.glob("retrieval_*.json")
    )
    if not categories:
        tables.find_file(root, "meta/json/retrieval_bags.json")
    frames = []
    for category in categories:
        train, test, shop = (
            _read_list(folder / f"{kind}_{category}.json") for kind in _LISTS
        )
        training_shop = shop[shop["product"].isin(set(train["product"]))]
        for frame, domain, split in (
            (train, "street", "train"),
            (test, "street", "test"),
            (training_shop, "shop", "train"),
            (shop, "shop", "test"),
        ):
            frames.append(
                frame.assign(category=category, domain=domain, split=split)
            )
    frame = pd.concat(frames, ignore_index=True)
    keys = ["category", "domain", "split", "photo", "product"]
    frame["pairs"] = frame.groupby(keys)["photo"].transform("size")
    frame = frame.drop_duplicates(keys)
    frame["product_id"] = frame["category"] + "/" + frame["product"].astype(str)
    frame = _add_paths(frame, root)
    return Catalog.from_frame(
        frame.reset_index(drop=True), "street2shop", extras=("pairs",)
    )


def _read_list(file: pathlib.Path) -> pd.DataFrame:
    """Reads the photo, product and box of each entry."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist. Each category needs three lists: "
            f"{', '.join(f'{kind}_<category>.json' for kind in _LISTS)}."
        )
    try:
        entries = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(
            f"{file} must contain a list of photos. "
            f"Received: {type(entries).__name__}"
        )
    rows = [
        _read_entry(entry, f"{file}, entry {i}")
        for i, entry in enumerate(entries)
    ]
    columns = ["photo", "product", "x1", "y1", "x2", "y2"]
    return pd.DataFrame(rows, columns=columns)


def _read_entry(entry: Any, where: str) -> list:
    try:
        photo, product = int(entry["photo"]), int(entry["product"])
        box = entry.get("bbox")
        corners = [None] * 4
        if box:
            left, top = float(box["left"]), float(box["top"])
            width, height = float(box["width"]), float(box["height"])
            if width > 0 and height > 0:
                corners = [left, top, left + width, top + height]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where}: expected photo, product and, optionally, bbox with "
            f"left, top, width and height. Received: {entry!r}"
        ) from error
    return [photo, product, *corners]


def _add_paths(frame: pd.DataFrame, root: pathlib.Path) -> pd.DataFrame:
    """Adds the path of each image, and drops rows whose image is missing."""
    found = {}
    for name in _IMAGES:
        if (root / name).is_dir():
            for item in os.scandir(root / name):
                stem = item.name.split(".")[0]
                if len(stem) == 9 and stem.isdecimal() and item.is_file():
                    found.setdefault(int(stem), item.path)
    paths = frame["photo"].map(found)
    missing = int(paths.isna().sum())
    if missing == len(frame):
        first = int(frame["photo"].iloc[0])
        raise FileNotFoundError(
            f"None of the images of {root} exists, for example "
            f"{root / 'images' / f'{first:09d}.jpg'}. Download the addresses "
            "in photos.txt. The name of each file is its photo_id in 9 digits."
        )
    if missing:
        logging.warning(
            "%d of %d images of %s do not exist and are left out. Many "
            "addresses in photos.txt are no longer valid.",
            missing,
            len(frame),
            root,
        )
    return frame.assign(path=paths)[paths.notna()]
