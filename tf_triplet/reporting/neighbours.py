"""A picture of answers: queries and their nearest, right ones framed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps


@dataclasses.dataclass(frozen=True)
class Row:
    """One query and its answer.

    Attributes:
        query: path of the picture.
        title: the query's product.
        neighbours: `(path, product, score)`, nearest first.
    """

    query: str
    title: str
    neighbours: Sequence[tuple[str, str, float]]


def neighbour_grid(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes a PNG: a line a query; green frames are right, red wrong."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not rows:
        raise ValueError("There is no answer to show.")
    columns = 1 + max(len(row.neighbours) for row in rows)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.6 * columns, 1.9 * len(rows)),
        squeeze=False,
    )
    for line, row in zip(axes, rows):
        for axis in line:
            axis.set_axis_off()
        _show(line[0], row.query, f"query\n{row.title}", "black")
        for axis, (picture, product, score) in zip(line[1:], row.neighbours):
            colour = "tab:green" if product == row.title else "tab:red"
            _show(axis, picture, f"{product}\n{score:.3f}", colour)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _show(axis, picture: str, title: str, colour: str) -> None:
    with Image.open(picture) as image:
        rgba = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    axis.imshow(Image.alpha_composite(white, rgba).convert("RGB"))
    axis.set_title(title, fontsize=6, color=colour)
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(3)
