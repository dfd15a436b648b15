"""A catalog of drawings, for tests and for machines without a network.

A product is a silhouette of one of six categories. It has its own shape, its
own pattern, and two colors of the small palette of its category. An image
shows it from one viewpoint. In the "studio" domain it is nearly upright on a
white background (PNG). In the "street" domain it is turned further, under
colored light, on a cluttered background, and compressed (JPEG). The palette
is small and the light is colored, so that the mean color alone does not
identify a product.
"""

from __future__ import annotations

import io
import json
import pathlib

import numpy as np
import pandas as pd
from PIL import Image

from tf_triplet import progress
from tf_triplet.data import fetch
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import shapes, splits

# Increase this number if a single pixel changes. Old folders are then no
# longer used.
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
    """Draws a catalog, or reads it if it has been drawn before.

    The images are written to a folder inside `directory` that is named after
    the arguments. If that folder exists, it is complete and is used again.

    Args:
        directory: Where the folder of images is created.
        products: The number of products.
        images_per_product: The number of images of each product. They belong
            to the domains "studio" and "street" in turn.
        seed: The seed of the products, their images and the split.
        test_fraction: The share of products in the "test" split.
        image_size: Side of the images, in pixels.
        show_progress: Whether to show the progress of drawing.
        draw: How products are held out: "hash", or "permutation" as in earlier
            versions. See `tf_triplet.data.sources.splits`.

    Returns:
        The catalog, with splits "train" and "test".

    Raises:
        ValueError: If a number is too small.

    Example:

    >>> import tempfile
    >>> catalog = read_rendered(
    ...     tempfile.mkdtemp(),
    ...     products=6,
    ...     images_per_product=2,
    ...     image_size=16,
    ...     show_progress=False,
    ... )
    >>> len(catalog), catalog.domain_names.tolist()
    (12, ['street', 'studio'])
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
    """Draws one image. The same arguments give the same bytes.

    Args:
        seed: The seed of the catalog.
        product: The number of the product, which determines its category.
        image: The number of the image. Even numbers are studio images (PNG),
            and odd ones are street images (JPEG).
        image_size: Side of the image, in pixels.

    Returns:
        The bytes of a PNG or JPEG file.
    """
    category = product % len(shapes.CATEGORIES)
    # The lists differ, so no two random streams are the same.
    palette = np.random.default_rng([seed, 1, category]).uniform(
        0.1, 0.95, (PALETTE_SIZE, 3)
    )
    design = shapes.draw_design(
        np.random.default_rng([seed, 2, product]), category, palette
    )
    rng = np.random.default_rng([seed, 3, product, image])
    street = _domain(image) == STREET
    # Drawing at twice the size and averaging smooths the outlines.
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
    """Lists the images. The paths in `file` are relative to the folder."""
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
    bar = progress.show_progress(
        "Drawing the rendered catalog", total=len(table), show=show_progress
    )
    with bar as advance:
        for done, row in enumerate(table.itertuples(), 1):
            path = folder / row.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(render(seed, row.product, row.image, image_size))
            advance(done)
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
    """Draws `[size, size, 3]` floats, most of them in [0, 1]."""
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
        # An object hides one side of the product.
        edge = rng.uniform(0.45, 0.8) * rng.choice([-1, 1])
        hidden = (x > edge) if edge > 0 else (x < edge)
        image = np.where(hidden[..., None], rng.uniform(0, 1, 3), image)
    exposure = rng.uniform(0.75, 1.15)
    return image * exposure * rng.uniform(0.75, 1.2, 3)


def _viewpoint(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, street: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place on the product that each pixel shows."""
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
    """Draws a `[size, size, 3]` background of boxes on a gradient."""
    colors = rng.uniform(0.15, 0.9, (2, 3))
    ramp = ((x * rng.uniform(-1, 1) + y) + 2) / 4
    background = colors[0] + ramp[..., None] * (colors[1] - colors[0])
    for _ in range(rng.integers(3, 8)):
        center = rng.uniform(-1, 1, 2)
        half = rng.uniform(0.05, 0.4, 2)
        box = (np.abs(x - center[0]) < half[0]) & (
            np.abs(y - center[1]) < half[1]
        )
        background[box] = rng.uniform(0, 1, 3)
    return background
