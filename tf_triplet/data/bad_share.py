"""Ends a training of whose images too many cannot be read.

A few broken files are left out. But when a mount or a token is gone, no file
can be read any more, and going on would train on ever fewer images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tf_triplet.data import bad_images, decoding

# Number of minibatches whose images count.
WINDOW = 100
# Number of files that a message names.
_NAMED = 3


class BadShare:
    """Watches the share of the training images that cannot be read.

    It counts the images that could not be read in the last hundred
    minibatches, each once. Their share is of all training images or, where
    that is fewer, of the images of a hundred minibatches.

    Example:

    >>> share = BadShare(max_share=0.05, batch_size=8, images=64)
    >>> share.add(step=0, paths=["a.jpg", "b.jpg", "c.jpg"])
    >>> share.message
    ''
    >>> share.add(step=7, paths=["a.jpg", "d.jpg"])
    >>> share.message.split(".")[0]
    '4 of 64 training images (6'
    """

    def __init__(
        self,
        max_share: float,
        batch_size: int,
        images: int,
        max_megapixels: float = decoding.MAX_MEGAPIXELS,
    ):
        """Sets the limit.

        Args:
            max_share: The largest share that is not too many, from 0 to 1.
                With 1, only a training that can read nothing any more ends.
            batch_size: Number of images that a minibatch draws.
            images: Number of training images.
            max_megapixels: Millions of pixels that are decoded at most.
        """
        self._max_megapixels = max_megapixels
        self._max_share, self._batch = max_share, batch_size
        self._images = min(images, WINDOW * batch_size)
        self._whole = images <= WINDOW * batch_size
        # The step at which each image could last not be read, oldest first.
        self._steps: dict[str, int] = {}
        self._last, self._last_count, self._in_a_row = -1, 0, 0

    def add(self, step: int, paths: Iterable[str]) -> None:
        """Records the images of a minibatch that could not be read.

        Args:
            step: Number of the minibatch. It rises from call to call.
            paths: Their paths. An image may be drawn twice.
        """
        paths = list(paths)
        for path in paths:
            self._steps.pop(path, None)
            self._steps[path] = step
        for path in list(self._steps):
            if self._steps[path] > step - WINDOW:
                break
            del self._steps[path]
        before = self._in_a_row if step == self._last + 1 else 0
        lost = len(paths) >= self._batch
        self._in_a_row = before + len(paths) if lost else 0
        self._last, self._last_count = step, len(paths)

    @property
    def message(self) -> str:
        """The error of a training that must end; empty if it need not."""
        count = len(self._steps)
        nothing = self._in_a_row >= self._images
        if count <= self._max_share * self._images and not nothing:
            return ""
        what = f"{self._images:,} training images"
        if not self._whole:
            what = f"the {self._images:,} images of {WINDOW} minibatches"
        return (
            f"{count:,} of {what} ({100 * count / self._images:.2g} %) could "
            f"not be read in the last {WINDOW} minibatches, "
            f"{self._last_count} of {self._batch} in the last one. "
            f"`data.max_bad_share` allows {100 * self._max_share:.2g} %. "
            f"{self._describe()} Restore the images, or raise "
            "--config.data.max_bad_share."
        )

    def _describe(self) -> str:
        """Names the folder that is gone, or else some of the files."""
        paths = list(self._steps)
        gone = {_missing_folder(Path(path)) for path in paths}
        if len(gone) == 1 and None not in gone:
            return f"The folder {gone.pop()} does not exist."
        latest = paths[-_NAMED:]
        reasons = "; ".join(
            bad_images.reason(path, self._max_megapixels) for path in latest
        )
        return f"For instance: {reasons}."


def _missing_folder(path: Path) -> Path | None:
    """Returns the highest folder above a file that does not exist."""
    missing = [folder for folder in path.parents if not folder.exists()]
    return missing[-1] if missing else None
