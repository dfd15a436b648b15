"""Cars196 (Krause et al., 2013), in both of its layouts."""

from __future__ import annotations

import pathlib

import numpy as np
import pandas as pd

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import tables

PUBLISHED = {"train": (8_054, 98), "test": (8_131, 98)}
_LAST_TRAINING_CLASS = 98
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def read_cars196(path: str | pathlib.Path) -> Catalog:
    """Reads `cars_annos.mat`, or the two lists of `devkit`.

    Args:
        path: A folder with `cars_annos.mat` and `car_ims`, or a folder with
            `devkit`, `cars_train` and `cars_test`. `devkit` contains
            `cars_train_annos.mat` and `cars_test_annos_withlabels.mat`. The
            latter may also be next to `devkit`.

    Returns:
        The catalog, with boxes. Product ids are the class ids. 1 to 98 are
        the split train and 99 to 196 the split test, as is customary in
        metric learning. The official split is another one.

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If a list has no classes.
    """
    root = pathlib.Path(path)
    if (root / "cars_annos.mat").is_file():
        frame = _read(root / "cars_annos.mat", "relative_im_path", root)
    else:
        training = tables.find_file(
            root, "devkit/cars_train_annos.mat", "cars_annos.mat"
        )
        name = "cars_test_annos_withlabels.mat"
        test = tables.find_file(root, name, f"devkit/{name}")
        frame = pd.concat(
            [
                _read(training, "fname", root / "cars_train"),
                _read(test, "fname", root / "cars_test"),
            ],
            ignore_index=True,
        )
    known = frame["product_id"] <= _LAST_TRAINING_CLASS
    frame["split"] = known.map({True: "train", False: "test"})
    return Catalog.from_frame(frame, "cars196")


def _read(
    path: pathlib.Path, name_field: str, folder: pathlib.Path
) -> pd.DataFrame:
    # Nothing else needs this slow import.
    from scipy import io

    rows = io.loadmat(path, squeeze_me=True)["annotations"]
    missing = {name_field, "class", *_CORNERS} - set(rows.dtype.names)
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(sorted(missing))}. The test list with "
            "labels is cars_test_annos_withlabels.mat. Received: "
            f"{', '.join(rows.dtype.names)}"
        )
    rows = np.atleast_1d(rows)
    frame = pd.DataFrame(
        {
            "path": [f"{folder}/{name}" for name in rows[name_field]],
            "product_id": rows["class"].astype(np.int64),
        }
    )
    for ours, theirs in zip(("x1", "y1", "x2", "y2"), _CORNERS):
        frame[ours] = rows[theirs].astype(float)
    return frame
