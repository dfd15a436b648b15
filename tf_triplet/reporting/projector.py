"""An interactive map of the embeddings, drawn by TensorFlow Similarity."""

from __future__ import annotations

import contextlib
import importlib
import io
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from absl import logging

from tf_triplet.reporting import neighbors

# UMAP looks at 15 neighbors of each point, so it needs more points than that.
_LEAST_POINTS = 16
# Choosing more distinct colors takes TF Similarity minutes, and people cannot
# tell them apart.
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
    """Writes an HTML file with a two-dimensional UMAP map of embeddings.

    The file contains the thumbnails and all scripts, so it opens without a
    network. Colors stand for categories. If there is only one category, they
    stand for products, provided that there are few.

    Args:
        path: The HTML file to write. Missing folders are created.
        vectors: `[n, dim]` float embeddings.
        paths: `[n]` image files.
        products: `[n]` product ids.
        categories: `[n]` category names.
        limit: Maximum number of points. If there are more embeddings, a
            random sample is shown.
        thumbnail_size: Side of a thumbnail in pixels.
        seed: Seed of the random sample.

    Returns:
        The number of points on the map.

    Raises:
        ValueError: If there are too few points, or if a required package is
            not installed.
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
        # The default is a tool that newer versions of Bokeh do not have.
        active_drag="pan",
        # Density-preserving UMAP fails on duplicates, which catalogs contain.
        densmap=False,
    )
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file_html(figure, INLINE, "Embeddings"), encoding="utf-8")
    return len(rows)


def _import_projector() -> types.ModuleType:
    try:
        # Imported by name, because an attribute of the package hides the
        # module: a function that is called `projector` too.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(
                "tensorflow_similarity.visualization.projector"
            )
    except ImportError as error:
        raise ValueError(
            "--projector needs tensorflow-similarity with umap-learn, bokeh "
            f"and distinctipy: pip install tensorflow-similarity. ({error})"
        ) from error


def _project(
    module: types.ModuleType, vectors: np.ndarray, **arguments: Any
) -> Any:
    """Returns the Bokeh figure that the projector would display."""
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
        # The projector prints a progress bar that belongs in a notebook.
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
        logging.warning("Cannot make a thumbnail of %s: %s", path, error)
        return np.full((size, size, 3), 221, np.uint8)
    return np.asarray(image)
