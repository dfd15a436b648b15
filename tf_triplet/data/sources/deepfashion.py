"""Reads the lists that the DeepFashion benchmarks share (Liu et al., 2016)."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from absl import logging

from tf_triplet.data import annotations
from tf_triplet.data.sources import tables

_LANDMARKS = 8
# The landmarks of each clothes_type: 1 upper body, 2 lower body, 3 full body.
# Their columns are those of full-body clothes (left and right of collar,
# sleeve, waistline and hem), so that a column always means the same.
_PLACES = {"1": (0, 1, 2, 3, 6, 7), "2": (4, 5, 6, 7), "3": tuple(range(8))}
_ATTRIBUTE_VALUES = {"1": 1, "-1": 0, "0": -1}


def read_partition(
    root: pathlib.Path, columns: Sequence[str], statuses: Sequence[str]
) -> tuple[pathlib.Path, pd.DataFrame]:
    """Reads `list_eval_partition.txt`.

    Args:
        root: The folder of the benchmark. The list may be in its folder
            `Eval` or `Anno`.
        columns: The header of the list.
        statuses: The values that `evaluation_status` can have.

    Returns:
        The file of the list, and its rows.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If a line does not have the expected format or status.
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
    """Adds the category, the path and, if its list exists, the box.

    Args:
        frame: A table with `image_name`.
        root: The folder of the benchmark. The images are in `img` or
            `Img/img`.
        boxes: The name of the list of boxes, in the folder or in `Anno`.
        kind: The third column of that list, `pose_type` or `source_type`.
    """
    # "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    folders = frame["image_name"].str.split("/")
    frame["category"] = folders.str[1:3].str.join("/")
    images = root / "Img" if (root / "Img" / "img").is_dir() else root
    frame["path"] = f"{images}/" + frame["image_name"]
    file = _find(root, boxes)
    if file is None:
        return
    corners = ("x_1", "y_1", "x_2", "y_2")
    columns = ("image_name", "clothes_type", kind, *corners)
    table = tables.read_table(file, columns, counted=True)
    tables.add_boxes(frame, table, file)


def with_annotations(
    frame: pd.DataFrame, root: pathlib.Path, landmarks: str
) -> pd.DataFrame:
    """Adds attributes and landmarks, if their lists exist.

    The README files of the data sets define the formats.

    Args:
        frame: A table with `image_name` and `product_id`, the item.
        root: The folder of the benchmark. The lists are in it or in `Anno`.
        landmarks: The name of the list of landmarks.

    Returns:
        The table with the columns that `Catalog.from_frame` reads. Items and
        images that a list leaves out are not annotated.

    Raises:
        ValueError: If a line does not have the expected format. The message
            names the file and the line.
    """
    parts = [frame]
    items = _find(root, "list_attr_items.txt")
    if items is not None:
        name = "list_attr_cloth.txt"
        cloth = tables.find_file(root, name, f"Anno/{name}")
        ids, values = _read_items(items, _read_names(cloth))
        joined = values.set_index(pd.Index(ids)).reindex(
            frame["product_id"], fill_value=-1
        )
        parts.append(joined.set_index(frame.index))
    file = _find(root, landmarks)
    if file is not None:
        names, values = _read_landmarks(file)
        table = annotations.landmark_columns(values)
        table = table.set_index(pd.Index(names))
        table = table[~table.index.duplicated()]
        joined = table.reindex(frame["image_name"])
        parts.append(joined.set_index(frame.index))
    return pd.concat(parts, axis=1)


def _find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    # Each of the optional lists is a separate download.
    try:
        return tables.find_file(root, name, f"Anno/{name}")
    except FileNotFoundError:
        return None


