"""Checks every image of a catalog before training spends hours on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tf_triplet.data import file_check
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.columns import BOX_COLUMNS


@dataclasses.dataclass(frozen=True)
class Report:
    """What the check of a catalog has found.

    Attributes:
        name: The name of the catalog.
        images: The number of images.
        products: The number of products.
        images_per_product: The least, median, mean and greatest number.
        singletons: The number of products with a single image.
        splits: The number of images, products and singletons by split.
        domains: The same numbers by domain.
        categories: The same numbers by category.
        products_in_several_splits: The ids of products that occur in more
            than one split.
        unreadable: (path, reason) of every missing or damaged file.
        boxes_outside: (path, reason) of every box that leaves its image.
        duplicates_across_splits: Groups of paths whose files are identical
            but belong to more than one split.
        duplicates_across_products: Groups of paths whose files are identical
            but belong to more than one product.
        copies: The number of images that are identical to another image of
            the same product and split.
        problems: What costs images or prevents training, one sentence or two
            each.
        warnings: What may be intended, one sentence or two each.
    """

    name: str
    images: int
    products: int
    images_per_product: dict[str, float]
    singletons: int
    splits: pd.DataFrame
    domains: pd.DataFrame
    categories: pd.DataFrame
    products_in_several_splits: list
    unreadable: list[tuple[str, str]]
    boxes_outside: list[tuple[str, str]]
    duplicates_across_splits: list[tuple[str, ...]]
    duplicates_across_products: list[tuple[str, ...]]
    copies: int
    problems: list[str] = dataclasses.field(init=False)
    warnings: list[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", list(_problems(self)))
        object.__setattr__(self, "warnings", list(_warnings(self)))


def inspect(
    catalog: Catalog, workers: int | None = None, show_progress: bool = True
) -> Report:
    """Opens, hashes and decodes every file of a catalog once.

    Args:
        catalog: The images of all splits.
        workers: The number of threads. By default, one per processor.
        show_progress: Whether to show the progress.
    """
    path_labels, paths = pd.factorize(catalog.paths)
    checked = file_check.check_files(list(paths), workers, show_progress)
    readable = _readable(catalog, path_labels, checked)
    per_product = np.bincount(
        catalog.products, minlength=len(catalog.product_ids)
    )
    counts = per_product if len(per_product) else np.zeros(1)
    return Report(
        name=catalog.name,
        images=len(catalog),
        products=len(catalog.product_ids),
        images_per_product={
            "least": float(counts.min()),
            "median": float(np.median(counts)),
            "mean": float(counts.mean()),
            "greatest": float(counts.max()),
        },
        singletons=int((per_product == 1).sum()),
        splits=_counts(catalog, catalog.splits, catalog.split_names),
        domains=_counts(catalog, catalog.domains, catalog.domain_names),
        categories=_counts(catalog, catalog.categories, catalog.category_names),
        products_in_several_splits=_in_several_splits(catalog),
        unreadable=[
            (path, check.reason)
            for path, check in zip(paths, checked)  # noqa: B905
            if check.reason
        ],
        boxes_outside=_boxes_outside(catalog, path_labels, checked),
        duplicates_across_splits=_duplicates(readable, "split"),
        duplicates_across_products=_duplicates(readable, "product"),
        copies=_copies(readable),
    )


def _problems(report: Report) -> Iterator[str]:
    if report.products < 2:
        yield (
            "A triplet needs two products, but the number of products is "
            f"{report.products}."
        )
    if report.singletons == report.products:
        yield (
            "No product has two images, so no image has a positive. "
            "Check that rows of one product share their product_id."
        )
    if report.unreadable:
        count = len(report.unreadable)
        yield f"Files that are missing or unreadable: {count:,}."
    if report.boxes_outside:
        yield (
            f"Boxes that leave their image: {len(report.boxes_outside):,}. "
            "Boxes are x1, y1, x2, y2 in pixels of the upright image."
        )


def _warnings(report: Report) -> Iterator[str]:
    if 0 < report.singletons < report.products:
        yield (
            f"Products with a single image: {report.singletons:,}. Such an "
            "image can be a negative, but it has no positive."
        )
    several = report.products_in_several_splits
    if several:
        yield (
            f"Products that occur in several splits: {len(several):,}, for "
            f"example {', '.join(map(str, several[:5]))}. Metrics of a "
            "held-out split then include products seen in training."
        )
    if report.copies:
        yield (
            "Images that are identical to another image of the same product "
            f"and split: {report.copies:,}. In evaluation, each of them finds "
            "its copy, which makes Recall@1 too high."
        )
    for groups, where in (
        (report.duplicates_across_splits, "several splits"),
        (report.duplicates_across_products, "several products"),
    ):
        if groups:
            yield f"Identical images in {where}: {len(groups):,}."


def _in_several_splits(catalog: Catalog) -> list:
    pairs = pd.DataFrame(
        {"product": catalog.products, "split": catalog.splits}
    ).drop_duplicates()
    counts = pairs["product"].value_counts()
    several = np.sort(counts.index[counts > 1].to_numpy())
    return catalog.product_ids[several].tolist()


def _counts(
    catalog: Catalog, labels: np.ndarray, names: np.ndarray
) -> pd.DataFrame:
    """Counts images, products and singletons for each name."""
    rows = pd.DataFrame({"label": labels, "product": catalog.products})
    per_product = rows.groupby(["label", "product"]).size()
    by_label = per_product.groupby("label")
    table = pd.DataFrame(
        {
            "images": by_label.sum(),
            "products": by_label.size(),
            "singletons": (per_product == 1).groupby("label").sum(),
        }
    ).astype(np.int64)
    table.index = pd.Index(names[table.index.to_numpy(np.int64)], dtype=object)
    return table


def _boxes_outside(
    catalog: Catalog,
    path_labels: np.ndarray,
    checked: list[file_check.CheckedFile],
) -> list[tuple[str, str]]:
    sizes = np.array([(c.width, c.height) for c in checked], np.float64)
    sizes = sizes.reshape(-1, 2)[path_labels]
    # Half a pixel may be rounding. Unreadable files are listed elsewhere.
    outside = (catalog.boxes[:, :2] < -0.5).any(axis=1) | (
        catalog.boxes[:, 2:] > sizes + 0.5
    ).any(axis=1)
    return [
        (
            catalog.paths[row],
            f"box {catalog.boxes[row].tolist()} leaves the image of "
            f"{sizes[row, 0]:.0f} x {sizes[row, 1]:.0f} pixels",
        )
        for row in np.flatnonzero(outside & (sizes[:, 0] > 0))
    ]


def _readable(
    catalog: Catalog,
    path_labels: np.ndarray,
    checked: list[file_check.CheckedFile],
) -> pd.DataFrame:
    """Lists the rows of readable files, with a label of each file's bytes."""
    digests, _ = pd.factorize(
        np.array([check.digest for check in checked], object)
    )
    whole = np.array([not check.reason for check in checked], bool)
    rows = pd.DataFrame(
        {
            "path": catalog.paths,
            "digest": digests[path_labels],
            "product": catalog.products,
            "split": catalog.splits,
            **dict(zip(BOX_COLUMNS, catalog.boxes.T)),  # noqa: B905
        }
    )
    return rows[whole[path_labels]]


def _duplicates(rows: pd.DataFrame, label: str) -> list[tuple[str, ...]]:
    """Groups the paths of identical files that have several labels."""
    if not len(rows):
        return []
    several = rows.groupby("digest")[label].nunique()
    rows = rows[rows["digest"].isin(several.index[several > 1])]
    return [
        tuple(group.unique()) for _, group in rows.groupby("digest")["path"]
    ]


def _copies(rows: pd.DataFrame) -> int:
    # Two boxes in one file are two images.
    same = rows.duplicated(["digest", "product", "split", *BOX_COLUMNS])
    return int(same.sum())
