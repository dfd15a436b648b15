"""From the rows of a catalog to batches of pixels, with `tf.data`.

An image that cannot be read is left out of its batch, together with its
partner if rows come in pairs. The other rows keep their labels and order, and
`BadImages` reports the path of the image. A training batch of which less than
half would be left is delivered empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.data import decoding, preprocessing, shrunken_images
from tf_triplet.data import landmarks as marks
from tf_triplet.data.augmentation import (
    Augmentation,
    Draws,
    augment_window,
    choose_window,
)
from tf_triplet.data.bad_images import BadImages, leave_out, load_batches
from tf_triplet.data.bad_share import BadShare
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import Sampler

TARGETS = ("attributes", "landmarks")
# A training batch that has lost more is not worth a step: its statistics and
# its negatives are those of another batch size.
_LEAST_SHARE = 0.5


def read_bytes(
    path: tf.Tensor, max_megapixels: float = decoding.MAX_MEGAPIXELS
) -> tf.Tensor:
    """Reads an image file in a format that TensorFlow decodes.

    Args:
        path: Scalar string.
        max_megapixels: Millions of pixels of an image that is converted.

    Returns:
        Scalar string, the bytes of the file. An image in a format that
        TensorFlow cannot decode is converted to BMP.
    """
    return shrunken_images.decodable(tf.io.read_file(path), max_megapixels)


def evaluation_batches(
    catalog: Catalog,
    inputs: preprocessing.InputSpec,
    batch_size: int,
    on_bad_image: str = "stop",
    bad_images: BadImages | None = None,
) -> tf.data.Dataset:
    """Reads every image of a catalog once, in order and without augmentation.

    Args:
        catalog: The images.
        inputs: How a file becomes pixels.
        batch_size: The number of images per batch.
        on_bad_image: What happens at an image that cannot be read, "stop" or
            "skip".
        bad_images: Records such images. It overrides `on_bad_image`.

    Returns:
        A dataset of (`[b]` int64 rows, `[b, image_size, image_size, 3]`
        float32 pixels in [0, 1]). b is smaller than `batch_size` in the last
        batch, and where images were skipped.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> catalog = read_rendered(
    ...     folder, products=3, images_per_product=1, image_size=8,
    ...     show_progress=False,
    ... )
    >>> inputs = InputSpec(image_size=4)
    >>> for rows, pixels in evaluation_batches(catalog, inputs, batch_size=2):
    ...     print(rows.numpy(), pixels.shape)
    [0 1] (2, 4, 4, 3)
    [2] (1, 4, 4, 3)
    """
    bad = bad_images or BadImages(on_bad_image)
    bad = _limited(bad, inputs.max_megapixels)
    boxes = _boxes(catalog, inputs.use_boxes)
    with_boxes = not np.isnan(boxes).all()

    def load(path, row, box):
        pixels = preprocessing.load_image(
            read_bytes(path, inputs.max_megapixels),
            inputs.image_size,
            box if with_boxes else None,
            inputs.resize,
            inputs.max_megapixels,
        )
        return row, pixels

    def finish(_, paths, places, rows, pixels):
        _, rows, pixels = leave_out(places, paths, bad, 1, rows, pixels)
        return rows, pixels

    rows = tf.data.Dataset.from_tensor_slices(
        (catalog.paths, np.arange(len(catalog)), boxes)
    )
    batches = rows.batch(batch_size).enumerate()
    batches = batches.map(lambda number, columns: (number, *columns))
    return load_batches(batches, load, batch_size).map(finish).prefetch(2)


def training_batches(
    catalog: Catalog,
    sampler: Sampler,
    image_size: int,
    augmentation: Augmentation,
    *,
    start_step: int = 0,
    seed: int = 0,
    rows_together: int = 1,
    resize: str = "area",
    use_boxes: bool = True,
    bad_images: BadImages | None = None,
    sides: np.ndarray | None = None,
    branches: np.ndarray | None = None,
    targets: Sequence[str] = (),
    max_megapixels: float = decoding.MAX_MEGAPIXELS,
    cache_dir: str = "",
) -> tf.data.Dataset:
    """Reads and augments the batches of a sampler, without end.

    Args:
        catalog: The images that the sampler draws from.
        sampler: Yields the rows of each batch, see `Sampler`.
        image_size: Side of the square result, in pixels.
        augmentation: How images are changed at random.
        start_step: The first step. The pixels of a step depend on the seed
            and the step alone.
        seed: The seed of the augmentation.
        rows_together: 2 if rows come in pairs. A bad image then takes its
            partner along.
        resize: Resize method where it is not drawn at random.
        use_boxes: Whether to use the boxes of the catalog.
        bad_images: Records images that cannot be read. By default, they are
            skipped. If it has a `max_share`, a larger share of them ends the
            dataset with an error.
        sides: `[rows]` 0 (query) or 1 (gallery), for losses that keep two
            domains apart.
        branches: `[rows]` int32, the branch of the encoder for each image.
        targets: What else to deliver, of "attributes" and "landmarks".
        max_megapixels: Millions of pixels that are decoded at most, see
            `InputSpec`.
        cache_dir: Folder in which images are stored, decoded and shrunk, from
            the first epoch on. Their pixels differ slightly. Empty: none is.

    Returns:
        A dataset of (images, labels). b is smaller than the batch size of
        the sampler where images were skipped, and 0 where they were more than
        half of the batch.

        - Images are `[b, image_size, image_size, 3]` float32 pixels in
          [0, 1]. With branches, they are a dictionary of these `pixels` and
          of `branch`, `[b]` int32.
        - Labels are `[b]` int32 products. With sides, they are `[b, 2]` int32
          products and sides. With targets, they are a dictionary of these
          `labels`, of `attributes`, `[b, A]` int8, and of `landmarks`,
          `[b, L, 3]` float32. Landmarks are x and y in [0, 1] of the
          augmented image, and visibility.

    Raises:
        ValueError: If a target is unknown, or is missing from the catalog,
            or if there is a `cache_dir` and images have boxes.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> catalog = read_rendered(
    ...     folder, products=3, images_per_product=2, image_size=8,
    ...     show_progress=False,
    ... )
    >>> sampler = GroupedSampler(
    ...     catalog.products, catalog.categories, units_per_batch=2,
    ...     images_per_product=2,
    ... )
    >>> batches = training_batches(
    ...     catalog, sampler, image_size=4, augmentation=Augmentation()
    ... )
    >>> for pixels, labels in batches.take(1):
    ...     print(pixels.shape, labels.shape)
    (4, 4, 4, 3) (4,)
    """
    _check_targets(catalog, targets)
    bad = _limited(bad_images or BadImages("skip"), max_megapixels)
    table = _Table.build(catalog, use_boxes, sides, branches, targets)
    batch, share = sampler.batch_size, _watch_share(bad, sampler, catalog)
    more = (augmentation.min_crop, max_megapixels, cache_dir)
    read = _reader(table, image_size, *more)

    def load(path, row, number, box, landmarks):
        draws = Draws.of(tf.stack([tf.constant(seed, tf.int64), number]))
        box = box if table.with_boxes else None
        image = read(
            path, lambda size: choose_window(size, box, draws, augmentation)
        )
        pixels, landmarks = augment_window(
            image.pixels,
            marks.crop(landmarks, image.window),
            image_size,
            draws,
            augmentation,
            resize,
        )
        return row, pixels, landmarks

    def finish(step, paths, places, rows, pixels, landmarks):
        _, rows, pixels, landmarks = leave_out(
            places,
            paths,
            bad,
            rows_together,
            rows,
            pixels,
            landmarks,
            step=step,
            share=share,
            least_share=_LEAST_SHARE,
        )
        return table.inputs(rows, pixels), table.targets(rows, landmarks)

    batches = sampler.dataset(start_step).map(
        lambda step, rows: (step, *table.columns(step * batch, rows))
    )
    return load_batches(batches, load, batch).map(finish).prefetch(2)


def _reader(
    table: _Table, side: int, min_crop: float, most: float, cache_dir: str
) -> Callable[[tf.Tensor, decoding.ChooseWindow], decoding.Decoded]:
    """Returns what reads a part of an image file."""
    if cache_dir:
        shrunken_images.check_boxes(cache_dir, table.with_boxes)
        return shrunken_images.ShrunkenImages.for_crops(
            cache_dir, side, min_crop, most
        ).read
    return lambda path, choose: decoding.decode(
        read_bytes(path, most), choose, side, most
    )


def _limited(bad: BadImages, max_megapixels: float) -> BadImages:
    """Lets the reasons tell of the limit that the images are read with."""
    bad.max_megapixels = max_megapixels
    return bad


def _watch_share(
    bad: BadImages, sampler: Sampler, catalog: Catalog
) -> BadShare | None:
    """Creates what watches the share of unreadable images, if it is limited."""
    if bad.max_share is None:
        return None
    # A sampler of your own may not know how many images it draws from.
    images = getattr(sampler, "images", len(catalog))
    return BadShare(
        bad.max_share, sampler.batch_size, images, bad.max_megapixels
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    """What training needs to know of each row, as tensors.

    Attributes:
        paths: `[rows]` strings.
        boxes: `[rows, 4]` float32.
        with_boxes: Whether any row has a box.
        landmarks: `[rows, L, 3]` float32. L is 0 if they are not wanted.
        labels: `[rows]` int32, or `[rows, 2]` with sides.
        branches: `[rows]` int32, or None.
        attributes: `[rows, A]` int8, or None.
        names: The targets to deliver besides the labels.
    """

    paths: tf.Tensor
    boxes: tf.Tensor
    with_boxes: bool
    landmarks: tf.Tensor
    labels: tf.Tensor
    branches: tf.Tensor | None
    attributes: tf.Tensor | None
    names: tuple[str, ...]

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        use_boxes: bool,
        sides: np.ndarray | None,
        branches: np.ndarray | None,
        names: Sequence[str],
    ) -> _Table:
        labels = catalog.products
        if sides is not None:
            labels = np.stack([labels, sides], 1).astype(np.int32)
        landmarks = np.zeros([len(catalog), 0, 3], np.float32)
        if "landmarks" in names:
            landmarks = catalog.landmarks
        with_attributes = "attributes" in names
        boxes = _boxes(catalog, use_boxes)
        with tf.device("cpu:0"):
            return cls(
                paths=tf.constant(catalog.paths),
                boxes=tf.constant(boxes),
                with_boxes=not np.isnan(boxes).all(),
                landmarks=tf.constant(landmarks),
                labels=tf.constant(labels),
                branches=(
                    None
                    if branches is None
                    else tf.constant(branches, tf.int32)
                ),
                attributes=(
                    tf.constant(catalog.attributes) if with_attributes else None
                ),
                names=tuple(names),
            )

    def columns(
        self, first: tf.Tensor, rows: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Returns what reading the images of a batch takes.

        Args:
            first: Scalar int64, the number of images in earlier batches.
            rows: `[batch]` int64.

        Returns:
            `[batch]` paths, rows, numbers of the images, boxes and landmarks.
        """
        return (
            tf.gather(self.paths, rows),
            rows,
            first + tf.range(tf.size(rows, tf.int64), dtype=tf.int64),
            tf.gather(self.boxes, rows),
            tf.gather(self.landmarks, rows),
        )

    def inputs(
        self, rows: tf.Tensor, pixels: tf.Tensor
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Returns what the encoder takes for `[b]` rows."""
        if self.branches is None:
            return pixels
        return {"pixels": pixels, "branch": tf.gather(self.branches, rows)}

    def targets(
        self, rows: tf.Tensor, landmarks: tf.Tensor
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Returns what the loss takes for `[b]` rows."""
        labels = tf.gather(self.labels, rows)
        if not self.names:
            return labels
        targets = {"labels": labels}
        if self.attributes is not None:
            targets["attributes"] = tf.gather(self.attributes, rows)
        if "landmarks" in self.names:
            targets["landmarks"] = landmarks
        return targets


def _boxes(catalog: Catalog, use_boxes: bool) -> np.ndarray:
    if use_boxes:
        return np.asarray(catalog.boxes, np.float32)
    return np.full([len(catalog), 4], np.nan, np.float32)


def _check_targets(catalog: Catalog, targets: Sequence[str]) -> None:
    for target in targets:
        if target not in TARGETS:
            raise ValueError(
                f"`targets` must be among {', '.join(TARGETS)}. "
                f"Received: {target!r}"
            )
        if getattr(catalog, target) is None:
            raise ValueError(
                f"`targets` names {target}, but the catalog "
                f"{catalog.name!r} has no {target}. "
                f"Received: {list(targets)}"
            )
