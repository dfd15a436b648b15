"""Embeddings of a catalog: computed with an encoder, saved, loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.progress import show_progress


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of the images of a catalog that could be read.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog, rising.
        skipped: Paths of the images that could not be read.
    """

    vectors: np.ndarray
    rows: np.ndarray
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class SavedEmbeddings:
    """What an embeddings file holds.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog that was embedded.
        product_ids: `[m]` the owner's ids, strings or int64.
        paths: `[m]` strings, the image files.
        skipped: Paths of the images that could not be read.
        source: What made them, for instance the encoder file's sha256.
    """

    vectors: np.ndarray
    rows: np.ndarray
    product_ids: np.ndarray
    paths: np.ndarray
    skipped: tuple[str, ...]
    source: str


def compute_embeddings(
    encoder: Callable,
    catalog: Catalog,
    image_size: int,
    batch_size: int,
    resize: str = "area",
    use_boxes: bool = True,
    on_bad_image: str = "stop",
    progress: bool = True,
) -> Embeddings:
    """Embeds every image of a catalog, in order.

    Args:
        encoder: A Keras model from `[b, size, size, 3]` float32 pixels in
            [0, 1] to `[b, dim]`, or one with branches: then each image
            goes through that of its own domain or category.
        catalog: The images.
        image_size: Pixels a side.
        batch_size: Images a forward pass.
        resize: "area" or "bilinear".
        use_boxes: Crop to the box where an image has one.
        on_bad_image: "stop" makes an unreadable image an error, "skip"
            leaves it out and names it in `skipped`.
        progress: Tell how far it is: a bar on a terminal, else a line of
            log every ten seconds.

    Raises:
        ValueError: an unreadable image, no image at all, an embedding
            that is not finite, or an image that no branch is for.
    """
    # Scoring saved vectors needs no TensorFlow, which takes seconds to load.
    from tf_triplet.data import pipeline

    bad = pipeline.BadImages(on_bad_image)
    rows, vectors = [], []
    with show_progress("Embedding", len(catalog), progress) as advance:
        for batch_rows, batch in embed_batches(
            encoder, catalog, image_size, batch_size, resize, use_boxes, bad
        ):
            rows.append(batch_rows)
            vectors.append(batch)
            advance(int(batch_rows[-1]) + 1)
    if not rows:
        raise ValueError(
            f"No image of catalog {catalog.name!r} could be embedded. "
            f"Received: {len(catalog)} images, {len(bad.counts)} unreadable"
        )
    rows = np.concatenate(rows)
    vectors = np.concatenate(vectors)
    check_finite(vectors, catalog.paths[rows])
    skipped = np.delete(catalog.paths, rows)
    return Embeddings(vectors, rows, tuple(map(str, skipped)))


def embed_batches(
    encoder: Callable,
    catalog: Catalog,
    image_size: int,
    batch_size: int,
    resize: str,
    use_boxes: bool,
    bad,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeds every image of a catalog, a batch at a time.

    Args:
        encoder: See `compute_embeddings`, as for all that is not here.
        catalog: The images.
        image_size: Pixels a side.
        batch_size: Images a forward pass.
        resize: "area" or "bilinear".
        use_boxes: Crop to the box where an image has one.
        bad: A `pipeline.BadImages`, which learns what cannot be read.

    Yields:
        `[b]` rising rows and `[b, dim]` float32; b is at least 1, and
        smaller than a batch where images could not be read.
    """
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.data.preprocessing import InputSpec
    from tf_triplet.models import branches

    branch = branch_of_rows(branches.find(encoder), catalog)
    inputs = InputSpec(image_size, resize, use_boxes)
    batches = pipeline.evaluation_batches(
        catalog, inputs, batch_size, bad_images=bad
    )

    @tf.function(reduce_retracing=True)
    def embed(images):
        return encoder(images, training=False)

    try:
        for rows, pixels in batches:
            if not len(rows):
                continue
            rows, images = rows.numpy(), pixels
            if branch is not None:
                own = tf.constant(branch[rows])
                images = {"pixels": pixels, "branch": own}
            yield rows, embed(images).numpy().astype(np.float32)
    except tf.errors.OpError as error:
        if bad.counts and bad.on_bad_image == "stop":
            raise ValueError(bad.message) from error
        raise


def branch_of_rows(branches, catalog: Catalog) -> np.ndarray | None:
    """`[n]` int32: the branch of each image, by its name.

    Args:
        branches: The encoder's (`models.branches.Branches`); None: it has
            none, and so has the image.
        catalog: The images. Its labels are dense anew in every selection,
            so only names can tell a branch.
    """
    if branches is None:
        return None
    return branches.index(branch_names(branches.by, catalog))


def branch_names(by: str, catalog: Catalog) -> np.ndarray:
    """`[n]` strings: the domain, or the category, of each image."""
    if by == "domain":
        return catalog.domain_names[catalog.domains].astype(str)
    return catalog.category_names[catalog.categories].astype(str)


def save_embeddings(
    path: str | Path,
    embeddings: Embeddings,
    catalog: Catalog,
    source: str = "",
) -> None:
    """Writes embeddings with product ids and paths to an .npz file.

    Args:
        path: The file; its folder is made.
        embeddings: Of this very catalog.
        catalog: The images.
        source: What made them; a reader compares it before reusing them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = catalog.row_product_ids[embeddings.rows]
    # Plain strings: an object array would need pickle to be read.
    ids = ids.astype(str) if ids.dtype == object else ids
    # Renamed when complete: a file that is there is whole.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        np.savez(
            file,
            vectors=embeddings.vectors,
            rows=embeddings.rows,
            product_ids=ids,
            paths=catalog.paths[embeddings.rows].astype(str),
            skipped=np.array(embeddings.skipped, dtype=str),
            source=np.array(source),
        )
    os.replace(partial, path)


def load_embeddings(path: str | Path) -> SavedEmbeddings:
    """Reads what `save_embeddings` wrote.

    Raises:
        ValueError: the file is not such a file.
    """
    names = [field.name for field in dataclasses.fields(SavedEmbeddings)]
    with np.load(path, allow_pickle=False) as file:
        missing = set(names) - set(getattr(file, "files", ()))
        if missing:
            raise ValueError(
                f"{path} is no embeddings file: it lacks "
                f"{', '.join(sorted(missing))}. Write it with "
                "tf-triplet-evaluate."
            )
        values = {name: file[name] for name in names}
    values["skipped"] = tuple(values["skipped"].tolist())
    values["source"] = str(values["source"])
    return SavedEmbeddings(**values)


def check_finite(vectors: np.ndarray, paths: np.ndarray) -> None:
    """Raises ValueError where `[m, dim]` vectors hold NaN or infinity."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum():,} of {len(bad):,} embeddings hold NaN or infinity, "
            f"the first of {paths[np.argmax(bad)]}. The training diverged: "
            "lower the learning rate, or take an earlier checkpoint "
            "(--checkpoint=best)."
        )
