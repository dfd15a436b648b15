"""A procedural catalog: products drawn by arithmetic, no network needed.

Six categories of silhouettes. A product has its own shape parameters, two
colors of its category's small palette and a pattern that sticks to it. A
image is one viewpoint of it: in the "studio" domain upright-ish on white
(PNG), in the "street" domain more turned, under colored light, on a
cluttered background, compressed (JPEG). The palette is small and the light
colored, so that mean color alone does not tell products apart.
"""

from __future__ import annotations

import io
import json
import pathlib

import numpy as np
import pandas as pd
from PIL import Image
from rich import progress

from tf_triplet.data import fetch
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import shapes, splits

# Raise it when a change alters a single pixel: old folders are then redone.
VERSION = 1
STUDIO = "studio"
STREET = "street"
PALETTE_SIZE = 6


def read_rendered(
    directory: str | pathlib.Path,
    products: int = 200,
    images_per_product: int = 6,
    seed: int = 0,
    test_fraction: float = 0.5,
    image_size: int = 64,
    show_progress: bool = True,
    draw: str = "hash",
) -> Catalog:
    """Draws the images, unless they are there already, and lists them.

    The files go to a folder inside `directory` that is named after the
    parameters; a folder under that name is complete, so it is reused.

    Args:
        directory: Where the folder of images goes.
        products: Number of products.
        images_per_product: Images of each, studio and street in turn.
        seed: Seed of the products, their images and the split.
        test_fraction: The share of products in the "test" split.
        image_size: Pixels a side.
        show_progress: Show a progress bar while drawing.
        draw: "hash", or "permutation" for runs of earlier versions; see
            `splits`.
    """
    for name, value in (
        ("products", products),
        ("images_per_product", images_per_product),
    ):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {value}")
    if image_size < 8:
        raise ValueError(
            f"`image_size` must be at least 8. Received: {image_size}"
        )
    folder = pathlib.Path(directory) / (
        f"rendered-v{VERSION}-p{products}-i{images_per_product}"
        f"-s{seed}-{image_size}px"
    )
    table = _table(products, images_per_product)
    if not folder.is_dir():
        with fetch.published_folder(folder) as partial:
            _write(table, partial, seed, image_size, show_progress)
    table["path"] = [str(folder / file) for file in table["file"]]
    catalog = Catalog.from_frame(table, "rendered")
    return splits.with_split(catalog, test_fraction, seed, draw)


def render(seed: int, product: int, image: int, image_size: int) -> bytes:
    """Returns one image file; the same arguments give the same bytes.

    Args:
        seed: Seed of the catalog.
        product: Number of the product; its category follows from it.
        image: Number of the image; even ones are studio (PNG), odd ones
            street (JPEG).
        image_size: Pixels a side.
    """
    category = product % len(shapes.CATEGORIES)
    # Three different lists of numbers, so no two streams coincide.
    palette = np.random.default_rng([seed, 1, category]).uniform(
        0.1, 0.95, (PALETTE_SIZE, 3)
    )
    design = shapes.draw_design(
        np.random.default_rng([seed, 2, product]), category, palette
    )
    rng = np.random.default_rng([seed, 3, product, image])
    street = _domain(image) == STREET
    # Twice the size, averaged: smooth outlines.
    pixels = _image(rng, design, 2 * image_size, street)
    pixels = pixels.reshape(image_size, 2, image_size, 2, 3).mean((1, 3))
    if street:
        pixels = pixels + rng.normal(0, 0.02, pixels.shape)
    image = Image.fromarray(
        (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    )
    output = io.BytesIO()
    if street:
        image.save(output, "JPEG", quality=int(rng.integers(65, 92)))
    else:
        image.save(output, "PNG", compress_level=3)
    return output.getvalue()


def _domain(image: int) -> str:
    return STREET if image % 2 else STUDIO


def _table(products: int, images_per_product: int) -> pd.DataFrame:
    """Returns a row an image; `file` is relative to the folder."""
    rows = []
    for product in range(products):
        category = shapes.CATEGORIES[product % len(shapes.CATEGORIES)]
        name = f"{category}-{product:05d}"
        for image in range(images_per_product):
            domain = _domain(image)
            suffix = "jpg" if domain == STREET else "png"
            rows.append(
                {
                    "file": f"{category}/{name}/{domain}-{image:02d}.{suffix}",
                    "product_id": name,
                    "category": category,
                    "domain": domain,
                    "product": product,
                    "image": image,
                }
            )
    return pd.DataFrame(rows)


def _write(
    table: pd.DataFrame,
    folder: pathlib.Path,
    seed: int,
    image_size: int,
    show_progress: bool,
) -> None:
    for row in progress.track(
        table.itertuples(),
        description="Drawing the rendered catalog",
        total=len(table),
        disable=not show_progress,
        transient=True,
    ):
        path = folder / row.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(render(seed, row.product, row.image, image_size))
    parameters = {
        "version": VERSION,
        "seed": seed,
        "image_size": image_size,
        "pictures": len(table),
    }
    (folder / "parameters.json").write_text(json.dumps(parameters, indent=2))


def _image(
    rng: np.random.Generator, design: shapes.Design, size: int, street: bool
) -> np.ndarray:
    """Returns `[size, size, 3]` floats, about 0 to 1."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    u, v = _viewpoint(rng, x, y, street)
    inside = shapes.silhouette(design, u, v)
    surface = shapes.texture(design, u, v)
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.85 + rng.uniform(0.1, 0.3) * (
        np.cos(angle) * u + np.sin(angle) * v
    )
    surface = surface * light[..., None]
    if not street:
        return np.where(inside[..., None], surface, 1.0)
    image = np.where(inside[..., None], surface, _clutter(rng, x, y))
    if rng.random() < 0.3:
        # Something stands in front of a part of it.
        edge = rng.uniform(0.45, 0.8) * rng.choice([-1, 1])
        hidden = (x > edge) if edge > 0 else (x < edge)
        image = np.where(hidden[..., None], rng.uniform(0, 1, 3), image)
    exposure = rng.uniform(0.75, 1.15)
    return image * exposure * rng.uniform(0.75, 1.2, 3)


def _viewpoint(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, street: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where on the product each pixel of the image looks."""
    spread = 1.0 if street else 0.5
    angle = spread * rng.uniform(-0.7, 0.7)
    scale = rng.uniform(0.55, 0.9) if street else rng.uniform(0.7, 0.9)
    shift = spread * rng.uniform(-0.2, 0.2, 2)
    narrow = 1 + spread * rng.uniform(0, 0.5)
    shear = spread * rng.uniform(-0.25, 0.25)
    tilt = spread * rng.uniform(-0.25, 0.25, 2)
    x, y = x - shift[0], y - shift[1]
    depth = (1 + tilt[0] * x + tilt[1] * y) * scale
    u = (np.cos(angle) * x + np.sin(angle) * y) * narrow / depth
    v = (np.cos(angle) * y - np.sin(angle) * x) / depth
    return u + shear * v, v


def _clutter(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Returns a `[size, size, 3]` background of boxes on a gradient."""
    colors = rng.uniform(0.15, 0.9, (2, 3))
    slope = ((x * rng.uniform(-1, 1) + y) + 2) / 4
    background = colors[0] + slope[..., None] * (colors[1] - colors[0])
    for _ in range(rng.integers(3, 8)):
        center = rng.uniform(-1, 1, 2)
        half = rng.uniform(0.05, 0.4, 2)
        box = (np.abs(x - center[0]) < half[0]) & (
            np.abs(y - center[1]) < half[1]
        )
        background[box] = rng.uniform(0, 1, 3)
    return background
