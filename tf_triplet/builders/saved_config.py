"""The config in a run's folder: its paths, reading it, comparing it.

Nothing here needs TensorFlow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from tf_triplet import config as configs
from tf_triplet.builders import extensions

FILE = "config.json"
# Values of `model.weights` that are no paths.
_NAMED_WEIGHTS = ("imagenet", "registry", "random")


def resolve_paths(
    config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
    """Makes the paths of a config absolute, so that they hold everywhere.

    Symbolic links stay as they are, and so does an address such as
    `gs://bucket/shop.csv`. A source or backbone of your own may take anything
    for its path, so its path is changed only if it exists.

    Args:
        config: The config of a run.

    Returns:
        A copy with absolute paths.

    Example:

    >>> from tf_triplet import builders
    >>> from tf_triplet import config as configs
    >>> config = configs.base_config()
    >>> config.data.path = "shop/manifest.csv"
    >>> os.path.isabs(builders.resolve_paths(config).data.path)
    True
    """
    config = config.copy_and_resolve_references()
    for section, name, is_own in _path_fields(config):
        value = config[section][name]
        path = os.path.abspath(os.path.expanduser(value))
        if not is_own or os.path.exists(path):
            config[section][name] = path
    return config


def _path_fields(
    config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, str, bool]]:
    """Yields section, name, and whether code of the user's own reads it."""
    data, model = config.data, config.model
    fields = (
        ("data", "path", extensions.is_extension(data.source)),
        ("model", "path", extensions.is_extension(model.backbone)),
        ("model", "weights", False),
    )
    for section, name, is_own in fields:
        value = config[section][name]
        named = name == "weights" and value in _NAMED_WEIGHTS
        if value and not named and "://" not in value:
            yield section, name, is_own


def read_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """Reads the config of a run's folder.

    Args:
        workdir: The folder of the run.

    Returns:
        The config, as it was written.

    Raises:
        FileNotFoundError: If the folder holds no config.
        ValueError: If the file is damaged, or another version wrote it.
    """
    path = Path(workdir) / FILE
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if not isinstance(json.loads(text), dict):
            raise ValueError("it does not hold a dictionary")
    except ValueError as error:
        reason = error if text.strip() else "it is empty"
        raise ValueError(
            f"{path} is damaged: {reason}. Restore it from a backup. If you "
            "know with which config the run was begun, delete the file and "
            "pass that config to tf-triplet-train: the run goes on, and the "
            "file is written again."
        ) from error
    try:
        return configs.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_changes(
    saved: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> list[str]:
    """Lists the fields in which a config differs from that of a run.

    Two paths of one file are no difference.

    Args:
        saved: The config of the run.
        config: The other config.

    Returns:
        One line per field, such as `loss.margin: 0.1 -> 0.2`.
    """
    paths = {f"{a}.{b}" for a, b, _ in _path_fields(saved)}
    before, after = (configs.flatten(c.to_dict()) for c in (saved, config))
    return [
        line
        for line in configs.difference(saved, config)
        if not (
            (field := line.partition(":")[0]) in paths
            and _is_same_path(before[field], after[field])
        )
    ]


def _is_same_path(saved: str, path: str | None) -> bool:
    """Tells whether two paths lead to one file.

    Earlier versions wrote a path as it was given. The folder that it is
    relative to is not known, so only its end is compared.
    """
    if not path:
        return False
    if os.path.realpath(saved) == os.path.realpath(os.path.expanduser(path)):
        return True
    parts = [part for part in Path(saved).parts if part != ".."]
    is_end = Path(path).parts[-len(parts) :] == tuple(parts)
    return not os.path.isabs(saved) and bool(parts) and is_end
