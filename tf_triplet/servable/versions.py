"""Numbered versions of a model: whole in their folder, or not there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PARTIAL = ".partial-"
# A version is an int64 of the protocol; 20 digits are a folder like another.
_LARGEST = 2**63 - 1


def list_versions(model_dir: str | Path) -> list[int]:
    """Returns the published versions, rising.

    One that cannot be looked into is one too: who loads it says why not.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        # As this module writes them: no 007, and no digit outside ASCII.
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
    """Yields a folder to fill; it becomes the next version at the end.

    An exception removes it. The rename is atomic: a server that watches
    `model_dir` sees a whole version or none.
    """
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    # No server takes a name for a version that is not a number.
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
                version += 1  # Another export was faster.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """To the disk, or a power cut might leave a name without its contents."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove_partial(model_dir: str | Path) -> None:
    """Removes what killed runs left; only where no other publishes."""
    for partial in Path(model_dir).glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)