def _read_lines(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the words of each line below the header.

    The names of the columns differ between benchmarks and releases, so only
    the rows are checked.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    if not names or any(map(_is_number, names)):
        raise ValueError(
            f"{path}, line 2: expected the names of the columns, after a line "
            f"with the number of rows. Received: {' '.join(names[:8])!r}"
        )
    for line, text in enumerate(lines[2:], 3):
        if words := text.split():
            yield line, words


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_names(path: pathlib.Path) -> list[str]:
    """Reads the names of the attributes, which may have several words.

    A line of In-Shop has the name only. A line of Consumer-to-Shop has the
    Chinese name, sometimes a remark in parentheses, the English name, and the
    number of the attribute's type. A repeated name becomes "name (2)".
    """
    names, seen = [], collections.Counter()
    for _, words in _read_lines(path):
        english = [w for w in words if w.isascii() and w[0] != "("]
        if len(english) < len(words) and english and english[-1].isdigit():
            english = english[:-1]
        name = " ".join(english or words)
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return names


def _read_items(
    path: pathlib.Path, names: Sequence[str]
) -> tuple[list[str], pd.DataFrame]:
    """Reads the attributes of items.

    Returns:
        `[items]` ids, and one column `attribute:<name>` per attribute. A
        label that differs between two lines of an item is unknown.
    """
    labels: dict[str, np.ndarray] = {}
    differing = set()
    for line, words in _read_lines(path):
        if len(words) != 1 + len(names):
            raise ValueError(
                f"{path}, line {line}: expected an item_id and "
                f"{len(names)} labels, one per attribute in "
                f"list_attr_cloth.txt. Received: {len(words) - 1} labels"
            )
        try:
            row = [_ATTRIBUTE_VALUES[word] for word in words[1:]]
        except KeyError as error:
            raise ValueError(
                f"{path}, line {line}: a label must be 1 (yes), -1 (no) or 0 "
                f"(unknown). Received: {error.args[0]!r}"
            ) from error
        row = np.array(row, np.int8)
        known = labels.setdefault(words[0], row)
        if (known != row).any():
            differing.add(words[0])
            labels[words[0]] = np.where(known == row, row, np.int8(-1))
    if differing:
        logging.warning(
            "%s: %d items occur twice with different labels, which are taken "
            "as unknown, for example %s.",
            path,
            len(differing),
            min(differing),
        )
    values = np.array(list(labels.values()), np.int8)
    values = values.reshape(len(labels), len(names))
    return list(labels), annotations.attribute_columns(values, names)


def _read_landmarks(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Reads `[m]` image names and their `[m, 8, 3]` landmarks."""
    rows = list(_read_lines(path))
    values = np.full((len(rows), _LANDMARKS, 3), np.nan, np.float32)
    for row, (line, words) in enumerate(rows):
        # The third word is the kind of pose, which is not needed.
        places = _PLACES.get(words[1] if len(words) > 1 else "")
        if places is None:
            raise ValueError(
                f"{path}, line {line}: clothes_type must be 1 (upper body), "
                f"2 (lower body) or 3 (full body). Received: {words[1:2]}"
            )
        if len(words) != 3 + 3 * len(places):
            raise ValueError(
                f"{path}, line {line}: clothes_type {words[1]} must have "
                f"{len(places)} landmarks of 3 numbers. Received: "
                f"{len(words) - 3} numbers"
            )
        values[row, places] = _landmarks(words[3:], path, line)
    return [words[0] for _, words in rows], values


def _landmarks(
    words: Sequence[str], path: pathlib.Path, line: int
) -> np.ndarray:
    """Turns visibility, x and y into `[k, 3]` x, y and visibility."""
    try:
        marks = np.array(words, np.float32).reshape(-1, 3)[:, [1, 2, 0]]
    except ValueError as error:
        raise ValueError(
            f"{path}, line {line}: a landmark must be three numbers. {error}"
        ) from error
    known = (annotations.VISIBLE, annotations.HIDDEN, annotations.CUT_OFF)
    bad = ~np.isin(marks[:, 2], known)
    if bad.any():
        raise ValueError(
            f"{path}, line {line}: landmark_visibility must be 0 (visible), "
            "1 (hidden) or 2 (cut off). Received: "
            f"{words[3 * int(np.argmax(bad))]!r}"
        )
    # The list writes x and y of a landmark that is cut off as 0, 0.
    marks[marks[:, 2] == annotations.CUT_OFF, :2] = np.nan
    return marks
