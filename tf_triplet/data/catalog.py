"""The table of images that every other module works on.

A `Catalog` has a row an image. Inside, products, categories, domains and
splits are dense int32 labels, which losses and metrics can use as they are
(`keras.losses.Loss` casts labels to float32, where large ids collide). At
the edges a product is called what its owner calls it: a string or an int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from tf_triplet.data import annotations
from tf_triplet.data.row_errors import refuse

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
ALL_SPLITS = "all"


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
    """An immutable table of images.

    Attributes:
        name: What reports call this catalog.
        paths: `[n]` strings, the image files.
        products: `[n]` int32 labels, 0 to `len(product_ids) - 1`.
        product_ids: `[products]` the owner's ids, strings or int64.
        categories: `[n]` int32 labels into `category_names`.
        category_names: `[categories]` strings; a table that names no
            category has one, the empty string.
        domains: `[n]` int32 labels into `domain_names`.
        domain_names: `[domains]` strings (a shop, a vendor, "street").
        splits: `[n]` int32 labels into `split_names`.
        split_names: `[splits]` strings, usually "test" and "train".
        boxes: `[n, 4]` float32 x1, y1, x2, y2 in pixels of the upright
            image (EXIF orientation applied), NaN where there is no box.
        extras: extra columns by name, `[n]` each, that some source or
            protocol knows (`pairs` of Consumer-to-Shop).
        attributes: `[n, A]` int8: 1 has it, 0 has not, -1 unknown. None
            where the table knows of none.
        attribute_names: `[A]` strings, or None.
        landmarks: `[n, L, 3]` float32 x, y and visibility, or None. Places
            are in pixels of the upright image, as `boxes`: the middle of
            the first pixel is 0.5. Visibility is 0 (visible), 1 (hidden)
            or 2 (cut off); NaN throughout where not annotated. See
            `annotations` for left and right.
        root: The folder that relative paths of the owner's table start from.
            Empty if it is not known.
    """

    name: str
    paths: np.ndarray
    products: np.ndarray
    product_ids: np.ndarray
    categories: np.ndarray
    category_names: np.ndarray
    domains: np.ndarray
    domain_names: np.ndarray
    splits: np.ndarray
    split_names: np.ndarray
    boxes: np.ndarray
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attributes: np.ndarray | None = None
    attribute_names: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    root: str = ""

    def __post_init__(self) -> None:
        for name, values in self.extras.items():
            if len(values) != len(self.paths):
                raise ValueError(
                    f"`extras` column {name!r} must have a row an image, "
                    f"{len(self.paths)}. Received: {len(values)}"
                )
        for field in ("products", "categories", "domains", "splits", "boxes"):
            rows = len(getattr(self, field))
            if rows != len(self.paths):
                raise ValueError(
                    f"`{field}` must have a row an image, {len(self.paths)}. "
                    f"Received: {rows}"
                )
        self._check_annotations()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                # A view: the caller's own array stays writable.
                value = value.view()
                value.setflags(write=False)
                object.__setattr__(self, field.name, value)

    def _check_annotations(self) -> None:
        names = () if self.attribute_names is None else self.attribute_names
        for field, values, wanted in (
            ("attributes", self.attributes, (len(self.paths), len(names))),
            (
                "landmarks",
                self.landmarks,
                (len(self.paths), *np.shape(self.landmarks)[1:2], 3),
            ),
        ):
            if values is not None and values.shape != wanted:
                raise ValueError(
                    f"`{field}` must have a row an image, "
                    f"{len(self.paths)}, and a column an attribute name, or "
                    "landmarks of 3 numbers. Received shape: "
                    f"{values.shape}, where {wanted} was expected"
                )

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return (
            f"Catalog({self.name!r}, {len(self):,} images, "
            f"{len(self.product_ids):,} products, "
            f"splits={list(self.split_names)}, "
            f"domains={list(self.domain_names)})"
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        name: str,
        describe_row: Callable[[int], str] = "Row {}".format,
        extras: Sequence[str] = (),
    ) -> Catalog:
        """Makes a catalog from a table.

        Args:
            frame: `[n]` rows with the columns `path` and `product_id`
                and, where known, `category`, `domain`, `split` and `x1`,
                `y1`, `x2`, `y2`, and those of `annotations`. Other columns
                are not looked at.
            name: What reports call this catalog.
            describe_row: Names a row (counted from 0) in an error.
            extras: Names of columns to keep as they are.

        Raises:
            ValueError: a column is missing, an id is empty or neither a
                string nor an integer, or a box, an attribute or a landmark
                is none.
        """
        _require_columns(frame)
        rows = len(frame)
        ids = _product_ids(frame["product_id"], describe_row)
        products, product_ids = pd.factorize(ids, sort=True)
        columns = {
            "paths": _required_strings(frame, "path", describe_row),
            "products": products.astype(np.int32),
            "product_ids": np.asarray(product_ids),
            "boxes": _boxes(frame, describe_row),
        }
        for column, plural in (
            ("category", "categories"),
            ("domain", "domains"),
            ("split", "splits"),
        ):
            if column not in frame:
                values = np.full(rows, "", object)
            elif column == "split":
                values = _required_strings(frame, column, describe_row)
            else:
                values = _strings(frame[column])
            labels, names = pd.factorize(values, sort=True)
            columns[plural] = labels.astype(np.int32)
            columns[f"{column}_names"] = np.asarray(names, object)
        splits = columns["split_names"]
        if len(splits) > 1 and ALL_SPLITS in splits:
            raise ValueError(
                f"A split cannot be called {ALL_SPLITS!r}, which means the "
                f"whole catalog. Received the splits: {list(splits)}"
            )
        columns["attributes"], columns["attribute_names"] = (
            annotations.read_attributes(frame, describe_row)
        )
        columns["landmarks"] = annotations.read_landmarks(frame, describe_row)
        kept = {column: frame[column].to_numpy() for column in extras}
        return cls(name=name, extras=kept, **columns)

    def to_frame(self) -> pd.DataFrame:
        """Returns the table that `from_frame` takes, a row an image.

        Without a column `split` where there are none.
        """
        frame = pd.DataFrame(
            {
                "path": self.paths,
                "product_id": self.row_product_ids,
                "category": self.category_names[self.categories],
                "domain": self.domain_names[self.domains],
                "split": self.split_names[self.splits],
            }
        )
        if list(self.split_names) == [""]:
            frame = frame.drop(columns="split")
        frame[list(BOX_COLUMNS)] = self.boxes
        frame = frame.assign(**self.extras)
        parts = [frame]
        if self.attributes is not None:
            parts.append(
                annotations.attribute_columns(
                    self.attributes, self.attribute_names
                )
            )
        if self.landmarks is not None:
            parts.append(annotations.landmark_columns(self.landmarks))
        return pd.concat(parts, axis=1) if len(parts) > 1 else frame

    @property
    def row_product_ids(self) -> np.ndarray:
        """`[n]` the owner's product id of each image."""
        return self.product_ids[self.products]

    @property
    def path_values(self) -> np.ndarray:
        """`[n]` the path of each image as the owner's table writes it.

        It is the part below `root`, which stays the same when the whole
        folder moves. A path that does not lie there is returned as it is.
        """
        start = f"{self.root}/"
        if not self.root:
            return self.paths
        return np.array(
            [path.removeprefix(start) for path in self.paths], object
        )

    def select(self, rows: np.ndarray | Sequence[int]) -> Catalog:
        """Returns some of the images, labels made dense again.

        Args:
            rows: `[m]` row numbers in the order wanted, or `[n]` booleans.
        """
        rows = np.asarray(rows)
        if rows.size == 0 and rows.dtype != bool:
            rows = rows.astype(np.int64)  # An empty list is a float array.
        columns = {"paths": self.paths[rows], "boxes": self.boxes[rows]}
        for labels, names in (
            ("products", "product_ids"),
            ("categories", "category_names"),
            ("domains", "domain_names"),
            ("splits", "split_names"),
        ):
            kept, dense = np.unique(
                getattr(self, labels)[rows], return_inverse=True
            )
            columns[labels] = dense.astype(np.int32)
            columns[names] = getattr(self, names)[kept]
        extras = {name: values[rows] for name, values in self.extras.items()}
        columns["attribute_names"] = self.attribute_names
        for field in ("attributes", "landmarks"):
            values = getattr(self, field)
            columns[field] = None if values is None else values[rows]
        return Catalog(name=self.name, extras=extras, root=self.root, **columns)

    def split(self, name: str) -> Catalog:
        """Returns the images of one split.

        Args:
            name: Of a split, of several (`val+test`), or `all`.
        """
        if name == ALL_SPLITS:
            return self
        if "+" not in name or name in self.split_names:
            return self._where("split", self.splits, self.split_names, name)
        rows = np.zeros(len(self), bool)
        for part in name.split("+"):
            if part not in self.split_names:
                self._where("split", self.splits, self.split_names, part)
            rows |= self.split_names[self.splits] == part
        return self.select(rows)

    def domain(self, name: str) -> Catalog:
        """Returns the images of one domain (a shop, a vendor)."""
        return self._where("domain", self.domains, self.domain_names, name)

    def _where(
        self, kind: str, labels: np.ndarray, names: np.ndarray, name: str
    ) -> Catalog:
        found = np.flatnonzero(names == name)
        if not len(found):
            raise ValueError(
                f"Catalog {self.name!r} has no {kind} {name!r}; it has "
                f"{', '.join(map(repr, names))}."
            )
        return self.select(labels == found[0])


