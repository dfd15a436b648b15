"""A model of the config: its folder, the versions it wants, their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.serving.errors import Code, RequestError


@dataclasses.dataclass(frozen=True)
class Model:
    """One entry of models.config.

    Attributes:
        path: of the folder of numbered versions.
        latest: how many of the newest; 0 leaves it to `specific`.
        specific: these numbers; None for all that there are.
        labels: version by label.
    """

    path: Path
    latest: int = 1
    specific: tuple[int, ...] | None = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def choose(self, known: Sequence[int]) -> list[int]:
        """Returns those of the known versions that are to be served."""
        if self.latest:
            return sorted(known)[-self.latest :]
        if self.specific is None:
            return sorted(known)
        return [number for number in sorted(known) if number in self.specific]


def read(
    config: model_server_config_pb2.ModelServerConfig,
) -> dict[str, Model]:
    """Reads a config, as a file or a HandleReloadConfigRequest brings it.

    Raises:
        RequestError: it is none that this server can serve.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "ServerModelConfig type not supported by "
            "HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported",
        )
    models = {}
    for entry in config.model_config_list.config:
        if not entry.name:
            raise RequestError(
                Code.INVALID_ARGUMENT, "A model of the config has no name"
            )
        if entry.name in models:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Illegal to list model {entry.name} multiple times in config "
                "list",
            )
        if not entry.base_path.startswith("/"):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Expected model {entry.name} to have an absolute path or "
                f"URI; got base_path()={entry.base_path}",
            )
        if entry.model_platform not in ("", "tensorflow"):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Model {entry.name} is of platform {entry.model_platform}; "
                "this server loads tensorflow alone",
            )
        models[entry.name] = _model(entry)
    return models


def _model(entry) -> Model:
    policy = entry.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    latest, specific = 1, ()
    if kind == "latest":
        # As TensorFlow Serving: a number left out is one.
        latest = policy.latest.num_versions or 1
    elif kind == "specific":
        latest, specific = 0, tuple(policy.specific.versions)
        if not specific or min(specific) < 0:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Model {entry.name}: a specific policy names the versions "
                f"to be served. Received: {list(specific)}",
            )
    elif kind == "all":
        latest, specific = 0, None
    return Model(
        Path(entry.base_path), latest, specific, dict(entry.version_labels)
    )
