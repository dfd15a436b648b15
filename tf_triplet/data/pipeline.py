"""Rows of a catalog to batches of pixels (tf.data).

An image that cannot be read never breaks a batch's alignment: it is
replaced by a mark, told by name through `BadImages`, and left out of its
batch (with its partner, where rows come in pairs).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.data import preprocessing, transcode
from tf_triplet.data.augmentation import Augmentation, augment_annotated
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import GroupedSampler

ON_BAD_IMAGE = ("skip", "stop")
TARGETS = ("attributes", "landmarks")


@dataclasses.dataclass
class BadImages:
    """Counts and names the images that could not be read.

    Attributes:
        on_bad_image: "skip" warns once an image, "stop" raises.
        counts: `{path: times met}`.
    """

    on_bad_image: str = "skip"
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise ValueError(
                "`on_bad_image` must be skip or stop. "
                f"Received: {self.on_bad_image!r}"
            )

    def report(self, path: str) -> None:
        """Notes one reading that failed."""
        self.counts[path] = self.counts.get(path, 0) + 1
        if self.counts[path] == 1 and self.on_bad_image == "skip":
            logging.warning(
                "Skipping an image that cannot be read (%d so far): %s",
                len(self.counts),
                reason(path),
            )

    @property
    def message(self) -> str:
        """The error's text, for the first of the images."""
        path = next(iter(self.counts))
        return (
            f"An image cannot be read: {reason(path)}. Mend or remove it, "
            "or pass --config.data.on_bad_image=skip."
        )


def reason(path: str) -> str:
    """Says in words why `path` cannot be read as an image."""
    file = Path(path)
    if not file.exists():
        return f"{path}: there is no such file"
    if file.stat().st_size == 0:
        return f"{path}: the file is empty (0 bytes)"
    try:
        decode = preprocessing.decode_image
        decode(tf.constant(transcode.servable(file.read_bytes())))
    except (ValueError, OSError) as error:
        return f"{path}: {error}"
    except tf.errors.InvalidArgumentError as error:
        return f"{path}: not a readable image ({error.message[:200]})"
    return f"{path}: its box or its pixels cannot be used"


