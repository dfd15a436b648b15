"""Runs the command line programs, each in a process of its own.

Importing TensorFlow takes most of the time of a short program. So a server
process imports it once and is forked for each program; what the programs
themselves define and parse is imported anew in each.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_PRELOADED = [
    *("numpy", "pandas", "scipy.stats", "sklearn.cluster", "PIL.Image"),
    *("tensorflow", "keras", "ml_collections", "rich.progress"),
]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(_PRELOADED)


def run(verb, *arguments, cwd=None, timeout=300):
    """Runs `python -m tf_triplet.cli.<verb>`.

    Args:
        verb: Name of the program, for instance "train".
        *arguments: Its arguments.
        cwd: The folder it runs in.
        timeout: Seconds after which it is killed, and the test fails.

    Returns:
        The completed process, with text in `stdout` and `stderr`.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _FORKS.Process(
            target=_run, args=(verb, arguments, cwd, files, dict(os.environ))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(verb, timeout)
        texts = [path.read_text() if path.exists() else "" for path in files]
    return subprocess.CompletedProcess(
        [verb, *arguments], process.exitcode, *texts
    )


def _run(verb, arguments, cwd, files, environment):
    """Becomes the program."""
    for number, path in enumerate(files, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
        sys.path.insert(0, str(cwd))  # As `python -m` does.
    sys.argv = [verb, *arguments]
    runpy.run_module(
        f"tf_triplet.cli.{verb}", run_name="__main__", alter_sys=True
    )
