"""Handles images that cannot be read without disturbing their batch.

One bad image must not end a run, and must not move the other rows of its
batch. `load_rows` therefore replaces the image by blanks, and `leave_out`
drops it from the batch and reports its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet.data import preprocessing, transcode

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
                reason(path),
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
        path = next(iter(self.counts))
        return (
            f"An image cannot be read: {reason(path)}. Repair or remove it, "
            "or pass --config.data.on_bad_image=skip."
        )


def reason(path: str) -> str:
    """Explains why a file cannot be read as an image.

    Args:
        path: The path of the file, with which the explanation begins.
    """
    file = Path(path)
    if not file.exists():
        return f"{path}: the file does not exist"
    if file.stat().st_size == 0:
        return f"{path}: the file is empty (0 bytes)"
    try:
        decode = preprocessing.decode_image
        decode(tf.constant(transcode.servable(file.read_bytes())))
    except (ValueError, OSError) as error:
        return f"{path}: {error}"
    except tf.errors.InvalidArgumentError as error:
        return f"{path}: not a readable image ({error.message[:200]})"
    return f"{path}: the image can be read, but its box or size cannot be used"


def load_rows(
    dataset: tf.data.Dataset,
    load: Callable[..., tuple[tf.Tensor, ...]],
    blanks: tuple[tf.Tensor, ...],
) -> tf.data.Dataset:
    """Loads images in parallel and keeps their order.

    Args:
        dataset: Yields (row, path, *sources).
        load: Takes these and returns a tuple of tensors.
        blanks: What replaces that tuple for an image that cannot be read.

    Returns:
        A dataset of (row, path, *loaded, good).
    """

    # Each image is a dataset of one element, so that its error can be
    # dropped. The blanks behind it then take its place.
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


def leave_out(
    good: tf.Tensor,
    paths: tf.Tensor,
    bad: BadImages,
    together: int,
    *columns: tf.Tensor,
    step: tf.Tensor | int = 0,
    share: BadShare | None = None,
    least_share: float = 0.0,
) -> list[tf.Tensor]:
    """Drops the rows of bad images and reports their paths.

    Args:
        good: `[batch]` booleans, false for a bad image.
        paths: `[batch]` strings.
        bad: Records the bad images.
        together: The number of neighboring rows that are dropped together.
        *columns: `[batch, ...]` tensors.
        step: The number of the batch, for `share`.
        share: Ends the dataset if too many images are bad. None: nothing
            does.
        least_share: If a smaller share of the rows would be left, all rows
            are dropped.

    Returns:
        The columns without these rows.
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
        with tf.control_dependencies(
            [tf.numpy_function(report, [good, paths, step], tf.bool)]
        ):
            groups = tf.reduce_all(tf.reshape(good, [-1, together]), -1)
            left = tf.reduce_mean(tf.cast(groups, tf.float32))
            kept = tf.repeat(groups & (left >= least_share), together)
            return [tf.boolean_mask(column, kept) for column in columns]

    kept = tf.cond(
        tf.reduce_all(good), lambda: [tf.identity(c) for c in columns], drop
    )
    for column, original in zip(kept, columns):
        column.set_shape([None, *original.shape[1:]])
    return kept
