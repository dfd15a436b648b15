"""A picture of pictures: queries and what was found for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import exact
from tf_triplet.retrieval.protocols import Protocol

_RIGHT, _WRONG = "#2e9e4f", "#d23b3b"
_TILE = 160


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A picture that was found.

    Attributes:
        path: The picture file.
        score: Its cosine with the query.
        right: It shows the query's product.
        label: For instance its product id.
    """

    path: str
    score: float
    right: bool
    label: str = ""


def find_neighbours(
    vectors: np.ndarray,
    catalog: Catalog,
    parts: Sequence[Protocol],
    count: int,
    k: int = 5,
    seed: int = 0,
) -> tuple[list[str], list[list[Neighbour]]]:
    """Draws queries that have something to find, and finds their nearest.

    Args:
        vectors: `[n, dim]` embeddings of the catalogue's pictures.
        catalog: `[n]` pictures.
        parts: Who queries whom; several galleries where several.
        count: Queries to draw; fewer where there are fewer.
        k: Neighbours a query.
        seed: Of the draw: before and after training show the same queries.

    Returns:
        Paths of the queries, and the neighbours of each: what
        `neighbour_grid` takes.
    """
    drawable = [_with_something_to_find(catalog, part) for part in parts]
    ends = np.cumsum([len(places) for places in drawable])
    drawn = np.random.default_rng(seed).permutation(ends[-1])[:count]
    queries, neighbours = [], []
    for draw in drawn:
        at = int(np.searchsorted(ends, draw, side="right"))
        part = parts[at]
        place = drawable[at][draw - ends[at]]
        row = part.queries[place]
        found, scores = exact.top_k(
            vectors[row : row + 1],
            vectors[part.gallery],
            k,
            part.exclude[place : place + 1],
        )
        queries.append(str(catalog.paths[row]))
        neighbours.append(
            [
                _neighbour(catalog, row, part.gallery[where], cosine)
                for where, cosine in zip(found[0], scores[0])
                if where >= 0
            ]
        )
    return queries, neighbours


def _with_something_to_find(catalog: Catalog, part: Protocol) -> np.ndarray:
    """Places of the queries whose product is in the gallery once more."""
    products = catalog.products
    in_gallery = np.bincount(
        products[part.gallery], minlength=len(catalog.product_ids)
    )
    others = in_gallery[products[part.queries]] - (part.exclude >= 0)
    return np.flatnonzero(others > 0)


def _neighbour(
    catalog: Catalog, query: int, row: int, cosine: float
) -> Neighbour:
    product = catalog.products[row]
    return Neighbour(
        path=str(catalog.paths[row]),
        score=float(cosine),
        right=bool(product == catalog.products[query]),
        label=str(catalog.product_ids[product]),
    )


def neighbour_grid(
    path: str | Path,
    queries: Sequence[str],
    neighbours: Sequence[Sequence[Neighbour]],
    query_labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Writes a PNG: a row a query, then its nearest, right ones in green.

    Args:
        path: The PNG file; its folder is made.
        queries: Picture files.
        neighbours: What was found for each, nearest first.
        query_labels: Names of the queries, for instance product ids.
        title: Over everything.

    Raises:
        ValueError: no query, or not as many rows of neighbours.
    """
    if not queries or len(queries) != len(neighbours):
        raise ValueError(
            "A grid needs a query or more, and a row of neighbours for each. "
            f"Received: {len(queries)} queries, {len(neighbours)} rows"
        )
    # Not pyplot: it holds on to figures and to a display.
    from matplotlib.figure import Figure

    width = 1 + max(1, *map(len, neighbours))
    figure = Figure(figsize=(1.5 * width, 1.85 * len(queries) + 0.6), dpi=110)
    axes = figure.subplots(len(queries), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (query, row) in enumerate(zip(queries, neighbours)):
        label = query_labels[i] if query_labels else ""
        _draw(axes[i, 0], query, f"query\n{_short(label)}", "#555555", 1)
        for j, neighbour in enumerate(row):
            _draw(
                axes[i, j + 1],
                neighbour.path,
                f"{neighbour.score:.3f}\n{_short(neighbour.label)}",
                _RIGHT if neighbour.right else _WRONG,
                4,
            )
    figure.suptitle(_literal(title), fontsize=10)
    figure.tight_layout()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def open_picture(path: str | Path, size: int) -> Image.Image:
    """Returns the picture upright, on white, in a `size` x `size` square.

    Args:
        path: Any file that Pillow opens; its first frame is taken.
        size: Pixels a side.

    Raises:
        OSError: not a readable picture.
    """
    try:
        with Image.open(path) as file:
            picture = _eight_bits(ImageOps.exif_transpose(file))
            picture = picture.convert("RGBA")
    except (SyntaxError, ValueError) as error:
        # What Pillow's readers raise on a broken file is not one family.
        raise OSError(f"{path} is no readable picture: {error}") from error
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    return ImageOps.pad(picture, (size, size), color="white")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow would clip 16-bit grey to white."""
    if not picture.mode.startswith("I"):
        return picture
    wide = np.asarray(picture).astype(np.int64)
    return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))


def _draw(axis, path: str, caption: str, colour: str, width: float) -> None:
    try:
        pixels = open_picture(path, _TILE)
    except OSError:
        # One lost file does not spoil the sheet, but is seen on it.
        pixels = Image.new("RGB", (_TILE, _TILE), "#dddddd")
        caption = f"unreadable\n{_short(Path(path).name)}"
    axis.set_axis_on()
    axis.imshow(np.asarray(pixels))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(_literal(caption), fontsize=7, color=colour)
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=width)


def _short(label: str, length: int = 22) -> str:
    label = " ".join(str(label).split())
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _literal(text: str) -> str:
    """A lone or paired $ in a product's name is no formula."""
    return text.replace("$", r"\$")