def _require_columns(frame: pd.DataFrame) -> None:
    missing = [c for c in ("path", "product_id") if c not in frame]
    if missing:
        raise ValueError(
            "The table needs the columns `path` and `product_id`; "
            f"{' and '.join(f'`{c}`' for c in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. "
            f"Received: {', '.join(map(str, frame.columns))}"
        )
    boxes = [c for c in BOX_COLUMNS if c in frame]
    if boxes and len(boxes) < len(BOX_COLUMNS):
        raise ValueError(
            "A box needs the four columns x1, y1, x2, y2, or none of them. "
            f"Received: {', '.join(boxes)}"
        )


def _product_ids(
    column: pd.Series, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Returns `[n]` int64 or string objects; refuses anything else."""
    refuse(
        column.isna().to_numpy(bool),
        describe_row,
        lambda row: "has no product_id. Every image needs one.",
    )
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_integer_dtype(column.dtype):
        # Beyond int64 an id would silently become a negative one.
        if len(column) and int(column.max()) > np.iinfo(np.int64).max:
            raise ValueError(
                "An integer product_id must fit 64 signed bits; give ids as "
                f"strings instead. Received: {int(column.max())}"
            )
        return column.to_numpy(np.int64)
    values = column.to_numpy(object)
    kind = pd.api.types.infer_dtype(values, skipna=False)
    if kind == "integer":
        return _product_ids(pd.Series(values.astype(np.int64)), describe_row)
    if kind not in ("string", "empty"):
        kinds = pd.Series(values, dtype=object).map(type)
        wanted = kinds.iloc[0] if kinds.iloc[0] in (str, int) else str
        refuse(
            (kinds != wanted).to_numpy(bool),
            describe_row,
            lambda row: (
                "has a product_id of another kind: ids must be all strings "
                f"or all integers. Received: {values[row]!r}"
            ),
        )
    refuse(
        (pd.Series(values, dtype=str).str.strip() == "").to_numpy(bool),
        describe_row,
        lambda row: (
            "has an empty product_id. Every image needs one. "
            f"Received: {values[row]!r}"
        ),
    )
    return values


def _strings(column: pd.Series) -> np.ndarray:
    """Returns `[n]` string objects; a missing value is the empty string."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna().to_numpy(bool), "")
    return values.astype(str).to_numpy(object)


def _required_strings(
    frame: pd.DataFrame, name: str, describe_row: Callable[[int], str]
) -> np.ndarray:
    values = _strings(frame[name])
    refuse(
        values == "",
        describe_row,
        lambda row: f"has an empty `{name}`. Fill it in or drop the row.",
    )
    return values


def _boxes(
    frame: pd.DataFrame, describe_row: Callable[[int], str]
) -> np.ndarray:
    """Returns `[n, 4]` float32 boxes, NaN where a row has none."""
    if BOX_COLUMNS[0] not in frame:
        return np.full((len(frame), 4), np.nan, np.float32)
    given = frame[list(BOX_COLUMNS)]
    # "" is how a CSV says that a row has no box.
    given = given.astype(object).where(given.notna() & (given != ""), np.nan)
    numbers = given.apply(pd.to_numeric, errors="coerce")
    boxes = numbers.to_numpy(np.float64)
    absent = given.isna().to_numpy(bool)

    def received(row: int) -> str:
        return f"Received: {', '.join(map(str, given.iloc[row]))}"

    refuse(
        (absent.any(axis=1) & ~absent.all(axis=1))
        | (~np.isfinite(boxes) & ~absent).any(axis=1),
        describe_row,
        lambda row: f"needs four numbers x1, y1, x2, y2. {received(row)}",
    )
    refuse(
        (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]),
        describe_row,
        lambda row: (
            "has a box without area; it needs x1 < x2 and y1 < y2. "
            f"{received(row)}"
        ),
    )
    return boxes.astype(np.float32)
