"""The table of images that every other module works on.

A `Catalog` has one row per image. Products, categories, domains and splits
are dense int32 labels, which losses and metrics can use directly. (Keras
casts labels to float32, where large ids would collide.) The catalog also
keeps the product ids of its owner, which are strings or int64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from tf_triplet.data import annotations
from tf_triplet.data import columns as table_columns

ALL_SPLITS = "all"


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
    """An immutable table of images.

    Most catalogs come from a reader such as `read_manifest`, or from
    `Catalog.from_frame`.

    Attributes:
        name: The name of the catalog in reports.
        paths: `[n]` strings, the paths of the image files.
        products: `[n]` int32 labels, 0 to `len(product_ids) - 1`.
        product_ids: `[products]` ids of the owner, strings or int64.
        categories: `[n]` int32 labels, places in `category_names`.
        category_names: `[categories]` strings. A table without categories has
            a single one, the empty string.
        domains: `[n]` int32 labels, places in `domain_names`.
        domain_names: `[domains]` strings, for instance shops, vendors or
            "street".
        splits: `[n]` int32 labels, places in `split_names`.
        split_names: `[splits]` strings, usually "test" and "train".
        boxes: `[n, 4]` float32 x1, y1, x2, y2 in pixels of the upright image
            (with the EXIF orientation applied). NaN if an image has no box.
        extras: Extra columns by name, `[n]` values each, which a protocol or
            report may use.
        attributes: `[n, A]` int8, 1 (has it), 0 (has not) or -1 (unknown).
            None if the table has no attributes.
        attribute_names: `[A]` strings, or None.
        landmarks: `[n, L, 3]` float32 x, y and visibility, or None. x and y
            are in pixels of the upright image. The center of the first pixel
            is 0.5. Visibility is 0 (visible), 1 (hidden) or 2 (cut off). All
            three are NaN if a landmark is not annotated. See
            `tf_triplet.data.annotations` about left and right.
        root: The folder that relative paths of the owner's table start from.
            Empty if it is not known.
        table_paths: `[n]` strings, the paths as the owner's table writes
            them, or None if they are the part of `paths` below `root`.

    Raises:
        ValueError: If an array does not have one row per image.

    Example:

    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {
    ...         "path": ["a.jpg", "b.jpg", "c.jpg"],
    ...         "product_id": ["hat-7", "hat-7", "bag-1"],
    ...         "split": ["train", "train", "test"],
    ...     }
    ... )
    >>> catalog = Catalog.from_frame(table, "shop")
    >>> catalog.product_ids.tolist(), catalog.products.tolist()
    (['bag-1', 'hat-7'], [1, 1, 0])
    >>> catalog.split("train")
    Catalog('shop', 2 images, 1 products, splits=['train'], domains=[''])
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
    table_paths: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, values in self.extras.items():
            if len(values) != len(self.paths):
                raise ValueError(
                    f"The column {name!r} of `extras` must have one row per "
                    f"image, {len(self.paths)}. Received: {len(values)}"
                )
        for field in ("products", "categories", "domains", "splits", "boxes"):
            rows = len(getattr(self, field))
            if rows != len(self.paths):
                raise ValueError(
                    f"`{field}` must have one row per image, "
                    f"{len(self.paths)}. Received: {rows}"
                )
        self._check_annotations()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                # The caller's array stays writable, because this is a view.
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
                    f"`{field}` must have the shape {wanted}: one row per "
                    "image, and one column per attribute name or three "
                    f"numbers per landmark. Received: shape {values.shape}"
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
        """Builds a catalog from a table.

        Args:
            frame: A table of n rows. The columns `path` and `product_id` are
                required. The columns `category`, `domain`, `split`, `x1`,
                `y1`, `x2`, `y2`, and those of `tf_triplet.data.annotations`
                are optional. Other columns are ignored.
            name: The name of the catalog in reports.
            describe_row: Takes a row number, counted from 0, and returns its
                name in errors.
            extras: The names of columns to keep unchanged in `extras`.

        Returns:
            The catalog, with one image per row.

        Raises:
            ValueError: If a column is missing, if an id is empty or neither a
                string nor an integer, or if a box, attribute or landmark is
                invalid.
        """
        table_columns.require_columns(frame)
        rows = len(frame)
        ids = table_columns.read_product_ids(frame["product_id"], describe_row)
        products, product_ids = pd.factorize(ids, sort=True)
        columns = {
            "paths": table_columns.read_required_strings(
                frame, "path", describe_row
            ),
            "products": products.astype(np.int32),
            "product_ids": np.asarray(product_ids),
            "boxes": table_columns.read_boxes(frame, describe_row),
        }
        for column, plural in (
            ("category", "categories"),
            ("domain", "domains"),
            ("split", "splits"),
        ):
            if column not in frame:
                values = np.full(rows, "", object)
            elif column == "split":
                values = table_columns.read_required_strings(
                    frame, column, describe_row
                )
            else:
                values = table_columns.read_strings(frame[column])
            labels, names = pd.factorize(values, sort=True)
            columns[plural] = labels.astype(np.int32)
            columns[f"{column}_names"] = np.asarray(names, object)
        splits = columns["split_names"]
        if len(splits) > 1 and ALL_SPLITS in splits:
            raise ValueError(
                f"A split cannot be called {ALL_SPLITS!r}, because that name "
                f"means the whole catalog. Received: splits {list(splits)}"
            )
        columns["attributes"], columns["attribute_names"] = (
            annotations.read_attributes(frame, describe_row)
        )
        columns["landmarks"] = annotations.read_landmarks(frame, describe_row)
        kept = {column: frame[column].to_numpy() for column in extras}
        return cls(name=name, extras=kept, **columns)

    def to_frame(self) -> pd.DataFrame:
        """Returns the table from which `from_frame` builds this catalog.

        Returns:
            One row per image. The column `split` is left out if there are no
            splits.
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
        frame[list(table_columns.BOX_COLUMNS)] = self.boxes
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
        """`[n]` strings or int64, the owner's product id of each image."""
        return self.product_ids[self.products]

    @property
    def path_values(self) -> np.ndarray:
        """`[n]` the path of each image as the owner's table writes it.

        It is the part below `root`, which stays the same when the whole
        folder moves. A path that does not lie there is returned as it is.
        """
        if self.table_paths is not None:
            return self.table_paths
        start = f"{self.root}/"
        if not self.root:
            return self.paths
        return np.array(
            [path.removeprefix(start) for path in self.paths], object
        )

    def select(self, rows: np.ndarray | Sequence[int]) -> Catalog:
        """Returns a catalog of some of the images.

        Args:
            rows: `[m]` row numbers in the desired order, or `[n]` booleans.

        Returns:
            The images of these rows. Their labels are dense again, so they
            may differ from those of this catalog.
        """
        rows = np.asarray(rows)
        if rows.size == 0 and rows.dtype != bool:
            rows = rows.astype(np.int64)  # NumPy makes [] an array of floats.
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
        for field in ("attributes", "landmarks", "table_paths"):
            values = getattr(self, field)
            columns[field] = None if values is None else values[rows]
        return Catalog(name=self.name, extras=extras, root=self.root, **columns)

    def split(self, name: str) -> Catalog:
        """Returns a catalog of the images of one split.

        Args:
            name: The name of a split, several names (`val+test`), or `all`.

        Returns:
            The images of these splits.

        Raises:
            ValueError: If there is no such split.
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
        """Returns a catalog of the images of one domain.

        Args:
            name: The name of the domain, for instance of a shop.

        Returns:
            The images of this domain.

        Raises:
            ValueError: If there is no such domain.
        """
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
