"""An image of images: queries and what was found for them."""

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
class Neighbor:
    """An image that was found.

    Attributes:
        path: The image file.
        score: Its cosine with the query.
        right: It shows the query's product.
        label: For instance its product id.
    """

    path: str
    score: float
    right: bool
    label: str = ""


def find_neighbors(
    vectors: np.ndarray,
    catalog: Catalog,
    parts: Sequence[Protocol],
    count: int,
    k: int = 5,
    seed: int = 0,
) -> tuple[list[str], list[list[Neighbor]]]:
    """Draws queries that have something to find, and finds their nearest.

    Args:
        vectors: `[n, dim]` embeddings of the catalog's images.
        catalog: `[n]` images.
        parts: Who queries whom; several galleries where several.
        count: Queries to draw; fewer where there are fewer.
        k: Neighbors a query.
        seed: Of the draw: before and after training show the same queries.

    Returns:
        Paths of the queries, and the neighbors of each: what
        `neighbor_grid` takes.
    """
    drawable = [_with_something_to_find(catalog, part) for part in parts]
    ends = np.cumsum([len(places) for places in drawable])
    drawn = np.random.default_rng(seed).permutation(ends[-1])[:count]
    queries, neighbors = [], []
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
        neighbors.append(
            [
                _neighbor(catalog, row, part.gallery[where], cosine)
                for where, cosine in zip(found[0], scores[0])
                if where >= 0
            ]
        )
    return queries, neighbors


def _with_something_to_find(catalog: Catalog, part: Protocol) -> np.ndarray:
    """Places of the queries whose product is in the gallery once more."""
    products = catalog.products
    in_gallery = np.bincount(
        products[part.gallery], minlength=len(catalog.product_ids)
    )
    others = in_gallery[products[part.queries]] - (part.exclude >= 0)
    return np.flatnonzero(others > 0)


def _neighbor(
    catalog: Catalog, query: int, row: int, cosine: float
) -> Neighbor:
    product = catalog.products[row]
    return Neighbor(
        path=str(catalog.paths[row]),
        score=float(cosine),
        right=bool(product == catalog.products[query]),
        label=str(catalog.product_ids[product]),
    )


def neighbor_grid(
    path: str | Path,
    queries: Sequence[str],
    neighbors: Sequence[Sequence[Neighbor]],
    query_labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Writes a PNG: a row a query, then its nearest, right ones in green.

    Args:
        path: The PNG file; its folder is made.
        queries: Image files.
        neighbors: What was found for each, nearest first.
        query_labels: Names of the queries, for instance product ids.
        title: Over everything.

    Raises:
        ValueError: no query, or not as many rows of neighbors.
    """
    if not queries or len(queries) != len(neighbors):
        raise ValueError(
            "A grid needs a query or more, and a row of neighbors for each. "
            f"Received: {len(queries)} queries, {len(neighbors)} rows"
        )
    # Not pyplot: it holds on to metrics and to a display.
    from matplotlib.figure import Figure

    width = 1 + max(1, *map(len, neighbors))
    figure = Figure(figsize=(1.5 * width, 1.85 * len(queries) + 0.6), dpi=110)
    axes = figure.subplots(len(queries), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (query, row) in enumerate(zip(queries, neighbors)):
        label = query_labels[i] if query_labels else ""
        _draw(axes[i, 0], query, f"query\n{_short(label)}", "#555555", 1)
        for j, neighbor in enumerate(row):
            _draw(
                axes[i, j + 1],
                neighbor.path,
                f"{neighbor.score:.3f}\n{_short(neighbor.label)}",
                _RIGHT if neighbor.right else _WRONG,
                4,
            )
    figure.suptitle(_literal(title), fontsize=10)
    figure.tight_layout()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def open_image(path: str | Path, size: int) -> Image.Image:
    """Returns the image upright, on white, in a `size` x `size` square.

    Args:
        path: Any file that Pillow opens; its first frame is taken.
        size: Pixels a side.

    Raises:
        OSError: not a readable image.
    """
    try:
        with Image.open(path) as file:
            image = _eight_bits(ImageOps.exif_transpose(file))
            image = image.convert("RGBA")
    except (SyntaxError, ValueError) as error:
        # What Pillow's readers raise on a broken file is not one family.
        raise OSError(f"{path} is no readable image: {error}") from error
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    return ImageOps.pad(image, (size, size), color="white")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip 16-bit gray to white."""
    if not image.mode.startswith("I"):
        return image
    wide = np.asarray(image).astype(np.int64)
    return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))


def _draw(axis, path: str, caption: str, color: str, width: float) -> None:
    try:
        pixels = open_image(path, _TILE)
    except OSError:
        # One lost file does not spoil the sheet, but is seen on it.
        pixels = Image.new("RGB", (_TILE, _TILE), "#dddddd")
        caption = f"unreadable\n{_short(Path(path).name)}"
    axis.set_axis_on()
    axis.imshow(np.asarray(pixels))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(_literal(caption), fontsize=7, color=color)
    for spine in axis.spines.values():
        spine.set(edgecolor=color, linewidth=width)


def _short(label: str, length: int = 22) -> str:
    label = " ".join(str(label).split())
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _literal(text: str) -> str:
    """A lone or paired $ in a product's name is no formula."""
    return text.replace("$", r"\$")
