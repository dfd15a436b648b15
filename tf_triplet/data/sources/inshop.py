"""DeepFashion In-Shop Clothes Retrieval (Liu et al., 2016)."""

from __future__ import annotations

import pathlib

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import tables

# {split or domain: (pictures, products)}
PUBLISHED = {
    "train": (25_882, 3_997),
    "query": (14_218, 3_985),
    "gallery": (12_612, 3_985),
}
_COLUMNS = ("image_name", "item_id", "evaluation_status")
_BOX_COLUMNS = (
    "image_name",
    "clothes_type",
    "pose_type",
    *("x_1", "y_1", "x_2", "y_2"),
)


def read_inshop(path: str | pathlib.Path) -> Catalog:
    """Reads `list_eval_partition.txt`, and boxes where they are there.

    Args:
        path: The benchmark's folder, with the lists in it, or in `Eval` and
            `Anno`, and the pictures in `img` or `Img/img`.

    Returns:
        Splits train and test; the domains of test are query and gallery.
        Categories are as in the path, for instance `WOMEN/Dresses`.

    Raises:
        FileNotFoundError: the partition is missing.
        ValueError: a line is not of the format.
    """
    root = pathlib.Path(path)
    name = "list_eval_partition.txt"
    file = tables.find_file(root, name, f"Eval/{name}", f"Anno/{name}")
    frame = tables.read_table(file, _COLUMNS, counted=True)
    status = frame["evaluation_status"]
    known = status.isin(list(PUBLISHED))
    if not known.all():
        line = known.idxmin()
        raise ValueError(
            f"{file}, line {line}: evaluation_status must be train, query or "
            f"gallery. Received: {status[line]!r}"
        )
    frame["product_id"] = frame["item_id"]
    frame["split"] = status.where(status == "train", "test")
    frame["domain"] = status
    # "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    frame["category"] = (
        frame["image_name"].str.split("/").str[1:3].str.join("/")
    )
    try:
        name = "list_bbox_inshop.txt"
        file = tables.find_file(root, name, f"Anno/{name}")
    except FileNotFoundError:
        pass  # The boxes are a download of their own.
    else:
        boxes = tables.read_table(file, _BOX_COLUMNS, counted=True)
        tables.add_boxes(frame, boxes, file)
    pictures = root / "Img" if (root / "Img" / "img").is_dir() else root
    frame["path"] = f"{pictures}/" + frame["image_name"]
    return Catalog.from_frame(frame, "inshop", lambda row: f"Row {row + 1}")
