"""Shows on a terminal what the check of a catalog has found."""

from __future__ import annotations

import pandas as pd
import rich.console
import rich.table
import rich.text

from tf_triplet.data.preflight import Report

# The number of table rows, and of files in a list, that are shown.
_LISTED = 20


def render(report: Report) -> rich.console.Group:
    """Lays out a report for `rich.print`.

    Args:
        report: The result of `preflight.inspect`.
    """
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
    for lines in (bad_files, report.same_images, report.same_looks):
        shown = lines[:_LISTED]
        if len(lines) > _LISTED:
            shown.append(f"... and {len(lines) - _LISTED:,} more")
        parts.extend(rich.text.Text(f"  {line}") for line in shown)
    if not report.problems:
        text = "No problem found in the images."
        parts.append(rich.text.Text(text, style="green"))
    return rich.console.Group(*parts)


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
        ("products with one image", f"{report.singletons:,}"),
        ("categories", f"{len(report.categories):,}"),
        (
            "products in several splits",
            f"{len(report.products_in_several_splits):,}",
        ),
        ("missing or unreadable files", f"{len(report.unreadable):,}"),
        ("boxes outside the image", f"{len(report.boxes_outside):,}"),
        (
            "duplicate images across splits",
            f"{len(report.duplicates_across_splits):,}",
        ),
        (
            "duplicate images across products",
            f"{len(report.duplicates_across_products):,}",
        ),
        ("same photo in two products", f"{len(report.same_looks):,}"),
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
