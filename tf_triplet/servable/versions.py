"""The numbered versions of a model, each published whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PARTIAL = ".partial-"
# The protocol stores a version as an int64.
_LARGEST = 2**63 - 1


def list_versions(model_dir: str | Path) -> list[int]:
    """Returns the numbers of the published versions, in rising order.

    A version that is not readable counts too: loading it will report why.

    Args:
        model_dir: The folder that holds the versions.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        # Neither 007 nor digits outside ASCII, which int() would accept.
        if re.fullmatch("0|[1-9][0-9]{0,18}", entry.name)
        and int(entry.name) <= _LARGEST
        and _is_published(entry)
    )


def _is_published(version: Path) -> bool:
    try:
        return (version / "saved_model.pb").is_file()
    except PermissionError:
        return True


@contextlib.contextmanager
def publish(model_dir: str | Path) -> Iterator[Path]:
    """Publishes the next version of a model.

    The `with` block fills a folder, which is renamed to the version's number
    at the end. The rename is atomic: a server that watches `model_dir` sees
    the whole version or none. An exception in the block removes the folder.

    Args:
        model_dir: The folder that holds the versions.

    Yields:
        The folder to fill.

    Example:

    >>> with tempfile.TemporaryDirectory() as models:
    ...     with publish(models) as version:
    ...         _ = (version / "saved_model.pb").write_bytes(b"")
    ...     list_versions(models)
    [1]
    """
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    # Servers ignore folders whose names are not numbers.
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=model_dir))
    try:
        partial.chmod(0o755)
        yield partial
        _flush(partial)
        version = max(list_versions(model_dir), default=0) + 1
        while True:
            try:
                os.rename(partial, model_dir / str(version))
                break
            except OSError:
                if not (model_dir / str(version)).exists():
                    raise
                version += 1  # Another export took this number first.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def hold(version: str | Path) -> Iterator[None]:
    """Keeps `prune` from removing a version while the block runs.

    Args:
        version: The folder of the version.
    """
    import fcntl

    with contextlib.ExitStack() as stack:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            number = os.open(version, os.O_RDONLY)
            stack.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def prune(model_dir: str | Path, keep: int) -> tuple[list[int], dict[int, str]]:
    """Removes all versions of a model but the newest.

    Call it only while no other process publishes.

    Args:
        model_dir: The folder that holds the versions.
        keep: How many of the newest versions to keep, at least 1.

    Returns:
        The numbers of the versions that were removed, and the reason for each
        older one that stays: a program on this machine holds it, or it cannot
        be removed.

    Raises:
        ValueError: If `keep` is less than 1.

    Example:

    >>> with tempfile.TemporaryDirectory() as models:
    ...     for _ in range(3):
    ...         with publish(models) as version:
    ...             _ = (version / "saved_model.pb").write_bytes(b"")
    ...     with hold(f"{models}/1"):
    ...         print(prune(models, keep=1))
    ([2], {1: 'a program has it loaded'})
    """
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1. Received: {keep}")
    removed, left = [], {}
    for version in list_versions(model_dir)[:-keep]:
        try:
            _remove(Path(model_dir) / str(version))
            removed.append(version)
        except BlockingIOError:
            left[version] = "a program has it loaded"
        except OSError as error:
            left[version] = f"it cannot be removed ({error})"
    return removed, left


def _remove(version: Path) -> None:
    import fcntl

    number = os.open(version, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise BlockingIOError(error.errno, "locked") from error
            # Some network file systems have no locks.
        # No server sees a version of which a part is removed.
        partial = tempfile.mkdtemp(prefix=_PARTIAL, dir=version.parent)
        os.rename(version, Path(partial) / version.name)
        shutil.rmtree(partial)
    finally:
        os.close(number)


def _flush(folder: Path) -> None:
    """Writes a folder to disk, so that a power cut cannot leave it empty."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove_partial(model_dir: str | Path) -> None:
    """Removes the unfinished versions that killed runs left behind.

    Call it only while no other process publishes.

    Args:
        model_dir: The folder that holds the versions.
    """
    for partial in Path(model_dir).glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)
