"""DeepFashion Consumer-to-Shop (Liu et al., 2016): street to shop photos."""

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
    """Reads `list_eval_partition.txt` and the optional lists.

    The optional lists are the boxes (`list_bbox_consumer2shop.txt`), the
    attributes of the items (`list_attr_items.txt`) and the landmarks
    (`list_landmarks_consumer2shop.txt`).

    The partition has one line for each pair of images, so an image occurs
    once for each partner. In the catalog it is one row.

    Args:
        path: The folder of the benchmark. The lists are in it, or in `Eval`
            and `Anno`. The images are in `img` or `Img/img`.

    Returns:
        The catalog, with splits train, val and test. The domains are consumer
        (the first image of a pair) and shop. `extras["pairs"]` is the number
        of lines with the image. Categories are a part of the path, for
        instance `TOPS/T_Shirt`.

    Raises:
        FileNotFoundError: If the partition is missing.
        ValueError: If a line does not have the expected format, or if an
            image belongs to two items, splits or domains.
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
            "belongs to two items, splits or domains. Received: "
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
