"""From the rows of a catalog to batches of pixels, with `tf.data`.

An image that cannot be read is left out of its batch, together with its
partner if rows come in pairs. The other rows keep their labels and order, and
`BadImages` reports the path of the image. A training batch of which less than
half would be left is delivered empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_triplet.data import preprocessing, transcode
from tf_triplet.data.augmentation import Augmentation, augment_annotated
from tf_triplet.data.bad_images import BadImages, leave_out, load_rows
from tf_triplet.data.bad_share import BadShare
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import Sampler

TARGETS = ("attributes", "landmarks")
# A training batch that has lost more is not worth a step: its statistics and
# its negatives are those of another batch size.
_LEAST_SHARE = 0.5


def read_bytes(path: tf.Tensor) -> tf.Tensor:
    """Reads an image file in a format that TensorFlow decodes.

    Args:
        path: Scalar string.

    Returns:
        Scalar string, the bytes of the file. An image in a format that
        TensorFlow cannot decode is converted to PNG.
    """
    data = tf.io.read_file(path)
    known = tf.constant(False)
    # `servable` may return other files unchanged, too. It decides in Python.
    for magic in transcode.MAGIC:
        known |= preprocessing.starts_with(data, magic)
    decoded = tf.cond(
        known,
        lambda: data,
        lambda: tf.py_function(
            lambda raw: transcode.servable(raw.numpy()), [data], tf.string
        ),
    )
    return tf.ensure_shape(decoded, [])


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
    boxes = _boxes(catalog, inputs.use_boxes)
    size = inputs.image_size

    def load(row, path, box):
        del row
        data = read_bytes(path)
        return (preprocessing.load_image(data, size, box, inputs.resize),)

    dataset = tf.data.Dataset.from_tensor_slices(
        (np.arange(len(catalog)), catalog.paths.astype(str), boxes)
    )
    loaded = load_rows(dataset, load, (tf.zeros([size, size, 3]),))
    batches = loaded.batch(batch_size).map(
        lambda row, path, pixels, good: (
            *leave_out(good, path, bad, 1, row, pixels),
        )
    )
    return batches.prefetch(2)


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
        ValueError: If a target is unknown, or is missing from the catalog.

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
    bad = bad_images or BadImages("skip")
    table = _Table.build(catalog, use_boxes, sides, branches, targets)
    batch, share = sampler.batch_size, _watch_share(bad, sampler, catalog)

    def load(row, path, box, landmarks):
        pixels = preprocessing.decode_image(read_bytes(path))
        image_seed = tf.stack([tf.constant(seed, tf.int64), row[1]])
        return augment_annotated(
            pixels,
            landmarks,
            box,
            image_size,
            image_seed,
            augmentation,
            resize,
        )

    def finish(row, path, pixels, landmarks, good):
        rows, pixels, landmarks = leave_out(
            good,
            path,
            bad,
            rows_together,
            row[:, 0],
            pixels,
            landmarks,
            step=row[0, 1] // batch,
            share=share,
            least_share=_LEAST_SHARE,
        )
        return table.inputs(rows, pixels), table.targets(rows, landmarks)

    rows = sampler.dataset(start_step).flat_map(
        lambda step, rows: table.spread(step * batch, rows)
    )
    blanks = (
        tf.zeros([image_size, image_size, 3]),
        tf.zeros(table.landmarks.shape[1:]),
    )
    loaded = load_rows(rows, load, blanks)
    return loaded.batch(batch, drop_remainder=True).map(finish).prefetch(2)


def _watch_share(
    bad: BadImages, sampler: Sampler, catalog: Catalog
) -> BadShare | None:
    """Creates what watches the share of unreadable images, if it is limited."""
    if bad.max_share is None:
        return None
    # A sampler of your own may not know how many images it draws from.
    images = getattr(sampler, "images", len(catalog))
    return BadShare(bad.max_share, sampler.batch_size, images)


@dataclasses.dataclass(frozen=True)
class _Table:
    """What training needs to know of each row, as tensors.

    Attributes:
        paths: `[rows]` strings.
        boxes: `[rows, 4]` float32.
        landmarks: `[rows, L, 3]` float32. L is 0 if they are not wanted.
        labels: `[rows]` int32, or `[rows, 2]` with sides.
        branches: `[rows]` int32, or None.
        attributes: `[rows, A]` int8, or None.
        names: The targets to deliver besides the labels.
    """

    paths: tf.Tensor
    boxes: tf.Tensor
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
        with tf.device("cpu:0"):
            return cls(
                paths=tf.constant(catalog.paths.astype(str)),
                boxes=tf.constant(_boxes(catalog, use_boxes)),
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

    def spread(self, first: tf.Tensor, rows: tf.Tensor) -> tf.data.Dataset:
        """Turns a batch of rows into a dataset of single rows.

        Args:
            first: Scalar int64, the number of images in earlier batches.
            rows: `[batch]` int64.

        Returns:
            A dataset of (row and number of the image, path, box, landmarks).
        """
        numbers = first + tf.range(tf.size(rows, tf.int64), dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            (
                tf.stack([rows, numbers], -1),
                tf.gather(self.paths, rows),
                tf.gather(self.boxes, rows),
                tf.gather(self.landmarks, rows),
            )
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
