"""A lock on a folder, so that one process at a time writes to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from absl import logging

FILE = ".lock"
# What some network file systems answer, which have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUseError(OSError):
    """Another process writes to the folder.

    Example:
        >>> from tf_triplet.training import folder_lock
        >>> str(folder_lock.FolderInUseError("runs/shop", "process 71"))
        'runs/shop is in use by process 71. Wait until that has ended, or \
choose another folder.'
    """

    def __init__(self, folder: str | Path, holder: str):
        """Sets the message.

        Args:
            folder: The folder.
            holder: The process that writes to it.
        """
        super().__init__(
            f"{folder} is in use by {holder}. Wait until that has ended, or "
            "choose another folder."
        )


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Holds the lock of a folder, which is created if it does not exist.

    The operating system releases the lock when the process ends, however it
    ends. Of several workers that train one run (`TF_CONFIG`), the chief holds
    the lock.

    Args:
        folder: The folder. Its file `.lock` names the process.

    Raises:
        FolderInUseError: Another process holds the lock.

    Example:
        >>> import tempfile
        >>> from tf_triplet.training import folder_lock
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with folder_lock.locked(folder):
        ...         with folder_lock.locked(folder):
        ...             pass  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        tf_triplet.training.folder_lock.FolderInUseError: ... is in use by ...
    """
    if not _is_chief():
        yield
        return
    folder = Path(folder)
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = _acquire(folder)
    try:
        yield
    finally:
        if not existed:
            _remove_if_unused(folder)
        file.close()


def _acquire(folder: Path) -> IO[str]:
    path = folder / FILE
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(file)
            file.close()
            raise FolderInUseError(folder, holder) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            logging.warning(
                "The file system of %s has no locks, so nothing prevents "
                "another process from writing to it.",
                folder,
            )
        if _is_still_there(file, path):
            break
        file.close()  # Its holder has just removed it.
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    file.flush()
    return file


def _is_still_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(file: IO[str]) -> str:
    """Says which process holds a lock, as far as its file tells."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        pid, host = holder["pid"], holder["host"]
    except (ValueError, KeyError, TypeError):
        return "another process"
    on = "" if host == socket.gethostname() else f" on {host}"
    return f"process {pid}{on}"


def _remove_if_unused(folder: Path) -> None:
    """Removes a new folder that has stayed empty, as after a mistake."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [FILE]:
            (folder / FILE).unlink()
            folder.rmdir()


def _is_chief() -> bool:
    """Tells whether this process is the one that writes, of all workers."""
    try:
        found = json.loads(os.environ.get("TF_CONFIG") or "{}")
        task, cluster = found.get("task", {}), found.get("cluster", {})
    except (ValueError, AttributeError):
        return True  # TensorFlow will say what is wrong with it.
    kind = task.get("type", "chief")
    first = kind == "worker" and "chief" not in cluster and not task["index"]
    return kind == "chief" or first
