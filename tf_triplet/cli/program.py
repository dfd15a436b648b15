"""What all programs share: how they start, and how they report a mistake."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from tf_triplet.cli import end_at_once, imports

# Every program imports this module before TensorFlow, which otherwise starts
# with three harmless errors about CUDA plugins.
if not os.environ.get("TF_TRIPLET_DEBUG"):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The arguments of a `KeyboardInterrupt`, where it has none of its own.
_INTERRUPTED = (signal.SIGINT, "Interrupted.")


def friendly(main: Callable) -> Callable:
    """Decorates an absl main, so that a mistake ends in one line of text.

    `ValueError`, `OSError` and their subclasses have messages for the user,
    and so has a full disk: the message is printed, and the exit code is 2.
    Any other exception is a defect and keeps its traceback. If the environment
    variable `TF_TRIPLET_DEBUG` is set, every exception does. Ctrl-C ends in
    one line, too, and the exit code is 130; a `KeyboardInterrupt` of another
    signal has its number as the argument, and the exit code is 128 more.

    Args:
        main: A function of the command line's arguments.

    Returns:
        The decorated function, which does not return but exits.
    """

    @functools.wraps(main)
    def wrapper(argv: list[str]) -> None:
        code = 0
        try:
            with _interruptible():
                imports.apply_flags()
                main(argv)
        except Exception as error:
            text = _message(error)
            if text is None or os.environ.get("TF_TRIPLET_DEBUG"):
                raise
            logging.debug("", exc_info=True)
            print(f"error: {text}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt as stop:
            if os.environ.get("TF_TRIPLET_DEBUG"):
                raise
            number, text = (*stop.args, *_INTERRUPTED[len(stop.args) :])
            print(text, file=sys.stderr)
            code = 128 + number
        except SystemExit as ended:
            code = ended.code
        # The traceback, which is gone by now, held tf.data iterators. Their
        # threads call Python, so they would hang at the interpreter's end.
        gc.collect()
        sys.exit(code)

    return wrapper


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C raise a `KeyboardInterrupt` inside of the block.

    Outside, while the program imports and when it is done, Ctrl-C ends it at
    once (`tf_triplet.cli.end_at_once`).
    """
    if signal.getsignal(signal.SIGINT) is not end_at_once:
        yield  # `main` was called by a test.
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, end_at_once)


def _message(error: Exception) -> str | None:
    """Returns the message for the user, or `None` if it is a defect."""
    if isinstance(error, (ValueError, OSError)):
        return _plain(str(error))
    # TensorFlow raises an error of another kind than Python does.
    if "No space left on device" in str(error):
        return (
            "The disk is full. Free some space, and run the same command "
            f"again. {error}"
        )
    return None


def _plain(message: str) -> str:
    """Removes the names of TensorFlow's operations from a message."""
    message = re.sub(r"\{\{(function_)?node [^}]*\}\}\s*", "", message)
    return re.sub(r"\s*\[Op:\w+\]( name: ?\S*)?", "", message)


def start(main: Callable) -> None:
    """Runs an absl main, from an installed program or by `python -m`.

    absl takes the text and the flags of --help from the file that was
    started. For an installed program, that file is pip's and has neither.

    Args:
        main: The decorated main of a module of this package.
    """
    module = sys.modules[main.__module__]
    if module.__name__ != "__main__":
        sys.modules["__main__"].__doc__ = module.__doc__
        for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    imports.show_in_help(sys.argv[0])
    app.run(main)


@contextlib.contextmanager
def unknown_fields() -> Iterator[None]:
    """Reports an unknown field of the config in one line, and exits.

    ml_collections looks up every --config.<field> of the command line when
    the flag is defined, which is before main.
    """
    try:
        yield
    except (KeyError, AttributeError) as error:
        if os.environ.get("TF_TRIPLET_DEBUG"):
            raise
        print(
            f"error: The config has no such field: {error.args[0]} "
            "Every field is listed in tf_triplet/config.py.",
            file=sys.stderr,
        )
        sys.exit(2)


def refuse_arguments(argv: list[str]) -> None:
    """Raises an error for a word that is not a flag.

    Args:
        argv: The program and the words that absl took for no flag.

    Raises:
        ValueError: If there is such a word.
    """
    if len(argv) > 1:
        raise ValueError(
            f"All arguments must be flags, --name=value. Received: {argv[1:]}"
        )


def require(name: str, value: str | None, what: str) -> str:
    """Returns the value of a flag that must be given.

    Args:
        name: Name of the flag.
        value: Its value.
        what: What to pass, for the error: "folder of a run".

    Returns:
        The value.

    Raises:
        ValueError: If the value is empty.
    """
    if not value:
        raise ValueError(f"Pass --{name}=<{what}>.")
    return value


def log_progress() -> None:
    """Shows log lines of long work, unless --verbosity is given."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
