"""The programs, one module each.

Python imports this package before a program's own module. TensorFlow then
takes seconds to import, in which Ctrl-C would otherwise show a traceback.
"""

import os
import signal
import sys
import threading
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handles a signal while there is nothing to save: ends in one line.

    Args:
        number: Number of the signal.
        frame: What the program was doing.
    """
    # `print` may be what was interrupted, and must not be called again then.
    os.write(2, b"Interrupted.\n")
    os._exit(128 + number)


def _starts_a_program() -> bool:
    # Python's -m replaces this word later, when the module itself begins.
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    return script == "-m" or script.startswith("tf-triplet-")


if (
    _starts_a_program()
    and not os.environ.get("TF_TRIPLET_DEBUG")
    and threading.current_thread() is threading.main_thread()
    # A shell may have told a program in the background to ignore Ctrl-C.
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end_at_once)
