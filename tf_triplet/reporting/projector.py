"""A map of the embeddings to hover over, by TensorFlow Similarity."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from absl import logging

from tf_triplet.reporting import neighbors as neighbors

# UMAP's neighborhood; fewer points have no map worth looking at.
_LEAST_POINTS = 16
# Telling more colors apart takes TF Similarity minutes, and nobody can.
_MOST_COLORS = 24


def write_projector(
    path: str | Path,
    vectors: np.ndarray,
    paths: Sequence[str],
    products: Sequence[str],
    categories: Sequence[str],
    limit: int = 2000,
    thumbnail_size: int = 64,
    seed: int = 0,
) -> int:
    """Writes one HTML file that shows the embeddings in the plane (UMAP).

    It holds everything it needs, thumbnails too, and opens without network.
    Colors are the categories, or the products where there is one category
    and few products.

    Args:
        path: The HTML file; its folder is made.
        vectors: `[n, dim]` embeddings.
        paths: `[n]` image files.
        products: `[n]` product ids.
        categories: `[n]` categories.
        limit: Points at most; of more, so many are drawn at random.
        thumbnail_size: Pixels a side.
        seed: Of the draw.

    Returns:
        The number of points.

    Raises:
        ValueError: too few points, or a package that it needs is missing.
    """
    if len(vectors) < _LEAST_POINTS:
        raise ValueError(
            f"The projector needs {_LEAST_POINTS} images or more. "
            f"Received: {len(vectors)}"
        )
    module = _import_projector()
    rows = np.arange(len(vectors))
    if len(rows) > limit:
        rows = np.random.default_rng(seed).permutation(len(rows))[:limit]
    thumbnails = [_thumbnail(paths[row], thumbnail_size) for row in rows]
    products = [str(products[row]) for row in rows]
    categories = [str(categories[row]) for row in rows]
    names = categories if len(set(categories)) > 1 else products
    figure = _project(
        module,
        np.asarray(vectors)[rows].astype(np.float32),
        labels=names,
        images=np.stack(thumbnails),
        image_size=thumbnail_size,
        tooltips_info={"product": products},
        colorize=len(set(names)) <= _MOST_COLORS,
        pt_size=6,
        plot_size=900,
        # The default names a tool that newer Bokeh does not offer.
        active_drag="pan",
        # Density-preserving UMAP fails on duplicates, which catalogs have.
        densmap=False,
    )
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file_html(figure, INLINE, "Embeddings"), encoding="utf-8")
    return len(rows)


def _import_projector():
    try:
        # The package shows a function of this name in place of the module.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(
                "tensorflow_similarity.visualization.projector"
            )
    except ImportError as error:
        raise ValueError(
            "--projector needs tensorflow-similarity with umap-learn, bokeh "
            f"and distinctipy: pip install tensorflow-similarity. ({error})"
        ) from error


def _project(module, vectors: np.ndarray, **arguments):
    """Runs the projector, which can only show, and returns its figure."""
    shown = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(
                module, "show", lambda figure, **_: shown.append(figure)
            )
        )
        stack.enter_context(
            mock.patch.object(module, "output_notebook", lambda: None)
        )
        # It prints, and draws a bar, for a notebook's reader.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        module.projector(vectors, **arguments)
    return shown[0]


def _thumbnail(path: str, size: int) -> np.ndarray:
    try:
        image = neighbors.open_image(path, size)
    except OSError as error:
        logging.warning("No thumbnail of %s: %s", path, error)
        return np.full((size, size, 3), 221, np.uint8)
    return np.asarray(image)
