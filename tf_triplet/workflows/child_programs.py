"""Programs that a workflow runs, and how a stop reaches them.

A program that trains saves a checkpoint when it is stopped. So Ctrl-C and
SIGTERM are passed on to it, and the workflow waits until it has ended.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(command: Sequence[str], **options: Any) -> int:
    """Runs a program to its end.

    The program is in a session of its own. A terminal sends Ctrl-C to all
    processes of its session, and a second one would end the program before it
    has saved.

    Args:
        command: The program and its arguments.
        **options: Further arguments of `subprocess.Popen`.

    Returns:
        The exit code of the program.

    Raises:
        KeyboardInterrupt: A signal has arrived, was passed on, and the program
            has ended. The argument is the number of the signal.
    """
    received: list[int] = []
    children: list[subprocess.Popen] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    with _handling(pass_on):
        child = start(command, **options)
        # A signal may have come before there was a program to pass it on to.
        early = list(received)
        children.append(child)
        for number in early:
            child.send_signal(number)
        code = child.wait()
    if received:
        raise KeyboardInterrupt(received[0])
    return code


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts a program in a session of its own, see `run`.

    Args:
        command: The program and its arguments.
        **options: Further arguments of `subprocess.Popen`.

    Returns:
        The running program. Whoever starts it also ends it.
    """
    return subprocess.Popen(command, start_new_session=True, **options)


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Turns SIGTERM into a `KeyboardInterrupt`, as Ctrl-C is.

    Otherwise it would end this process at once, and leave what it has started
    running.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    with _handling(interrupt, (signal.SIGTERM,)):
        yield


@contextlib.contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None],
    numbers: Sequence[int] = _SIGNALS,
) -> Iterator[None]:
    """Handles signals inside the block, in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows no handlers here.
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
