"""What the benchmarks of DeepFashion (Liu et al., 2016) have in common."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pandas as pd

from tf_triplet.data.sources import tables


def read_partition(
    root: pathlib.Path, columns: Sequence[str], statuses: Sequence[str]
) -> tuple[pathlib.Path, pd.DataFrame]:
    """Reads `list_eval_partition.txt`.

    Args:
        root: The benchmark's folder; the list may lie in `Eval` or `Anno`.
        columns: Its header.
        statuses: What `evaluation_status` may be.

    Returns:
        The list's file and its rows.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line is not of the format, or of another status.
    """
    name = "list_eval_partition.txt"
    file = tables.find_file(root, name, f"Eval/{name}", f"Anno/{name}")
    frame = tables.read_table(file, columns, counted=True)
    status = frame["evaluation_status"]
    known = status.isin(list(statuses))
    if not known.all():
        line = known.idxmin()
        raise ValueError(
            f"{file}, line {line}: evaluation_status must be "
            f"{', '.join(statuses[:-1])} or {statuses[-1]}. Received: "
            f"{status[line]!r}"
        )
    return file, frame


def add_columns(
    frame: pd.DataFrame, root: pathlib.Path, boxes: str, kind: str
) -> None:
    """Adds category, path and, where there is the list, boxes.

    Args:
        frame: With `image_name`.
        root: The benchmark's folder, with the pictures in `img` or
            `Img/img`.
        boxes: Name of the list of boxes, in the folder or in `Anno`.
        kind: The list's third column, `pose_type` or `source_type`.
    """
    # "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    folders = frame["image_name"].str.split("/")
    frame["category"] = folders.str[1:3].str.join("/")
    pictures = root / "Img" if (root / "Img" / "img").is_dir() else root
    frame["path"] = f"{pictures}/" + frame["image_name"]
    try:
        file = tables.find_file(root, boxes, f"Anno/{boxes}")
    except FileNotFoundError:
        return  # The boxes are a download of their own.
    corners = ("x_1", "y_1", "x_2", "y_2")
    columns = ("image_name", "clothes_type", kind, *corners)
    table = tables.read_table(file, columns, counted=True)
    tables.add_boxes(frame, table, file)