def read_bytes(path: tf.Tensor) -> tf.Tensor:
    """Reads an image file; what TensorFlow cannot decode becomes a PNG."""
    data = tf.io.read_file(path)
    known = tf.constant(False)
    # Others may be untouched too, but `servable` knows, not the graph.
    for magic in transcode.MAGIC:
        known |= tf.strings.substr(data, 0, len(magic)) == magic
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
    """Every image once, in order, as at test time.

    Args:
        catalog: the images.
        inputs: How a file becomes pixels.
        batch_size: images a batch.
        on_bad_image: "stop" or "skip".
        bad_images: collects the names; overrides `on_bad_image`.

    Returns:
        A dataset of (`[b]` int64 rows, `[b, size, size, 3]` pixels); b is
        smaller where images were skipped.
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
    loaded = _load(dataset, load, (tf.zeros([size, size, 3]),))
    batches = loaded.batch(batch_size).map(
        lambda row, path, pixels, good: (
            *_leave_out(good, path, bad, 1, row, pixels),
        )
    )
    return batches.prefetch(2)


def training_batches(
    catalog: Catalog,
    sampler: GroupedSampler,
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
    """The endless batches of a sampler, augmented, from `start_step` on.

    Args:
        catalog: the rows that the sampler draws.
        sampler: of row numbers.
        image_size: pixels a side.
        augmentation: what may happen to an image.
        start_step: the first step; the pixels of a step depend on (seed,
            step) alone.
        seed: of the augmentation.
        rows_together: 2 for pairs: one bad image takes its partner along.
        resize: the method where it is not drawn at random.
        use_boxes: crop to the box where there is one.
        bad_images: collects the names of unreadable images.
        sides: `[rows]` 0 (query) or 1 (gallery), for losses that keep two
            domains apart.
        branches: `[rows]` int32, each image's branch of the encoder.
        targets: what else the catalog knows that is to be delivered, of
            `attributes` and `landmarks`.

    Returns:
        A dataset of (`[b, size, size, 3]` pixels, `[b]` int32 labels), or,
        with sides, `[b, 2]` int32 labels and sides. With branches the first
        is `{"pixels": ..., "branch": [b] int32}`. With targets, the second
        is a dictionary of these `labels`, `[b, A]` int8 `attributes` and
        `[b, L, 3]` float32 `landmarks`: x and y in [0, 1] of the augmented
        image, and visibility.

    Raises:
        ValueError: an unknown target, or one that the catalog lacks.
    """
    _check_targets(catalog, targets)
    bad = bad_images or BadImages("skip")
    marks = np.zeros([len(catalog), 0, 3], np.float32)
    if "landmarks" in targets:
        marks = catalog.landmarks
    with tf.device("cpu:0"):
        paths = tf.constant(catalog.paths.astype(str))
        labels = catalog.products
        if sides is not None:
            labels = np.stack([labels, sides], 1).astype(np.int32)
        labels = tf.constant(labels)
        if branches is not None:
            branches = tf.constant(branches, tf.int32)
        boxes = tf.constant(_boxes(catalog, use_boxes))
        marks = tf.constant(marks)
        if "attributes" in targets:
            attributes = tf.constant(catalog.attributes)
    batch = sampler.batch_size

    def spread(step, rows):
        draws = step * batch + tf.range(batch, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            (
                tf.stack([rows, draws], -1),
                tf.gather(paths, rows),
                tf.gather(boxes, rows),
                tf.gather(marks, rows),
            )
        )

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

    blanks = (tf.zeros([image_size, image_size, 3]), tf.zeros(marks.shape[1:]))
    loaded = _load(sampler.dataset(start_step).flat_map(spread), load, blanks)

    def finish(row, path, pixels, landmarks, good):
        rows, pixels, landmarks = _leave_out(
            good, path, bad, rows_together, row[:, 0], pixels, landmarks
        )
        images = pixels
        if branches is not None:
            branch = tf.gather(branches, rows)
            images = {"pixels": pixels, "branch": branch}
        if not targets:
            return images, tf.gather(labels, rows)
        y = {"labels": tf.gather(labels, rows)}
        if "attributes" in targets:
            y["attributes"] = tf.gather(attributes, rows)
        if "landmarks" in targets:
            y["landmarks"] = landmarks
        return images, y

    return loaded.batch(batch, drop_remainder=True).map(finish).prefetch(2)


def _boxes(catalog: Catalog, use_boxes: bool) -> np.ndarray:
    if use_boxes:
        return np.asarray(catalog.boxes, np.float32)
    return np.full([len(catalog), 4], np.nan, np.float32)


def _check_targets(catalog: Catalog, targets: Sequence[str]) -> None:
    for target in targets:
        if target not in TARGETS:
            raise ValueError(
                f"`targets` must be of {', '.join(TARGETS)}. "
                f"Received: {target!r}"
            )
        if getattr(catalog, target) is None:
            raise ValueError(
                f"`targets` asks for {target}, but the catalog "
                f"{catalog.name!r} has no {target}."
            )


def _load(dataset, load, blanks: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
    """(row, path, *sources) → (row, path, *loaded, good), parallel, in order.

    Each image is a data set of one, so that its errors can be dropped; the
    blanks that follow it then take its place.
    """

    def one(row, path, *sources):
        read = tf.data.Dataset.from_tensors((row, path, *sources)).map(
            lambda r, p, *s: (r, p, *load(r, p, *s), True)
        )
        rest = tf.data.Dataset.from_tensors((row, path, *blanks, False))
        return read.ignore_errors().concatenate(rest).take(1)

    return dataset.interleave(
        one,
        cycle_length=16,
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _leave_out(good, paths, bad: BadImages, together: int, *columns):
    """Drops the rows of bad images, and tells their names."""

    def tell(flags, names):
        for name in names[~flags]:
            bad.report(name.decode())
        if bad.on_bad_image == "stop":
            raise ValueError(bad.message)
        return np.bool_(True)

    def drop():
        with tf.control_dependencies(
            [tf.numpy_function(tell, [good, paths], tf.bool)]
        ):
            groups = tf.reduce_all(tf.reshape(good, [-1, together]), -1)
            kept = tf.repeat(groups, together)
            return [tf.boolean_mask(column, kept) for column in columns]

    kept = tf.cond(
        tf.reduce_all(good), lambda: [tf.identity(c) for c in columns], drop
    )
    for column, original in zip(kept, columns):
        column.set_shape([None, *original.shape[1:]])
    return kept
