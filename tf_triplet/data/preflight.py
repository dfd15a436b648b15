"""Checks every image of a catalog before training spends hours on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tf_triplet.data import (
    box_checks,
    decoding,
    file_check,
    near_duplicates,
)
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.columns import BOX_COLUMNS

# A category of fewer products is small, and one is large that has so many
# times the products of the largest small one.
_FEW_PRODUCTS = 10
_LARGE = 50


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
        duplicates_across_splits: Groups of paths whose images are identical
            but belong to more than one split.
        duplicates_across_products: Groups of paths whose images are identical
            but belong to more than one product.
        same_images: One line about each group of identical images, which
            names the paths, product ids and splits. Groups of several
            products or splits come first.
        same_looks: One line about each pair of files of different products
            that are not identical, but show the same photo.
        box_problem: What is wrong with boxes that leave their images, in one
            sentence or more. Empty if none does.
        box_warning: What may be wrong with boxes that do not.
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
    same_images: list[str]
    same_looks: list[str]
    box_problem: str
    box_warning: str
    copies: int
    problems: list[str] = dataclasses.field(init=False)
    warnings: list[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", list(_problems(self)))
        object.__setattr__(self, "warnings", list(_warnings(self)))


def inspect(
    catalog: Catalog,
    workers: int | None = None,
    show_progress: bool = True,
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
) -> Report:
    """Opens, hashes and decodes every file of a catalog once.

    Args:
        catalog: The images of all splits.
        workers: The number of threads. By default, one per processor.
        show_progress: Whether to show the progress.
        max_megapixels: Millions of pixels that are decoded at most, see
            `InputSpec`.
    """
    path_labels, paths = pd.factorize(catalog.paths)
    checked = file_check.check_files(
        list(paths), workers, show_progress, max_megapixels
    )
    readable = _readable(catalog, path_labels, checked)
    sizes = _sizes(path_labels, checked)
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
        boxes_outside=_boxes_outside(catalog, sizes),
        box_problem=box_checks.explain_outside(catalog.boxes, sizes),
        box_warning=box_checks.explain_corner(catalog.boxes, sizes),
        duplicates_across_splits=_duplicates(readable, "split"),
        duplicates_across_products=_duplicates(readable, "product"),
        same_images=_name_duplicates(catalog, readable),
        same_looks=_same_looks(catalog, readable, path_labels, checked),
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
    if report.box_problem:
        yield report.box_problem


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
    if report.same_looks:
        yield (
            "Pairs of different files that show the same photo under two "
            f"products: {len(report.same_looks):,}. Correct the product_id "
            "of one, or remove it, unless the products do look alike."
        )
    yield from filter(None, [report.box_warning, _skew(report.categories)])


def _skew(categories: pd.DataFrame) -> str:
    """Tells a large category beside many small ones."""
    products = categories["products"].to_numpy()
    small = products < _FEW_PRODUCTS
    largest = int(products.max(initial=0))
    if small.sum() < 2 or largest < _LARGE * products[small].max():
        return ""
    return (
        f"Category {categories.index[products.argmax()]!r} has {largest:,} "
        f"products, and {small.sum():,} of the {len(products):,} categories "
        f"have fewer than {_FEW_PRODUCTS}. A minibatch of a small category is "
        "filled up with other products. How often each category is drawn is "
        "decided by sampling.category_draw; merge small categories, or set "
        "sampling.small_category=exclude."
    )


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


def _sizes(
    path_labels: np.ndarray, checked: list[file_check.CheckedFile]
) -> np.ndarray:
    """Returns `[rows, 2]` the width and height of each row's image."""
    sizes = np.array([(c.width, c.height) for c in checked], np.float64)
    return sizes.reshape(-1, 2)[path_labels]


def _boxes_outside(
    catalog: Catalog, sizes: np.ndarray
) -> list[tuple[str, str]]:
    # Unreadable files have no size, and are listed elsewhere.
    outside = box_checks.outside(catalog.boxes, sizes)
    return [
        (
            catalog.paths[row],
            f"box {catalog.boxes[row].tolist()} leaves the image of "
            f"{sizes[row, 0]:.0f} x {sizes[row, 1]:.0f} pixels",
        )
        for row in np.flatnonzero(outside)
    ]


def _readable(
    catalog: Catalog,
    path_labels: np.ndarray,
    checked: list[file_check.CheckedFile],
) -> pd.DataFrame:
    """Lists the rows of readable files, with labels of file and image."""
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
    # Two boxes in one file are two images.
    image = ["digest", *BOX_COLUMNS]
    rows["image"] = rows.groupby(image, dropna=False, sort=False).ngroup()
    return rows[whole[path_labels]]


def _duplicates(rows: pd.DataFrame, label: str) -> list[tuple[str, ...]]:
    """Groups the paths of identical images that have several labels."""
    several = rows.groupby("image")[label].transform("nunique") > 1
    groups = rows[several].groupby("image")["path"]
    return [tuple(group.unique()) for _, group in groups]


def _name_duplicates(catalog: Catalog, rows: pd.DataFrame) -> list[str]:
    """Names the identical images, those of several labels first."""
    by_image = rows.groupby("image")
    several = (by_image["product"].transform("nunique") > 1) | (
        by_image["split"].transform("nunique") > 1
    )
    copies = by_image["path"].transform("size") > 1
    return [
        "identical images: "
        + ", ".join(_name_row(catalog, row) for row in group.index)
        for chosen in (several, copies & ~several)
        for _, group in rows[chosen].groupby("image")
    ]


def _name_row(catalog: Catalog, row: int) -> str:
    split = catalog.split_names[catalog.splits[row]]
    box = catalog.boxes[row]
    part = "" if np.isnan(box).any() else f", box {box.tolist()}"
    return (
        f"{catalog.paths[row]} (product {catalog.row_product_ids[row]}"
        f"{split and f', split {split}'}{part})"
    )


def _same_looks(
    catalog: Catalog,
    rows: pd.DataFrame,
    path_labels: np.ndarray,
    checked: list[file_check.CheckedFile],
) -> list[str]:
    """Names pairs of files of different products that look the same."""
    # A file with two boxes shows two products.
    single = rows.groupby("digest")["product"].transform("nunique") == 1
    first = rows[single & ~rows.duplicated("digest")].index.to_numpy()
    if not len(first):
        return []
    small = [checked[label].thumbnail for label in path_labels[first]]
    pairs = near_duplicates.find_pairs(
        np.frombuffer(b"".join(small), np.uint8).reshape(len(first), -1),
        catalog.products[first],
    )
    return [
        f"the same photo: {_name_row(catalog, one)}, "
        f"{_name_row(catalog, other)}"
        for one, other in first[pairs]
    ]


def _copies(rows: pd.DataFrame) -> int:
    same = rows.duplicated(["image", "product", "split"])
    return int(same.sum())
