"""Turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

# Every program imports this before TensorFlow, whose C++ side would else
# begin with three errors about CUDA plugins that are none.
if not os.environ.get("TF_TRIPLET_DEBUG"):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def friendly(main: Callable) -> Callable:
    """Decorates an absl main: mistakes are told without a traceback.

    `ValueError`, `OSError` and their subclasses carry messages written for
    the user, and a full disk is the user's too; everything else is a defect of
    ours and keeps its traceback.
    With `TF_TRIPLET_DEBUG=1` the traceback is always shown.
    """

    @functools.wraps(main)
    def wrapper(argv):
        code = 0
        try:
            main(argv)
        except Exception as error:
            text = _for_the_user(error)
            if text is None or os.environ.get("TF_TRIPLET_DEBUG"):
                raise
            logging.debug("", exc_info=True)
            print(f"error: {text}", file=sys.stderr)
            code = 2
        # The traceback, gone by now, held tf.data iterators. Their threads
        # call Python, so what is left to the interpreter's end hangs there.
        gc.collect()
        sys.exit(code)

    return wrapper


def _for_the_user(error: Exception) -> str | None:
    """The message of a mistake; None: it is a defect."""
    if isinstance(error, (ValueError, OSError)):
        return str(error)
    # TensorFlow has an error of its own for it.
    if "No space left on device" in str(error):
        return (
            "The disk is full. Free some, and give the same command again. "
            f"{error}"
        )
    return None


def start(main: Callable) -> None:
    """Runs an absl main, as a console script or by `python -m`.

    absl takes --help's text and flags from the file that was started, which
    is pip's stub where a program is installed.
    """
    module = sys.modules[main.__module__]
    if module.__name__ != "__main__":
        sys.modules["__main__"].__doc__ = module.__doc__
        for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main)


@contextlib.contextmanager
def unknown_fields() -> Iterator[None]:
    """Tells an unknown field of a config in one line.

    ml_collections looks every --config.<field> of the command line up when
    the flag is defined.
    """
    try:
        yield
    except (KeyError, AttributeError) as error:
        if os.environ.get("TF_TRIPLET_DEBUG"):
            raise
        print(
            f"error: There is no such field of the config: {error.args[0]} "
            "Every field is listed in tf_triplet/config.py.",
            file=sys.stderr,
        )
        sys.exit(2)


def refuse_arguments(argv: list[str]) -> None:
    """Everything is a flag; a stray word is a mistake."""
    if len(argv) > 1:
        raise ValueError(
            f"Arguments are flags, --name=value. Received: {argv[1:]}"
        )
