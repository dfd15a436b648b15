"""Shows how far long work has come.

On a terminal this is a progress bar. Elsewhere (a log file, a CI job) it is a
line of log every ten seconds.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from absl import logging

_LOG_SECONDS = 10.0


@contextlib.contextmanager
def show_progress(
    what: str, total: int | None, show: bool = True, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of the work done inside the `with` block.

    The bar disappears at the end of the block.

    Args:
        what: The work, as a participle: "Embedding".
        total: The amount of work, in `unit`. `None` means unknown.
        show: Whether to show anything at all.
        unit: What is counted. Amounts of "bytes" are shown in kB, MB or GB.

    Yields:
        A function to call with the amount of work done since the block began.
        Each call takes the whole amount, not the increment.

    Example:

    >>> from tf_triplet.progress import show_progress
    >>> with show_progress("Checking", total=3) as advance:
    ...     for i, path in enumerate(["a.jpg", "b.jpg", "c.jpg"]):
    ...         advance(i + 1)
    """
    if not show:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _build_bar(unit) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield _LogProgress(what, total, unit)


def _build_bar(unit: str):
    # Rich takes a moment to import, and most callers never need it.
    from rich import console, progress

    if unit == "bytes":
        amount = [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    else:
        amount = [progress.MofNCompleteColumn(), progress.TextColumn(unit)]
    return progress.Progress(
        # Square brackets in the text are no markup of Rich's.
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *amount,
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )


class _LogProgress:
    """Logs the progress every ten seconds."""

    def __init__(self, what: str, total: int | None, unit: str):
        self._what, self._total, self._unit = what, total, unit
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS:
            return
        self._last = now
        amount = self._format(done)
        if self._total is not None:
            amount += f" of {self._format(self._total)}"
        rate = self._format(done / (now - self._start))
        if self._unit != "bytes":
            amount += f" {self._unit}"
        logging.info("%s: %s, %s per second.", self._what, amount, rate)

    def _format(self, amount: float) -> str:
        if self._unit != "bytes":
            return f"{amount:.0f}"
        from rich import filesize

        return filesize.decimal(int(amount))
