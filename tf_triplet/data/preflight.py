"""Looks at every image of a catalog before hours are spent on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd
import rich.console
import rich.table
import rich.text

from tf_triplet.data import file_check
from tf_triplet.data.catalog import Catalog

# Rows of a table and files of a list that are shown.
_LISTED = 20
_BOX = ("x1", "y1", "x2", "y2")


@dataclasses.dataclass(frozen=True)
class Report:
    """What the preflight found.

    Attributes:
        name: The catalog's name.
        images: Rows of the catalog.
        products: Products.
        images_per_product: Least, median, mean and greatest number.
        singletons: Products with a single image.
        splits: Images, products and singletons by split.
        domains: The same by domain.
        categories: The same by category.
        products_in_several_splits: Ids of products that lie in more than
            one split.
        unreadable: (path, reason) of every missing or damaged file.
        boxes_outside: (path, reason) of every box that leaves its image.
        duplicates_across_splits: Groups of paths with the same bytes in
            more than one split.
        duplicates_across_products: Groups of paths with the same bytes
            under more than one product.
        copies: Images with the bytes of another of their product and split.
        problems: What will cost images or stop a run, one line each.
        warnings: What may be meant so, one line each.
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
    """Opens, hashes and decodes every file of the catalog once.

    Args:
        catalog: The catalog, all its splits.
        workers: Threads; as many as processors unless given.
        show_progress: Show a progress bar.
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


def render(report: Report) -> rich.console.Group:
    """Returns the report as something that `rich.print` shows."""
    parts: list = [_facts_table(report)]
    for title, counts in (
        ("split", report.splits),
        ("domain", report.domains),
        ("category", report.categories),
    ):
        if len(counts) > 1:
            parts.append(_counts_table(title, counts))
    for lines, word, style in (
        (report.problems, "problem", "bold red"),
        (report.warnings, "warning", "yellow"),
    ):
        for line in lines:
            parts.append(rich.text.Text(f"{word}: {line}", style=style))
    bad_files = [
        f"{path}: {reason}"
        for path, reason in report.unreadable + report.boxes_outside
    ]
    duplicates = [
        f"same bytes: {', '.join(group)}"
        for group in report.duplicates_across_splits
    ]
    for lines, most in ((bad_files, _LISTED), (duplicates, 5)):
        shown = lines[:most]
        if len(lines) > most:
            shown.append(f"... and {len(lines) - most:,} more")
        parts.extend(rich.text.Text(f"  {line}") for line in shown)
    if not report.problems:
        text = "No problem found in the images."
        parts.append(rich.text.Text(text, style="green"))
    return rich.console.Group(*parts)


def _problems(report: Report) -> Iterator[str]:
    if report.products < 2:
        yield (
            f"{report.products} product; a triplet needs two, one of them "
            "to be told from the other."
        )
    if report.singletons == report.products:
        yield (
            "no product has two images, so no image has a positive. "
            "Check that rows of one product share their product_id."
        )
    if report.unreadable:
        yield f"{len(report.unreadable):,} files are missing or unreadable."
    if report.boxes_outside:
        yield (
            f"{len(report.boxes_outside):,} boxes leave their image. Boxes "
            "are x1, y1, x2, y2 in pixels of the upright image."
        )


def _warnings(report: Report) -> Iterator[str]:
    if 0 < report.singletons < report.products:
        yield (
            f"{report.singletons:,} products have a single image, which "
            "can be a negative but never a positive."
        )
    several = report.products_in_several_splits
    if several:
        yield (
            f"{len(several):,} products lie in several splits, so held-out "
            "metrics are of products seen in training. For example: "
            f"{', '.join(map(str, several[:5]))}"
        )
    if report.copies:
        yield (
            f"{report.copies:,} images are, byte for byte, another of their "
            "product in the same split: where that is evaluated, each finds "
            "its copy, and raises Recall@1 for nothing."
        )
    for groups, where in (
        (report.duplicates_across_splits, "several splits"),
        (report.duplicates_across_products, "several products"),
    ):
        if groups:
            yield (
                f"{len(groups):,} images lie, byte for byte the same, in "
                f"{where}."
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
    """Returns images, products and singletons by name."""
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


def _facts_table(report: Report) -> rich.table.Table:
    facts = rich.table.Table(
        title=rich.text.Text(f"Catalog {report.name}"), show_header=False
    )
    facts.add_column()
    facts.add_column(justify="right")
    spread = report.images_per_product
    for label, value in (
        ("images", f"{report.images:,}"),
        ("products", f"{report.products:,}"),
        (
            "images per product",
            f"{spread['least']:g} to {spread['greatest']:g}, "
            f"median {spread['median']:g}, mean {spread['mean']:.1f}",
        ),
        ("singletons", f"{report.singletons:,}"),
        ("categories", f"{len(report.categories):,}"),
        (
            "products in several splits",
            f"{len(report.products_in_several_splits):,}",
        ),
        ("missing or unreadable files", f"{len(report.unreadable):,}"),
        ("boxes outside the image", f"{len(report.boxes_outside):,}"),
        (
            "duplicate files across splits",
            f"{len(report.duplicates_across_splits):,}",
        ),
        (
            "duplicate files across products",
            f"{len(report.duplicates_across_products):,}",
        ),
    ):
        facts.add_row(label, value)
    return facts


def _counts_table(title: str, counts: pd.DataFrame) -> rich.table.Table:
    table = rich.table.Table()
    table.add_column(title)
    for column in counts.columns:
        table.add_column(column, justify="right")
    for row in counts.head(_LISTED).itertuples():
        name = rich.text.Text(row[0] or "(none)")
        table.add_row(name, *(f"{value:,}" for value in row[1:]))
    if len(counts) > _LISTED:
        table.add_row(f"... and {len(counts) - _LISTED:,} more")
    return table


def _boxes_outside(
    catalog: Catalog,
    path_labels: np.ndarray,
    checked: list[file_check.CheckedFile],
) -> list[tuple[str, str]]:
    sizes = np.array([(c.width, c.height) for c in checked], np.float64)
    sizes = sizes.reshape(-1, 2)[path_labels]
    # Half a pixel is rounding; a file without a size has its own entry.
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
    """The rows whose files are whole, with the digests of their bytes."""
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
            **dict(zip(_BOX, catalog.boxes.T)),  # noqa: B905
        }
    )
    return rows[whole[path_labels]]


def _duplicates(rows: pd.DataFrame, label: str) -> list[tuple[str, ...]]:
    """Returns groups of paths with the same bytes but several labels."""
    if not len(rows):
        return []
    several = rows.groupby("digest")[label].nunique()
    rows = rows[rows["digest"].isin(several.index[several > 1])]
    return [
        tuple(group.unique()) for _, group in rows.groupby("digest")["path"]
    ]


def _copies(rows: pd.DataFrame) -> int:
    # Two boxes of one file are two images.
    same = rows.duplicated(["digest", "product", "split", *_BOX])
    return int(same.sum())
