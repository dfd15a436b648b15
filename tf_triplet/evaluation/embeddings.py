"""Computes the embeddings of a catalog."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tf_triplet.data.catalog import Catalog
from tf_triplet.progress import show_progress

if TYPE_CHECKING:
    from tf_triplet.data.pipeline import BadImages
    from tf_triplet.data.preprocessing import InputSpec
    from tf_triplet.models.branches import Branches


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of the readable images of a catalog.

    Attributes:
        vectors: `[m, dim]` float32.
        rows: `[m]` int64 rows of the catalog, in rising order.
        skipped: Paths of the images that could not be read.

    Example:

    >>> vectors = np.array([[1, 0], [0, 1]], np.float32)
    >>> embeddings = Embeddings(vectors, rows=np.array([0, 2]))
    >>> embeddings.vectors.shape
    (2, 2)
    """

    vectors: np.ndarray
    rows: np.ndarray
    skipped: tuple[str, ...] = ()


def compute_embeddings(
    encoder: Callable,
    catalog: Catalog,
    inputs: InputSpec,
    batch_size: int,
    on_bad_image: str = "stop",
    progress: bool = True,
) -> Embeddings:
    """Embeds every image of a catalog, in order.

    Args:
        encoder: Model from `[batch, size, size, 3]` float32 pixels in [0, 1]
            to `[batch, dim]`. It is called as `encoder(images,
            training=False)`. An encoder with branches embeds each image by
            the branch of its domain or category.
        catalog: The images.
        inputs: How an image file becomes pixels.
        batch_size: Number of images in one forward pass.
        on_bad_image: What to do with an unreadable image. "stop" raises an
            error; "skip" leaves the image out and lists it in `skipped`.
        progress: Whether to show the progress: a bar on a terminal, otherwise
            a log line every ten seconds.

    Returns:
        The embeddings, one row per readable image.

    Raises:
        ValueError: If an image cannot be read and `on_bad_image` is "stop",
            if no image can be read, if an embedding is not finite, or if the
            encoder has no branch for an image.

    Example:

    >>> import tempfile
    >>> import pandas as pd
    >>> from PIL import Image
    >>> from tf_triplet.data import Catalog, InputSpec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (9, 9), (255, 0, 51)).save(f"{folder}/a.png")
    ...     frame = pd.DataFrame({"path": [f"{folder}/a.png"]})
    ...     catalog = Catalog.from_frame(frame.assign(product_id="p1"), "tiny")
    ...     embeddings = compute_embeddings(
    ...         lambda images, training: tf.reduce_mean(images, [1, 2]),
    ...         catalog,
    ...         InputSpec(image_size=8),
    ...         batch_size=4,
    ...     )
    >>> embeddings.vectors.round(2)
    array([[1. , 0. , 0.2]], dtype=float32)
    """
    # TensorFlow takes seconds to load, and scoring saved embeddings does not
    # need it.
    from tf_triplet.data import pipeline

    bad = pipeline.BadImages(on_bad_image)
    rows, vectors = [], []
    with show_progress("Embedding", len(catalog), progress) as advance:
        for batch_rows, batch in embed_batches(
            encoder, catalog, inputs, batch_size, bad
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
    inputs: InputSpec,
    batch_size: int,
    bad: BadImages,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeds every image of a catalog, one batch at a time.

    Args:
        encoder: As in `compute_embeddings`.
        catalog: The images.
        inputs: How an image file becomes pixels.
        batch_size: Number of images in one forward pass.
        bad: Collects the images that cannot be read, and says whether one of
            them is an error.

    Yields:
        `[b]` int64 rows in rising order and `[b, dim]` float32 embeddings. A
        batch has at least one row. It has fewer than `batch_size` if images
        could not be read.

    Raises:
        ValueError: If an image cannot be read and `bad.on_bad_image` is
            "stop", or if the encoder has no branch for an image.

    Example:

    >>> import tempfile
    >>> import pandas as pd
    >>> from PIL import Image
    >>> from tf_triplet.data import Catalog, InputSpec
    >>> from tf_triplet.data.pipeline import BadImages
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [f"{folder}/{i}.png" for i in range(3)]
    ...     for path in paths:
    ...         Image.new("RGB", (9, 9), (255, 0, 51)).save(path)
    ...     frame = pd.DataFrame({"path": paths, "product_id": [1, 1, 2]})
    ...     for rows, vectors in embed_batches(
    ...         lambda images, training: tf.reduce_mean(images, [1, 2]),
    ...         Catalog.from_frame(frame, "tiny"),
    ...         InputSpec(image_size=8),
    ...         batch_size=2,
    ...         bad=BadImages("stop"),
    ...     ):
    ...         print(rows, vectors.shape)
    [0 1] (2, 3)
    [2] (1, 3)
    """
    import tensorflow as tf

    from tf_triplet.data import pipeline
    from tf_triplet.models import branches

    branch = branch_of_rows(branches.find(encoder), catalog)
    batches = pipeline.evaluation_batches(
        catalog, inputs, batch_size, bad_images=bad
    )

    embed = _compile(encoder, inputs.image_size, branch is not None)
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


def _compile(encoder: Callable, size: int, with_branch: bool) -> Callable:
    """Compiles the forward pass of an encoder, once for each kind of input."""
    import tensorflow as tf

    # An encoder keeps what was compiled for it, so that the evaluations of a
    # training share it. It goes into the dictionary directly, because Keras
    # would save an attribute along with the model.
    compiled = getattr(encoder, "__dict__", {}).setdefault("_compiled", {})
    if (size, with_branch) not in compiled:
        images = tf.TensorSpec([None, size, size, 3])
        if with_branch:
            branch = tf.TensorSpec([None], tf.int32)
            images = {"pixels": images, "branch": branch}

        @tf.function(input_signature=[images])
        def embed(images):
            return encoder(images, training=False)

        compiled[size, with_branch] = embed
    return compiled[size, with_branch]


def branch_of_rows(
    branches: Branches | None, catalog: Catalog
) -> np.ndarray | None:
    """Finds the branch of each image by its domain or category.

    The branch is found by name, because the integer labels of a catalog are
    renumbered in every selection.

    Args:
        branches: The encoder's branches, or None if it has none.
        catalog: The images.

    Returns:
        `[n]` int32 branch numbers, or None if the encoder has no branches.

    Raises:
        ValueError: If the encoder has no branch for one of the images.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> from tf_triplet.models import Branches
    >>> columns = {"path": ["a", "b"], "product_id": ["p", "p"]}
    >>> frame = pd.DataFrame({**columns, "domain": ["street", "shop"]})
    >>> catalog = Catalog.from_frame(frame, "tiny")
    >>> branch_of_rows(Branches("domain", ("street", "shop")), catalog)
    array([0, 1], dtype=int32)
    """
    if branches is None:
        return None
    return branches.index(branch_names(branches.by, catalog))


def branch_names(by: str, catalog: Catalog) -> np.ndarray:
    """Returns the name that selects the branch of each image.

    Args:
        by: "domain" or "category".
        catalog: The images.

    Returns:
        `[n]` strings, the domain or the category of each image.

    Example:

    >>> import pandas as pd
    >>> from tf_triplet.data import Catalog
    >>> frame = pd.DataFrame({"path": ["a", "b"], "product_id": ["p", "q"]})
    >>> frame["category"] = ["bags", "hats"]
    >>> branch_names("category", Catalog.from_frame(frame, "tiny")).tolist()
    ['bags', 'hats']
    """
    if by == "domain":
        return catalog.domain_names[catalog.domains].astype(str)
    return catalog.category_names[catalog.categories].astype(str)


def check_finite(vectors: np.ndarray, paths: np.ndarray) -> None:
    """Raises an error if an embedding holds NaN or infinity.

    Args:
        vectors: `[m, dim]` floats.
        paths: `[m]` strings, the image files, which the error names.

    Raises:
        ValueError: If a value is not finite.

    Example:

    >>> check_finite(np.array([[1.0, np.nan]]), np.array(["bag.jpg"]))
    Traceback (most recent call last):
        ...
    ValueError: 1 of 1 embeddings hold NaN or infinity, the first is of \
bag.jpg. The training diverged: lower the learning rate, or use an earlier \
checkpoint (--checkpoint=best).
    """
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum():,} of {len(bad):,} embeddings hold NaN or infinity, "
            f"the first is of {paths[np.argmax(bad)]}. The training diverged: "
            "lower the learning rate, or use an earlier checkpoint "
            "(--checkpoint=best)."
        )
