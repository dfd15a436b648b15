"""The numbered versions of a model, each published whole or not at all."""

from __future__ import annotations

import contextlib
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
