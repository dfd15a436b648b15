"""CUB-200-2011 (Wah et al., 2011): birds, with one product per class."""

from __future__ import annotations

import pathlib

import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import tables

PUBLISHED = {"train": (5_864, 100), "test": (5_924, 100)}
_LAST_TRAINING_CLASS = 100


def read_cub200(path: str | pathlib.Path) -> Catalog:
    """Reads `images.txt`, `image_class_labels.txt`, `bounding_boxes.txt`.

    Args:
        path: The folder `CUB_200_2011`.

    Returns:
        The catalog, with boxes if `bounding_boxes.txt` exists. Product ids
        are the class ids. 1 to 100 are the split train and 101 to 200 the
        split test, as is customary in metric learning. The official split is
        another one.

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If a line does not have the expected format, or if an
            image has no class.
    """
    root = pathlib.Path(path)
    file = tables.find_file(root, "images.txt")
    frame = tables.read_rows(file, ("id", "image_name"))
    # macOS adds such files to archives.
    frame = frame[~frame["image_name"].str.contains(r"(?:^|/)\._")].copy()
    labels = tables.find_file(root, "image_class_labels.txt")
    classes = tables.read_rows(labels, ("id", "class"))
    by_id = tables.numbers(classes, "class", labels)
    by_id.index = classes["id"].to_numpy()
    missing = ~frame["id"].isin(by_id.index)
    if missing.any():
        line = missing.idxmax()
        raise ValueError(
            f"{file}, line {line}: the image has no line in {labels}. "
            f"Received: id {frame['id'][line]!r}"
        )
    frame["product_id"] = by_id.reindex(frame["id"]).to_numpy()
    training = frame["product_id"] <= _LAST_TRAINING_CLASS
    frame["split"] = training.map({True: "train", False: "test"})
    boxes = root / "bounding_boxes.txt"
    if boxes.is_file():
        _add_boxes(frame, boxes)
    frame["path"] = f"{root}/images/" + frame["image_name"]
    return Catalog.from_frame(frame, "cub200")


def _add_boxes(frame: pd.DataFrame, path: pathlib.Path) -> None:
    """Adds boxes from lines of `<id> <x> <y> <width> <height>`."""
    boxes = tables.read_rows(path, ("id", "x", "y", "width", "height"))
    boxes = boxes.set_index("id").astype(float).reindex(frame["id"])
    frame["x1"], frame["y1"] = boxes["x"].to_numpy(), boxes["y"].to_numpy()
    frame["x2"] = (boxes["x"] + boxes["width"]).to_numpy()
    frame["y2"] = (boxes["y"] + boxes["height"]).to_numpy()
