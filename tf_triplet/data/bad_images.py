"""Handles images that cannot be read without disturbing their batch.

One bad image must not end a run, and must not move the other rows of its
batch. `load_batches` therefore says which places of a batch it could read, and
`leave_out` reports the paths of the others.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.data import preprocessing

if TYPE_CHECKING:
    from tf_triplet.data.bad_share import BadShare

ON_BAD_IMAGE = ("skip", "stop")
# Number of images of which a warning says why they cannot be read.
_EXPLAINED = 50


@dataclasses.dataclass
class BadImages:
    """Records the images that could not be read.

    Attributes:
        on_bad_image: What happens at such an image. "skip" logs one warning
            for each of the first images, and "stop" raises an error.
        counts: How often each path could not be read.
        max_share: With "skip", the share of unreadable images above which
            `training_batches` ends with an error. None: no share does.
        max_megapixels: Millions of pixels that are decoded at most, of which
            the reasons tell. Whoever reads images sets it.
        error: Why the images have ended the training; empty if they have not.

    Raises:
        ValueError: If `on_bad_image` is neither "skip" nor "stop".

    Example:

    >>> bad_images = BadImages("skip")
    >>> bad_images.report("no-such-image.jpg")
    >>> bad_images.counts
    {'no-such-image.jpg': 1}
    """

    on_bad_image: str = "skip"
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    max_share: float | None = None
    max_megapixels: float = preprocessing.MAX_MEGAPIXELS
    error: str = ""

    def __post_init__(self):
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise ValueError(
                "`on_bad_image` must be skip or stop. "
                f"Received: {self.on_bad_image!r}"
            )

    def report(self, path: str) -> None:
        """Records one failed attempt to read an image.

        Args:
            path: The path of the image.
        """
        self.counts[path] = self.counts.get(path, 0) + 1
        if self.counts[path] > 1 or self.on_bad_image == "stop":
            return
        count = len(self.counts)
        if count <= _EXPLAINED:
            logging.warning(
                "Skipping an image that cannot be read (%d so far): %s",
                count,
                reason(path, self.max_megapixels),
            )
        if count == _EXPLAINED:
            logging.warning(
                "Further images that cannot be read are skipped and counted, "
                "but not named. tf-triplet-train --check lists them all."
            )

    def end(self, error: str) -> None:
        """Ends the dataset with an error, and records it.

        Args:
            error: The text of the error.

        Raises:
            ValueError: Always.
        """
        self.error = error
        raise ValueError(error)

    @property
    def message(self) -> str:
        """The text of an error about the first of the images."""
        why = reason(next(iter(self.counts)), self.max_megapixels)
        return (
            f"An image cannot be read: {why}. Repair or remove it, "
            "or pass --config.data.on_bad_image=skip."
        )


def reason(
    path: str, max_megapixels: float = preprocessing.MAX_MEGAPIXELS
) -> str:
    """Explains why a file cannot be read as an image.

    Args:
        path: The path of the file, with which the explanation begins.
        max_megapixels: Millions of pixels that are decoded at most.
    """
    from tf_triplet.data import file_check

    why = file_check.check_file(path, max_megapixels).reason
    if why == "missing":
        why = "the file does not exist"
    elif why.startswith("empty"):
        why = "the file is empty (0 bytes)"
    return f"{path}: " + (
        why or "the image can be read, but its box or size cannot be used"
    )


def load_batches(
    batches: tf.data.Dataset,
    load: Callable[..., tuple[tf.Tensor, ...]],
    batch_size: int,
) -> tf.data.Dataset:
    """Loads the images of each batch in parallel and keeps their order.

    Args:
        batches: Yields the number of a batch, its `[batch]` paths, and
            `[batch, ...]` columns.
        load: Takes the path of one image and its columns, and returns a tuple
            of tensors. What it raises leaves out the image.
        batch_size: The largest number of images in a batch.

    Returns:
        A dataset of (number, paths, places, *loaded). What is loaded has `b`
        rows, one for each image that could be read. Places are their `[b]`
        int32 numbers within the batch.
    """

    def load_batch(number, paths, *columns):
        places = tf.range(tf.size(paths))
        # Opening a pipe would wait for ever. Without a name, nothing opens.
        opened = tf.where(_are_files(paths), paths, "")
        rows = tf.data.Dataset.from_tensor_slices((places, opened, *columns))
        loaded = rows.map(
            lambda place, path, *column: (place, *load(path, *column)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        ).ignore_errors()
        nothing = tf.data.Dataset.from_tensors(
            tf.nest.map_structure(_empty, loaded.element_spec)
        )
        batch = loaded.batch(batch_size).concatenate(nothing).take(1)
        return batch.map(lambda *read: (number, paths, *read))

    # One batch is read while the next one begins.
    return batches.interleave(
        load_batch,
        cycle_length=2,
        block_length=1,
        num_parallel_calls=2,
        deterministic=True,
    )


def _are_files(paths: tf.Tensor) -> tf.Tensor:
    """Returns `[n]` booleans: whether a path is a file or cannot be told."""

    def check(paths):
        return np.array([_is_file(path) for path in paths], np.bool_)

    found = tf.numpy_function(check, [paths], tf.bool, stateful=False)
    return tf.ensure_shape(found, paths.shape)


def _is_file(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return True  # Reading it tells why.
    return stat.S_ISREG(mode)


def _empty(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros([0, *spec.shape], spec.dtype)


def leave_out(
    places: tf.Tensor,
    paths: tf.Tensor,
    bad: BadImages,
    together: int,
    *columns: tf.Tensor,
    step: tf.Tensor | int = 0,
    share: BadShare | None = None,
    least_share: float = 0.0,
) -> list[tf.Tensor]:
    """Reports the paths of bad images and drops their partners.

    Args:
        places: `[b]` int32, the numbers of the images that could be read.
        paths: `[batch]` strings, of all images.
        bad: Records the bad images.
        together: The number of neighboring rows that are dropped together.
        *columns: `[b, ...]` tensors of the images that could be read.
        step: The number of the batch, for `share`.
        share: Ends the dataset if too many images are bad. None: nothing
            does.
        least_share: If a smaller share of the rows would be left, all rows
            are dropped.

    Returns:
        The places and the columns of the rows that are left.
    """

    def report(flags, names, number):
        found = [name.decode() for name in names[~flags]]
        for name in found:
            bad.report(name)
        if bad.on_bad_image == "stop":
            bad.end(bad.message)
        if share is not None:
            share.add(int(number), found)
            if share.message:
                bad.end(share.message)
        return np.bool_(True)

    def drop():
        good = tf.scatter_nd(
            places[:, tf.newaxis], tf.ones_like(places), tf.shape(paths)
        )
        good = good > 0
        with tf.control_dependencies(
            [tf.numpy_function(report, [good, paths, step], tf.bool)]
        ):
            groups = tf.reduce_all(tf.reshape(good, [-1, together]), -1)
            left = tf.reduce_mean(tf.cast(groups, tf.float32))
            kept = tf.repeat(groups & (left >= least_share), together)
            kept = tf.gather(kept, places)
            return [tf.boolean_mask(c, kept) for c in (places, *columns)]

    kept = tf.cond(
        tf.size(places) == tf.size(paths),
        lambda: [tf.identity(c) for c in (places, *columns)],
        drop,
    )
    for column, original in zip(kept, (places, *columns)):
        column.set_shape([None, *original.shape[1:]])
    return kept
