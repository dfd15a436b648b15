"""Files in a run's folder: written whole or not at all, and named if they fail.

Nothing here needs TensorFlow. Which process may write is said by
`folder_lock`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

_FULL = ("No space left on device", "Disk quota exceeded")
_LOST_BEST = (
    "Restore it from a backup, or delete it: the best step is then chosen "
    "among the evaluations that follow."
)
_LOST_START = "The metrics are not compared with those before training."
_ENCODERS = ("encoder.keras", "encoder_last.keras")
# The files that are written under another name first.
_PARTIAL = ("partial-*.keras", "*.partial")


class DiskFullError(OSError):
    """A file could not be written, because the disk is full."""

    def __init__(self, path: Path):
        """Sets the message.

        Args:
            path: The file or checkpoint that could not be written.
        """
        super().__init__(
            f"The disk is full, so {path} could not be written. Free some "
            "space; the same command continues the run."
        )
        self.errno = errno.ENOSPC


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file in the error of a full disk.

    Python's error of a write names no file, and TensorFlow's is of another
    kind and names a temporary one.

    Args:
        path: The file or checkpoint that is written.

    Raises:
        DiskFullError: The disk is full.
    """
    try:
        yield
    except Exception as error:
        if any(text in str(error) for text in _FULL):
            raise DiskFullError(path) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces a file, the whole content or nothing.

    Args:
        path: The file. Its suffix is replaced by `.partial` meanwhile.
        text: The content.

    Raises:
        DiskFullError: The disk is full.
    """
    partial = path.with_suffix(".partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Reads a file that holds a dictionary.

    Args:
        path: The file.
        advice: How to go on if the file is damaged, a sentence.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        reason = f"it holds {type(found).__name__} in place of a dictionary"
    except ValueError as error:
        reason = str(error) if path.stat().st_size else "it is empty"
    raise ValueError(f"{path} is damaged: {reason}. {advice}")


def read_best(workdir: Path) -> dict[str, Any]:
    """Reads best.json; returns an empty dictionary if there is none.

    Args:
        workdir: Folder of the run.

    Raises:
        ValueError: The file is damaged.
    """
    path = workdir / "best.json"
    if not path.exists():
        return {}
    best = read_json(path, _LOST_BEST)
    if not isinstance(best.get("step"), int) or not isinstance(
        best.get("value", 0), (int, float)
    ):
        raise ValueError(f"{path} is damaged: it names no step. {_LOST_BEST}")
    return best


def read_pretrained(path: Path, monitor: str | None) -> float | None:
    """Reads the value of a metric before the first step.

    Args:
        path: The file pretrained.json, which need not exist.
        monitor: Name of the metric.

    Returns:
        The value. None if another metric was stored, or if the file cannot be
        read, of which a warning tells.
    """
    if not path.exists():
        return None
    try:
        found = read_json(path, _LOST_START)
        value = float(found["value"])
    except (ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be used: %s", path, error)
        return None
    return value if found.get("monitor") == monitor else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of metrics.jsonl, without those that are damaged.

    Args:
        path: The file, which need not exist.

    Returns:
        One dictionary per line, each with a `step`.
    """
    if not path.exists():
        return []
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, KeyError, TypeError):
            # A kill or a full disk has cut it short.
            logging.warning(
                "%s: line %d is damaged and is left out.", path, number
            )
    return rows


def remove_partial(workdir: Path) -> None:
    """Removes what a kill or a full disk has left unfinished.

    Args:
        workdir: Folder of a run that no other process writes to.
    """
    for pattern in _PARTIAL:
        for path in workdir.glob(pattern):
            path.unlink()


def find_damage(path: Path) -> str:
    """Says what is wrong with a `.keras` file; empty if it is whole.

    Args:
        path: The file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return f"its part {broken} is damaged" if broken else ""
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError):
        if not path.stat().st_size:
            return "it is empty"
        return "it is cut short or is no .keras file"


def remove_damaged_encoders(workdir: Path) -> None:
    """Removes encoders that cannot be loaded, so that they are saved again.

    Without its encoder, best.json names a step that cannot be had any more,
    so it goes too.

    Args:
        workdir: Folder of a run that no other process writes to.
    """
    for path in (workdir / name for name in _ENCODERS):
        damage = find_damage(path) if path.exists() else ""
        if damage:
            logging.warning(
                "%s is damaged (%s) and is removed. The run saves it again.",
                path,
                damage,
            )
            path.unlink()
    best = workdir / "best.json"
    if best.exists() and not (workdir / _ENCODERS[0]).exists():
        logging.warning(
            "%s is removed, because the encoder of its step is lost. The best "
            "step is chosen among the evaluations that follow.",
            best,
        )
        best.unlink()


def list_checkpoints(folder: Path) -> list[str] | None:
    """Returns the names of the complete checkpoints, the last one first.

    Args:
        folder: The folder `checkpoints` of a run.

    Returns:
        The names, or None if the file that lists them is missing or damaged.
    """
    state = folder / "checkpoint"
    if not state.exists():
        return None
    text = state.read_text(errors="replace")
    last = re.search(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"$', text, re.M)
    if last is None:
        return None
    paths = re.findall(
        r'^all_model_checkpoint_paths: "(?:.*/)?([^/"]+)"$', text, re.M
    )
    return list(dict.fromkeys([last[1], *reversed(paths)]))


def find_checkpoints(folder: Path) -> list[str]:
    """Returns the names of what may be checkpoints, the last one first.

    Args:
        folder: The folder `checkpoints` of a run.
    """
    names = [path.stem for path in folder.glob("step-*.index")]
    found = [name for name in names if step_of(name) >= 0]
    return sorted(found, key=step_of, reverse=True)


def step_of(name: str) -> int:
    """Returns the step of a checkpoint, or -1 if it is none of a run.

    Args:
        name: Name of the checkpoint, `step-<number>`.
    """
    found = re.fullmatch("step-([0-9]+)", name)
    return int(found[1]) if found else -1
