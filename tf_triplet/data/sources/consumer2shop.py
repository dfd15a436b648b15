"""DeepFashion Consumer-to-Shop (Liu et al., 2016): street photo to shop."""

from __future__ import annotations

import pathlib

import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import deepfashion

SPLITS = ("train", "val", "test")
# Liu et al., 2016: https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html
PUBLISHED = {"all": (239_557, None), "pairs": (195_540, None)}
_COLUMNS = (
    "image_pair_name_1",
    "image_pair_name_2",
    "item_id",
    "evaluation_status",
)


def read_consumer2shop(path: str | pathlib.Path) -> Catalog:
    """Reads `list_eval_partition.txt`, and what else is there.

    That is boxes, attributes (`list_attr_items.txt`, of an item) and
    landmarks (`list_landmarks_consumer2shop.txt`); each list is optional.

    An image stands in as many lines as it has partners; here it is one row.

    Args:
        path: The benchmark's folder, with the lists in it, or in `Eval` and
            `Anno`, and the images in `img` or `Img/img`.

    Returns:
        Splits train, val and test; `extras["pairs"]`, the lines that a
        image stands in; domains consumer (the first of a pair)
        and shop; categories as in the path, for instance `TOPS/T_Shirt`.

    Raises:
        FileNotFoundError: the partition is missing.
        ValueError: a line is not of the format, or an image is of two
            items, splits or domains.
    """
    root = pathlib.Path(path)
    file, pairs = deepfashion.read_partition(root, _COLUMNS, SPLITS)
    frame = pd.concat(
        [
            pd.DataFrame(
                {
                    "image_name": pairs[f"image_pair_name_{column}"],
                    "product_id": pairs["item_id"],
                    "split": pairs["evaluation_status"],
                    "domain": domain,
                }
            )
            for column, domain in ((1, "consumer"), (2, "shop"))
        ]
    )
    lines = frame["image_name"].value_counts()
    frame = frame.drop_duplicates()
    frame["pairs"] = frame["image_name"].map(lines)
    twice = frame["image_name"].duplicated(keep=False)
    if twice.any():
        first = frame[twice].sort_values("image_name", kind="stable")
        raise ValueError(
            f"{file}, lines {first.index[0]} and {first.index[1]}: an image "
            "is of two items, splits or domains. Received: "
            f"{first['image_name'].iloc[0]!r}"
        )
    deepfashion.add_columns(
        frame, root, "list_bbox_consumer2shop.txt", "source_type"
    )
    frame = deepfashion.with_annotations(
        frame.reset_index(drop=True),
        root,
        "list_landmarks_consumer2shop.txt",
    )
    return Catalog.from_frame(frame, "consumer2shop", extras=("pairs",))
