"""DeepFashion In-Shop Clothes Retrieval (Liu et al., 2016)."""

from __future__ import annotations

import pathlib

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import deepfashion

# {split or domain: (images, products)}
PUBLISHED = {
    "train": (25_882, 3_997),
    "query": (14_218, 3_985),
    "gallery": (12_612, 3_985),
}
_COLUMNS = ("image_name", "item_id", "evaluation_status")


def read_inshop(path: str | pathlib.Path) -> Catalog:
    """Reads `list_eval_partition.txt` and the optional lists.

    The optional lists are the boxes (`list_bbox_inshop.txt`), the attributes
    of the items (`list_attr_items.txt`) and the landmarks
    (`list_landmarks_inshop.txt`).

    Args:
        path: The folder of the benchmark. The lists are in it, or in `Eval`
            and `Anno`. The images are in `img` or `Img/img`.

    Returns:
        The catalog, with splits train and test. The domains of test are query
        and gallery. Categories are a part of the path, for instance
        `WOMEN/Dresses`.

    Raises:
        FileNotFoundError: If the partition is missing.
        ValueError: If a line does not have the expected format.
    """
    root = pathlib.Path(path)
    _, frame = deepfashion.read_partition(root, _COLUMNS, tuple(PUBLISHED))
    status = frame["evaluation_status"]
    frame["product_id"] = frame["item_id"]
    frame["split"] = status.where(status == "train", "test")
    frame["domain"] = status
    deepfashion.add_columns(frame, root, "list_bbox_inshop.txt", "pose_type")
    frame = deepfashion.with_annotations(
        frame, root, "list_landmarks_inshop.txt"
    )
    return Catalog.from_frame(frame, "inshop", lambda row: f"Row {row + 1}")
