"""A sheet of images: queries and their nearest neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from tf_triplet.data.catalog import Catalog
from tf_triplet.retrieval import exact
from tf_triplet.retrieval.protocols import Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CORRECT_COLOR, _WRONG_COLOR = "#2e9e4f", "#d23b3b"
_QUERY_COLOR = "#555555"
# Side of an image on the sheet, in pixels.
_TILE = 160


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """An image that a query found.

    Attributes:
        path: The image file.
        score: Cosine of the image and the query.
        correct: Whether the image shows the query's product.
        label: Text below the score, for instance the product id.
    """

    path: str
    score: float
    correct: bool
    label: str = ""


def find_neighbors(
    vectors: np.ndarray,
    catalog: Catalog,
    protocols: Sequence[Protocol],
    count: int,
    k: int = 5,
    seed: int = 0,
) -> tuple[list[str], list[list[Neighbor]]]:
    """Draws queries at random and finds their nearest neighbors.

    Only queries with another image of their product in the gallery are drawn.

    Args:
        vectors: `[n, dim]` float embeddings of the catalog's images.
        catalog: The `n` images.
        protocols: Which images are queries, and which are searched.
        count: Number of queries to draw; fewer if there are not enough.
        k: Number of neighbors per query.
        seed: Seed of the draw. The same seed shows the same queries before
            and after training.

    Returns:
        Paths of the queries, and the neighbors of each, nearest first. This
        is what `neighbor_grid` takes.
    """
    drawable = [_answerable(catalog, protocol) for protocol in protocols]
    ends = np.cumsum([len(places) for places in drawable])
    drawn = np.random.default_rng(seed).permutation(ends[-1])[:count]
    queries, neighbors = [], []
    for draw in drawn:
        at = int(np.searchsorted(ends, draw, side="right"))
        protocol = protocols[at]
        place = drawable[at][draw - ends[at]]
        row = protocol.queries[place]
        found, scores = exact.top_k(
            vectors[row : row + 1],
            vectors[protocol.gallery],
            k,
            protocol.exclude[place : place + 1],
        )
        queries.append(str(catalog.paths[row]))
        neighbors.append(
            [
                _neighbor(catalog, row, protocol.gallery[where], cosine)
                for where, cosine in zip(found[0], scores[0])
                if where >= 0
            ]
        )
    return queries, neighbors


def _answerable(catalog: Catalog, protocol: Protocol) -> np.ndarray:
    """Returns the positions of queries with another image to find."""
    products = catalog.products
    in_gallery = np.bincount(
        products[protocol.gallery], minlength=len(catalog.product_ids)
    )
    others = in_gallery[products[protocol.queries]] - (protocol.exclude >= 0)
    return np.flatnonzero(others > 0)


def _neighbor(
    catalog: Catalog, query: int, row: int, cosine: float
) -> Neighbor:
    product = catalog.products[row]
    return Neighbor(
        path=str(catalog.paths[row]),
        score=float(cosine),
        correct=bool(product == catalog.products[query]),
        label=str(catalog.product_ids[product]),
    )


def neighbor_grid(
    path: str | Path,
    queries: Sequence[str],
    neighbors: Sequence[Sequence[Neighbor]],
    query_labels: Sequence[str] = (),
    title: str = "",
) -> None:
    """Writes a PNG with one row per query: the query, then its neighbors.

    Correct neighbors have a green frame, wrong ones a red frame.

    Args:
        path: The PNG file to write. Missing folders are created.
        queries: Image files of the queries.
        neighbors: Neighbors of each query, nearest first.
        query_labels: Labels of the queries, for instance product ids.
        title: Title above the sheet.

    Raises:
        ValueError: If there is no query, or not one list of neighbors for
            each query.
    """
    if not queries or len(queries) != len(neighbors):
        raise ValueError(
            "A sheet needs at least one query, and a list of neighbors for "
            f"each query. Received: {len(queries)} queries and "
            f"{len(neighbors)} lists of neighbors"
        )
    # pyplot would keep the figure in memory and look for a display.
    from matplotlib.figure import Figure

    width = 1 + max(1, *map(len, neighbors))
    figure = Figure(figsize=(1.5 * width, 1.85 * len(queries) + 0.6), dpi=110)
    axes = figure.subplots(len(queries), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (query, row) in enumerate(zip(queries, neighbors)):
        label = query_labels[i] if query_labels else ""
        _draw(axes[i, 0], query, f"query\n{_short(label)}", _QUERY_COLOR, 1)
        for j, neighbor in enumerate(row):
            _draw(
                axes[i, j + 1],
                neighbor.path,
                f"{neighbor.score:.3f}\n{_short(neighbor.label)}",
                _CORRECT_COLOR if neighbor.correct else _WRONG_COLOR,
                4,
            )
    figure.suptitle(_literal(title), fontsize=10)
    figure.tight_layout()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def open_image(path: str | Path, size: int) -> Image.Image:
    """Opens an image upright, on a white square.

    Args:
        path: Any image file that Pillow reads. Of an animation, the first
            frame is used.
        size: Side of the square in pixels.

    Returns:
        A `size` x `size` RGB image.

    Raises:
        OSError: If the file is not a readable image.
    """
    try:
        with Image.open(path) as file:
            image = _eight_bits(ImageOps.exif_transpose(file))
            image = image.convert("RGBA")
    except (SyntaxError, ValueError) as error:
        # Pillow raises these, besides OSError, for some broken files.
        raise OSError(f"{path} is not a readable image: {error}") from error
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    return ImageOps.pad(image, (size, size), color="white")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16-bit gray to 8 bits; Pillow would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    wide = np.asarray(image).astype(np.int64)
    return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))


def _draw(
    axis: Axes, path: str, caption: str, color: str, width: float
) -> None:
    try:
        pixels = open_image(path, _TILE)
    except OSError:
        # The sheet is still useful, so it shows a gray tile for this file.
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
    """Escapes `$`, between two of which Matplotlib would set a formula."""
    return text.replace("$", r"\$")
