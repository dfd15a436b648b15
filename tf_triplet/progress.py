"""Shows how far long work is: a bar on a terminal, else lines of log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from absl import logging

_LOG_SECONDS = 10.0


@contextlib.contextmanager
def show_progress(
    what: str, total: int, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many images are done.

    Args:
        what: Is being done: "Embedding".
        total: Images.
        show: A bar on a terminal, else a line of log every ten seconds.
    """
    if not show:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        yield _LogProgress(what, total)
        return
    import rich.console
    import rich.progress

    with rich.progress.Progress(
        rich.progress.TextColumn(what),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


class _LogProgress:
    """Logs how far it is every ten seconds."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS:
            return
        self._last = now
        logging.info(
            "%s: %d of %d images, %.0f a second.",
            self._what,
            done,
            self._total,
            done / (now - self._start),
        )
