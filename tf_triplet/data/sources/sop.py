"""Stanford Online Products (Oh Song et al., 2016)."""

from __future__ import annotations

import pathlib

import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import tables

# {split: (images, products)}
PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}
_COLUMNS = ("image_id", "class_id", "super_class_id", "path")


def read_sop(path: str | pathlib.Path) -> Catalog:
    """Reads `Ebay_train.txt` and `Ebay_test.txt`.

    Args:
        path: The folder `Stanford_Online_Products`.

    Returns:
        The catalog, with splits train and test. Product ids are the int64
        class ids. Categories are the names of the twelve super classes.

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If a line does not have the expected format.
    """
    root = pathlib.Path(path)
    frames = []
    for split in PUBLISHED:
        file = tables.find_file(root, f"Ebay_{split}.txt")
        frame = tables.read_table(file, _COLUMNS)
        frame["product_id"] = tables.numbers(frame, "class_id", file)
        frame["split"] = split
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    # "bicycle_final/111085122871_0.JPG"
    folder = frame["path"].str.split("/").str[0]
    frame["category"] = folder.str.removesuffix("_final")
    frame["path"] = f"{root}/" + frame["path"]
    return Catalog.from_frame(frame, "sop")
