"""What the benchmarks of DeepFashion (Liu et al., 2016) have in common."""

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
# clothes_type: where its landmarks stand among those of full-body clothes
# (collar, sleeve, waistline, hem; left and right of each), so that a column
# means one thing. 1 upper body, 2 lower body, 3 full body.
_PLACES = {"1": (0, 1, 2, 3, 6, 7), "2": (4, 5, 6, 7), "3": tuple(range(8))}
_ATTRIBUTE_VALUES = {"1": 1, "-1": 0, "0": -1}


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
        root: The benchmark's folder, with the images in `img` or
            `Img/img`.
        boxes: Name of the list of boxes, in the folder or in `Anno`.
        kind: The list's third column, `pose_type` or `source_type`.
    """
    # "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    folders = frame["image_name"].str.split("/")
    frame["category"] = folders.str[1:3].str.join("/")
    images = root / "Img" if (root / "Img" / "img").is_dir() else root
    frame["path"] = f"{images}/" + frame["image_name"]
    try:
        file = tables.find_file(root, boxes, f"Anno/{boxes}")
    except FileNotFoundError:
        return  # The boxes are a download of their own.
    corners = ("x_1", "y_1", "x_2", "y_2")
    columns = ("image_name", "clothes_type", kind, *corners)
    table = tables.read_table(file, columns, counted=True)
    tables.add_boxes(frame, table, file)


def with_annotations(
    frame: pd.DataFrame, root: pathlib.Path, landmarks: str
) -> pd.DataFrame:
    """Joins attributes and landmarks, as far as their lists are there.

    Their formats are those of the data sets' own README files.

    Args:
        frame: With `image_name` and `product_id`, the item.
        root: The benchmark's folder; the lists lie in it or in `Anno`.
        landmarks: Name of the list of landmarks.

    Returns:
        The frame with the columns that `Catalog.from_frame` reads. An item
        or image that a list leaves out is not annotated.

    Raises:
        ValueError: a line is not of the format; names file and line.
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
    try:
        return tables.find_file(root, name, f"Anno/{name}")
    except FileNotFoundError:
        return None  # A download of its own.


def _read_lines(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """The number and words of each line below count and header.

    What the columns are called differs from one benchmark, and one release,
    to the next; what they hold does not, and is checked row by row.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    if not names or any(map(_is_number, names)):
        raise ValueError(
            f"{path}, line 2: expected the names of the columns, below the "
            f"number of rows. Received: {' '.join(names[:8])!r}"
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
    """The attributes' names; one may be of several words.

    In-Shop has the name alone; Consumer-to-Shop the Chinese one (and a remark
    in brackets), the English one, and the number of the attribute's type. Of
    a name that comes again the second is "name (2)".
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
    """`[items]` ids, and a column `attribute:<name>` an attribute.

    Where two lines of an item differ, the label is unknown.
    """
    labels: dict[str, np.ndarray] = {}
    differing = set()
    for line, words in _read_lines(path):
        if len(words) != 1 + len(names):
            raise ValueError(
                f"{path}, line {line}: expected an item_id and "
                f"{len(names)} labels, one an attribute of "
                f"list_attr_cloth.txt. Received: {len(words) - 1} labels"
            )
        try:
            row = [_ATTRIBUTE_VALUES[word] for word in words[1:]]
        except KeyError as error:
            raise ValueError(
                f"{path}, line {line}: a label must be 1 (has it), -1 (has "
                f"not) or 0 (unknown). Received: {error.args[0]!r}"
            ) from error
        row = np.array(row, np.int8)
        known = labels.setdefault(words[0], row)
        if (known != row).any():
            differing.add(words[0])
            labels[words[0]] = np.where(known == row, row, np.int8(-1))
    if differing:
        logging.warning(
            "%s: %d items stand there twice with other labels, which are "
            "taken as unknown, the first is %s",
            path,
            len(differing),
            min(differing),
        )
    values = np.array(list(labels.values()), np.int8)
    values = values.reshape(len(labels), len(names))
    return list(labels), annotations.attribute_columns(values, names)


def _read_landmarks(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """`[m]` image names and their `[m, 8, 3]` landmarks."""
    rows = list(_read_lines(path))
    values = np.full((len(rows), _LANDMARKS, 3), np.nan, np.float32)
    for row, (line, words) in enumerate(rows):
        # The third is the kind of pose, not needed here.
        places = _PLACES.get(words[1] if len(words) > 1 else "")
        if places is None:
            raise ValueError(
                f"{path}, line {line}: clothes_type must be 1 (upper body), "
                f"2 (lower body) or 3 (full body). Received: {words[1:2]}"
            )
        if len(words) != 3 + 3 * len(places):
            raise ValueError(
                f"{path}, line {line}: clothes_type {words[1]} has "
                f"{len(places)} landmarks of 3 numbers. Received: "
                f"{len(words) - 3} numbers"
            )
        values[row, places] = _landmarks(words[3:], path, line)
    return [words[0] for _, words in rows], values


def _landmarks(
    words: Sequence[str], path: pathlib.Path, line: int
) -> np.ndarray:
    """`[k, 3]` x, y, visibility from visibility, x, y in turn."""
    try:
        marks = np.array(words, np.float32).reshape(-1, 3)[:, [1, 2, 0]]
    except ValueError as error:
        raise ValueError(
            f"{path}, line {line}: a landmark is three numbers. {error}"
        ) from error
    known = (annotations.VISIBLE, annotations.HIDDEN, annotations.CUT_OFF)
    bad = ~np.isin(marks[:, 2], known)
    if bad.any():
        raise ValueError(
            f"{path}, line {line}: landmark_visibility must be 0 (visible), "
            "1 (hidden) or 2 (cut off). Received: "
            f"{words[3 * int(np.argmax(bad))]!r}"
        )
    # The list gives a cut-off one the place 0, 0, which it is not at.
    marks[marks[:, 2] == annotations.CUT_OFF, :2] = np.nan
    return marks
